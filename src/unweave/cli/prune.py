"""`unweave prune`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from torch.nn import Module

from ..catalogue import find
from ..errors import InputError
from ..fit import resumable
from ..io.checkpoint import save_model
from ..io.files import write_text
from ..io.onnx import export_onnx
from ..io.runs import RunFolder
from ..jobs.world import Folder, World, open_world
from ..masks.mask import Mask
from ..parallel import described
from ..report import pictures, words
from ..report.page import Section, render_page
from ..tasks import accuracy
from ..types import Data
from ._options import build, key_of, named_methods, named_run, parse, with_methods

EXAMPLE = """  unweave prune --sparsity 0.9
  unweave prune project.py --model model.safetensors --sparsity 0.95 --recover-epochs 5 --out runs/small
  unweave prune ./vit-checkpoint --data imagefolder:./pets --method wanda --pattern 2:4 --out runs/vit-24
  unweave prune project.py --method gmp --gmp.epochs 30 --sparsity 0.95

A method adds its flags: add --help. Those that train sparsely from the start: unweave train --help."""
SET_HERE = ("sparsity", "budget", "pattern", "scope")
"""Fields of a method that this command's own flags set."""


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zero the weights a trained model needs least, train on under the mask, and measure before and after.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        model: weights of the trained model. Without it the model is trained first, by the recipe without its pruning.
        folder: for a transformers folder.
        method: what says how much a weight matters (magnitude, snip, wanda, ...), or how to prune (gmp, sparse-gpt,
            ...); see `unweave list --family prune`.
        sparsity: share of the weights to remove, in [0, 1); 0.9 unless given. N:M patterns fix it themselves.
        pattern: "unstructured", "channel" (whole filters), or N:M such as "2:4".
        budget: "global" ranks all layers together, "uniform" prunes each alike, "erk" spares small layers.
        recover_epochs: epochs of training under the mask afterwards, by the recipe.
        onnx: write model.onnx too, and check that ONNX Runtime answers the same.
        shrink: remove dead channels for real, so that the model is smaller (pattern "channel").
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        json: print JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    method: str = "magnitude"
    sparsity: float | None = None
    pattern: str = "unstructured"
    budget: Literal["global", "uniform", "erk"] = "global"
    recover_epochs: int = 0
    shrink: bool = False
    onnx: bool = False
    seed: int = 0
    out: Path | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Prune."""
    names = named_methods(argv, ("--method",), "magnitude")
    options = with_methods(Prune, names, skip=SET_HERE)
    asked: Any = parse(options, argv, command="prune", example=EXAMPLE)
    edit = _edit(asked)
    world = open_world(asked.project, asked.folder)
    given = asked.model or world.model
    if given is None and world.recipe is None:
        raise InputError(
            f"--model is missing, and {world.name} has no recipe to train one. Give the weights."
        )
    if asked.recover_epochs and not hasattr(world.recipe, "train_"):
        raise InputError(
            "--recover-epochs needs a recipe with `train_`, such as unweave.Supervised. Leave it 0."
        )
    settings = {"prune": described(edit), "recover_epochs": asked.recover_epochs, "shrink": asked.shrink}
    inputs: dict[str, Path | str] = {**world.files, **({"model": given} if given else {})}
    command = ["unweave", "prune", *argv]
    at = asked.out or named_run("prune", settings, asked.project, given, asked.seed)
    with RunFolder.open(at, settings=settings, inputs=inputs, seed=asked.seed, command=command) as folder:
        original = _original(given, world, folder)
        with folder.stage("prune", "model", "prune.json") as stage:
            if stage.todo:
                with resumable(stage.work):
                    pruned = edit.apply(original, world.train, rng=stage.rng)
                    if asked.recover_epochs:
                        recipe: Any = world.recipe
                        recipe.train_(
                            pruned,
                            world.train,
                            epochs=asked.recover_epochs,
                            lr=recipe.recover_lr,
                            rng=stage.rng,
                            hold=Mask.of(pruned),
                        )
                figures = _compare(original, pruned, world.heldout)
                layers = {n: 100 * float(a.float().mean()) for n, a in Mask.of(pruned).keep.items()}
                structure = None
                if asked.shrink:
                    pruned, structure, figures = _shrunk(pruned, world, figures)
                if world.save is not None:
                    world.save(pruned, stage.paths[0], Mask.of(pruned) or None)
                else:
                    save_model(pruned, stage.paths[0], mask=Mask.of(pruned) or None, structure=structure)
                figures["weights as float32"] = (_bytes(original) / 2**20, _bytes(pruned) / 2**20, "MiB")
                told = {"figures": figures, "layers": layers}
                write_text(stage.paths[1], json.dumps(told, indent=1) + "\n")
            told = json.loads(stage.paths[1].read_text(encoding="utf-8"))
        if asked.onnx:
            with folder.stage("onnx", "model.onnx") as stage:
                if stage.todo:
                    example = world.heldout.task.inputs(next(world.heldout.batches()))
                    export_onnx(world.load(at / "model"), example, stage.paths[0])
        with folder.stage("report", "report.html") as stage:
            if stage.todo:
                write_text(stage.paths[0], _page(world, asked, told, folder.record, command))
    if asked.json:
        sys.stdout.write(json.dumps(told["figures"], indent=1) + "\n")
    else:
        show(at)
    return 0


def show(folder: Path) -> None:
    """Print a finished run's figures."""
    told = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
    out = Console(highlight=False, soft_wrap=True)
    for name, (before, after, unit) in told["figures"].items():
        out.print(
            f"  {name:24} {words.number(before, digits=4):>12} -> {words.number(after, digits=4):<12} {unit}",
            markup=False,
        )
    out.print(f"Model: {folder / 'model'}\nReport: {folder / 'report.html'}", markup=False)


