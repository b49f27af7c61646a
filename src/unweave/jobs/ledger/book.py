"""The ledger of deletions: what was asked, which models it concerns, what was done, and what shows that it was.

A folder that keeps a log (`log`), a key for fingerprints, a key pair for signatures, the runs that served requests, and
the evidence of each. No id, no value of a column and no name of a file that named examples is ever written into it.
"""

from __future__ import annotations

import hmac
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ...errors import InputError, IntegrityError
from ...io.content import UnstableError
from ...io.identities import fingerprints, named
from ...io.sealed import key as read_key
from ...settings import Count, Whole, settings
from ..deletion import Deletion
from ..subject import Subject
from .due import Term, due
from .log import Entry, Log
from .merkle import leaf, root
from .signing import Signer, can_sign
from .state import Asked, State
from .versions import Models

KEY = "fingerprints.key"


@settings
class Policy:
    """How a ledger's requests are served.

    Attributes:
        due: until when a request must be answered: "30 days", "1 month".
        window: days for which requests are gathered, to be served together.
        retrain_after: rounds of approximate methods after which a training from scratch is due.
        keep: how long the evidence of a served request is kept ("36 months"); "" keeps it.
    """

    due: str = "30 days"
    window: Whole = 7
    retrain_after: Count = 5
    keep: str = ""

    def __post_init__(self) -> None:
        term = Term.parse(self.due)
        days = term.days or 28 * term.months
        if self.keep:
            Term.parse(self.keep)
        if self.window >= days:
            raise InputError(
                f"Policy.window is {self.window} days, so a request could be due ({term}) before it is served. Give "
                "less."
            )


@dataclass(frozen=True)
class Intake:
    """What became of a request that was handed in.

    Attributes:
        request: its name; of the first that named the same examples, if it is a repetition.
        entry: number of the entry of that request.
        new: examples that no earlier request names.
        known: request -> examples of this one that it named before.
        twins: examples of the data that are not named, but equal to a named one bit for bit.
    """

    request: str
    entry: int
    new: int
    known: Mapping[str, int]
    twins: int


