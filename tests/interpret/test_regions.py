from __future__ import annotations

import logging

import pytest
import torch
from scipy import ndimage

from unweave import seeded
from unweave.errors import InputError
from unweave.interpret.regions import by_prior, checked, filled, grid, of_masks, squares, superpixels


def test_a_grid_by_hand() -> None:
    assert grid(4, 5, 2, 2).tolist() == [[0, 0, 0, 1, 1]] * 2 + [[2, 2, 2, 3, 3]] * 2
    assert checked(squares(8, 8, 16), 8, 8) == 16
    assert checked(squares(4, 12, 12), 4, 12) == 12
    assert squares(4, 12, 12).unique(return_counts=True)[1].tolist() == [4] * 12
    assert checked(squares(3, 1, 3), 3, 1) == 3
    with pytest.raises(
        InputError, match="65 regions were asked of an image of 8 x 8 pixels. Ask for at most 64"
    ):
        squares(8, 8, 65)
    with pytest.raises(InputError, match="a grid of 9 x 2 regions does not fit an image of 8 x 8"):
        grid(8, 8, 9, 2)


def test_superpixels_cover_are_connected_and_follow_an_edge() -> None:
    image = torch.zeros(3, 24, 30)
    image[:, :, 13:] = 1  # an edge that no grid of five columns has
    image += 0.02 * torch.randn(image.shape, generator=seeded(0))
    labels = superpixels(image, 20)
    m = checked(labels, 24, 30)
    assert 12 <= m <= 28
    for j in range(m):
        here = (labels == j).numpy()
        assert ndimage.label(here)[1] == 1
        assert here[:, :13].any() != here[:, 13:].any(), "a region crosses the edge"
    with pytest.raises(InputError, match="800 regions were asked of an image of 24 x 30 pixels"):
        superpixels(image, 800)


def test_patches_are_grouped_by_their_saliency() -> None:
    saliency = torch.zeros(20, 20)
    saliency[4:6, 8:10], saliency[0:2, 0:2] = 2.0, 1.0
    labels = by_prior(saliency)
    assert checked(labels, 20, 20) == 25
    assert (labels.unique(return_counts=True)[1] == 16).all()
    assert int(labels[4, 8]) == int(labels[0, 0]) == 0
    assert checked(by_prior(saliency, side=5, together=4), 20, 20) == 7
    with pytest.raises(InputError, match="together must be at least 1"):
        by_prior(saliency, together=0)
    with pytest.raises(InputError, match="a grid of 10 x 10 regions does not fit an image of 8 x 8"):
        by_prior(torch.zeros(8, 8))


def test_masks_of_ones_own_and_what_none_covers() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 3] = True, True
    labels = of_masks(masks, 4, 4)
    assert labels.tolist() == [[0] * 4, [0] * 4, [2] * 4, [1] * 4]
    masks[1, 1] = True
    with pytest.raises(InputError, match="masks 0 and 1 overlap"):
        of_masks(masks, 4, 4)
    with pytest.raises(InputError, match=r"mask 0 has shape \(4, 4\); the image has 5 x 4 pixels"):
        of_masks(masks, 5, 4)
    with pytest.raises(InputError, match="mask 0 covers no pixel"):
        of_masks(torch.zeros(1, 4, 4, dtype=torch.bool), 4, 4)
    with pytest.raises(InputError, match="no mask was given"):
        of_masks([], 4, 4)


def test_labels_are_checked_and_many_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"regions are whole numbers \[4, 4\].*got torch.float32 \(4, 4\)"):
        checked(torch.zeros(4, 4), 4, 4)
    with pytest.raises(InputError, match=r"got torch.int64 \(4, 5\)"):
        checked(torch.zeros(4, 5, dtype=torch.long), 4, 4)
    with pytest.raises(InputError, match="without a gap; got .0, 2."):
        checked(2 * grid(4, 4, 2, 1), 4, 4)
    with caplog.at_level(logging.WARNING, "unweave"):
        assert checked(squares(15, 15, 225), 15, 15) == 225
    assert "225 regions take 50850 forward passes" in caplog.text


def test_what_hides() -> None:
    image = torch.rand(3, 12, 12, generator=seeded(0), dtype=torch.float64)
    assert not filled(image, "black").any()
    assert torch.allclose(filled(image, "mean")[:, 3, 4], image.mean((1, 2)))
    flat = torch.full((3, 12, 12), 0.7, dtype=torch.float64)
    assert torch.allclose(filled(flat, "blur"), flat)
    assert filled(image, "blur").std() < 0.5 * image.std()
