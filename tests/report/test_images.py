"""Pictures of a report, to the pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from unweave.report.images import png

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_from_0_to_1_is_256_levels_and_clipped(channels: int) -> None:
    values = torch.tensor([[-0.5, 0.0, 0.1, 0.5], [0.9, 0.998, 1.0, 7.0]])
    with Image.open(io.BytesIO(png(values.expand(channels, 2, 4)))) as read:
        pixels = np.asarray(read)
    assert pixels.shape == ((2, 4) if channels == 1 else (2, 4, 3))
    expected = np.array([[0, 0, 26, 128], [230, 254, 255, 255]])
    assert (pixels.reshape(2, 4, -1) == expected[..., None]).all()