def _edit(asked: Any) -> Any:
    from .. import prune

    pattern: Any
    if asked.pattern == "unstructured":
        pattern = prune.Unstructured()
    elif asked.pattern == "channel":
        pattern = prune.Channel()
    else:
        n, colon, m = asked.pattern.partition(":")
        if not (colon and n.isdigit() and m.isdigit()):
            raise InputError(
                f'--pattern must be "unstructured", "channel" or N:M such as "2:4"; got {asked.pattern!r}.'
            )
        pattern = prune.NM(n=int(n), m=int(m))
    fixed = pattern.sparsity if isinstance(pattern, prune.NM) else 0.9
    sparsity = fixed if asked.sparsity is None else asked.sparsity
    budget: Any = {"global": prune.Global, "uniform": prune.Uniform, "erk": prune.ERK}[asked.budget](sparsity)
    if asked.shrink and asked.pattern != "channel":
        raise InputError("--shrink removes whole channels; it needs --pattern channel.")
    scope = prune.Scope(last=asked.pattern != "channel")  # a whole channel of the last layer is a class
    here = {"sparsity": sparsity, "budget": budget, "pattern": pattern, "scope": scope}
    method = find(asked.method)
    fields = (
        {f.name for f in dataclasses.fields(method.cls)} if dataclasses.is_dataclass(method.cls) else set()
    )
    if method.family != "prune" or not (hasattr(method.cls, "score") or hasattr(method.cls, "apply")):
        where = (
            " It trains from the start: use `unweave train --sparse`." if hasattr(method.cls, "begin") else ""
        )
        raise InputError(
            f"{method.name} does not prune a trained model.{where} See: unweave list --family prune."
        )
    values = {name: value for name, value in here.items() if name in fields}
    built = build(method.cls, getattr(asked, key_of(method), None), values)
    if hasattr(method.cls, "score"):
        return prune.Prune(score=built, pattern=pattern, budget=budget)
    taken = {
        "sparsity": {"sparsity", "budget"} & fields,
        "pattern": "pattern" in fields,
        "budget": "budget" in fields,
    }
    said = {
        "sparsity": asked.sparsity is not None, "pattern": asked.pattern != "unstructured",
        "budget": asked.budget != "global",
    }  # fmt: skip
    idle = [f"--{name}" for name in taken if said[name] and not taken[name]]
    if idle:
        raise InputError(
            f"{method.name} does not take {' or '.join(idle)}; it has flags of its own: add --help."
        )
    return built


