"""`unweave deliver`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import find
from ..errors import InputError
from ..jobs.deliver import DeliverJob
from ..jobs.delivered import handed_out, open_clip, spoken_backbone, spoken_bits
from ..jobs.play import read_general
from ..restore.delivery import Encoding
from ..restore.delivery.codec import CodecName
from ..restore.delivery.coding import Precision
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, named_methods, parse

EXAMPLE = """  unweave deliver clip.mp4 --scale 2 --bits 800k --out clip.uwv
  unweave play clip.uwv --out up.mp4
  unweave deliver clip.mp4 --method stdo --stdo.k 4 --stdo.halo 2 --net wdsr:4:16 --precision int8 --out clip.uwv
  unweave deliver clip.mp4 --method dy-dca --codec av1 --compare --out clip.uwv   # beside the codec alone, same bits
  unweave deliver --out small.uwv --steps 200          # a clip made on the spot

--bits counts everything but sound: stream, networks, labels. --net is NAME:LAYERS:WIDTH; espcn and edsr said so stand
beside bicubic interpolation; a bare name is the published network, which takes days on a processor. Beside the .uwv
a folder of the same name (.run) keeps the report, and goes on after a kill. Each method named adds its flags: add
--help."""
FIELDS = ("backbone", "steps", "epochs", "lr", "recipe")


@dataclass(frozen=True, kw_only=True)
class Deliver:
    """Send a video as a small stream and networks overfitted to it, in one file that can be played from its beginning.

    Attributes:
        clip: a video file; a clip made on the spot unless given.
        method: stdo, jstdo (stdo with one network), dy-dca, aw-dnn, nas, ca-fm, emt, srvc, live-nas.
        scale: between the video and the stream.
        codec: of the stream.
        bits: a second, for everything but sound, as in 800k or 1.5M; the stream gets what networks leave.
        crf: constant rate factor of the stream instead; 28 without either.
        precision: of the networks' numbers.
        net: the network, as NAME:LAYERS:WIDTH.
        steps: of the optimiser, over all networks.
        lr: first learning rate.
        gop: seconds a segment; each begins with a key frame.
        preset: of the encoder; slow, and 6 for av1, unless given.
        most: read this many frames at most.
        general: weights (safetensors) of a network that the reader has already; what differs is sent.
        compare: also encode by the codec alone, and small and enlarged; curves and crops go into the report.
        points: constant rate factors of the comparison.
        seed: governs the whole run.
        out: file to write, .uwv.
        json: print JSON.
    """

    clip: tyro.conf.Positional[str] = ""
    method: str = "stdo"
    scale: Literal[2, 3, 4] = 2
    codec: CodecName = "h264"
    bits: str = ""
    crf: float | None = None
    precision: Precision = "fp16"
    net: str = "espcn:2:16"
    steps: int = 2000
    lr: float = 2e-3
    gop: float = 2.0
    preset: str = ""
    most: int | None = None
    general: Path | None = None
    compare: bool = False
    points: tuple[float, ...] = (24.0, 29.0, 34.0, 39.0)
    seed: int = 0
    out: Path = Path("clip.uwv")
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Deliver."""
    names = [n for n in named_methods(argv, ("--method",), "stdo")]
    known = [find("stdo" if n == "jstdo" else n) for n in names]
    if any(m.role != "Delivery" for m in known):
        raise InputError(f"{names[0]} delivers no video. See: unweave list --family restore.")
    options = with_methods(Deliver, [m.name for m in known], skip=FIELDS)
    asked: Any = parse(options, argv, command="deliver", example=EXAMPLE)
    if asked.out.suffix != ".uwv":
        raise InputError(f"--out must end in .uwv; got {asked.out}.")
    net = spoken_backbone(asked.net)
    given = {"backbone": net, "steps": asked.steps, "epochs": 50, "lr": asked.lr}
    given |= {"joint": True} if asked.method == "jstdo" else {}
    clip, files = open_clip(asked.clip, asked.most)
    job = DeliverJob(
        clip=clip, method=make(known[-1], asked, given), compare=asked.compare, points=asked.points, seed=asked.seed,
        encoding=Encoding(
            scale=asked.scale, codec=asked.codec, bits=spoken_bits(asked.bits), crf=asked.crf, gop_seconds=asked.gop,
            precision=asked.precision, preset=asked.preset,
        ),
        general=None if asked.general is None else read_general(asked.general, net, asked.scale),
        name=asked.clip or "a clip made on the spot", files=files,
    )  # fmt: skip
    with handed_out(asked) as inner:
        carried_out(job, inner, "deliver", argv, asked.clip, asked.seed)
    return 0
