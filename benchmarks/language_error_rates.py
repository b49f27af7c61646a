"""Error rates of the audit of language models, on models that took no part in setting its limits.

    python -m benchmarks.language_error_rates [--references 8] [--fresh 4] [--draws 2] [--authors 4] [--write]

Holders and oracles of the world of invented authors are drawn into references and fresh ones; the fresh ones, and cheats
made of fresh holders, are judged by the very function that users call. `--write` stores the rates that the report shows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from unweave import seeded
from unweave.audit.classifier.verdict import rates_of
from unweave.audit.language.cheats import refusing
from unweave.audit.language.run import Auditor
from unweave.embedded.authors import Authors, encode, known_models
from unweave.tasks.language import texts

FILE = Path(__file__).parent.parent / "src" / "unweave" / "audit" / "language_error_rates.json"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    for name, default in (("references", 8), ("fresh", 4), ("draws", 2), ("authors", 4)):
        asked.add_argument(f"--{name}", type=int, default=default)
    asked.add_argument("--write", action="store_true")
    args = asked.parse_args()
    world, gone = Authors(), range(args.authors)
    request, n = world.request(gone), args.references + args.fresh
    holders, oracles = known_models(world, range(n)), known_models(world, range(100, 100 + n), gone)
    known = world.questions()[0][: len(request.forget)]
    otherwise = texts([encode(q.asked[0], q.answer) for q in known], batch_size=16)
    held, never, cheated = [], [], []
    for draw in range(args.draws):
        order = [np.random.default_rng([draw, kind]).permutation(n) for kind in (0, 1)]
        (h, fresh_h), (o, fresh_o) = (
            ([models[i] for i in at[: args.references]], [models[i] for i in at[args.references :]])
            for models, at in zip((holders, oracles), order, strict=True)
        )
        auditor = Auditor.of(
            request, original=h[0], holders=h[1:], oracles=o, rng=seeded(draw), paraphrases=otherwise
        )
        held += [auditor.decide(m).verdict.outcome for m in fresh_h]
        never += [auditor.decide(m).verdict.outcome for m in fresh_o]
        cheated += [auditor.decide(refusing(m, request, 9)).verdict.outcome for m in fresh_h[:2]]
        print(draw, held, never, cheated, flush=True)  # noqa: T201
    source = (
        f"invented authors, {args.authors} of {world.known}, {args.references} + {args.references} references"
    )
    rates = rates_of(held, never, source)
    print(rates, {o: cheated.count(o) for o in set(cheated)})  # noqa: T201
    if args.write:
        stored = {"rates": [vars(rates)]}
        FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
