"""Real data beside the digits, from the shared data folder: the images that claims are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unweave import Data
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.tasks import Classify

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def fashion_mnist(
    train: int = 5000, heldout: int = 2000, batch_size: int = 64, *, flat: bool = False
) -> tuple[Data[Classify], Data[Classify]]:
    """The first images of Fashion-MNIST (at most 15,000 and 3,000), standardised: [n, 1, 28, 28], or [n, 784] if `flat`."""
    return _read("train", train, batch_size, flat), _read("test", heldout, batch_size, flat)


def shared(name: str) -> Path:
    """A file or folder of the shared data folder."""
    path = SHARED / name
    if not path.exists():
        raise InputError(f"{path} is absent; this claim needs the shared data folder beside the repository.")
    return path


def _read(part: str, n: int, batch_size: int, flat: bool) -> Data[Classify]:
    packed = np.load(shared(f"fashion_mnist/{part}.npz"))
    images = torch.from_numpy(packed["image"][:n]).float().div_(255).sub_(0.286).div_(0.353)
    inputs = images.flatten(1) if flat else images[:, None]
    labels = torch.from_numpy(packed["label"][:n].astype(np.int64))
    return of_tensors(inputs, labels, classes=10, batch_size=batch_size)
