"""The log of a ledger: entries that are only ever added, each with the hash of the one before it.

A changed, dropped or exchanged entry breaks the chain where it stands. Entries dropped from the end break nothing: they
are told by the head, the newest entry's number and hash, which is kept beside them and in every evidence bundle.
sqlite3 writes it, with a write-ahead log and synchronous=FULL: an entry that `append` returned survives a power cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...errors import InputError, IntegrityError, StorageError
from .signing import Signer

FILE = "ledger.sqlite"
START = "0" * 64
"""What the first entry follows."""
SLACK = timedelta(seconds=5)
"""A clock may be set back by this much; an entry then has the time of the one before it."""
_SCHEMA = """
CREATE TABLE log(
  number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL
) STRICT;
CREATE TABLE scope(request TEXT NOT NULL, print BLOB NOT NULL, PRIMARY KEY(request, print)) STRICT, WITHOUT ROWID;
CREATE INDEX prints ON scope(print);
CREATE TABLE head(number INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;
INSERT INTO head VALUES (0, '');
CREATE TRIGGER never_changed BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER never_removed BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END;
"""


class ClockError(InputError):
    """The clock went back behind the newest entry."""


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        number: 1, 2, ...
        time: when it was added, UTC, ISO 8601.
        kind: of event.
        body: what happened, plain JSON.
        previous: hash of the entry before.
        hash: of all of the above.
        signature: of the hash, in hexadecimal digits; "" in a ledger that is not signed.
    """

    number: int
    time: str
    kind: str
    body: Mapping[str, Any]
    previous: str
    hash: str
    signature: str

    @property
    def reckoned(self) -> str:
        """The hash that it must have."""
        return _hash(self.number, self.time, self.kind, _canonical(self.body), self.previous)


class Log:
    """The log in a folder, opened for one process at a time to add to, and for any number to read."""

    def __init__(self, folder: Path, *, signer: Signer | None = None) -> None:
        self.folder, self.signer = folder, signer
        if not (folder / FILE).is_file():
            raise InputError(
                f"{folder} is no ledger: it has no {FILE}. Begin one: unweave ledger init {folder}."
            )
        try:
            self._db = sqlite3.connect(folder / FILE, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("SELECT number FROM log LIMIT 1")
        except sqlite3.Error as error:
            raise _unusable(folder, error) from error

    @classmethod
    def create(cls, folder: Path) -> None:
        """Make an empty log.

        Raises:
            InputError: if there is one.
        """
        if (folder / FILE).exists():
            raise InputError(f"{folder} is a ledger already. Give another folder.")
        beside = folder / f".{FILE}.partial"
        beside.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(beside, isolation_level=None)) as db:
                db.executescript(_SCHEMA)
            os.replace(beside, folder / FILE)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"{folder / FILE} could not be made ({error}). Make room and run again."
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def append(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        scope: Iterable[tuple[str, bytes]] = (),
        now: datetime | None = None,
    ) -> Entry:
        """Add an entry; it is on the disk when this returns.

        Args:
            kind: of event.
            body: what happened, plain JSON.
            scope: (request, fingerprint) to keep together with it.
            now: the time; the clock's unless given.

        Raises:
            ClockError: if the clock is behind the newest entry.
            StorageError: if it cannot be written; then nothing was.
        """
        with self.adding() as add:
            return add(kind, body, scope=scope, now=now)

    @contextmanager
    def adding(self) -> Iterator[Callable[..., Entry]]:
        """Add several entries, all or none; nobody else adds any in between. Yields a function like `append`."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._add
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _unusable(self.folder, error) from error

    def _add(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        scope: Iterable[tuple[str, bytes]] = (),
        now: datetime | None = None,
    ) -> Entry:
        last = self._db.execute("SELECT number, time, hash FROM log ORDER BY number DESC LIMIT 1").fetchone()
        number, then, previous = last or (0, None, START)
        time = _later(now or datetime.now(UTC), then, number)
        text = _canonical(body)
        digest = _hash(number + 1, time, kind, text, previous)
        signature = self.signer.sign(bytes.fromhex(digest)) if self.signer else ""
        entry = Entry(number + 1, time, kind, json.loads(text), previous, digest, signature)
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.number, time, kind, text, previous, digest, signature),
        )
        self._db.execute("UPDATE head SET number = ?, hash = ?", (entry.number, digest))
        self._db.executemany("INSERT INTO scope VALUES (?, ?)", scope)
        return entry

    def entries(self) -> Iterator[Entry]:
        """All entries, oldest first, as they stand; see `verify`.

        Raises:
            IntegrityError: if one cannot be read at all.
        """
        try:
            for number, time, kind, body, *hashes in self._db.execute("SELECT * FROM log ORDER BY number"):
                try:
                    yield Entry(number, time, kind, json.loads(body), *hashes)
                except (ValueError, RecursionError) as error:
                    raise IntegrityError(
                        f"entry {number} of the ledger {self.folder} was altered."
                    ) from error
        except sqlite3.Error as error:
            raise _unusable(self.folder, error) from error

    def count(self, kind: str) -> int:
        """Entries of a kind."""
        return int(self._db.execute("SELECT count(*) FROM log WHERE kind = ?", (kind,)).fetchone()[0])

    def scope(self, request: str) -> list[bytes]:
        """Fingerprints of what a request deletes, ascending."""
        return [
            p
            for (p,) in self._db.execute(
                "SELECT print FROM scope WHERE request = ? ORDER BY print", (request,)
            )
        ]

    def scopes(self) -> dict[str, set[bytes]]:
        """Request -> fingerprints of what it deletes."""
        found: dict[str, set[bytes]] = {}
        for request, one in self._db.execute("SELECT request, print FROM scope"):
            found.setdefault(request, set()).add(one)
        return found

    def requests_with(self, prints: Iterable[bytes]) -> dict[bytes, str]:
        """Fingerprint -> the first request that names it, of those that one names."""
        found: dict[bytes, str] = {}
        listed = list(prints)
        for i in range(0, len(listed), 500):
            part = listed[i : i + 500]
            marks = ",".join("?" * len(part))
            for one, request in self._db.execute(
                f"SELECT print, min(request) FROM scope WHERE print IN ({marks}) GROUP BY print", part
            ):
                found[one] = request
        return found

    def verify(self, public: str) -> list[str]:
        """What is wrong with the entries, each sentence with the number of the entry; empty if nothing is.

        Args:
            public: key that signs, from outside the log; "" if it is not signed.
        """
        wrong: list[str] = []
        previous, expected, then = START, 1, ""
        signer = self.signer or Signer(self.folder)
        try:
            for entry in self.entries():
                if entry.number != expected:
                    gone = (
                        f"{expected}" if entry.number == expected + 1 else f"{expected} to {entry.number - 1}"
                    )
                    wrong.append(f"entry {gone} is missing")
                elif entry.previous != previous:
                    wrong.append(
                        f"entry {entry.number} does not follow entry {entry.number - 1}: one of them was exchanged"
                    )
                if entry.reckoned != entry.hash:
                    wrong.append(f"entry {entry.number} was altered: its hash is another")
                elif public and not signer.agrees(entry.signature, bytes.fromhex(entry.hash), public):
                    wrong.append(f"entry {entry.number} is not signed by this ledger's key")
                if entry.time < then:
                    wrong.append(f"entry {entry.number} is older than the one before it")
                previous, expected, then = entry.hash, entry.number + 1, entry.time
        except IntegrityError as error:
            wrong.append(str(error))
        return wrong + self._behind_head(expected - 1)

    def _behind_head(self, last: int) -> list[str]:
        head = self._db.execute("SELECT number, hash FROM head").fetchall()
        if len(head) != 1:
            return ["the head, which names the newest entry, is gone"]
        ((number, digest),) = head
        if number > last:
            gone = f"{number}" if number == last + 1 else f"{last + 1} to {number}"
            return [f"entry {gone} is missing: the head names entry {number} as the newest"]
        found = self._db.execute("SELECT hash FROM log WHERE number = ?", (number,)).fetchone()
        if number < last or (found is not None and found[0] != digest):
            return [
                f"entry {last} is not the newest that the head names: it was added or exchanged from outside"
            ]
        return []


def _later(now: datetime, then: str | None, number: int) -> str:
    if now.tzinfo is None:
        raise InputError(f"the time {now} has no time zone. Give one.")
    now = now.astimezone(UTC)
    if then is not None and now < (last := datetime.fromisoformat(then)):
        if last - now > SLACK:
            raise ClockError(
                f"the clock says {now.isoformat(timespec='seconds')}, but entry {number} was added at {then}. Set the "
                "clock right: due dates and the order of the log hang on it."
            )
        return then
    return now.isoformat(timespec="milliseconds")


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(number: int, time: str, kind: str, body: str, previous: str) -> str:
    return hashlib.sha256("\n".join((str(number), time, kind, previous, body)).encode()).hexdigest()


def _unusable(folder: Path, error: sqlite3.Error) -> UnweaveFault:
    if isinstance(error, sqlite3.OperationalError):
        return StorageError(
            f"the ledger {folder} cannot be used ({error}). Make room, or wait for whoever holds it."
        )
    return IntegrityError(f"the ledger {folder} is damaged ({error}). Put {FILE} back from a copy.")


UnweaveFault = StorageError | IntegrityError
