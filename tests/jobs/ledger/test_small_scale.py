"""Twenty mixed requests over a model with a pruned and a distilled child."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unweave import Data, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.errors import InputError, IntegrityError
from unweave.io.checkpoint import load_into
from unweave.jobs import Subject
from unweave.jobs.deletion import Deletion
from unweave.jobs.ledger import Ledger, Policy, ServeJob, verify
from unweave.prune import Global, Prune
from unweave.tasks import read_labels

NETWORK = partial(mlp, 64, 16, 10)
N = 400
PLAIN = Supervised(network=NETWORK, epochs=4, lr=0.1)
SPARSE = Supervised(
    network=NETWORK,
    epochs=4,
    lr=0.1,
    init_seed=0,
    prune=Prune(budget=Global(0.5)),
    recover_epochs=1,
    recover_lr=0.05,
)


@dataclass(frozen=True)
class Distilled:
    """Learns its parent's answers."""

    parent: Path

    def initial(self, rng: torch.Generator) -> nn.Module:
        return PLAIN.initial(rng)

    def build(self, data: Data[Any], *, rng: torch.Generator) -> nn.Module:
        teacher, student = load_into(NETWORK(), self.parent).eval(), self.initial(rng)
        x = torch.stack([data.examples[i][0] for i in range(len(data))])
        optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
        with torch.no_grad():
            goal = teacher(x).softmax(1)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(x), goal).backward()
            optimizer.step()
        return student


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """Subjects of the three models, trained."""
    room = tmp_path_factory.mktemp("models")
    train, heldout = digits()
    train = train.subset(torch.arange(N))
    ids = [f"person-{i:05}" for i in range(N)]
    columns = {"owner": [f"owner-{i // 5}" for i in range(N)], "digit": read_labels(train).tolist()}
    base = Subject(train=train, heldout=heldout, ids=ids, columns=columns, recipe=PLAIN)
    found = {}
    for name, recipe in (("main", PLAIN), ("pruned", SPARSE), ("student", Distilled(room / "main"))):
        model = recipe.build(train, rng=seeded(1))
        subject = replace(base, recipe=recipe, model=room / name)
        subject.write(model, room / name)
        found[name] = subject
    return found


def begun(folder: Path, world: dict[str, Subject], **policy: Any) -> Ledger:
    ledger = Ledger.init(folder, Policy(**policy))
    for name, subject in world.items():
        ledger.models.add(
            name, subject, how="trained", parent="" if name == "main" else "main", recipients=["clinic"]
        )
    return ledger


def of(world: dict[str, Subject], **named: Any) -> Deletion:
    return Deletion(subject=world["main"], **named)


