"""`unweave ledger amend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import InputError
from ..jobs.ledger import Ledger
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class AmendOptions:
    """Change what is to become of a request. Every change needs a reason, which the log keeps.

    Attributes:
        ledger: its folder.
        request: its name: r-00001.
        extend: give it this much more time, once: at most "60 days" or "2 months".
        hold: keep it from being served.
        lift: let it be served again.
        refuse: close it without serving it.
        reason: why, without a name.
    """

    ledger: tyro.conf.Positional[Path]
    request: tyro.conf.Positional[str]
    extend: str = ""
    hold: bool = False
    lift: bool = False
    refuse: bool = False
    reason: str = ""


def amend(argv: Sequence[str]) -> int:
    """Change what is to become of a request."""
    example = '  unweave ledger amend ./deletions r-00007 --extend "60 days" --reason "many requests at once"'
    asked: AmendOptions = parse(AmendOptions, argv, command="ledger amend", example=example)
    named = [n for n in ("extend", "hold", "lift", "refuse") if getattr(asked, n)]
    if len(named) != 1:
        raise InputError(f"give one of --extend, --hold, --lift, --refuse; got {', '.join(named) or 'none'}.")
    ledger = Ledger(asked.ledger)
    if asked.extend:
        told = ledger.extend(asked.request, asked.extend, asked.reason)
    else:
        told = getattr(ledger, named[0])(asked.request, asked.reason)
    say(f"{told.name} is {told.status}, due by {told.due:%Y-%m-%d}.")
    return 0
