"""One picture as a model sees it, before it is normalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unweave.errors import InputError
from unweave.io.one_image import read_image

transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("rescaled", [True, False])
def test_a_picture_lies_between_0_and_1_whether_its_processor_rescales_or_not(tmp_path, rescaled) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    made = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}, do_rescale=rescaled)
    made.save_pretrained(tmp_path / "vit")
    pixels, processor = read_image(tmp_path / "x.png", tmp_path / "vit")
    assert processor.do_rescale is rescaled
    torch.testing.assert_close(pixels, torch.from_numpy(values).permute(2, 0, 1) / 255, rtol=0, atol=1e-6)


def test_what_is_no_picture_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"there is no picture .*x\.png"):
        read_image(tmp_path / "x.png", tmp_path)
    (tmp_path / "x.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError, match="is no picture that can be read"):
        read_image(tmp_path / "x.png", tmp_path)
