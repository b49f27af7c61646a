"""`unweave erase`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import Method
from ..erase import Concepts, SoftVector, TokenSearch, UnlearnDiffAtk, templates_of
from ..jobs.erase import EraseJob
from ..jobs.pipelines import PipelineSubject, embedded_pipeline, open_pipeline
from ..jobs.tracking import Tracker
from ._flags import with_methods
from ._named import eraser, make
from ._parse import carried_out, named_methods, parse

EXAMPLE = """  unweave erase
  unweave erase ./pipeline --concepts "golf ball, church" --preserve parachute --method fia --out runs/erased
  unweave erase ./pipeline --concepts "golf ball" --uce.strength 0.1 --judge ./vit-imagenette --images 10
  unweave erase ./pipeline --concepts "golf ball|golfball=ball, church=house" --method esd --in-turn --compare uce fia
  unweave erase ./pipeline --concepts "Van Gogh" --templates style --judge judge.py --device cuda

Alone it erases "three" from the small world of digits, which takes two trainings of five minutes the first time.
Each method named adds its flags: add --help."""
DIGITS = "three"
SOFT = "soft-vector"
ATTACKS = {
    SOFT: Method("erase", SOFT, SoftVector),
    "unlearn-diff-atk": Method("erase", "unlearn-diff-atk", UnlearnDiffAtk),
    "token-search": Method("erase", "token-search", TokenSearch),
}


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Erase concepts from a diffusers text-to-image pipeline, and look at what it draws before and after.

    Attributes:
        pipeline: folder of a diffusers pipeline (Stable Diffusion 1.x, 2.x, SDXL, PixArt), or nothing for the small
            world of digits, made on the spot.
        concepts: what to erase, with commas between; cat=dog turns a cat into a dog, "golf ball|golfball" are two names
            of one concept.
        preserve: what must survive, with commas between.
        guide: what erased concepts are turned into: one for all, or one each, in their order; "" is nothing at all.
        templates: prompts to ask in: object, style, attribute, or a file with a prompt a line, {} for the concept;
            after a tab the same prompt without it.
        method: how; see `unweave list --family erase`.
        compare: further methods to run and report beside it.
        in_turn: erase the concepts one after the other instead of together, and look at all of them after each.
        oracle: folders of pipelines trained without the concepts, to compare with.
        judge: what names the images: a transformers image-classification folder whose labels are the concepts, or your
            own .py file with names(images), features(images) and labels. Without one nothing can be concluded.
        attack: what must not bring the concepts back, on all pipelines. soft-vector moves a vector before the prompts
            by gradient: seconds on a small pipeline, minutes on a GPU for a large one. unlearn-diff-atk searches for
            tokens, token-search tries random ones: beside it, and longer. none: no attack.
        attack_prompts: prompts to attack, at least four of each concept.
        images: drawn for each prompt.
        images_at_once: drawn at once in the audit, which takes as much memory.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        device: that the pipelines work on: cpu, cuda, mps.
        seed: governs the whole run.
        out: folder of the run, where the same command goes on; named by the settings unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print the audit as JSON.
    """

    pipeline: tyro.conf.Positional[str] = ""
    concepts: str = ""
    preserve: str = ""
    guide: str = ""
    templates: str = "object"
    method: str = "uce"
    compare: tuple[str, ...] = ()
    in_turn: bool = False
    oracle: tuple[Path, ...] = ()
    judge: Path | None = None
    attack: Literal["soft-vector", "unlearn-diff-atk", "token-search", "none"] = "soft-vector"
    attack_prompts: int = 10
    images: int = 4
    images_at_once: int = 16
    steps: int = 20
    guidance: float = 7.5
    device: str = "cpu"
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Erase. Exit code 0 if the verdict is `erased`, else 3."""
    names = [*named_methods(argv, ("--method",), "uce"), *named_methods(argv, ("--compare",), "")]
    named = named_methods(argv, ("--attack",), SOFT)[-1]
    known = [ATTACKS[n] for n in dict.fromkeys((SOFT, named)) if named in ATTACKS]
    options = with_methods(Erase, [n for n in names if n], also=known)
    asked: Any = parse(options, argv, command="erase", example=EXAMPLE)
    edits = {name: eraser(name, asked) for name in dict.fromkeys((asked.method, *asked.compare))}
    attack = None if asked.attack in ("none", SOFT) else make(ATTACKS[asked.attack], asked)
    soft = None if asked.attack == "none" else make(ATTACKS[SOFT], asked)
    job = EraseJob(
        subject=_subject(asked), edits=edits, in_turn=asked.in_turn, soft=soft, attack=attack,
        attack_prompts=asked.attack_prompts, images=asked.images, at_once=asked.images_at_once, steps=asked.steps,
        guidance=asked.guidance, seed=asked.seed,
    )  # fmt: skip
    return 0 if carried_out(job, asked, "erase", argv, asked.pipeline, asked.seed).audits[0].passed else 3


def _subject(asked: Any) -> PipelineSubject:
    templates, bases = templates_of(asked.templates)
    named = asked.concepts if asked.pipeline else asked.concepts or DIGITS
    concepts = Concepts.parse(named, asked.preserve, guide=asked.guide, templates=templates, bases=bases)
    if not asked.pipeline:
        return embedded_pipeline(concepts, seed=asked.seed, device=asked.device)
    folder = Path(asked.pipeline)
    return open_pipeline(folder, concepts, oracles=asked.oracle, judge=asked.judge, device=asked.device)
