"""`unweave play`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..errors import InputError
from ..jobs.play import play
from ._parse import parse, say
from ._plain import write_json

EXAMPLE = """  unweave play clip.uwv --out up.mp4
  unweave play clip.uwv --frames frames/                    # every frame as PNG, to the encoder's own bits
  unweave play clip.uwv --out up.mkv --crf 0                # the same in one file
  unweave play clip.uwv --backend onnxruntime --threads 2   # how many frames a second this machine restores

Deliveries are made by: unweave deliver. The file is read once, from its beginning, as from a network."""


@dataclass(frozen=True, kw_only=True)
class Play:
    """Restore the frames of a delivery: a video with its sound, pictures, or frames a second alone.

    Attributes:
        delivery: a .uwv file.
        out: video to write, .mp4 or .mkv.
        frames: folder to write every frame into, as PNG.
        backend: what runs the networks; torch on the processor gives the encoder's own bits.
        device: of torch: cpu, cuda, mps.
        threads: of ONNX Runtime; 0 leaves the choice to it.
        general: weights of the network that the delivery was made upon, if it was.
        crf: constant rate factor of the video that is written; 0 with .mkv loses nothing.
        json: print JSON.
    """

    delivery: tyro.conf.Positional[Path]
    out: Path | None = None
    frames: Path | None = None
    backend: Literal["torch", "onnxruntime"] = "torch"
    device: str = "cpu"
    threads: int = 0
    general: Path | None = None
    crf: int = 12
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Play."""
    asked: Play = parse(Play, argv, command="play", example=EXAMPLE)
    if asked.threads < 0 or not 0 <= asked.crf <= 51:
        raise InputError(
            f"--threads must be at least 0 and --crf from 0 to 51; got {asked.threads} and {asked.crf}."
        )
    told = play(
        asked.delivery, out=asked.out, frames=asked.frames, backend=asked.backend, device=asked.device,
        threads=asked.threads, general=asked.general, crf=asked.crf,
    )  # fmt: skip
    if asked.json:
        import json

        write_json(
            json.dumps(
                {**dataclasses.asdict(told), "files": [str(f) for f in told.files], "speed": told.speed}
            )
        )
    else:
        say(str(told))
    return 0
