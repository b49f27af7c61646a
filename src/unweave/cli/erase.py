"""`unweave erase`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..catalogue import Method
from ..erase import Concepts, SoftVector, TokenSearch, UnlearnDiffAtk, prompts_of, templates_of
from ..errors import InputError
from ..jobs.erase import EraseJob
from ..jobs.pipelines import PipelineSubject, embedded_pipeline, open_pipeline
from ._erasing import Erase
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
        guidance=asked.guidance, output=asked.output, seed=asked.seed,
    )  # fmt: skip
    return 0 if carried_out(job, asked, "erase", argv, asked.pipeline, asked.seed).audits[0].passed else 3


def _subject(asked: Any) -> PipelineSubject:
    templates, bases = templates_of(asked.templates)
    named = asked.concepts or ("" if asked.pipeline or asked.map else DIGITS)
    concepts = Concepts.parse(
        named, asked.preserve, guide=asked.guide, mapped=asked.map, templates=templates, bases=bases
    )
    if asked.prompts is not None:
        if asked.templates != Erase.templates:
            raise InputError("--templates and --prompts both say which prompts to ask in. Give one of them.")
        concepts = replace(concepts, templates=prompts_of(asked.prompts, concepts.erase), bases=())
    if not asked.pipeline:
        if asked.slim or asked.offload or asked.dtype != "stored":
            raise InputError(
                "--slim, --offload and --dtype are for a pipeline folder; the small world needs none."
            )
        return embedded_pipeline(concepts, seed=asked.seed, device=asked.device, cache=asked.cache)
    if asked.cache is not None:
        raise InputError(
            "--cache is for the small world, which is trained on the spot; a pipeline folder is read."
        )
    folder = Path(asked.pipeline)
    return open_pipeline(
        folder, concepts, oracles=asked.oracle, judge=asked.judge, device=asked.device,
        dtype=asked.dtype, slim=asked.slim, offload=asked.offload,
    )  # fmt: skip
