from __future__ import annotations

import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from unweave.errors import InputError, IntegrityError, StorageError
from unweave.jobs.ledger.log import START, ClockError, Log
from unweave.jobs.ledger.signing import PRIVATE, Signer

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    Log.create(tmp_path)
    return Log(tmp_path)


def test_entries_are_chained_and_come_back(log: Log) -> None:
    first = log.append("begun", {"b": 1, "a": "é"}, now=AT)
    second = log.append("data", {}, now=AT + timedelta(seconds=1))
    assert [first.number, second.number] == [1, 2]
    assert first.previous == START
    assert second.previous == first.hash == first.reckoned
    assert list(log.entries()) == [first, second]
    assert list(Log(log.folder).entries()) == [first, second]
    assert log.verify("") == []


def test_it_survives_a_power_cut(log: Log) -> None:
    assert log._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_entries_are_never_changed_by_a_plain_statement(log: Log) -> None:
    log.append("begun", {}, now=AT)
    for statement in ("UPDATE log SET kind = 'x'", "DELETE FROM log"):
        with pytest.raises(sqlite3.IntegrityError, match="entries are never"):
            log._db.execute(statement)


def test_a_clock_that_goes_back(log: Log) -> None:
    log.append("begun", {}, now=AT)
    slewed = log.append("data", {}, now=AT - timedelta(seconds=5))
    assert datetime.fromisoformat(slewed.time) == AT  # never earlier than the one before
    with pytest.raises(ClockError, match="entry 2 was added at"):
        log.append("data", {}, now=AT - timedelta(seconds=6))
    with pytest.raises(InputError, match="no time zone"):
        log.append("data", {}, now=datetime(2027, 1, 1))
    assert [e.number for e in log.entries()] == [1, 2]


def test_several_entries_all_or_none(log: Log) -> None:
    with pytest.raises(ValueError, match="not JSON"), log.adding() as add:  # noqa: PT012
        add("begun", {}, now=AT, scope=[("r", b"x")])
        add("data", {}, now=AT)
        raise ValueError("not JSON")
    assert list(log.entries()) == []
    assert log.scope("r") == []
    with pytest.raises(ValueError, match="Out of range"):
        log.append("begun", {"x": float("nan")})
    assert log.append("begun", {}, now=AT).number == 1


def test_scope(log: Log) -> None:
    log.append("request", {}, scope=[("r-2", b"c"), ("r-2", b"a")])
    log.append("request", {}, scope=[("r-1", b"a")])
    assert log.scope("r-2") == [b"a", b"c"]
    assert log.requests_with([b"a", b"b", b"c"]) == {b"a": "r-1", b"c": "r-2"}
    assert log.scopes() == {"r-1": {b"a"}, "r-2": {b"a", b"c"}}
    many = [str(i).encode() for i in range(1203)]
    log.append("request", {}, scope=[("r-3", p) for p in many])
    assert len(log.requests_with(many)) == 1203
    assert log.count("request") == 3


def _add(folder: Path, n: int) -> None:
    log = Log(folder)
    for _ in range(n):
        log.append("data", {})


def test_several_processes_add_to_one_chain(log: Log) -> None:
    context = multiprocessing.get_context("fork")
    at_once = [context.Process(target=_add, args=(log.folder, 20)) for _ in range(4)]
    for process in at_once:
        process.start()
    for process in at_once:
        process.join()
        assert process.exitcode == 0
    assert [e.number for e in log.entries()] == list(range(1, 81))
    assert log.verify("") == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE log SET kind = 'x' WHERE number = 2", "entry 2 was altered"),
        ("UPDATE log SET body = '{}' WHERE number = 3", "entry 3 was altered"),
        ("DELETE FROM log WHERE number = 2", "entry 2 is missing"),
        ("DELETE FROM log WHERE number IN (2, 3)", "entry 2 to 3 is missing"),
        ("DELETE FROM log WHERE number = 4", "entry 4 is missing: the head names entry 4"),
        ("DELETE FROM log WHERE number > 1", "entry 2 to 4 is missing"),
        ("UPDATE log SET number = 9 WHERE number = 2; UPDATE log SET number = 2 WHERE number = 3; "
         "UPDATE log SET number = 3 WHERE number = 9", "entry 2 "),
        ("UPDATE log SET body = 'x' WHERE number = 2", "entry 2 of the ledger"),
        ("UPDATE log SET previous = hash WHERE number = 4", "entry 4 does not follow entry 3"),
    ],
)  # fmt: skip
def test_what_was_done_to_it_is_named(log: Log, sql: str, said: str) -> None:
    for i in range(4):
        log.append("data", {"i": i}, now=AT + timedelta(seconds=i))
    assert log.verify("") == []
    log._db.executescript(f"DROP TRIGGER never_changed; DROP TRIGGER never_removed; {sql}")
    assert any(s.startswith(said) for s in log.verify("")), log.verify("")


def test_a_rewritten_chain_is_told_by_its_signatures(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    signer = Signer(tmp_path)
    public = signer.make()
    assert (tmp_path / PRIVATE).stat().st_mode & 0o077 == 0
    Log.create(tmp_path)
    log = Log(tmp_path, signer=signer)
    for i in range(3):
        log.append("data", {"i": i}, now=AT)
    assert log.verify(public) == []
    # somebody without the key makes entry 2 and its hash anew
    log._db.executescript("DROP TRIGGER never_changed; UPDATE log SET body = '{\"i\":7}' WHERE number = 2")
    entry = list(log.entries())[1]
    log._db.execute("UPDATE log SET hash = ? WHERE number = 2", (entry.reckoned,))
    assert "entry 2 is not signed by this ledger's key" in log.verify(public)
    other = Signer(tmp_path / "other")
    (tmp_path / "other").mkdir()
    assert len([s for s in log.verify(other.make()) if "not signed" in s]) == 3
    log.signer = Signer(tmp_path)  # the private key is read anew
    (tmp_path / PRIVATE).write_text("not hexadecimal")
    with pytest.raises(IntegrityError, match="is damaged"):
        log.append("data", {})
    (tmp_path / PRIVATE).unlink()
    with pytest.raises(StorageError, match="takes no entry that is not"):
        log.append("data", {})


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM head", "the head, which names the newest entry, is gone"),
        ("UPDATE head SET number = 1", "entry 2 is not the newest that the head names"),
        ("UPDATE head SET hash = 'x'", "entry 2 is not the newest that the head names"),
    ],
)
def test_head_that_is_gone_or_another(log: Log, sql: str, said: str) -> None:
    for _ in range(2):
        log.append("data", {}, now=AT)
    log._db.execute(sql)
    assert any(s.startswith(said) for s in log.verify(""))


def test_no_ledger_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no ledger"):
        Log(tmp_path)
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(IntegrityError, match="is damaged"):
        Log(tmp_path)
    with pytest.raises(InputError, match="is a ledger already"):
        Log.create(tmp_path)
