"""What serving the requests of a ledger did, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console

from ...errors import InputError
from ..done import Done
from .book import Ledger
from .plan import LEVELS

S = TypeVar("S", bound="Served")


@dataclass(frozen=True)
class Served(Done):
    """What serving did.

    Attributes:
        requests: that were served, or tried; () if none was due.
        models: one a model in use: "name", "step", "old" and "new" digest, "method", "level", "outcome", "why" and
            "lost", what it lost beyond the request.
        relapse: one an earlier request that was judged again: "request", "outcome", "examples", "why".
        level: the lowest of all models.
        done: whether the requests are served.
        waits: why nothing was done, or what failed.
        still: files that still hold what was deleted.
    """

    requests: tuple[str, ...]
    models: tuple[Mapping[str, Any], ...]
    relapse: tuple[Mapping[str, Any], ...]
    level: str
    done: bool
    waits: str
    still: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the newest serving of a ledger."""
        ledger = Ledger(folder)
        last = [e for e in ledger.log.entries() if e.kind in ("served", "failed")][-1:]
        if not last:
            raise InputError(f"{folder} has served no request yet.")
        return told(cls, ledger, last[0].body, last[0].kind == "served")

    def json(self) -> str:
        """All of it as strict JSON."""
        names = ("requests", "models", "relapse", "level", "done", "waits", "still")
        return json.dumps({n: getattr(self, n) for n in names}, indent=1) + "\n"

    def tell(self, out: Console) -> None:
        """Print what was done, model by model."""
        if not self.requests and not self.models:
            out.print(f"Nothing was served: {self.waits}.", markup=False)
            self._tell_still(out)
            return
        what = ", ".join(self.requests) or "what was taken in late"
        out.print(f"{'Served' if self.done else 'Not served'}: {what}", markup=False)
        for m in self.models:
            new = f" -> {m['new'][:12]}" if m.get("new") else ""
            out.print(f"  {m['name']:16} {m['old'][:12]}{new}  {m['why']}", markup=False)
            for sentence in m.get("lost", ()):
                out.print(
                    f"  warning: {m['name']}: {sentence}; see who asked for what, and why", markup=False
                )
        for r in self.relapse:
            out.print(f"  {r['request']:16} looked at again: {r['outcome']} ({r['why']})", markup=False)
        if self.done:
            out.print(f"What may be claimed: {self.level}, {LEVELS[self.level]}.", markup=False)
            for name in self.requests:
                out.print(f"Evidence: {self.folder / 'evidence' / name}", markup=False)
            if any(m.get("new") and m["new"] != m["old"] for m in self.models):
                out.print(
                    f"Put {self.folder / 'serving'} into the place of what is served now, in one step: who can ask a "
                    "model from before and one from after side by side learns what went.",
                    markup=False,
                )
        else:
            out.print(f"{self.waits}", markup=False)
        self._tell_still(out)

    def _tell_still(self, out: Console) -> None:
        if self.still:
            out.print("Files that still hold what was deleted:", markup=False)
            for place in self.still:
                out.print(f"  {place}", markup=False)


def told(cls: type[S], ledger: Ledger, body: Mapping[str, Any], done: bool) -> S:
    """A serving as its entry tells it."""
    still = tuple(str(ledger.models.place(v)) for v in ledger.models.superseded())
    return cls(
        ledger.folder, tuple(body["requests"]), tuple(body["models"]), tuple(body["relapse"]), body.get("level", ""),
        done, body.get("reason", ""), still,
    )  # fmt: skip
