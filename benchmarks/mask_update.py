"""The exchange of RigL, SET and MEST at 25 million weights, beside the training steps between: python -m benchmarks.mask_update"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn import Linear, ReLU, Sequential
from torch.optim import SGD

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.fit import Step
from unweave.fit.recipe import mean_loss
from unweave.io.files import write_text
from unweave.prune import ERK, MEST, SET, RigL, Uniform

WIDTH, LAYERS, BATCH = 2900, 3, 256


def main() -> None:
    rng = seeded(0)
    data = of_tensors(
        torch.randn(BATCH * 12, WIDTH, generator=rng), torch.arange(BATCH * 12) % 10, batch_size=BATCH
    )
    told: dict[str, object] = {}
    for name, method in {
        "RigL": RigL(budget=ERK(0.9), every=2, until=1.0),
        "SET": SET(budget=ERK(0.9), every=2, until=1.0),
        "MEST": MEST(budget=Uniform(0.9), every=2, halve=1.0, until=1.0),
    }.items():
        torch.manual_seed(0)
        model = Sequential(
            *(m for _ in range(LAYERS) for m in (Linear(WIDTH, WIDTH), ReLU())), Linear(WIDTH, 10)
        )
        weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
        mask, change = method.begin(model, data, steps=100, rng=seeded(0))
        exchanges, passes = [], []

        def after(
            step: Step,
            change: object = change,
            exchanges: list[float] = exchanges,
            passes: list[float] = passes,
        ) -> None:
            began = perf_counter()
            change(step)
            if step.index % 2 == 0:
                exchanges.append(perf_counter() - began)
            else:
                step.gradients()  # one forward and backward pass, nothing else
                passes.append(perf_counter() - began)

        fit_(
            model,
            data,
            mean_loss(data),
            SGD(model.parameters(), 0.01, momentum=0.9),
            epochs=1,
            rng=seeded(0),
            hold=mask,
            after_step=after,
        )
        told[name] = {
            "exchange, s": median(exchanges),
            "forward and backward pass, s": median(passes),
            "ratio": median(exchanges) / median(passes),
        }
        print(name, told[name], flush=True)
    result = {"weights": weights, "batch": BATCH, "threads": torch.get_num_threads(), **told}
    write_text(Path(__file__).parent / "results" / "mask_update.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
