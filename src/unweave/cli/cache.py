"""`unweave cache`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..io.files import in_bytes
from ..io.model_cache import Entry, entries, remove
from ..io.sealed import cache_home
from ._parse import parse

FLAGS = "--older-than 30d, --unfinished, --holding-deleted or --all"
EXAMPLE = """  unweave cache list
  unweave cache prune --older-than 30d --dry-run
  unweave cache prune --holding-deleted
  unweave cache list --cache ./cache --json

Retrained models are kept, so that the next request need not train them again; what is removed is trained again when it
is needed, to the same bits. Models of examples that were deleted since are marked: they still hold them."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """List the models that are kept between runs, or remove some of them.

    Attributes:
        action: "list" shows what lies there; "prune" removes what the flags below name.
        older_than: prune what was not used for this long: 12h, 30d, 8w.
        unfinished: prune checkpoints of trainings that were stopped; their runs then begin them anew.
        holding_deleted: prune models of examples that were deleted since.
        all: prune everything.
        dry_run: say what would be pruned, and remove nothing.
        cache: the folder; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        json: print JSON instead.
    """

    action: tyro.conf.Positional[Literal["list", "prune"]] = "list"
    older_than: str = ""
    unfinished: bool = False
    holding_deleted: bool = False
    all: bool = False
    dry_run: bool = False
    cache: Path | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """List or prune. Exit code 0; 3 if something was to be pruned and another process holds it."""
    asked: Cache = parse(Cache, argv, command="cache", example=EXAMPLE)
    named = [n for n in ("older_than", "unfinished", "holding_deleted", "all") if getattr(asked, n)]
    if asked.action == "prune" and not named:
        raise InputError(f"nothing to prune was named. Give {FLAGS}.")
    if asked.action == "list" and (named or asked.dry_run):
        raise InputError(f"{FLAGS} and --dry-run go with `unweave cache prune`; `list` removes nothing.")
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", asked.older_than or "0d")
    if span is None:
        raise InputError(f"--older-than must be a time such as 12h, 30d or 8w; got {asked.older_than!r}.")
    seconds = float(span[1]) * {"h": 3600, "d": 86400, "w": 604800}[span[2]]
    folder = (asked.cache or cache_home() / "models").expanduser()
    found = entries(folder)
    if asked.action == "list":
        return _listed(folder, found, asked.json)
    old = [e for e in found if asked.older_than and time() - e.used > seconds]
    whole = [e for e in found if asked.all or e in old or (asked.holding_deleted and e.holds)]
    parts = [e for e in found if asked.unfinished and e.unfinished and e not in whole]
    return _pruned(whole, parts, asked)


def _listed(folder: Path, found: Sequence[Entry], as_json: bool) -> int:
    out, total = Console(highlight=False, soft_wrap=True), sum(e.size for e in found)
    if as_json:
        rows = [{**asdict(e), "folder": str(e.folder)} for e in found]
        told = {"folder": str(folder), "bytes": total, "entries": rows}
        out.print(json.dumps(told, indent=1), markup=False)
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("entry", "models", "size", "last used", "examples", "holds deleted data", "recipe"):
        table.add_column(heading, no_wrap=heading != "recipe")
    for e in found:
        models = f"{len(e.models)}" + f" + {len(e.unfinished)} unfinished" * bool(e.unfinished)
        holds = ", ".join(e.holds) or ("no" if e.known else "not known")
        examples = "-" if e.examples is None else f"{e.examples:,}"
        used = datetime.fromtimestamp(e.used).strftime("%Y-%m-%d")
        table.add_row(e.folder.name, models, in_bytes(e.size), used, examples, holds, e.recipe or "-")
    if found:
        wide = Console(highlight=False)
        wide.width = wide.width if wide.is_terminal else max(wide.width, 150)
        wide.print(table, markup=False)
    out.print(f"{len(found)} entries, {in_bytes(total)} in {folder}", markup=False)
    return 0


def _pruned(whole: Sequence[Entry], parts: Sequence[Entry], asked: Cache) -> int:
    out = Console(highlight=False, soft_wrap=True)
    done: list[dict[str, Any]] = []
    for entry in (*whole, *parts):
        size, busy = remove(entry, unfinished_only=entry in parts, dry_run=asked.dry_run)
        done.append({"entry": entry.folder.name, "bytes": size, "in_use": busy})
        if not asked.json:
            told = f"{'would remove' if asked.dry_run else 'removed'} {entry.folder.name}: {in_bytes(size)}"
            told += f"; kept {len(busy)} that another process is using" * bool(busy)
            out.print(told, markup=False)
    freed = sum(d["bytes"] for d in done)
    told = f"{'Would free' if asked.dry_run else 'Freed'} {in_bytes(freed)}."
    record = {"dry_run": asked.dry_run, "bytes": freed, "removed": done}
    out.print(json.dumps(record, indent=1) if asked.json else told, markup=False)
    return 3 if any(d["in_use"] for d in done) else 0
