from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from unweave import seeded
from unweave.errors import InputError
from unweave.optim import corruption_degradation

Y, S = torch.arange(4) % 2, torch.arange(4) // 2


class Blind(Module):
    """Reads a class off the brightness; group 1 is darker, so noise of one size hurts it more."""

    def forward(self, x: Tensor) -> Tensor:
        m = x.mean(1)
        return torch.stack([-(m - 0.2).abs(), -(m - 0.8).abs()], 1)


def test_the_disparity_by_hand() -> None:
    y, g = torch.arange(400) % 2, (torch.arange(400) // 2) % 2
    images = torch.where(y == 1, 0.9, 0.1)[:, None].repeat(1, 4)
    images[g == 1] = torch.where(y == 1, 0.55, 0.45)[g == 1][:, None].repeat(1, 4)
    found = corruption_degradation(
        Blind(), images, y, g, corruptions={"brightness": (0.2,), "contrast": (0.0,)}, rng=seeded(0)
    )
    # brighter by 0.2: group 1's dark class (0.45) crosses the middle, group 0's (0.1) does not
    assert found.clean.tolist() == [100.0, 100.0]
    assert found.corrupted["brightness", 0.2].tolist() == [100.0, 50.0]
    assert found.corrupted["contrast", 0.0].tolist() == [100.0, 100.0]
    assert found.disparity == 25.0  # mean of 50 and 0
    assert found.interval[0] < 25 < found.interval[1]
    assert found.worst_group == 75.0
    assert found.overall == pytest.approx(87.5)
    swapped = corruption_degradation(
        Blind(), images, y, 1 - g, corruptions={"brightness": (0.2,), "contrast": (0.0,)}, rng=seeded(0)
    )
    assert swapped.disparity == found.disparity


def test_refuses() -> None:
    with pytest.raises(InputError, match="no corruption fog"):
        corruption_degradation(
            Blind(), torch.zeros(2, 4), Y[:2], S[:2], corruptions={"fog": (1.0,)}, rng=seeded(0)
        )
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        corruption_degradation(Blind(), torch.full((2, 4), 3.0), Y[:2], S[:2], corruptions={}, rng=seeded(0))
    with pytest.warns(UserWarning, match="mostly noise"):
        corruption_degradation(
            Blind(), torch.zeros(4, 4), Y[:4], S[:4], corruptions={"contrast": (0.5,)}, rng=seeded(0)
        )
