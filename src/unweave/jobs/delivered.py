"""What the command line says of a delivery, as objects: a clip, bits a second, a network, where the file goes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..embedded.clips import panned
from ..errors import InputError
from ..io.files import written_beside
from ..restore.delivery import Backbone, Clip, read_clip
from .deliver import CONTAINER

_RESIDUAL = ("espcn", "edsr")


def open_clip(path: str, most: int | None) -> tuple[Clip, dict[str, Path]]:
    """A clip and the files it was read from; one made on the spot without a path.

    Raises:
        InputError: as `read_clip`, or if fewer than two frames are asked for.
    """
    if most is not None and most < 2:
        raise InputError(f"--most must be at least 2 frames; got {most}.")
    if not path:
        return panned(most or 24), {}
    return read_clip(path, most=most), {"clip": Path(path)}


def spoken_bits(text: str) -> float | None:
    """Bits a second: "800k" is 800,000.

    Raises:
        InputError: if it is none.

    Example:
        >>> spoken_bits("800k"), spoken_bits("1.5M"), spoken_bits("")
        (800000.0, 1500000.0, None)
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise InputError(f"--bits must be bits a second, as in 800k or 1.5M; got {text!r}.")
    return float(found[1]) * {"": 1, "k": 1e3, "m": 1e6}[found[2].lower()]


def spoken_backbone(text: str) -> Backbone:
    """NAME:LAYERS:WIDTH as a network; a bare name is the published one.

    Raises:
        InputError: if it is none.

    Example:
        >>> spoken_backbone("espcn:2:16").width, spoken_backbone("wdsr").width
        (16, None)
    """
    name, *numbers = text.split(":")
    if len(numbers) not in (0, 2) or not all(n.isdigit() for n in numbers):
        raise InputError(f"--net must be NAME or NAME:LAYERS:WIDTH, as in espcn:2:16; got {text!r}.")
    if not numbers:
        return Backbone(name=name)
    return Backbone(name=name, blocks=int(numbers[0]), width=int(numbers[1]), residual=name in _RESIDUAL)


@dataclass(frozen=True)
class _Asked:
    """Options with the run folder in the place of the file."""

    out: Path
    json: bool
    tracker: Any = None


@contextmanager
def handed_out(asked: Any) -> Iterator[_Asked]:
    """Options whose `out` is the run folder beside the file; at the end the file is put in its place.

    Raises:
        StorageError: if it cannot be written.
    """
    folder = asked.out.with_suffix(".run")
    yield _Asked(folder, asked.json)
    with written_beside(asked.out) as beside:
        try:
            os.link(folder / CONTAINER, beside)
        except OSError:  # another file system, or one without links
            shutil.copyfile(folder / CONTAINER, beside)
