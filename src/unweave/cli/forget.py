"""`unweave forget`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..audit.result import Audit
from ..catalogue import find
from ..errors import InputError
from ..jobs.forget import FILES, Job, default_cache, estimate, forget
from ..jobs.world import Folder, World, open_world
from ..parallel import described
from ..random import seeded
from ..report import words
from ..types import Edit
from ._options import build, key_of, named_methods, parse, with_methods

EXAMPLE = """  unweave forget
  unweave forget project.py --model model.safetensors --ids delete.txt --method salun --out runs/req-17
  unweave forget ./vit-checkpoint --data imagefolder:./pets --classes beagle --method unprune+salun
  unweave forget --method salun --salun.density 0.3 --compare fine-tune scrub
  unweave forget project.py --model model.safetensors --where user=4711 --dry-run

`--method a+b` puts b inside a: `unprune+salun` un-prunes around SalUn. Each method named adds its flags: add --help."""
DEFAULT_METHOD = "unprune+continue"
EMBEDDED = (
    "--classes", "3", "--method", "unprune+continue", "--un-pruning.scout-epochs", "10", "--continue.epochs", "10",
    "--compare", "continue", "salun",
)  # fmt: skip
"""What `unweave forget` alone stands for."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which model, which data, and what must go.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        model: weights of the trained model: .safetensors, .pt read as plain tensors, or a folder. Without it the model
            is trained first, by the recipe.
        folder: for a transformers folder.
        ids: file with the ids to delete, one a line (.txt), or with a column "id" (.csv, .parquet).
        classes: classes to delete, by name or number.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: delete this many examples drawn at random, to try things out.
        oracles: models to retrain without the data, to compare with; 0 gives no verdict.
        holders: models to retrain with the data, to know how much models differ by chance.
        seed: governs the whole run.
        jobs: processes that train at once; 0 takes all cores.
        cache: folder of retrained models, shared between requests; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        quick: spend less on the figures that train something (relearning) or draw samples; the verdict stays the same.
        dry_run: print how long it would take, and write nothing.
        json: print the audit as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    oracles: int = 8
    holders: int = 8
    seed: int = 0
    jobs: int = 0
    cache: Path | None = None
    out: Path | None = None
    quick: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Forget(Selection):
    """Take data out of a trained model: edit it, retrain without the data to compare, audit, report.

    Attributes:
        method: how to forget; see `unweave list --family unlearn`.
        compare: further methods to run and report beside it.
    """

    method: str = DEFAULT_METHOD
    compare: tuple[str, ...] = ()


Forget.__doc__ = f"{Forget.__doc__}".rstrip() + "\n" + (Selection.__doc__ or "").partition("Attributes:\n")[2]


def run(argv: Sequence[str]) -> int:
    """Forget. Exit code 0 if the verdict is `forgotten`, else 3."""
    if _nothing_named(argv):
        argv = [*EMBEDDED, *argv]
    chains = [*named_methods(argv, ("--method",), DEFAULT_METHOD), *named_methods(argv, ("--compare",), "")]
    chains = [chain for chain in chains if chain]
    asked = parse(with_methods(Forget, chains), argv, command="forget", example=EXAMPLE)
    world = open_world(asked.project, asked.folder)
    edits = {chain: edit_of(chain, asked, world) for chain in dict.fromkeys((asked.method, *asked.compare))}
    return carry_out(asked, world, "forget", argv, edits=edits, methods=chains)


def _nothing_named(argv: Sequence[str]) -> bool:
    """Whether neither a project nor a request nor a method is named: then the embedded example runs."""
    named = {
        "--method",
        "--compare",
        "--ids",
        "--classes",
        "--where",
        "--random",
        "--model",
        "--data",
        "-h",
        "--help",
    }
    flags = {argument.partition("=")[0] for argument in argv}
    values = [
        a
        for before, a in zip(["", *argv], argv, strict=False)
        if not before.startswith("--") or "=" in before
    ]
    return not flags & named and not any(not a.startswith("-") for a in values)


def carry_out(
    asked: Any,
    world: World,
    command: str,
    argv: Sequence[str],
    *,
    edits: Mapping[str, Edit[Any]] | None = None,
    edited: Mapping[str, Path] | None = None,
    methods: Sequence[str] = (),
) -> int:
    """What `forget` and `audit` share: select, run or estimate, print."""
    positions, wording = select(asked, world)
    job = Job(
        world=world, positions=positions, wording=wording, edits=edits or {}, edited=edited or {},
        model=asked.model or world.model,
        oracles=asked.oracles, holders=asked.holders, seed=asked.seed, quick=asked.quick, jobs=asked.jobs or None,
        cache=asked.cache or default_cache(),
    )  # fmt: skip
    _ = job.request  # refuse a bad request before anything is written
    if tuple(argv[: len(EMBEDDED)]) == EMBEDDED and not asked.json:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"unweave {command} {' '.join(argv)}", markup=False
        )
    if asked.dry_run:
        return _print_estimate(estimate(job), asked.json)
    settings = {
        "methods": list(methods), "edits": {name: described(edit) for name, edit in job.edits.items()},
        "folder": dataclasses.asdict(asked.folder), "request": wording,
        "positions": hashlib.sha256(positions.numpy().tobytes()).hexdigest(),
        "oracles": asked.oracles, "holders": asked.holders, "quick": asked.quick,
    }  # fmt: skip
    digest = hashlib.sha256(
        json.dumps([settings, asked.project, asked.seed, str(asked.model)]).encode()
    ).hexdigest()
    out = asked.out or Path("runs") / f"{command}-{digest[:8]}"
    done = forget(job, out, settings=settings, command=["unweave", command, *argv])
    return _print(done.folder, asked.json, done.audits)


