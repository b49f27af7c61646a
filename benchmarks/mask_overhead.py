"""What holding a mask costs: training steps with and without `hold=`, interleaved in one run.

python benchmarks/mask_overhead.py [rounds]

ResNet-20, batch 128 of 32x32 images, SGD with momentum and weight decay, 90 % sparse. Each round times a few
steps with a mask, a few without, and the calls that the mask adds to a step on their own; printed are the
fastest of each over the rounds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import sys
import time

import torch
from torch.optim import SGD

from unweave import Mask, fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import ResNet
from unweave.fit.keeper import Keeper
from unweave.fit.recipe import mean_loss
from unweave.prune import Prune

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
    keeper = Keeper(model, mask, None)
    held, free, added = [], [], []
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for i in range(rounds):
        for with_mask in (True, False) if i % 2 else (False, True):
            (held if with_mask else free).append(train(mask if with_mask else None))
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
        for _ in range(20):
            began = time.perf_counter()
            keeper.mask_gradients_()
            keeper.restore_()
            added.append(time.perf_counter() - began)
    step = min(free)
    print(f"a step without a mask  {1000 * step:8.2f} ms (fastest of {rounds} rounds of {STEPS} steps)")
    print(f"a step with one        {1000 * min(held):8.2f} ms: {100 * (min(held) / step - 1):+.2f} %")
    print(f"what the mask adds     {1000 * min(added):8.3f} ms: {100 * min(added) / step:.2f} % of a step")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
