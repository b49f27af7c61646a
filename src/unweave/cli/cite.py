"""`unweave cite`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from ..catalogue import Method, find
from ..errors import InputError
from ._flags import chain_methods
from ._parse import parse


@dataclass(frozen=True)
class Cite:
    """Print the papers behind a run or a method, as BibTeX.

    Attributes:
        what: a run folder, its run.json, or a method's name.
    """

    what: tyro.conf.Positional[str]


def run(argv: Sequence[str]) -> int:
    """Print BibTeX."""
    asked: Cite = parse(
        Cite, argv, command="cite", example="  unweave cite runs/req-17\n  unweave cite salun"
    )
    path = Path(asked.what)
    record = path / "run.json" if path.is_dir() else path
    if record.suffix == ".json":
        try:
            settings = json.loads(record.read_text(encoding="utf-8"))["settings"]
            found: list[Method] = chain_methods(settings["methods"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{record} is not the record of an unweave run. Give a run folder or a method's name."
            ) from error
    else:
        found = [find(asked.what)]
    Console(highlight=False, soft_wrap=True).print(
        "\n\n".join(m.paper.bibtex(m.name.replace("-", "_")) for m in found), markup=False
    )
    return 0
