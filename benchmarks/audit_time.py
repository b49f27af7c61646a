"""What an audit of a classifier takes, without the training of its references: processor seconds.

Fashion-MNIST at 14 x 14, a plain network, 8 + 8 references, a class and 240 examples at random. Knows the call of
former releases too, so that the same file tells how they compare:

    PYTHONPATH=src:. python -m benchmarks.audit_time                      # this tree
    PYTHONPATH=<another tree>/src:. python -m benchmarks.audit_time       # another

The first audit warms up and is not counted; of the others the least is told: what else runs on the machine only adds.
"""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from unweave import Data, Request, audit, seeded
from unweave.tasks import Classify

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion_mnist" / "train.npz"
REFERENCES, EPOCHS, TIMES = 8, 8, 3


class Net(nn.Module):
    """One convolution and two linear layers; 19,434 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.full, self.out = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(392, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.relu(self.full(F.relu(self.conv(x)).flatten(1))))
        return out


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """By a loop of its own: no release may train otherwise than another."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    packed = np.load(DATA)
    x = F.avg_pool2d(torch.tensor(packed["image"][:2400]).float()[:, None] / 255, 2)
    x, y = (x - x.mean()) / x.std(), torch.tensor(packed["label"][:2400].astype("int64"))
    train, heldout = (
        Data(TensorDataset(x[part], y[part]), task=Classify(10), batch_size=64)
        for part in (slice(1200), slice(1200, 2400))
    )
    kinds = {"a class": (y[:1200] == 5).nonzero().flatten(), "240 at random": torch.arange(240)}
    holders = [trained(x[:1200], y[:1200], seed) for seed in range(REFERENCES)]
    former = "held" in inspect.signature(inspect.unwrap(audit)).parameters
    for words, gone in kinds.items():
        stays = torch.ones(1200, dtype=torch.bool)
        stays[gone] = False
        kept = stays.nonzero().flatten()
        oracles = [trained(x[kept], y[kept], 100 + seed) for seed in range(REFERENCES + 1)]
        request = Request.of(train, heldout, gone)
        given = {"held" if former else "holders": holders[1:], "oracles": oracles[1:], "original": holders[0]}
        took = []
        for i in range(TIMES + 1):
            began = time.process_time()
            audit(oracles[0], request, rng=seeded(i), **given)
            took.append(time.process_time() - began)
        print(f"{words}: {min(took[1:]):.2f} s of {[round(t, 2) for t in took]}", flush=True)


if __name__ == "__main__":
    main()