def test_twenty_requests_end_as_a_training_on_what_is_left(tmp_path: Path, world: dict[str, Subject]) -> None:
    ledger = begun(tmp_path / "ledger", world)
    ids = world["main"].ids
    asked = [{"ids": [ids[i]]} for i in (0, 7, 13, 21, 350, 351)]  # single examples
    asked += [{"where": f"owner=owner-{i}"} for i in (3, 9, 30, 55, 70)]  # subjects
    asked += [{"classes": ["4"]}]
    asked += [{"ids": [ids[0]]}, {"where": "owner=owner-9"}]  # repeated
    asked += [{"ids": [ids[7], ids[100]]}, {"ids": ids[200:240]}]  # partly known; larger
    asked += [{"where": "owner=owner-11"}]  # to be held
    taken = [ledger.request(of(world, **a), verified=True) for a in asked]
    for unknown in ({"ids": ["person-99999"]}, {"where": "owner=nobody"}, {"ids": []}):
        with pytest.raises(InputError):
            ledger.request(of(world, **unknown))
    assert taken[12].request == taken[0].request
    assert taken[12].new == 0
    assert taken[13].request == taken[7].request
    assert taken[14].new == 1
    assert taken[14].known == {taken[1].request: 1}
    held = taken[16].request
    ledger.hold(held, "a claim is before a court")

    for name in ledger.state().requests:  # the line of models is found every time
        hit = {v.name for v in ledger.models.impact(ledger.log.scope(name))}
        assert hit == {"main", "pruned", "student"}

    old = {v.name: v for v in ledger.state().in_use()}
    done = ServeJob(ledger=ledger, subjects=world, at_once=True).run()
    assert done.done
    assert done.level == "E4"
    assert {m["name"]: m["step"] for m in done.models} == {
        "main": "edit", "pruned": "make anew", "student": "make anew"
    }  # fmt: skip
    state = ledger.state()
    assert state.requests[held].status == "held"
    assert not state.waiting

    rest = world["main"].without(ledger.positions(world["main"], state.served))
    assert len(rest.train) == N - sum(r.examples for r in state.requests.values() if r.status == "served")
    gone = {p for r in state.served for p in ledger.log.scope(r)}
    assert gone.isdisjoint(ledger.prints(rest))

    # (2) the same requests in another order, in several rounds, end in the same bits
    other = begun(tmp_path / "other", world)
    for some in (asked[:15][::-1], [asked[15]]):
        for a in some:
            other.request(of(world, **a))
        assert ServeJob(ledger=other, subjects=world, at_once=True).run().done
    now, then = ({v.name: v.digest for v in x.state().in_use()} for x in (ledger, other))
    assert now["main"] == then["main"]
    assert now["pruned"] == then["pruned"]
    assert now["student"] == then["student"]
    assert now["main"] != old["main"].digest

    # (5) nothing of the examples is in the evidence
    told = b"".join(f.read_bytes() for f in (tmp_path / "ledger" / "evidence").rglob("*") if f.is_file())
    assert told
    assert b"person-" not in told
    assert b"owner-" not in told
    assert str(tmp_path).encode() not in told
    for f in (tmp_path / "ledger").glob("ledger.sqlite*"):
        assert b"person-" not in f.read_bytes()
        assert b"owner-" not in f.read_bytes()

    # (6) nobody goes back to before the deletion
    for name, version in old.items():
        with pytest.raises(InputError, match=f"of {name} holds what r-0"):
            ledger.models.use(name, version.digest)
    assert (tmp_path / "ledger" / "serving" / "main").resolve() == ledger.models.place(
        state.in_use()[0]
    ).resolve()

    assert verify(ledger) == []


def tampered(source: Path, to: Path, sql: str) -> Ledger:
    shutil.copytree(source, to, symlinks=True)
    with sqlite3.connect(to / "ledger.sqlite") as db:
        db.executescript(f"DROP TRIGGER never_changed; DROP TRIGGER never_removed; {sql}")
    return Ledger(to)


def test_verify_names_the_entry_that_was_altered_or_dropped(
    tmp_path: Path, world: dict[str, Subject]
) -> None:
    ledger = begun(tmp_path / "ledger", world)
    for i in (3, 5, 8):
        ledger.request(of(world, ids=[world["main"].ids[i]]), ground="art. 17")
    last = ledger.head()["number"]
    ledger.log.close()
    source = tmp_path / "ledger"
    for n, (sql, said) in enumerate(
        {
            "UPDATE log SET body = replace(body, 'art. 17', 'art. 16') WHERE number = 5": "entry 5 was altered",
            "UPDATE log SET time = '2001-01-01T00:00:00.000+00:00' WHERE number = 6": "entry 6 was altered",
            "DELETE FROM log WHERE number = 4": "entry 4 is missing",
            f"DELETE FROM log WHERE number = {last}": f"entry {last} is missing",
            f"DELETE FROM log WHERE number >= {last - 1}": f"entry {last - 1} to {last} is missing",
            "DELETE FROM scope WHERE request = 'r-00002'": "the examples of r-00002 are not those",
        }.items()
    ):
        found = verify(tampered(source, tmp_path / f"t{n}", sql))
        assert any(said in sentence for sentence in found), (sql, found)
    # one byte of a model
    copy = tmp_path / "bytes"
    shutil.copytree(source, copy, symlinks=True)
    again = Ledger(copy)
    assert verify(again) == []
    main = again.models.place(again.state().in_use()[0]) / "model.safetensors"
    raw = bytearray(main.read_bytes())
    raw[-1] ^= 1
    main.write_bytes(raw)
    try:
        assert any("the files of main" in s and "entry 2" in s for s in verify(again))
    finally:
        raw[-1] ^= 1
        main.write_bytes(raw)
    (copy / "fingerprints.key").write_bytes(b"x" * 32)
    with pytest.raises(IntegrityError, match="not the key"):
        Ledger(copy)
