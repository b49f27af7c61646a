"""`unweave prune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from torch.nn import Module

from ..audit import words
from ..errors import InputError
from ..fit import resumable
from ..io.checkpoint import save_model
from ..io.files import write_text
from ..io.runs import RunFolder
from ..mask import Mask
from ..parallel import described
from ..types import Data
from ..worlds import Folder, World, accuracy, open_world
from ._options import parse

EXAMPLE = """  unweave prune --sparsity 0.9
  unweave prune project.py --model model.safetensors --sparsity 0.95 --recover-epochs 5 --out runs/small
  unweave prune ./vit-checkpoint --data imagefolder:./pets --score wanda --pattern 2:4 --out runs/vit-24"""
SCORES = Literal["magnitude", "random", "gradient", "taylor", "snip", "grasp", "synflow", "wanda"]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zero the weights a trained model needs least, train on under the mask, and measure before and after.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        model: weights of the trained model. Without it the model is trained first, by the recipe without its pruning.
        folder: for a transformers folder.
        sparsity: share of the weights to remove, in [0, 1). Ignored by N:M patterns, which fix it.
        score: what says how much a weight matters.
        pattern: "unstructured", "channel" (whole filters), or N:M such as "2:4".
        budget: "global" ranks all layers together, "uniform" prunes each alike, "erk" spares small layers.
        schedule: "one-shot", or "cubic" which prunes gradually over `schedule_epochs` while training.
        schedule_epochs: of the cubic schedule.
        recover_epochs: epochs of training under the mask afterwards, by the recipe.
        shrink: remove dead channels for real, so that the model is smaller (pattern "channel").
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped.
        json: print JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    sparsity: float = 0.9
    score: SCORES = "magnitude"
    pattern: str = "unstructured"
    budget: Literal["global", "uniform", "erk"] = "global"
    schedule: Literal["one-shot", "cubic"] = "one-shot"
    schedule_epochs: int = 10
    recover_epochs: int = 0
    shrink: bool = False
    seed: int = 0
    out: Path = Path("runs/prune")
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Prune."""
    asked: Prune = parse(Prune, argv, command="prune", example=EXAMPLE)
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
    with RunFolder.open(
        asked.out, settings=settings, inputs=inputs, seed=asked.seed, command=["unweave", "prune", *argv]
    ) as folder:
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
                structure = None
                if asked.shrink:
                    pruned, structure, figures = _shrunk(pruned, world, figures)
                if world.save is not None:
                    world.save(pruned, stage.paths[0], Mask.of(pruned) or None)
                else:
                    save_model(pruned, stage.paths[0], mask=Mask.of(pruned) or None, structure=structure)
                write_text(stage.paths[1], json.dumps(figures, indent=1) + "\n")
            figures = json.loads(stage.paths[1].read_text(encoding="utf-8"))
    if asked.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
        return 0
    out = Console(highlight=False, soft_wrap=True)
    for name, (before, after, unit) in figures.items():
        out.print(
            f"  {name:24} {words.number(before, digits=4):>12} -> {words.number(after, digits=4):<12} {unit}",
            markup=False,
        )
    out.print(f"Model: {asked.out / 'model'}", markup=False)
    return 0


def _edit(asked: Prune) -> Any:
    from .. import prune

    scores: dict[str, Any] = {
        "magnitude": prune.Magnitude, "random": prune.RandomScores, "gradient": prune.Gradient, "taylor": prune.Taylor,
        "snip": prune.SNIP, "grasp": prune.GraSP, "synflow": prune.SynFlow, "wanda": prune.Wanda,
    }  # fmt: skip
    pattern: Any
    budget: Any
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
    budget = {"global": prune.Global, "uniform": prune.Uniform, "erk": prune.ERK}[asked.budget](
        asked.sparsity
    )
    if asked.shrink and asked.pattern != "channel":
        raise InputError("--shrink removes whole channels; it needs --pattern channel.")
    # a whole channel of the last layer is a class
    scope = prune.Scope(last=asked.pattern != "channel")
    if asked.schedule == "cubic":
        if asked.score != "magnitude":
            raise InputError(
                f"--schedule cubic prunes by magnitude; got --score {asked.score}. Use --schedule one-shot."
            )
        return prune.GMP(pattern=pattern, budget=budget, epochs=asked.schedule_epochs, scope=scope)
    return prune.Prune(score=scores[asked.score](scope=scope), pattern=pattern, budget=budget)


def _original(given: Path | None, world: World, folder: RunFolder) -> Module:
    if given is not None:
        return world.load(given).eval()
    import dataclasses

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
