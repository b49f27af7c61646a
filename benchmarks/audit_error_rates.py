"""How often the audit's verdict is right, on models that had no part in setting its threshold.

Each setting has several requests. For each, eight models that hold the forget set and eight retrained without
it set the threshold; fresh models of both kinds, and half-edited ones, are then judged one by one, controls
included.

    python benchmarks/audit_error_rates.py digits          # about 3 minutes on two cores
    python benchmarks/audit_error_rates.py cifar --data ../shared/data/cifar10   # about 12
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import re
import sys
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unweave
from unweave.audit.classifier.figures import read_answers, sample_of
from unweave.audit.classifier.ruler import Ruler
from unweave.audit.classifier.scores import Parts
from unweave.audit.classifier.verdict import decide, rates_of
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp, small_cnn
from unweave.fit.recipe import Supervised
from unweave.parallel import build_models, parallel_map
from unweave.random import seeded
from unweave.statistics import wilson
from unweave.tasks import read_labels
from unweave.types import Request

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "claims" / "results" / "audit" / "error_rates.json"
SHIPPED = ROOT / "src" / "unweave" / "audit" / "error_rates.json"


class Blend(nn.Module):
    """Half way between two models' outputs."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)) / 2


def cifar(folder: Path, train: int = 2500, heldout: int = 1500):
    """CIFAR-10 images halved to 16 x 16, normalised."""
    from PIL import Image

    parts = []
    for name, n in (("train", train), ("test", heldout)):
        packed = np.load(folder / f"{name}.npz")
        at, raw = packed["offset"], packed["jpeg"]
        images = [
            np.asarray(Image.open(io.BytesIO(raw[at[i] : at[i + 1]].tobytes())).convert("RGB"))
            for i in range(n)
        ]
        x = F.avg_pool2d(torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255, 2)
        parts.append((x, torch.tensor(packed["label"][:n].astype(np.int64))))
    mean, sd = parts[0][0].mean((0, 2, 3), keepdim=True), parts[0][0].std((0, 2, 3), keepdim=True)
    return tuple(of_tensors((x - mean) / sd, y, classes=10, batch_size=64) for x, y in parts)


def setting(name: str, folder: Path | None):
    if name == "digits":
        train, heldout = digits()
        recipe = Supervised(network=partial(mlp, 64, 128, 10), epochs=40)
        return "digits with pixel noise 0.3, two-layer network", train, heldout, recipe, [3, 8, 1, 6]
    train, heldout = cifar(folder)
    recipe = Supervised(network=partial(small_cnn, 10, 3, 16), epochs=30)
    return (
        "CIFAR-10 subset (2,500 images, 16 x 16 pixels), small convolutional network",
        train,
        heldout,
        recipe,
        [3, 8],
    )


