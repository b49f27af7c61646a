"""What an erasure works on: a text-to-image pipeline, what it is to forget, and who looks at what it draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..audit.drawing.drawn import Judge
from ..audit.drawing.judges import DigitsJudge, judge_at
from ..erase import Concepts, TextToImage
from ..erase.templates import TEMPLATES
from ..errors import InputError
from ..io.pipeline_folder import is_pipeline_folder, load_pipeline
from ..models.text_to_image import is_offloaded, slim_
from ..settings import NonNegative, settings
from .subject import hashable

Precision = Literal["stored", "float32", "bfloat16", "float16"]


class Shelf(Mapping[str, TextToImage]):
    """Pipelines by name; those in folders are read when they are asked for, so that few are in memory at a time.

    Args:
        kept: name -> the pipeline, or its folder.
        like: what they are read like: on its device, and as it is of the rest of it (`offload_`).
    """

    def __init__(self, kept: Mapping[str, TextToImage | Path], like: TextToImage) -> None:
        self._kept, self._like = dict(kept), like

    def __getitem__(self, name: str) -> TextToImage:
        kept = self._kept[name]
        like, offload = self._like, is_offloaded(self._like)
        return load_pipeline(kept, device=like.device, offload=offload) if isinstance(kept, Path) else kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


@settings
class PipelineSubject:
    """A text-to-image pipeline with the request.

    Attributes:
        original: the pipeline; left unchanged.
        concepts: what to erase, and what must survive.
        oracles: pipelines trained without the concepts, to compare with; a folder is read whenever it is needed.
        judge: names the images; without one nothing can be concluded.
        real: real images of preserved concepts, to measure quality against; the original's unless given.
        most_guidance: guidance that it was made for at most; None is no limit.
        name: in a few words, for the report.
        files: name -> what was read, to be hashed; the weights at hand unless given.
    """

    original: TextToImage
    concepts: Concepts
    oracles: tuple[TextToImage | Path, ...] = ()
    judge: Judge | None = None
    real: Tensor | None = None
    most_guidance: NonNegative | None = None
    name: str = "a pipeline at hand"
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.concepts.require_seen(self.original, "unweave erase")

    def inputs(self) -> dict[str, Path | str]:
        """Name -> file, or hash, of all that a run reads, for its record."""
        if self.files:
            return dict(self.files)
        oracles = {
            f"oracle {i}": oracle if isinstance(oracle, Path) else hashable(oracle)
            for i, oracle in enumerate(self.oracles)
        }
        return {"pipeline": hashable(self.original), **oracles}

    @property
    def never(self) -> Shelf:
        """The pipelines trained without the concepts."""
        return Shelf({f"oracle {i}": oracle for i, oracle in enumerate(self.oracles)}, self.original)


def open_pipeline(
    folder: Path,
    concepts: Concepts,
    *,
    oracles: Sequence[Path] = (),
    judge: Path | None = None,
    device: str = "cpu",
    dtype: Precision = "stored",
    slim: bool = False,
    offload: bool = False,
) -> PipelineSubject:
    """Read a pipeline, those retrained without the concepts, and the judge.

    Args:
        folder: of a diffusers pipeline.
        concepts: what to erase, and what must survive.
        oracles: folders of pipelines trained without the concepts.
        judge: a folder of a transformers image classifier whose labels are the concepts, or a .py file that defines
            names(images) and features(images).
        device: that all pipelines work on: "cpu", "cuda", "cuda:1", "mps".
        dtype: of the pipeline's weights, in which it is also written; as they are stored, unless given.
        slim: take less memory and more time for the edit; see `slim_`.
        offload: keep the text encoders and the VAE of all pipelines on the CPU while they are idle; see `offload_`.

    Raises:
        InputError: if one of them cannot be used, or there is no such device.
    """
    original = load_pipeline(
        folder, device=device, dtype=None if dtype == "stored" else getattr(torch, dtype), offload=offload
    )
    for path in oracles:
        if not is_pipeline_folder(path):
            load_pipeline(path)  # says what is wrong with it, before anything long begins
    files = {"pipeline": folder, **{f"oracle {i}": path for i, path in enumerate(oracles)}}
    if judge is not None:
        files["judge"] = judge
    return PipelineSubject(
        original=slim_(original) if slim else original, concepts=concepts,
        judge=None if judge is None else judge_at(judge, concepts),
        oracles=tuple(oracles), name=str(folder), files=files,
    )  # fmt: skip


def embedded_pipeline(
    concepts: Concepts, *, seed: int = 0, device: str = "cpu", cache: Path | None = None
) -> PipelineSubject:
    """The small world of drawn digits, and the same trained without the erased ones: minutes the first time.

    Args:
        concepts: digits as words; those that are not erased must survive, unless some are named.
        seed: of both trainings.
        device: that both pipelines work on.
        cache: folder of trained models, with the small world in `testbed`; UNWEAVE_CACHE or ~/.cache/unweave unless
            given.

    Raises:
        InputError: if a concept is no digit, or prompts of one's own are given.
    """
    from ..embedded import drawn_digits as world

    unknown = [c for c in (*concepts.erase, *concepts.preserve) if c not in world.DIGITS]
    if unknown:
        raise InputError(
            f"the small world draws {', '.join(world.DIGITS)}; got {', '.join(unknown)}. Give a pipeline folder."
        )
    if concepts.templates != TEMPLATES:
        raise InputError(
            "the small world has prompts of its own. Give a pipeline folder, or neither --templates nor --prompts."
        )
    asked = world.concepts(
        *concepts.erase, preserve=concepts.preserve or None, guide=concepts.guide or "digit"
    )
    kept = None if cache is None else cache / "testbed"
    original, oracle = (
        world.small_world("unet", seed, gone, cache=kept, device=device) for gone in ((), concepts.erase)
    )
    return PipelineSubject(
        original=original, concepts=asked, oracles=(oracle,), judge=DigitsJudge(kept),
        real=world.real_images(asked.preserve)[0], most_guidance=3.0, name="the small world of digits",
        files={} if original.source is None else {"pipeline": original.source},
    )  # fmt: skip
