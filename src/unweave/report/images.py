"""Images on a page, in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from ..errors import require
from ..io.files import written_beside


def grids(drawn: Mapping[str, Mapping[str, Tensor]], most: int = 8) -> Markup | None:
    """A row of strips a concept; None without images.

    Args:
        drawn: column ("before", a method, "retrained") -> concept -> images [n, channels, height, width], about -1
            to 1.
        most: images of each concept and column.
    """
    rows = []
    for concept in next(iter(drawn.values()), {}):
        cells = Markup("").join(
            Markup('<figure><figcaption>{}</figcaption><img alt="{}" src="{}" width="{}"></figure>').format(
                name,
                f"{len(images[concept][:most])} images of {concept}, {name}",
                *_strip(images[concept][:most]),
            )
            for name, images in drawn.items()
            if concept in images
        )
        rows.append(Markup("<h4>{}</h4><div class=pictures>{}</div>").format(concept, cells))
    return Markup("").join(rows) if rows else None


def _strip(images: Tensor) -> tuple[str, int]:
    """Images beside one another as a PNG data address, and its width in pixels on the page."""
    image = require("PIL.Image", extra="diffusion", purpose="the report's pictures")
    n, channels, height, width = images.shape
    scale = max(1, 48 // height)
    pixels = _bytes_of(images)
    pixels = torch.nn.functional.pad(pixels, (0, 1, 0, 1), value=255)
    row = pixels.permute(1, 2, 0, 3).reshape(channels, height + 1, n * (width + 1))
    held = io.BytesIO()
    image.fromarray(_array_of(row)).save(held, "PNG")
    shown = min(n * (width + 1) * scale, 700)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}", shown


def png(image: Tensor) -> bytes:
    """A picture [c, h, w] from 0 to 1 as the bytes of a PNG file.

    Raises:
        MissingExtraError: if Pillow is absent.
    """
    pillow = require("PIL.Image", extra="vision", purpose="the report's pictures")
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels[:3].permute(1, 2, 0).contiguous().numpy()
    held = io.BytesIO()
    pillow.fromarray(array).save(held, "PNG")
    return held.getvalue()


def heat(image: Tensor, saliency: Tensor) -> Tensor:
    """A picture [c, h, w] in grey under a map [h, w] from 0 to 1 in colour, [3, h, w]."""
    from matplotlib import colormaps

    coloured = torch.from_numpy(colormaps["inferno"](saliency.cpu().numpy())[..., :3]).permute(2, 0, 1)
    return 0.4 * image.float().cpu().mean(0, keepdim=True) + 0.6 * coloured.float()


def framed(pictures: Mapping[str, Tensor], width: int = 224) -> Markup:
    """Pictures [c, h, w] from 0 to 1 beside one another, each with its caption."""
    cells = Markup("").join(
        Markup('<figure><figcaption>{0}</figcaption><img alt="{0}" src="{1}" width="{2}"></figure>').format(
            caption, f"data:image/png;base64,{base64.b64encode(png(image)).decode()}", width
        )
        for caption, image in pictures.items()
    )
    return Markup("<div class=pictures>{}</div>").format(cells)


def save_png(picture: Tensor, path: Path) -> None:
    """Write one image [channels, height, width], about -1 to 1, as a PNG; of more than three channels the first three.

    Raises:
        StorageError: if it cannot be written.
    """
    image = require("PIL.Image", extra="diffusion", purpose="writing pictures")
    held = io.BytesIO()
    image.fromarray(_array_of(_bytes_of(picture))).save(held, "PNG")
    with written_beside(path) as beside:
        beside.write_bytes(held.getvalue())


def _bytes_of(images: Tensor) -> Tensor:
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _array_of(row: Tensor) -> Any:
    return row[0].numpy() if len(row) < 3 else row[:3].permute(1, 2, 0).contiguous().numpy()
