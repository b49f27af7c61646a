"""Figures of pictures, against libraries that compute the same and cases worked by hand."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from unweave import seeded
from unweave.audit.drawing.looks import (
    beside_real,
    brightness,
    clipped,
    contrast,
    looks,
    recall,
    saturation,
    wasserstein,
)
from unweave.errors import InputError


def test_saturation_is_that_of_hsv() -> None:
    images = torch.rand(2, 3, 4, 5, generator=seeded(0)) * 2.4 - 1.2
    images[0, :, 0, 0] = -1.0  # black has none
    by_hand = []
    for image in (images.clamp(-1, 1).double() + 1) / 2:
        pixels = image.permute(1, 2, 0).reshape(-1, 3).tolist()
        by_hand.append(sum(colorsys.rgb_to_hsv(*p)[1] for p in pixels) / len(pixels))
    assert saturation(images).tolist() == pytest.approx(by_hand)


def test_figures_of_single_pictures() -> None:
    image = torch.tensor([[[[-1.2, 1.0], [0.2, 1.04]]]])
    assert clipped(image).tolist() == [0.25]
    assert brightness(image).tolist() == pytest.approx([0.26])
    assert contrast(image).tolist() == pytest.approx([float(np.std([-1.2, 1.0, 0.2, 1.04]))])
    assert set(looks(image)) == {"brightness", "contrast", "values past the range"}
    assert looks(image.expand(1, 3, 2, 2))["saturation"] == pytest.approx(0)


def test_distance_of_two_samples() -> None:
    assert wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0])) == pytest.approx(2.0)


def test_recall_by_hand() -> None:
    """On a line: made at 0, 1, 2, 10; with k=1 they reach 1, 1, 1 and 8. Of the real, 2.5 is reached by 10 and 2."""
    made = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    real = torch.tensor([[-0.5], [-1.5], [2.5], [17.0], [19.0]])
    assert recall(made, real, k=1) == pytest.approx(3 / 5)
    assert recall(made, made, k=1) == 1.0


def test_loss_of_variety_lowers_recall_and_not_precision() -> None:
    real = torch.randn(300, 2, generator=seeded(0))
    same, narrow = torch.randn(300, 2, generator=seeded(1)), 0.2 * torch.randn(300, 2, generator=seeded(1))
    assert recall(same, real) > 0.9
    assert recall(narrow, real) < 0.3
    assert recall(real, narrow) > 0.95


def test_figures_bear_the_judges_name() -> None:
    images = torch.rand(20, 1, 4, 4, generator=seeded(0)) * 2 - 1
    found = beside_real(images, images.flip(0), lambda x: x.flatten(1)[:, :3], "digits")
    assert found["recall (digits features)"] == found["precision (digits features)"] == 1.0
    assert found["Fréchet distance (digits features)"] == pytest.approx(0, abs=1e-6)
    assert found["distance of brightness (W1)"] == pytest.approx(0)
    assert set(beside_real(images, images)) == {"distance of brightness (W1)"}


def test_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="pictures in colour"):
        saturation(torch.zeros(1, 1, 2, 2))
    with pytest.raises(InputError, match="more than 3 made"):
        recall(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="at least one number"):
        wasserstein(torch.zeros(0), torch.zeros(2))
