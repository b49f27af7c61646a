"""What a ledger serves exactly: a model in shards and slices, and the card of one that was made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...audit.result import Audit, Verdict
from ...errors import InputError
from ...io.files import write_text
from ...io.identities import fingerprints
from ...io.sealed import key as read_key
from ...report.card import FILE, audit_card, library_of
from ...unlearn.exact import RetrainingDue
from ...unlearn.exact.folder import read_record
from ..advice import ONLY_GIVEN
from ..exact import ids_of_subject
from ..forget_exact import ForgetExactJob, ForgottenExactly
from ..subject import Subject
from .book import Ledger
from .state import Version


def forget_exactly(
    ledger: Ledger, whole: Subject, requests: Sequence[str], at: Path, **how: Any
) -> ForgottenExactly:
    """Delete the examples of requests from a model in shards and slices, and compare the bits.

    Args:
        ledger: with the requests.
        whole: the data, with all that was ever deleted, and the folder of the model.
        requests: whose examples go; those that are gone already are counted.
        at: run folder.
        how: seed and command.
    """
    assert isinstance(whole.model, (str, Path))
    command = how.pop("command")
    job = ForgetExactJob(subject=whole, folder=whole.model, ids=_ids(ledger, whole, requests), **how)
    try:
        return job.run(at, command=command)
    except RetrainingDue:  # every order saw one of them: those are trained anew on what is left
        return replace(job, retrain="dead").run(at, command=command)


def _ids(ledger: Ledger, whole: Subject, requests: Sequence[str]) -> list[str]:
    """What the folder calls the examples: those that the data lost since, too, where they have ids."""
    names = ids_of_subject(whole)
    found = [names[i] for i in ledger.positions(whole, requests)]
    if whole.identities[0] == "id":
        assert isinstance(whole.model, (str, Path))
        wanted = {one for r in requests for one in ledger.log.scope(r)}
        held = [n for row in read_record(Path(whole.model))["places"] for names in row for n in names]
        prints = fingerprints((n.encode() for n in held), read_key(whole.key))
        found += [n for n, one in zip(held, prints, strict=True) if one in wanted]
    if not found:
        raise InputError(
            f"the data of {whole.name} hold none of the examples that are to go, and have no ids to find them in "
            f"{whole.model} by. Give the data that it was trained on."
        )
    return list(dict.fromkeys(found))


def write_card(
    version: Version, model: Path, level: str, why: str, kind: Literal["classifier", "language"]
) -> None:
    """Write the card of a model that its own recipe made anew."""
    exact = level == "E4"
    reason = (
        f"It was {why}." if exact else f"It was {why}, which an approximate method made: see that one's card."
    )
    verdict = Verdict(outcome="exact" if exact else "inconclusive", reason=reason, caveats=(ONLY_GIVEN,))
    audit = Audit(kind=kind, method="made anew", verdict=verdict)
    write_text(model / FILE, audit_card(audit, library=library_of(model), made=version.name))
