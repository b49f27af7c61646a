"""A model of your own loop, from training to verdict: forget a class of digits, then let the audit judge.

The digits come with scikit-learn; put your own data, network and loop in their places. The same names
stand in a project.py for the command line (docs/guide/bring-your-own-loop.md).
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unweave import Data, OwnLoop
from unweave.jobs import ForgetJob, Subject
from unweave.tasks import Classify


def digits():
    """scikit-learn's digits with pixel noise: half to train on, half held out."""
    bunch, generator = load_digits(), torch.Generator().manual_seed(0)
    inputs = torch.tensor(bunch.data, dtype=torch.float32) / 16
    inputs += 0.3 * torch.randn(inputs.shape, generator=generator)
    order = torch.randperm(len(inputs), generator=generator)
    whole = TensorDataset(inputs[order], torch.tensor(bunch.target)[order])
    return Subset(whole, range(900)), Subset(whole, range(900, 1797))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 128), nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.body(x).relu())


def train_model(train, seed):
    """The user's own loop: AdamW, one cycle, noise on the inputs."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(train, batch_size=32, shuffle=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=12 * len(loader))
    for _ in range(12):
        for inputs, labels in loader:
            optimizer.zero_grad()
            noisy = inputs + 0.1 * torch.randn_like(inputs)
            nn.functional.cross_entropy(model(noisy), labels).backward()
            optimizer.step()
            schedule.step()
    return model


if __name__ == "__main__":
    train, heldout = digits()
    subject = Subject(
        train=Data(train, Classify(10)), heldout=Data(heldout, Classify(10)), name="digits by a loop of our own",
        recipe=OwnLoop(function=train_model), model=train_model(train, 0), class_names=tuple("0123456789"),
    )  # fmt: skip
    job = ForgetJob(subject=subject, classes=["3"], oracles=8, holders=8, quick=True)
    print(job.choice)
    print(job.run("runs/own-loop"))