def edit_of(chain: str, asked: Any, world: World) -> Edit[Any]:
    """Make the edit that "a+b+c" names: each is the `unlearn` field of the one before."""
    inner: Edit[Any] | None = None
    for name in reversed(chain.split("+")):
        method = find(name)
        if method.family != "unlearn":
            raise InputError(
                f"{method.name} is of family {method.family}; `unweave forget` takes methods of family unlearn."
            )
        given: dict[str, Any] = {}
        fields = {f.name: f for f in dataclasses.fields(method.cls)}
        if "recipe" in fields:
            if world.recipe is None:
                raise InputError(
                    f"{method.name} needs the recipe that trained the model; {world.name} has none. Define `recipe`."
                )
            given["recipe"] = world.recipe
        if inner is not None:
            if "unlearn" not in fields:
                raise InputError(
                    f"{method.name} wraps no other method, so {chain!r} makes no sense. Wrapping ones: {_wrappers()}."
                )
            given["unlearn"] = inner
        inner = build(method.cls, getattr(asked, key_of(method), None), given)
    assert inner is not None
    return inner


def select(asked: Any, world: World) -> tuple[Tensor, str]:
    """Positions of the training examples to forget, ascending, and the request in words."""
    from ..io.requests import by_classes, by_ids, by_value, read_ids

    n = len(world.train)
    chosen = [bool(asked.ids), bool(asked.classes), bool(asked.where), asked.random is not None]
    if sum(chosen) > 1:
        raise InputError("give one of --ids, --classes, --where, --random; got several.")
    if asked.ids:
        positions = by_ids(read_ids(asked.ids), list(world.ids) or list(range(n)))
        words = f"ids from {asked.ids.name}"
    elif asked.classes:
        positions = by_classes(list(asked.classes), world.labels(), list(world.class_names) or None)
        words = f"all of class {', '.join(asked.classes)}"
    elif asked.where:
        column, equals, value = asked.where.partition("=")
        if not equals:
            raise InputError(
                f"--where must be COLUMN=VALUE; got {asked.where!r}. Columns: {', '.join(world.columns) or 'none'}."
            )
        positions = by_value(column, value, world.columns)
        words = f"all with {column} = {value}"
    elif asked.random is not None or not asked.project:
        count = asked.random if asked.random is not None else n // 5
        if not 0 < count < n:
            raise InputError(
                f"--random must be between 1 and {n - 1}, one less than the training examples; got {count}."
            )
        positions = torch.randperm(n, generator=seeded(asked.seed))[:count]
        words = f"drawn at random with seed {asked.seed}"
    else:
        raise InputError(
            "nothing to forget was named. Give --ids FILE, --classes NAME, --where COLUMN=VALUE or --random N."
        )
    positions = positions.sort().values
    return positions, f"{len(positions):,} of {n:,} training examples, {words}"


def _wrappers() -> str:
    from ..catalogue import methods

    return ", ".join(m.name for m in methods() if "unlearn" in getattr(m.cls, "__dataclass_fields__", ()))


def _print_estimate(seconds: Mapping[str, float], as_json: bool) -> int:
    out = Console(highlight=False, soft_wrap=True)
    total = sum(seconds.values())
    if as_json:
        out.print(json.dumps({"seconds": dict(seconds), "total": total}, indent=1), markup=False)
        return 0
    for name, value in seconds.items():
        out.print(f"  {name:40} {value:9.1f} s", markup=False)
    out.print(
        f"  {'in all, about':40} {total:9.1f} s\nNothing was written. Models in the cache cost nothing again.",
        markup=False,
    )
    return 0


def _print(folder: Path, as_json: bool, audits: Sequence[Audit]) -> int:
    if as_json:
        sys.stdout.write((folder / FILES["audit"]).read_text(encoding="utf-8"))
    else:
        out = Console(highlight=False, soft_wrap=True)
        text = (folder / FILES["markdown"]).read_text(encoding="utf-8")
        out.print(text.partition("## Measurements")[0].rstrip() + "\n", markup=False)
        out.print(_table(audits[0]), soft_wrap=False)
        out.print(f"\nModel: {folder / 'model'}\nReport: {folder / FILES['html']}", markup=False)
    return 0 if audits[0].verdict.outcome == "forgotten" else 3


def _table(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in (audit.method, "edited", "original", "retrained", "unit"):
        table.add_column(heading, justify="left" if heading in (audit.method, "unit") else "right")
    for m in audit.measurements:
        spread = "" if m.oracle_spread is None else f" ± {words.number(m.oracle_spread)}"
        oracle = "–" if m.oracle_mean is None else words.number(m.oracle_mean) + spread
        table.add_row(m.name, words.number(m.value), words.number(m.original), oracle, m.unit)
    return table
