"""The data set that needs no file and no network, and tensors as data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..random import seeded
from ..tasks.classify import Classify
from ..types import Data


def of_tensors(
    inputs: Tensor, labels: Tensor, *, classes: int | None = None, batch_size: int = 128
) -> Data[Classify]:
    """A classification data set of inputs [n, ...] and integer labels [n].

    Args:
        inputs: floating point.
        labels: from 0.
        classes: how many there are; one more than the largest label unless given.
        batch_size: examples a batch.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    return Data(TensorDataset(inputs, labels.long()), Classify(count), batch_size)


def digits(noise: float = 0.3, seed: int = 0, batch_size: int = 64) -> tuple[Data[Classify], Data[Classify]]:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels in [0, 1], as (900 to train on, 897 held out).

    Args:
        noise: standard deviation of Gaussian pixel noise, drawn once. Without it networks generalise almost perfectly,
            and a model that forgot an example could not be told from one that did not.
        seed: of the split and the noise.
        batch_size: examples a batch.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs = torch.tensor(bunch.data, dtype=torch.float32) / 16
    labels = torch.tensor(bunch.target, dtype=torch.long)
    rng = seeded(seed)
    inputs = inputs + noise * torch.randn(inputs.shape, generator=rng)
    order = torch.randperm(len(inputs), generator=rng)
    make: Callable[[Tensor], Data[Classify]] = lambda at: of_tensors(  # noqa: E731
        inputs[at], labels[at], classes=10, batch_size=batch_size
    )
    return make(order[:900]), make(order[900:])
