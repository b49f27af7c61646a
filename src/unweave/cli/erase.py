"""`unweave erase`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import Method
from ..erase import Concepts, TokenSearch, UnlearnDiffAtk
from ..jobs.erase import EraseJob
from ..jobs.pipelines import PipelineSubject, embedded_pipeline, open_pipeline
from ._flags import with_methods
from ._named import eraser, make
from ._parse import named_methods, named_run, parse, show

EXAMPLE = """  unweave erase
  unweave erase ./pipeline --concepts "golf ball, church" --preserve parachute --method fia --out runs/erased
  unweave erase ./pipeline --concepts "golf ball" --method uce --uce.strength 0.1 --judge ./vit-imagenette --images 10
  unweave erase ./pipeline --concepts "golf ball, church" --method esd --in-turn --compare uce fia

Alone it erases "three" from the small world of digits: two trainings of about five minutes the first time, kept for
the next. Each method named adds its flags: add --help."""
DIGITS = "three"
ATTACKS = {
    "unlearn-diff-atk": Method("erase", "unlearn-diff-atk", UnlearnDiffAtk),
    "token-search": Method("erase", "token-search", TokenSearch),
}


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Erase concepts from a diffusers text-to-image pipeline, and look at what it draws before and after.

    Attributes:
        pipeline: folder of a diffusers pipeline (Stable Diffusion 1.x, 2.x, SDXL, PixArt), or nothing for the small
            world of digits, made on the spot.
        concepts: what to erase, with commas between.
        preserve: what must survive, with commas between.
        guide: what erased concepts are turned into; "" is nothing at all.
        method: how; see `unweave list --family erase`.
        compare: further methods to run and report beside it.
        in_turn: erase the concepts one after the other instead of together, and look at all of them after each.
        oracle: folders of pipelines trained without the concepts, to compare with.
        judge: what names the images: a transformers image-classification folder whose labels are the concepts, or your
            own .py file with names(images) and features(images). Without one nothing can be concluded.
        attack: look for prompts that draw the erased concepts after all, in the edited, the original and the retrained
            pipelines, and report how often that succeeds; off unless given, as it takes long. unlearn-diff-atk searches
            with gradients (and random tokens beside it, its control), token-search tries random tokens.
        attack_prompts: prompts to attack.
        images: drawn for each prompt.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        json: print the audit as JSON.
    """

    pipeline: tyro.conf.Positional[str] = ""
    concepts: str = ""
    preserve: str = ""
    guide: str = ""
    method: str = "uce"
    compare: tuple[str, ...] = ()
    in_turn: bool = False
    oracle: tuple[Path, ...] = ()
    judge: Path | None = None
    attack: Literal["none", "unlearn-diff-atk", "token-search"] = "none"
    attack_prompts: int = 10
    images: int = 4
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0
    out: Path | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Erase. Exit code 0 if the verdict is `erased`, else 3."""
    names = [*named_methods(argv, ("--method",), "uce"), *named_methods(argv, ("--compare",), "")]
    known = [ATTACKS[n] for n in named_methods(argv, ("--attack",), "none")[-1:] if n in ATTACKS]
    options = with_methods(Erase, [n for n in names if n], also=known)
    asked: Any = parse(options, argv, command="erase", example=EXAMPLE)
    edits = {name: eraser(name, asked) for name in dict.fromkeys((asked.method, *asked.compare))}
    attack = None if asked.attack == "none" else make(ATTACKS[asked.attack], asked)
    job = EraseJob(
        subject=_subject(asked), edits=edits, in_turn=asked.in_turn, attack=attack, attack_prompts=asked.attack_prompts,
        images=asked.images, steps=asked.steps, guidance=asked.guidance, seed=asked.seed,
    )  # fmt: skip
    at = asked.out or named_run("erase", job.plan(), asked.pipeline, asked.seed)
    done = job.run(at, command=["unweave", "erase", *argv])
    show(done, asked.json)
    return 0 if done.audits[0].passed else 3


def _subject(asked: Any) -> PipelineSubject:
    if not asked.pipeline:
        concepts = Concepts.parse(asked.concepts or DIGITS, asked.preserve, guide=asked.guide)
        return embedded_pipeline(concepts, seed=asked.seed)
    concepts = Concepts.parse(asked.concepts, asked.preserve, guide=asked.guide)
    return open_pipeline(Path(asked.pipeline), concepts, oracles=asked.oracle, judge=asked.judge)
