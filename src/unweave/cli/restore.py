"""`unweave restore`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..errors import InputError
from ..jobs.restore import RestoreJob
from ._flags import with_methods
from ._parse import named_methods, parse, show, typed
from ._restore_training import trained

EXAMPLE = """  unweave restore photo.png --weights sesr.safetensors
  unweave restore photo.png --weights pcsr.safetensors --scale 3 --knob 0.5
  unweave restore torn.png --mask holes.png --weights superinpaint.safetensors --scale 2
  unweave restore field.png --weights ediffsr.safetensors --steps 20 --samples 4 --seed 1
  unweave restore scene.npz --weights essaformer.safetensors --tile 32 --peak 10000
  unweave restore stack.tif --weights ml-sim.safetensors
  unweave restore call.wav --weights fast-fullsubnet.safetensors --out clean.wav
  unweave restore --train ./photos --method sesr --weights sesr.safetensors --sesr.epochs 40

Sounds and cubes are trained from Python: unweave.restore.FastFullSubNet, ESSAformer. Methods: unweave list
--family restore."""

Name = Literal[
    "", "sesr", "pcsr", "superinpaint", "ediffsr", "essaformer", "cue", "ml-sim", "fast-fullsubnet"
]
OPTIONS = ("scale", "knob", "tile", "steps", "samples", "mode", "ratio", "known")


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Restore a picture, a cube, a microscope's raw stack or a sound with a trained network; or train one on pictures.

    Pictures: png, jpg, tif in, png or tif out. Cubes: npz, npy, tif in, npz or npy out. Stacks: tif of one page a
    frame, npz, npy in, tif or png out. Sounds: mono wav. What is written is read back; a record of it lies beside it.

    Attributes:
        input: the file.
        weights: of the network, with all it was made of, in one .safetensors file; written with --train.
        method: with --train, what is trained; else only checked against the weights.
        out: file to write; beside the input, with -restored in its name, unless given.
        scale: of the sides, any number of at least 1 (pcsr, superinpaint); that of training unless given.
        knob: below 0 more pixels get the dear network, above 0 fewer (pcsr).
        adaptive: choose these pixels by each picture's own two clusters instead (pcsr).
        unrefined: leave cheap pixels beside dear ones as they are (pcsr).
        tile: side of tiles, for large inputs (essaformer, ml-sim).
        steps: of the sampler (ediffsr).
        samples: draws that are averaged (ediffsr).
        mode: of the sampler (ediffsr).
        ratio: how bright (cue).
        mask: picture of the holes, white there (superinpaint).
        known: "bicubic" takes known places from the enlarged picture (superinpaint).
        peak: largest value that the input can hold, where its type does not say.
        seed: of networks that draw, and of a training.
        train: folder of pictures to train on.
        crops: with --train, crops to train on.
        side: with --train, of a large crop in pixels.
        batch: with --train, crops a step.
        json: print JSON.
    """

    input: tyro.conf.Positional[Path | None] = None
    weights: Path
    method: Name = ""
    out: Path | None = None
    scale: float | None = None
    knob: float | None = None
    adaptive: bool = False
    unrefined: bool = False
    tile: int | None = None
    steps: int | None = None
    samples: int | None = None
    mode: Literal["sde", "ode", "posterior"] | None = None
    ratio: float | None = None
    mask: Path | None = None
    known: Literal["made", "bicubic"] | None = None
    peak: float | None = None
    seed: int = 0
    train: Path | None = None
    crops: int = 2000
    side: int = 96
    batch: int = 16
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Restore, or train."""
    training = any(a.partition("=")[0] == "--train" for a in argv)
    named = named_methods(argv, ("--method",), "")[-1]
    known = [named] if training and named in Name.__args__[1:] else []  # type: ignore[attr-defined]
    asked: Any = parse(
        with_methods(Restore, known) if known else Restore, argv, command="restore", example=EXAMPLE
    )
    if (asked.input is None) == (asked.train is None):
        raise InputError("give either a file to restore, or --train with a folder of pictures.")
    given = {name: getattr(asked, name) for name in OPTIONS if getattr(asked, name) is not None}
    given |= ({"adaptive": True} if asked.adaptive else {}) | ({"refine": False} if asked.unrefined else {})
    if training:
        show(trained(asked, list(given)), asked.json)
        return 0
    for name in ("crops", "side", "batch"):
        if getattr(asked, name) != getattr(Restore, name):
            raise InputError(f"--{name} would do nothing without --train.")
    done = RestoreJob(
        input=asked.input, weights=asked.weights, method=asked.method, options=given, mask=asked.mask,
        peak=asked.peak, seed=asked.seed,
    ).run(asked.out, command=typed("restore", argv))  # fmt: skip
    show(done, asked.json)
    return 0
