"""`unweave erase`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..audit.cost import peak_memory
from ..audit.drawing.drawn import Drawn, Judge, changed_share, draw, in_turn
from ..audit.drawing.run import audit_erasure
from ..audit.result import Audit
from ..catalogue import find
from ..erase import Concepts, TextToImage
from ..errors import InputError
from ..fit import resumable
from ..io.content import described
from ..io.files import write_text
from ..io.pipeline_folder import load_pipeline, save_pipeline
from ..io.runs import RunFolder
from ..report import words
from ..report.audits import from_json, render_html, to_json
from ..types import Edit, Measurement
from ._attack import ATTACKS, attack_all, attacks_of, figures_of
from ._judges import ClassifierJudge, DigitsJudge, WrittenJudge
from ._options import build, key_of, named_methods, named_run, parse, with_methods

EXAMPLE = """  unweave erase
  unweave erase ./pipeline --concepts "golf ball, church" --preserve parachute --method fia --out runs/erased
  unweave erase ./pipeline --concepts "golf ball" --method uce --uce.strength 0.1 --judge ./vit-imagenette --images 10
  unweave erase ./pipeline --concepts "golf ball, church" --method esd --in-turn --compare uce fia

Alone it erases "three" from the small world of digits: two trainings of about five minutes the first time, kept for
the next. Each method named adds its flags: add --help."""
DIGITS = "three"


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
    if asked.images < 1 or asked.steps < 1:
        raise InputError(f"--images and --steps must be at least 1; got {asked.images} and {asked.steps}.")
    edits = {name: _edit(name, asked) for name in dict.fromkeys((asked.method, *asked.compare))}
    attacks = attacks_of(asked)
    original, concepts, oracles, judge, real, inputs = _open(asked)
    concepts.require_seen(original, "unweave erase")
    settings = {
        "methods": {n: described(e) for n, e in edits.items()},
        "concepts": described(concepts),
        "in turn": asked.in_turn,
        "images": asked.images,
        "steps": asked.steps,
        "guidance": asked.guidance,
        "judge": str(asked.judge or ""),
    }
    if attacks:
        settings["attacks"] = {n: described(a) for n, a in attacks.items()} | {
            "prompts": asked.attack_prompts
        }
    at = asked.out or named_run("erase", settings, asked.pipeline, asked.seed)
    command = ["unweave", "erase", *argv]
    with RunFolder.open(at, settings=settings, inputs=inputs, seed=asked.seed, command=command) as folder:
        edited: dict[str, TextToImage] = {}
        costs: dict[str, dict[str, Any]] = {}
        for i, (name, edit) in enumerate(edits.items()):
            where = "model" if i == 0 else f"compared/{name}"
            with folder.stage(f"edit {name}", where, f"costs/{name}.json") as stage:
                if stage.todo:
                    began = perf_counter()
                    with resumable(stage.work), peak_memory(original.device) as peak:
                        done = _apply(edit, original, concepts, asked, stage.rng)
                    cost: dict[str, Any] = {"seconds": perf_counter() - began, "bytes": peak.bytes}
                    if asked.in_turn and judge is not None:
                        cost["turns"] = _turns(done, asked, concepts, judge)
                    write_text(stage.paths[1], json.dumps(cost) + "\n")
                    save_pipeline(done[-1][1], stage.paths[0])
            edited[name] = load_pipeline(stage.paths[0])
            costs[name] = json.loads(stage.paths[1].read_text(encoding="utf-8"))
        found_by: dict[str, list[Measurement]] = {}
        if attacks:
            assert judge is not None
            with folder.stage("attack", "attacks.json") as stage:
                if stage.todo:
                    text = attack_all(
                        attacks, original, edited, oracles, concepts, judge,
                        prompts=asked.attack_prompts, steps=asked.steps, guidance=_guidance(asked), rng=stage.rng,
                    )  # fmt: skip
                    write_text(stage.paths[0], text)
                found_by = figures_of(stage.paths[0].read_text(encoding="utf-8"))
        with folder.stage("audit", "audit.json", "report.html") as stage:
            if stage.todo:
                audits, drawn = _audit(
                    asked, concepts, original, edited, oracles, judge, real, costs, found_by
                )
                write_text(stage.paths[0], to_json(audits))
                told = {k: folder.record[k] for k in ("settings", "seed", "versions", "hardware", "inputs")}
                request = (
                    f"Erase {', '.join(concepts.erase)} from {asked.pipeline or 'the small world of digits'}"
                )
                write_text(
                    stage.paths[1],
                    render_html(
                        audits, {"request": request, "command": " ".join(command), **told}, drawn=drawn
                    ),
                )
            text = stage.paths[0].read_text(encoding="utf-8")
    found = from_json(text)
    if asked.json:
        sys.stdout.write(text)
    else:
        show(at)
    return 0 if found[0].passed else 3


def _edit(name: str, asked: Any) -> Edit[Concepts]:
    method = find(name)
    if method.family != "erase" or not hasattr(method.cls, "apply"):
        raise InputError(f"{name} does not erase concepts. See: unweave list --family erase.")
    edit: Edit[Concepts] = build(method.cls, getattr(asked, key_of(method), None), {})
    return edit


def _apply(
    edit: Edit[Concepts], model: TextToImage, concepts: Concepts, asked: Any, rng: torch.Generator
) -> list[tuple[str, TextToImage]]:
    def apply(model: TextToImage, concepts: Concepts) -> TextToImage:
        return edit.apply(model, concepts, rng=rng)  # type: ignore[return-value]

    return in_turn(apply, model, concepts) if asked.in_turn else [("", apply(model, concepts))]


def _turns(
    done: Sequence[tuple[str, TextToImage]], asked: Any, concepts: Concepts, judge: Judge
) -> dict[str, dict[str, float]]:
    """How often each erased concept is drawn after each erasure, %."""
    turns = {}
    for concept, model in done:
        found = _look(model, asked, concepts, judge, f"draw after {concept}")
        turns[concept] = {c: 100 * hits / n for c in concepts.erase for hits, n in [found.hits([c])]}
    return turns


def _look(model: TextToImage, asked: Any, concepts: Concepts, judge: Judge | None, label: str) -> Drawn:
    return draw(
        model, concepts, judge,
        each=asked.images, seed=asked.seed, steps=asked.steps, guidance=_guidance(asked), label=label,
    )  # fmt: skip


def _guidance(asked: Any) -> float:
    if asked.pipeline:
        return float(asked.guidance)
    return min(float(asked.guidance), 3.0)  # what the small world was made for


def _open(
    asked: Any,
) -> tuple[TextToImage, Concepts, list[TextToImage], Judge | None, Tensor | None, dict[str, Path | str]]:
    if not asked.pipeline:
        return _embedded(asked)  # type: ignore[no-any-return]
    concepts = Concepts.parse(asked.concepts, asked.preserve, guide=asked.guide)
    original = load_pipeline(Path(asked.pipeline))
    concepts.require_seen(original, "unweave erase")
    inputs: dict[str, Path | str] = {"pipeline": Path(asked.pipeline)}
    inputs |= {f"oracle {i}": path for i, path in enumerate(asked.oracle)}
    judge: Judge | None = None
    if asked.judge is not None:
        inputs["judge"] = asked.judge
        judge = (
            WrittenJudge(asked.judge)
            if asked.judge.suffix == ".py"
            else ClassifierJudge(asked.judge, concepts)
        )
    return original, concepts, [load_pipeline(p) for p in asked.oracle], judge, None, inputs


def _embedded(asked: Any) -> Any:
    from ..embedded.drawn_digits import DIGITS as ALL
    from ..embedded.drawn_digits import concepts as digits
    from ..embedded.drawn_digits import judge as trained_judge
    from ..embedded.drawn_digits import real_images, small_world

    given = Concepts.parse(asked.concepts or DIGITS, asked.preserve)
    unknown = [c for c in (*given.erase, *given.preserve) if c not in ALL]
    if unknown:
        raise InputError(
            f"the small world draws {', '.join(ALL)}; got {', '.join(unknown)}. Give a pipeline folder."
        )
    concepts = digits(*given.erase, preserve=given.preserve or None, guide=asked.guide or "digit")
    world = small_world("unet", asked.seed)
    oracle = small_world("unet", asked.seed, given.erase)
    kept, _, _ = real_images(concepts.preserve)
    return world, concepts, [oracle], DigitsJudge(trained_judge()), kept, {"pipeline": world.source or ""}


def _audit(
    asked: Any,
    concepts: Concepts,
    original: TextToImage,
    edited: dict[str, TextToImage],
    oracles: list[TextToImage],
    judge: Judge | None,
    real: Tensor | None,
    costs: dict[str, dict[str, Any]],
    attacks: dict[str, list[Measurement]],
) -> tuple[list[Audit], dict[str, Mapping[str, Tensor]]]:
    def look(model: TextToImage, label: str) -> Drawn:
        return _look(model, asked, concepts, judge, label)

    before = look(original, "draw with the original")
    never = [look(o, "draw with a retrained one") for o in oracles]
    after = {name: look(model, f"draw after {name}") for name, model in edited.items()}
    audits = [
        audit_erasure(
            concepts,
            after[name],
            before,
            never,
            judge=judge,
            real=real,
            changed=changed_share(edited[name], original),
            seconds=costs[name]["seconds"],
            memory=costs[name]["bytes"],
            attacks=attacks.get(name, ()),
            turns=costs[name].get("turns"),
            method=name,
        )
        for name in edited
    ]
    looks = {"before": before, **after, **({"retrained": never[0]} if never else {})}
    return audits, {name: look.images for name, look in looks.items()}


def show(folder: Path) -> None:
    """Print a finished run's audits."""
    audits = from_json((folder / "audit.json").read_text(encoding="utf-8"))
    out = Console(highlight=False, soft_wrap=True)
    first = audits[0]
    out.print(f"{first.verdict.outcome.capitalize()}. {first.verdict.why}\n", markup=False)
    for symbol, sentence in first.tested:
        out.print(f"  {symbol} {sentence}", markup=False)
    for audit in audits:
        table = Table(box=None, pad_edge=False)
        for heading in (audit.method, "edited", "original", "retrained", "unit"):
            table.add_column(heading, justify="left" if heading in (audit.method, "unit") else "right")
        for m in audit.measurements:
            oracle = "–" if m.oracle_mean is None else words.number(m.oracle_mean)
            table.add_row(m.name, words.number(m.value), words.number(m.original), oracle, m.unit)
        out.print(table, soft_wrap=False)
    out.print(f"\nPipeline: {folder / 'model'}\nReport: {folder / 'report.html'}", markup=False)
