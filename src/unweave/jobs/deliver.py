"""Deliver a clip: encode, overfit, write one container; compare with codecs at equal total bits, and say who wins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from torch.nn import Module

from ..errors import InputError
from ..fit import resumable
from ..io.content import described
from ..io.files import in_bytes, strict_json, write_text
from ..io.runs import RunFolder, Stage
from ..report import words
from ..report.delivered import figure, pages
from ..restore.delivery import Clip, Container, Delivery, Encoding, Overfits
from ..restore.delivery.delivery import state_digest, streamed
from ..restore.delivery.packets import packed, unpacked
from ..settings import settings
from .against_codecs import Arms, against_codecs
from .done import Done, facts_of

FILE, CONTAINER, COMPARED, STREAM = "deliver.json", "clip.uwv", "compare.json", "stream.bin"


@dataclass(frozen=True)
class Delivered(Done):
    """A finished delivery.

    Attributes:
        lead: what came out, in sentences.
        sizes: bytes of each kind of part.
        figures: name -> number.
        compared: what `against_codecs` found; empty without.
    """

    lead: Sequence[str]
    sizes: Mapping[str, int]
    figures: Mapping[str, float | None]
    compared: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def container(self) -> Path:
        """The file to send."""
        return self.folder / CONTAINER

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run."""
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        beside = folder / COMPARED
        compared = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        return cls(folder, told["lead"], told["sizes"], told["figures"], compared)

    def json(self) -> str:
        """Everything as strict JSON."""
        told = {"lead": list(self.lead), "sizes": dict(self.sizes), "figures": dict(self.figures)}
        return strict_json({**told, "compared": {k: v for k, v in self.compared.items() if k != "crops"}})

    def tell(self, out: Console) -> None:
        """Print what came out, and where it lies."""
        for line in [*self.lead, *self.compared.get("lead", ())]:
            out.print(line, markup=False)
        for kind, size in self.sizes.items():
            out.print(f"  {kind:40} {in_bytes(size):>12}", markup=False)
        for name, value in self.figures.items():
            out.print(f"  {figure(name):40} {words.number(value, digits=4):>12}", markup=False)
        out.print(f"Delivery: {self.container}\nReport: {self.page}", markup=False)


@settings
class DeliverJob:
    """Make one file of a clip: a small stream and networks overfitted to it.

    Attributes:
        clip: what should come out.
        method: trains the networks.
        encoding: how it is sent.
        general: a network that the reader has too.
        compare: also encode the clip by the codec alone, and by the codec small and enlarged by interpolation, and draw
            curves of rate and quality of all of them.
        points: constant rate factors of the comparison's curves.
        name: of the clip, in a few words.
        files: name -> what was read, to be hashed; the frames at hand unless given.
        seed: governs the whole run.
    """

    clip: Clip
    method: Overfits
    encoding: Encoding = Encoding()
    general: Module | None = None
    compare: bool = False
    points: tuple[float, ...] = (24.0, 29.0, 34.0, 39.0)
    name: str = "a clip at hand"
    files: Mapping[str, Path | str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.compare and len(self.points) < 2:
            raise InputError(f"DeliverJob.points must be at least two for a curve; got {self.points!r}.")

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON; a run goes on only under the same plan."""
        return {
            "method": described(self.method),
            "encoding": dataclasses.asdict(self.encoding),
            "frames": len(self.clip),
            "general": None if self.general is None else state_digest(self.general),
            "compare": list(self.points) if self.compare else None,
        }

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Delivered:
        """Run every stage, or go on with a run that was stopped, to the same bits.

        Args:
            out: run folder; see `RunFolder`.
            command: as the user typed it.
        """
        inputs = dict(self.files) or {"frames": _digest(self.clip)}
        with RunFolder.open(
            Path(out), settings=self.plan(), inputs=inputs, seed=self.seed, command=command
        ) as run:
            with run.stage(
                "stream", STREAM
            ) as stage:  # kept, for an encoder need not give the same bits again
                if stage.todo:
                    crf, segments = streamed(self.clip, self.method, self.encoding)
                    parts = {f"stream/{i}": packed(segment) for i, segment in enumerate(segments)}
                    Container({"crf": crf}, parts).write(stage.paths[0])
            with run.stage("deliver", CONTAINER, FILE) as stage:
                if stage.todo:
                    self._deliver(stage, Container.read(run.path / STREAM))
            if self.compare:
                with run.stage("compare", COMPARED) as stage:
                    if stage.todo:
                        with resumable(stage.work):
                            arms = against_codecs(
                                self.clip, self.method, self.encoding, self.points, general=self.general, rng=stage.rng,
                                work=stage.work,
                            )  # fmt: skip
                        write_text(stage.paths[0], strict_json(_plain(arms)))
            done = Delivered.read(run.path)
            with run.stage("report", "report.html", "report.md") as stage:
                if stage.todo:
                    facts = facts_of(run, command, self.clip.notes)
                    html, text = pages(self.name, done.lead, done.sizes, done.figures, done.compared, facts)
                    write_text(stage.paths[0], html)
                    write_text(stage.paths[1], text)
        return done

    def _deliver(self, stage: Stage, small: Container) -> None:
        stream = (float(small.manifest["crf"]), tuple(map(unpacked, small.parts.values())))
        with resumable(stage.work):
            made = Delivery.encode(
                self.clip, self.method, self.encoding, rng=stage.rng, general=self.general, stream=stream
            )
        made.save(stage.paths[0])
        report = made.report
        assert report is not None
        told = report.figures
        figures = {
            **told,
            "kbit/s without sound": report.bits / 1000,
            "start-up, KiB": report.startup / 1024,
            "crf of the stream": report.crf,
            "seconds of training": report.trained,
        }
        h, w = self.clip.size
        lead = [
            f"{len(self.clip)} frames of {w} x {h}, {self.clip.rate:.4g} a second: {in_bytes(report.total)} "
            f"without sound, "
            f"{report.bits / 1000:.1f} kbit/s; {told['psnr rgb']:.2f} dB over whole frames in RGB, "
            f"{told['psnr y']:.2f} dB in "
            f"luma. Playing can begin after {in_bytes(report.startup)}.",
            *self.clip.notes,
        ]
        if self.encoding.bits is not None and report.bits > self.encoding.bits:
            lead.append(
                f"That is more than the {self.encoding.bits / 1000:.1f} kbit/s asked for: labels took more room."
            )
        write_text(stage.paths[1], strict_json({"lead": lead, "sizes": report.sizes, "figures": figures}))


def _plain(arms: Arms) -> dict[str, Any]:
    return {**dataclasses.asdict(arms), "lead": arms.lead()}


def _digest(clip: Clip) -> str:
    import hashlib

    told = f"{tuple(clip.frames.shape)} {clip.times} {clip.time_base}".encode()
    return hashlib.sha256(told + clip.frames.contiguous().numpy().tobytes()).hexdigest()
