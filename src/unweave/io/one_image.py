"""One picture as a model would see it: resized and cropped by its processor, in pixel space from 0 to 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, require
from .images import processor_of
from .loading import loading, quiet, short


def read_image(file: Path, folder: Path) -> tuple[Tensor, Any]:
    """Read a picture for a model.

    Args:
        file: of any format that Pillow reads.
        folder: of the model, with its image processor.

    Returns:
        The picture [c, h, w] from 0 to 1, not yet normalised, and the processor.

    Raises:
        InputError: if the file is no picture, or the folder has no processor.
        MissingExtraError: if Pillow or transformers is absent.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"there is no picture {file}.")
    pillow = require("PIL.Image", extra="vision", purpose="reading a picture")
    try:
        with pillow.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no picture that can be read ({short(error)}).") from error
    processor = processor_of(folder)
    with loading(folder), quiet():
        seen = processor(images=picture, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    pixels = torch.as_tensor(seen).float()
    return pixels if getattr(processor, "do_rescale", True) else pixels / 255, processor
