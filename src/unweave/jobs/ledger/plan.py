"""What serving would do: which requests, which models, how each is made anew, and what that does not guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from ...errors import InputError
from ...unlearn.exact.folder import is_exact
from ..opened import Folder, open_subject
from ..subject import Subject
from ..texts import TextFiles
from .book import KEY, Ledger
from .state import Asked, State, Version, now_utc
from .utility import LARGE
from .versions import as_trained

Level = Literal["E0", "E1", "E2", "E3", "E4", "E5"]
LEVELS: Mapping[str, str] = {
    "E0": "removed from the data only",
    "E1": "answers suppressed: the model may still hold it",
    "E2": "taken out by an approximate method, and judged by an audit",
    "E3": "taken out with a certificate under stated assumptions",
    "E4": "exact: trained anew from initial weights, without ever reading it",
    "E5": "exact, with an attested execution",
}
Step = Literal["edit", "make anew", "withdraw", "leave"]
STEPS: Mapping[Step, str] = {
    "edit": "take the examples out",
    "make anew": "train it anew by its own recipe, from its parent as it will be then",
    "withdraw": "withdraw it: it cannot be made anew without them",
    "leave": "leave it: it never saw any of the examples",
}


@dataclass(frozen=True)
class Plan:
    """What serving would do.

    Attributes:
        requests: to serve together; () if none is due.
        waits: why none is, or which others wait; "" if none does.
        steps: what becomes of each model in use, parents before children.
        retrain: why a training from scratch is due; "" if none is.
        notes: what to know before.
        late: models in use that hold what was deleted, since they were taken in afterwards; due at once.
    """

    requests: tuple[Asked, ...]
    waits: str
    steps: tuple[tuple[Version, Step], ...]
    retrain: str
    notes: tuple[str, ...]
    late: tuple[str, ...] = ()


def plan(
    ledger: Ledger,
    *,
    subjects: Mapping[str, Subject] | None = None,
    at_once: bool = False,
    now: datetime | None = None,
) -> Plan:
    """Say what serving would do; nothing is changed.

    Args:
        ledger: whose open requests are served.
        subjects: name of a model -> its data and recipe, where the ledger does not know how to open it.
        at_once: do not wait for the batch window.
        now: the time; the clock's unless given.
    """
    state = ledger.state()
    batch, waits = due_now(state, ledger.policy["window"], now or now_utc(), at_once=at_once)
    prints = [p for asked in batch for p in ledger.log.scope(asked.name)]
    hit = {v.entry for v in ledger.models.impact(prints)}
    in_use, late = state.in_use(), {v.entry for v in ledger.models.late()}
    steps: list[tuple[Version, Step]] = []
    for v in in_use if batch or late else []:
        steps.append((v, _step(v, hit, late, ledger, in_use, subjects or {})))
    after = ledger.policy["retrain_after"]
    retrain = (
        f"{state.approximate} rounds were served by approximate methods, and after {after} a whole training is due"
        if state.approximate >= after
        else ""
    )
    notes = [f"it is not known whether whoever made {a.name} may ask for it" for a in batch if not a.verified]
    wide = _wide(ledger, prints, [v for v, step in steps if step != "leave"])
    notes += [
        f"it takes {share:.0%} of the data of {name}: see who asks before it is served"
        for name, share in wide
    ]
    notes += [
        f"what {v.name} was made of is not known, so nothing above {LEVELS['E1']!r} can be claimed"
        for v, _ in steps
        if not state.traceable(v)
    ]
    if batch and not any(step != "leave" for _, step in steps):
        notes.append("no model in use ever saw these examples")
    names = tuple(v.name for v in in_use if v.entry in late)
    return Plan(tuple(batch), waits, tuple(steps), retrain, tuple(notes), names)


def _wide(ledger: Ledger, prints: list[bytes], versions: list[Version]) -> list[tuple[str, float]]:
    """Models of whose data the requests take more than is usual, and the share."""
    found = [(v.name, ledger.models.share(v, prints)) for v in versions]
    return [(name, share) for name, share in found if share > LARGE]


def due_now(state: State, window: int, now: datetime, *, at_once: bool = False) -> tuple[list[Asked], str]:
    """The requests to serve now, and why others wait: all that are open, once one of them has waited long enough."""
    if state.batch:  # begun with these, and goes on with them
        return [state.requests[name] for name in state.batch], ""
    waiting = state.waiting
    if not waiting:
        held = sum(r.status == "held" for r in state.requests.values())
        return [], f"no request is open ({held} held)" if held else "no request is open"
    ripe = [r for r in waiting if r.urgent or now >= r.received + timedelta(days=window)]
    if at_once or ripe:
        return waiting, ""
    until = min(r.received for r in waiting) + timedelta(days=window)
    return [], (
        f"{len(waiting)} open, gathered until {until:%Y-%m-%d %H:%M} UTC (a window of {window} days); --now serves them"
    )


def _step(
    version: Version,
    hit: set[int],
    late: set[int],
    ledger: Ledger,
    in_use: list[Version],
    subjects: Mapping[str, Subject],
) -> Step:
    if version.entry not in hit | late:
        return "leave"
    if version.name not in subjects and version.source is None:
        return "withdraw"
    above = ledger.state().version(version.parent)
    now = next((v for v in in_use if above is not None and v.name == above.name != version.name), None)
    if is_exact(ledger.models.place(version)):  # its base lies in it
        return "withdraw" if now is not None and now.entry in hit | late else "edit"
    return "edit" if now is None and version.entry not in late else "make anew"


def opened(version: Version, ledger: Ledger, subjects: Mapping[str, Subject]) -> Subject:
    """The data and recipe of a model, with the version as its model.

    Raises:
        InputError: if the ledger cannot open it and no subject is given.
    """
    subject = subjects.get(version.name)
    if subject is None:
        if version.source is None:
            raise InputError(
                f"the ledger does not know how to open {version.name}: it was added from a Python program. Give its "
                f"subject, as subjects={{{version.name!r}: ...}}."
            )
        told: dict[str, Any] = dict(version.source)
        texts = TextFiles.read(told.pop("texts", {}))
        subject = open_subject(told.pop("project"), Folder(**told), texts)
    found = replace(
        subject, model=ledger.models.place(version), key=ledger.folder / KEY, kind=subject.kind.discreet()
    )
    return as_trained(found) if is_exact(ledger.models.place(version)) else found