def measure(name: str, folder: Path | None, jobs: int, refs: int, fresh: int, halves: int, seed: int):
    what, train, heldout, recipe, classes = setting(name, folder)
    labels, sets, started = read_labels(train), len(classes), time.monotonic()
    n = refs + fresh
    every_holder = build_models(
        recipe, train, range(seed, seed + sets * n), jobs=jobs, label="models that hold the data"
    )
    results = []
    for kind in ("class", "random"):
        unedited, retrained, half = (
            [],
            [],
            {"retrained with half of the forget set": [], "half way between outputs": []},
        )
        positions, left_out = [], []
        for j, chosen in enumerate(classes):
            rng = seeded(seed + 17 * j)
            share = torch.randperm(len(train), generator=rng)[: len(train) // 5]
            forget = (labels == chosen).nonzero().flatten() if kind == "class" else share
            request = Request.of(train, heldout, forget)
            parts = Parts.of(request)
            base = seed + 10_000 * (1 + j) + (50_000 if kind == "random" else 0)
            oracles = build_models(
                recipe, request.retain, range(base, base + n), jobs=jobs, label=f"{kind} {j}: retrained"
            )
            some = forget[torch.randperm(len(forget), generator=rng)[: len(forget) // 2]]
            partly = build_models(
                recipe,
                Request.of(train, heldout, some).retain,
                range(base + 5000, base + 5000 + halves),
                jobs=jobs,
                label="half",
            )
            holders = every_holder[j * n : (j + 1) * n]
            blends = [
                Blend(a, b)
                for a, b in zip(holders[refs : refs + halves], oracles[refs : refs + halves], strict=True)
            ]

            def samples(models, request=request, parts=parts):
                return sample_of(
                    parallel_map(partial(read_answers, request=request, parts=parts), models, jobs=jobs),
                    parts,
                    10,
                )

            ruler = Ruler(samples(holders[:refs]), samples(oracles[:refs]))
            left_out.append([control.passed for control in decide(ruler, ruler.holders.only(0)).controls])
            for models, into in (
                (holders[refs:], unedited),
                (oracles[refs:], retrained),
                (partly, half["retrained with half of the forget set"]),
                (blends, half["half way between outputs"]),
            ):
                group = samples(models)
                for i in range(len(group)):
                    verdict = decide(ruler, group.only(i)).verdict
                    into.append(verdict.outcome)
                    positions.append(verdict.position)
        words = "one class deleted" if kind == "class" else "20 % of the examples deleted at random"
        rates = rates_of(
            unedited,
            retrained,
            f"{len(retrained)} retrained and {len(unedited)} unedited models, {what}, {words}",
        )
        results.append(
            {
                "rates": asdict(rates),
                "outcomes": {"unedited": Counter(unedited), "retrained": Counter(retrained)}
                | {k: Counter(v) for k, v in half.items()},
                "half_edited_accepted": {
                    k: {
                        "n": len(v),
                        "share": v.count("forgotten") / len(v),
                        "interval": wilson(v.count("forgotten"), len(v)),
                    }
                    for k, v in half.items()
                },
                "controls_passed": left_out,
                "setting": name,
                "kind": kind,
                "requests": sets,
                "references": [refs, refs],
                "recipe": re.sub(r" at 0x\w+", "", repr(recipe)),
                "seed": seed,
                "positions": {"all": [None if p is None else round(p, 3) for p in positions]},
            }
        )
        row = results[-1]
        print(
            f"{rates.source}: accepted {rates.oracles_accepted:.3f} {rates.oracles_interval}, rejected "
            f"{rates.unedited_rejected:.3f} {rates.unedited_interval}, inconclusive "
            f"{rates.inconclusive:.3f}, wrong {rates.wrong:.3f}; "
            f"{row['outcomes']}",
            flush=True,
        )
    for row in results:
        row["seconds"] = time.monotonic() - started
    return results


def store(name: str, results: list[dict]) -> None:
    """Replace one setting's entries, keep the others'."""
    old = json.loads(STORED.read_text(encoding="utf-8"))["results"] if STORED.exists() else []
    results = sorted(
        [r for r in old if r["setting"] != name] + results,
        key=lambda r: (r["setting"] != "digits", r["kind"]),
    )
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "unweave": getattr(unweave, "__version__", "0.1.0"),
    }
    STORED.parent.mkdir(parents=True, exist_ok=True)
    full = {
        "results": results,
        "versions": versions,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} thread",
    }
    STORED.write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    SHIPPED.write_text(
        json.dumps({"rates": [r["rates"] for r in results]}, indent=1) + "\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=["digits", "cifar"])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "cifar10")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument(
        "--references", type=int, default=8, help="models of each kind that set the threshold"
    )
    parser.add_argument("--fresh", type=int, default=None, help="fresh models of each kind and request")
    parser.add_argument("--halves", type=int, default=4, help="half-edited models of each kind and request")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fresh = options.fresh or (12 if options.setting == "digits" else 6)
    torch.set_num_threads(1)
    store(
        options.setting,
        measure(
            options.setting,
            options.data,
            options.jobs,
            options.references,
            fresh,
            options.halves,
            options.seed,
        ),
    )


if __name__ == "__main__":
    main()
