"""What the entries of a ledger come to: its requests and its models, replayed from the log, the only truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from .due import Term, due
from .log import Entry

Status = Literal["open", "held", "served", "refused"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request.

    Attributes:
        name: "r-00001", ...
        entry: number of the entry that took it in.
        received: when it was.
        examples: how many of the data it names, of those that no earlier request does.
        by: which of the ways named them ("ids", "classes", ...).
        root: salted hash of them; see `merkle`.
        ground: why, in the words of whoever took it in.
        verified: whether it is known that the one who asks may.
        urgent: served without waiting for the batch window.
        due: until when it must be answered.
        extended: why it was given more time; "" if it was not.
        status: "held" while it must not be served, "refused" if it never will be.
        reason: why it is held or was refused.
        served: number of the entry that says that it was; 0 before.
        tried: numbers of entries that say that serving it failed.
    """

    name: str
    entry: int
    received: datetime
    examples: int
    by: str
    root: str
    ground: str = ""
    verified: bool = False
    urgent: bool = False
    due: datetime
    extended: str = ""
    status: Status = "open"
    reason: str = ""
    served: int = 0
    tried: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model as it was at one time.

    Attributes:
        name: of the model, through all its versions.
        entry: number of the entry that took it in.
        digest: SHA-256 of its tensors.
        files: SHA-256 of its files.
        place: where they lie.
        how: it was made: "trained", "pruned", "distilled", ..., or the method that forgot.
        parent: digest of the model it was made of; "" if of none, "unknown" if that is not known.
        data: digest of the data it was trained on.
        without: requests whose examples were kept out of that data.
        recipe: SHA-256 of how it was trained and of the code.
        source: project or folder that opens it, and how; None if objects at hand did.
        recipients: who was given it.
        released: whether it may be used: it holds nothing that was deleted, as far as is known.
        why_not: why it may not.
    """

    name: str
    entry: int
    digest: str
    files: str
    place: str
    how: str
    parent: str
    data: str
    without: tuple[str, ...]
    recipe: str
    source: Mapping[str, Any] | None
    recipients: tuple[str, ...] = ()
    released: bool = True
    why_not: str = ""


@dataclass
class State:
    """All of it, after some entries.

    Attributes:
        policy: what the ledger was begun with.
        requests: by name, in their order.
        versions: of all models, oldest first.
        current: name of a model -> digest of the version in use.
        approximate: rounds served by approximate methods since the last training from scratch.
        batch: requests that are being served; () between batches, and where late models alone are.
        expired: requests whose evidence was removed when its time was over.
        serving: number of the entry that began it; 0 between batches.
        last: number of the newest entry.
    """

    policy: Mapping[str, Any] = field(default_factory=dict)
    requests: dict[str, Asked] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    current: dict[str, str] = field(default_factory=dict)
    approximate: int = 0
    batch: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    serving: int = 0
    last: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> State:
        """Replay entries."""
        state = cls()
        for entry in entries:
            getattr(state, f"_{entry.kind}")(entry, entry.body)
            state.last = entry.number
        return state

    @property
    def served(self) -> list[str]:
        """Names of the requests that were served."""
        return [r.name for r in self.requests.values() if r.status == "served"]

    @property
    def waiting(self) -> list[Asked]:
        """Requests to serve, oldest first."""
        return [r for r in self.requests.values() if r.status == "open"]

    def version(self, digest: str) -> Version | None:
        """The newest version with this digest."""
        return next((v for v in reversed(self.versions) if v.digest == digest), None)

    def in_use(self) -> list[Version]:
        """The version in use of each model, parents before children."""
        now = {name: v for name, d in self.current.items() if (v := self._newest(name, d)) is not None}
        done: dict[str, Version] = {}
        while len(done) < len(now):
            before = len(done)
            for name, v in now.items():
                above = self.version(v.parent)
                waits = (
                    above is not None and above.name in now and above.name != name and above.name not in done
                )
                if name not in done and not waits:
                    done[name] = v
            if len(done) == before:  # a circle, which registering refuses
                done |= now
        return list(done.values())

    def _newest(self, name: str, digest: str) -> Version | None:
        return next((v for v in reversed(self.versions) if v.name == name and v.digest == digest), None)

    def ancestors(self, version: Version) -> list[Version]:
        """The version and all that it was made of, youngest first."""
        line, at = [version], version
        while (above := self.version(at.parent)) is not None and above not in line:
            line.append(above)
            at = above
        return line

    def traceable(self, version: Version) -> bool:
        """Whether all that it was made of is known."""
        return not any(v.parent == "unknown" for v in self.ancestors(version))

    # what each kind of entry changes

    def _begun(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.policy = body

    def _data(self, entry: Entry, body: Mapping[str, Any]) -> None:
        pass

    def _model(self, entry: Entry, body: Mapping[str, Any]) -> None:
        told = {**body, "without": tuple(body["without"]), "recipients": tuple(body.get("recipients", ()))}
        self.versions.append(Version(entry=entry.number, **told))
        if told.get("released", True):
            self.current[told["name"]] = told["digest"]

    def _request(self, entry: Entry, body: Mapping[str, Any]) -> None:
        received = datetime.fromisoformat(body["received"])
        until = due(received, Term.parse(self.policy["due"]))
        self.requests[body["name"]] = Asked(entry=entry.number, due=until, **{**body, "received": received})

    def _repeated(self, entry: Entry, body: Mapping[str, Any]) -> None:
        pass

    def _extended(self, entry: Entry, body: Mapping[str, Any]) -> None:
        asked = self.requests[body["request"]]
        until = due(asked.received, Term.parse(self.policy["due"]), Term.parse(body["by"]))
        self._set(asked, due=until, extended=body["reason"])

    def _held(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._set(self.requests[body["request"]], status="held", reason=body["reason"])

    def _lifted(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._set(self.requests[body["request"]], status="open", reason="")

    def _refused(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._set(self.requests[body["request"]], status="refused", reason=body["reason"])

    def _serving(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.batch, self.serving = tuple(body["requests"]), entry.number

    def _served(self, entry: Entry, body: Mapping[str, Any]) -> None:
        for name in body["requests"]:
            self._set(self.requests[name], status="served", served=entry.number)
        levels = {m["level"] for m in body["models"]} - {""}
        if levels and body["requests"]:  # a late model alone is no round
            self.approximate = self.approximate + 1 if min(levels) < "E4" else 0
        self.batch, self.serving = (), 0

    def _failed(self, entry: Entry, body: Mapping[str, Any]) -> None:
        for name in body["requests"]:
            asked = self.requests[name]
            self._set(asked, tried=(*asked.tried, entry.number))
        self.batch, self.serving = (), 0

    def _withdrawn(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._release(body["digest"], released=False, why_not=body["reason"])
        if self.current.get(body["name"]) == body["digest"]:
            del self.current[body["name"]]

    def _used(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._release(body["digest"], released=True, why_not="")
        self.current[body["name"]] = body["digest"]

    def _evidence(self, entry: Entry, body: Mapping[str, Any]) -> None:
        pass

    def _expired(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.expired = (*self.expired, body["request"])

    def _set(self, asked: Asked, **changed: Any) -> None:
        self.requests[asked.name] = replace(asked, **changed)

    def _release(self, digest: str, **changed: Any) -> None:
        self.versions = [replace(v, **changed) if v.digest == digest else v for v in self.versions]


def now_utc() -> datetime:
    """The clock."""
    return datetime.now(UTC)
