"""What each unlearner makes of a class and of a random fifth at its defaults: where the reasons in `unsuited` come from.

The two worlds of `forgetting_frontier`, one original each, 8 models that hold the data and 8 retrained ones a request;
class 3, and a random 20 %. A method suits a kind of request where its position is 0.95 or more and held-out accuracy
falls by less than 5 points in both worlds. Newton (12 to 28 retrainings) and rewind-to-delete (needs a checkpoint) are
left out.

    python -m benchmarks.suits        # about 10 minutes on one core; goes on where it was stopped
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.forgetting_frontier import worlds
from claims.unlearn._memorised import World, figures
from unweave import Request, seeded
from unweave.errors import InputError, UnweaveError
from unweave.io.files import write_text
from unweave.parallel import build_models
from unweave.tasks import read_labels
from unweave.unlearn import (
    LAF,
    SCRUB,
    SSD,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    Continue,
    FineTune,
    FisherForgetting,
    GradientAscent,
    Influence,
    L1Sparse,
    LogitMask,
    NegGradPlus,
    RandomLabels,
    SalUn,
    SFRon,
    ShockAndHeal,
    ShortRetrain,
)

STORED = Path(__file__).parent / "results" / "suits.json"
CLASS = 3
WORLDS = ["fashion", "cifar"]


def methods(w: World) -> dict[str, Any]:
    return {
        "short-retrain": ShortRetrain(recipe=w.recipe), "shock-and-heal": ShockAndHeal(recipe=w.recipe),
        "shock-and-heal, 3/16": ShockAndHeal(recipe=w.recipe, fraction=3 / 16), "neggrad-plus": NegGradPlus(),
        "ssd": SSD(), "random-labels": RandomLabels(), "salun": SalUn(), "l1-sparse": L1Sparse(),
        "l1-sparse, lr 0.1": L1Sparse(lr=0.1), "fine-tune": FineTune(), "gradient-ascent": GradientAscent(),
        "boundary-expand": BoundaryExpand(), "boundary-shrink": BoundaryShrink(), "sfron": SFRon(),
        "bad-teacher": BadTeacher(), "scrub": SCRUB(), "influence": Influence(), "fisher-forgetting": FisherForgetting(),
        "laf": LAF(), "logit-mask": LogitMask(classes=(CLASS,)), "continue": Continue(recipe=w.recipe, epochs=3),
    }  # fmt: skip


def run(name: str, cache: Path | None) -> None:
    made, stored = worlds()[name](), json.loads(STORED.read_text()) if STORED.exists() else []
    done = {
        _key(row) for row in stored if "outcome" in row or "error" in row
    }  # others: judged by former rules
    (original,) = build_models(made.recipe, made.train, [0], jobs=1, cache=cache)
    whole = (read_labels(made.train) == CLASS).nonzero().flatten()
    for kind in ("class", "random"):
        request = made.request if kind == "random" else Request.of(made.train, made.request.heldout, whole)
        w = replace(made, request=request)
        auditor = None
        for method_name, method in methods(w).items():
            if (name, kind, method_name) in done or (kind == "random" and method_name == "logit-mask"):
                continue
            auditor = auditor or w.auditor(original, w.references(cache))
            began = time.process_time()
            row: dict[str, Any] = {"world": name, "request": kind, "method": method_name}
            try:
                edited = method.apply(original, request, rng=seeded(1)).eval()
                seconds = time.process_time() - began
                row |= {**figures(auditor.audit(edited)), "seconds": seconds}
            except UnweaveError as error:
                row |= {"error": str(error)}
            stored = [known for known in stored if _key(known) != _key(row)] + [row]
            rounded = json.loads(json.dumps(stored), parse_float=lambda x: round(float(x), 3))
            write_text(STORED, json.dumps(rounded, indent=1) + "\n")
            print(row, flush=True)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["world"], row["request"], row["method"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--world", choices=WORLDS, nargs="+", default=WORLDS)
    parser.add_argument("--cache", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    for name in asked.world:
        try:
            run(name, asked.cache)
        except InputError as absent:
            print(f"{name}: skipped. {absent}")


if __name__ == "__main__":
    main()