class Ledger:
    """A ledger of deletions in a folder; see `init` to begin one.

    Raises:
        InputError: if there is none.
        IntegrityError: if its key is another than the one that it was begun with.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.log = Log(self.folder)
        if self.public:
            self.log.signer = Signer(self.folder)
        if not (self.folder / KEY).is_file():
            raise IntegrityError(
                f"{self.folder / KEY} is gone: which examples were deleted cannot be told any more. Put it back from a "
                "copy, or begin a new ledger with data that do not hold them."
            )
        if named(self.key) != self.policy["key"]:
            raise IntegrityError(f"{self.folder / KEY} is not the key that this ledger was begun with.")

    @classmethod
    def init(cls, folder: Path | str, policy: Policy | None = None, *, sign: bool | None = None) -> Self:
        """Begin a ledger.

        Args:
            folder: new, or empty.
            policy: how requests are served.
            sign: sign every entry; unless given, if the package cryptography is installed.

        Raises:
            InputError: if the folder holds something.
            MissingExtraError: if entries are to be signed and the package is absent.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty. Give a new folder for the ledger.")
        signer = Signer(folder) if (can_sign() if sign is None else sign) else None
        beside = folder.parent / f".{folder.name}.{os.getpid()}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            if signer is not None:
                signer.folder = beside
            public = signer.make() if signer else ""
            told = policy or Policy()
            Log.create(beside)
            log = Log(beside, signer=signer)
            body = {
                "due": told.due, "window": told.window, "retrain_after": told.retrain_after, "keep": told.keep,
                "key": named(read_key(beside / KEY)), "public": public,
            }  # fmt: skip
            log.append("begun", body)
            log.close()
            if folder.exists():
                folder.rmdir()
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return cls(folder)

    @cached_property
    def key(self) -> bytes:
        """Of the fingerprints."""
        return read_key(self.folder / KEY)

    @property
    def public(self) -> str:
        """The public key that entries are signed for; "" if they are not."""
        public: str = self.policy["public"]
        return public

    @cached_property
    def policy(self) -> Mapping[str, Any]:
        """What the ledger was begun with: the first entry.

        Raises:
            IntegrityError: if the log has no beginning.
        """
        first = next(self.log.entries(), None)
        if first is None or first.kind != "begun":
            raise IntegrityError(
                f"the log of {self.folder} has no beginning. Put the folder back from a copy."
            )
        return first.body

    @property
    def models(self) -> Models:
        """The models that the ledger knows."""
        return Models(self)

    def state(self) -> State:
        """All that the entries come to."""
        return State.of(self.log.entries())

    def salt(self, request: str) -> bytes:
        """Salt of a request's hash tree; gone with the key."""
        return hmac.digest(self.key, b"salt " + request.encode(), "sha256")

    # requests

    def request(
        self,
        deletion: Deletion,
        *,
        ground: str = "",
        received: datetime | None = None,
        verified: bool = False,
        urgent: bool = False,
    ) -> Intake:
        """Take in a request.

        A repetition makes no second request: the first one's name comes back. Of examples some of which were named
        before, the others are taken in.

        Args:
            deletion: the subject, and which of its examples must go.
            ground: why, in a few words without a name; it stays in the log.
            received: when, with a time zone; now unless given.
            verified: whether it is known that the one who asks may.
            urgent: serve it without waiting for the batch window.

        Raises:
            InputError: if an example is not there, or it was received later than now.
        """
        received = received or datetime.now(UTC)
        due(received, Term.parse(self.policy["due"]))  # refuses a time without a zone
        if received > datetime.now(UTC) + timedelta(minutes=1):
            raise InputError(
                f"the request was received at {received}, which is still to come. Set the time right."
            )
        # which of its examples the model in use still holds is not what was asked
        deletion = replace(deletion, subject=replace(deletion.subject, model=None))
        positions = deletion.selected[0].tolist()
        every = self.prints(deletion.subject)
        asked = list(dict.fromkeys(every[i] for i in positions))
        known = self.log.requests_with(asked)
        counts: dict[str, int] = {}
        for one in known.values():
            counts[one] = counts.get(one, 0) + 1
        new = sorted(one for one in asked if one not in known)
        twins = len(_twins(deletion.subject, set(positions)))
        if not new:
            first = min(counts)
            self.log.append("repeated", {"request": first, "examples": len(asked)})
            return Intake(first, self.known(first).entry, 0, counts, twins)
        name = f"r-{self.log.count('request') + 1:05}"
        salt = self.salt(name)
        body = {
            "name": name, "received": received.isoformat(timespec="seconds"), "examples": len(new),
            "by": deletion.named[0], "root": root([leaf(salt, p) for p in new]).hex(), "ground": ground,
            "verified": verified, "urgent": urgent,
        }  # fmt: skip
        entry = self.log.append("request", body, scope=((name, p) for p in new))
        return Intake(name, entry.number, len(new), counts, twins)

    def extend(self, request: str, by: str, reason: str) -> Asked:
        """Give a request more time, once.

        Args:
            request: its name.
            by: at most "60 days" or "2 months".
            reason: which the one who asked is told.

        Raises:
            InputError: if it was extended before, is not open, or no reason is given.
        """
        asked = self._open(request, "extended")
        if asked.extended:
            raise InputError(f"{request} was extended already ({asked.extended}); there is one extension.")
        due(asked.received, Term.parse(self.policy["due"]), Term.parse(by))
        return self._note(request, "extended", {"by": by, "reason": _reason(reason, "an extension")})

    def hold(self, request: str, reason: str) -> Asked:
        """Keep a request from being served, for a legal reason, until it is lifted."""
        self._open(request, "held")
        return self._note(request, "held", {"reason": _reason(reason, "a hold")})

    def lift(self, request: str, reason: str) -> Asked:
        """Let a request that was held be served."""
        if self.known(request).status != "held":
            raise InputError(f"{request} is not held: it is {self.known(request).status}.")
        return self._note(request, "lifted", {"reason": _reason(reason, "lifting a hold")})

    def refuse(self, request: str, reason: str) -> Asked:
        """Close a request without serving it."""
        self._open(request, "refused", also="held")
        return self._note(request, "refused", {"reason": _reason(reason, "a refusal")})

    def known(self, request: str) -> Asked:
        """A request by its name.

        Raises:
            InputError: if there is none.
        """
        requests = self.state().requests
        if request not in requests:
            raise InputError(
                f"the ledger has no request {request!r}; it has {len(requests)}: see unweave ledger status."
            )
        return requests[request]

    def _open(self, request: str, what: str, also: str = "open") -> Asked:
        asked = self.known(request)
        if asked.status not in ("open", also):
            raise InputError(f"{request} cannot be {what}: it is {asked.status}.")
        return asked

    def _note(self, request: str, kind: str, body: Mapping[str, Any]) -> Asked:
        self.log.append(kind, {"request": request, **body})
        return self.known(request)

    # examples

    def prints(self, subject: Subject) -> list[bytes]:
        """Fingerprints of all training examples, in order."""
        return fingerprints(subject.identities[1], self.key)

    def positions(self, subject: Subject, requests: Sequence[str]) -> list[int]:
        """Where in the training data the examples of some requests are; not those that are gone from it."""
        wanted = {p for r in requests for p in self.log.scope(r)}
        return [i for i, p in enumerate(self.prints(subject)) if p in wanted]

    def allowed(self, subject: Subject) -> Subject:
        """The subject without what any request names that was not refused: what new models may be trained on."""
        state = self.state()
        return subject.without(
            self.positions(subject, [n for n, r in state.requests.items() if r.status != "refused"])
        )

    def head(self) -> dict[str, Any]:
        """Number, hash and signature of the newest entry: what to keep elsewhere, so that none can be dropped."""
        newest: Entry = list(self.log.entries())[-1]
        return {"number": newest.number, "hash": newest.hash, "signature": newest.signature}


def _twins(subject: Subject, named: set[int]) -> list[int]:
    """Positions that are not named, whose examples equal a named one; none are looked for where content is the id."""
    if subject.identities[0] == "content":
        return []
    try:
        content = replace(subject, ids=()).identities[1]
    except UnstableError:
        return []
    wanted = {content[i] for i in named}
    return [i for i, c in enumerate(content) if c in wanted and i not in named]


def _reason(reason: str, what: str) -> str:
    if not reason.strip():
        raise InputError(f"{what} needs a reason, which the log keeps and the one who asked is told.")
    return reason.strip()
