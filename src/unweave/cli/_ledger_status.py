"""`unweave ledger status` and `verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import InputError
from ..jobs.ledger import Ledger, verify, verify_bundle
from ..jobs.ledger.evidence import BUNDLE, included
from ..jobs.ledger.statistics import report
from ._parse import parse, say


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Print requests with their due dates, the models in use, and how long requests take.

    Attributes:
        ledger: its folder.
        all: print every request, served ones too.
        json: print as JSON, with the newest entry's hash: keep that elsewhere, so that no entry can be dropped.
    """

    ledger: tyro.conf.Positional[Path]
    all: bool = False
    json: bool = False


def status(argv: Sequence[str]) -> int:
    """Print where things stand. Exit code 3 if a request is overdue, or a model in use holds what was deleted."""
    asked: StatusOptions = parse(
        StatusOptions, argv, command="ledger status", example="  unweave ledger status ./deletions"
    )
    told = report(Ledger(asked.ledger))
    if asked.json:
        sys.stdout.write(json.dumps(told.json(), indent=1) + "\n")
    else:
        say(told.text(everything=asked.all))
    return 3 if told.overdue or told.late else 0


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check a ledger, or the evidence of one request. Exit code 3 if something is wrong, with the entry's number.

    Attributes:
        ledger: its folder, or evidence/r-00001 in it or elsewhere.
        request: also prove that --id belongs to this request.
        id: of an example.
    """

    ledger: tyro.conf.Positional[Path]
    request: str = ""
    id: str = ""


def check(argv: Sequence[str]) -> int:
    """Check a ledger, or a bundle."""
    example = "  unweave ledger verify ./deletions\n  unweave ledger verify ./deletions --request r-00007 --id 42.png"
    asked: VerifyOptions = parse(VerifyOptions, argv, command="ledger verify", example=example)
    if bool(asked.request) != bool(asked.id):
        raise InputError("--request and --id go together: which example, and which request it belongs to.")
    if (asked.ledger / BUNDLE).is_file():
        wrong = verify_bundle(asked.ledger)
    else:
        ledger = Ledger(asked.ledger)
        wrong = verify(ledger)
        if asked.id and not wrong:
            proof = included(ledger, asked.request, asked.id)
            say(json.dumps(proof, indent=1) if proof else f"That example does not belong to {asked.request}.")
            return 0 if proof else 3
    say("\n".join(wrong) if wrong else "Nothing is wrong.")
    return 3 if wrong else 0