def _page(world: World, asked: Any, told: Any, record: Any, command: Sequence[str]) -> str:
    figures = told["figures"]
    before, after, _ = figures["held-out accuracy"]
    lead = [
        f"{words.number(figures['density under the mask'][1] * 100)} % of the weights are left. Held-out accuracy went "
        f"from {words.number(before)} to {words.number(after)} %."
    ]
    cells = [(n, words.number(b, digits=4), words.number(a, digits=4), u) for n, (b, a, u) in figures.items()]
    sections = [
        Section(heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells)
    ]
    if told["layers"]:
        sections.append(
            Section(
                heading="Weights kept, layer by layer", caption="The share of each layer's weights that is kept, in %.",
                picture=pictures.dumbbells(
                    {n: {"edited": v} for n, v in told["layers"].items()}, {"edited": "pruned model"},
                    unit="weights kept, %", apart=("edited", "edited"), figure="edited", ends=(0.0, 100.0),
                ),
            )
        )  # fmt: skip
    run = {k: record[k] for k in ("settings", "seed", "versions", "hardware", "inputs")}
    return render_page(
        "A pruned model", kicker=f"{asked.method} on {world.name}", lead=lead, sections=sections,
        run={"command": " ".join(command), **run},
    )  # fmt: skip


def _bytes(model: Module) -> float:
    return 4.0 * sum(p.numel() for p in model.parameters())


def _original(given: Path | None, world: World, folder: RunFolder) -> Module:
    if given is not None:
        return world.load(given).eval()
    recipe: Any = world.recipe
    if any(f.name == "prune" for f in dataclasses.fields(recipe)):
        recipe = dataclasses.replace(recipe, prune=None)
    with folder.stage("train", "original") as stage:
        if stage.todo:
            with resumable(stage.work):
                model = recipe.build(world.train, rng=stage.rng)
            save_model(model, stage.paths[0]) if world.save is None else world.save(
                model, stage.paths[0], None
            )
    return world.load(stage.paths[0]).eval()


def _compare(before: Module, after: Module, heldout: Data[Any]) -> dict[str, tuple[float, float, str]]:
    mask = Mask.of(after)
    return {
        "held-out accuracy": (accuracy(before, heldout), accuracy(after, heldout), "%"),
        "non-zero weights": (_alive(before), _alive(after), ""),
        "density under the mask": (Mask.of(before).density(), mask.density(), ""),
        "time of one batch": (_latency(before, heldout), _latency(after, heldout), "ms"),
    }


def _shrunk(
    model: Module, world: World, figures: dict[str, tuple[float, float, str]]
) -> tuple[Module, dict[str, Any], dict[str, tuple[float, float, str]]]:
    from ..prune import shrink

    batch = next(world.heldout.batches())
    small = shrink(model, world.heldout.task.inputs(batch)[:1])
    figures["weights in all"] = (
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in small.model.parameters()),
        "",
    )
    figures["time of one batch"] = (
        figures["time of one batch"][0],
        _latency(small.model, world.heldout),
        "ms",
    )
    return small.model, small.structure, figures


def _alive(model: Module) -> float:
    return float(sum(int((p != 0).sum()) for p in model.parameters()))


def _latency(model: Module, data: Data[Any]) -> float:
    from statistics import median
    from time import perf_counter

    from ..tasks import evaluating

    batch = next(data.batches())
    times = []
    with evaluating(model):
        for _ in range(7):
            began = perf_counter()
            data.task.outputs(model, batch)
            times.append(1000 * (perf_counter() - began))
    return median(times)
