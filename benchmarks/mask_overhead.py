"""What holding a mask costs: training steps with and without `hold=`, interleaved in one run.

python benchmarks/mask_overhead.py [rounds]

ResNet-20, batch 128 of 32x32 images, SGD with momentum and weight decay, 90 % sparse. The share is the median
over rounds of (time with hold / time without) - 1, each round a few steps of both; also timed alone are the
calls the mask adds, as a share of a step, which is less noisy.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch.optim import SGD

from unweave import Mask, fit_, seeded
from unweave.datasets import of_tensors
from unweave.fit import _Keeper
from unweave.nets import ResNet
from unweave.prune import Prune
from unweave.recipe import mean_loss

STEPS = 3


def main(rounds: int) -> None:
    torch.set_num_threads(2)
    images = torch.randn(128 * STEPS, 3, 32, 32, generator=seeded(0))
    data = of_tensors(images, torch.arange(len(images)) % 10, classes=10)
    torch.manual_seed(0)
    model = Prune().apply(ResNet(20), data, rng=seeded(0))
    mask = Mask.of(model)
    optimizer = SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def train(hold: Mask | None) -> float:
        began = time.perf_counter()
        fit_(model, data, mean_loss(data), optimizer, epochs=1, rng=seeded(1), hold=hold)
        return (time.perf_counter() - began) / STEPS

    train(mask), train(None)
    ratios, steps = [], []
    for i in range(rounds):
        pair = {held: train(mask if held else None) for held in ((True, False) if i % 2 else (False, True))}
        ratios.append(pair[True] / pair[False] - 1)
        steps.append(pair[False])
    keeper = _Keeper(model, mask, None)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        keeper.mask_gradients_()
        keeper.restore_()
        times.append(time.perf_counter() - began)
    step, added = statistics.median(steps), statistics.median(times)
    quarters = statistics.quantiles(ratios, n=4)
    print(f"step without mask      {1000 * step:8.2f} ms (median of {rounds} rounds of {STEPS} steps)")
    print(
        f"hold= adds             {100 * quarters[1]:8.2f} % of it (quartiles {100 * quarters[0]:.2f}, "
        f"{100 * quarters[2]:.2f})"
    )
    print(f"its calls, timed alone {1000 * added:8.2f} ms = {100 * added / step:.2f} % of a step")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
