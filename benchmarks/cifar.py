"""The CIFAR-10 subset of the shared data folder and the ResNet-20 that is trained on it, for benchmarks and claims."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unweave import Data, Supervised
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import ResNet, shift_and_flip
from unweave.errors import InputError
from unweave.tasks import Classify

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10(
    train: int = 8000, heldout: int = 3000, batch_size: int = 64
) -> tuple[Data[Classify], Data[Classify]]:
    """The first `train` and `heldout` images (balanced), normalised."""
    return tuple(_read(name, n, batch_size) for name, n in (("train", train), ("test", heldout)))  # type: ignore[return-value]


def resnet20() -> torch.nn.Module:
    return ResNet(20).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def recipe(init_seed: int | None, epochs: int = 14) -> Supervised:
    augment = partial(shift_and_flip, pad=4)
    return Supervised(network=resnet20, epochs=epochs, lr=0.1, augment=augment, init_seed=init_seed)


def _read(name: str, n: int, batch_size: int) -> Data[Classify]:
    from PIL import Image

    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise InputError(
            f"{path} is absent; the CIFAR-10 benchmarks need the shared data folder beside the repository."
        )
    packed = np.load(path)
    at, raw = packed["offset"], packed["jpeg"].tobytes()
    images = np.stack([np.asarray(Image.open(io.BytesIO(raw[at[i] : at[i + 1]]))) for i in range(n)])
    inputs: Tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return of_tensors(
        inputs.contiguous(),
        torch.from_numpy(packed["label"][:n].astype(np.int64)),
        classes=10,
        batch_size=batch_size,
    )
