"""Serving: approximate edits, relapse, what cannot be made anew, and runs that were stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unweave import Data, Request, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.errors import InputError, IntegrityError
from unweave.io.checkpoint import load_into
from unweave.jobs import Subject
from unweave.jobs.deletion import Deletion
from unweave.jobs.ledger import Ledger, Policy, ServeJob, included, plan, verify, verify_bundle
from unweave.jobs.ledger.merkle import leads_to
from unweave.jobs.ledger.plan import due_now, opened
from unweave.jobs.ledger.served import Served
from unweave.jobs.ledger.statistics import report
from unweave.tasks import read_labels

from ..subjects import RECIPE, subject

AT = datetime(2026, 11, 1, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Edited:
    """An edit that a test makes of a function; not exact, as far as anybody can tell."""

    work: Callable[[nn.Module, Request[Any], torch.Generator], nn.Module]

    def apply(self, model: nn.Module, data: Request[Any], *, rng: torch.Generator) -> nn.Module:
        return self.work(model, data, rng)


def anew(model: nn.Module, data: Request[Any], rng: torch.Generator) -> nn.Module:
    return RECIPE.build(data.retain, rng=rng).eval()


def untouched(model: nn.Module, data: Request[Any], rng: torch.Generator) -> nn.Module:
    return model


def small(folder: Path, *, recipe: Any = RECIPE, **policy: Any) -> tuple[Ledger, dict[str, Subject]]:
    """A ledger of the small subject's model."""
    whole = replace(
        subject(),
        recipe=recipe,
        ids=[f"p-{i}" for i in range(150)],
        load=partial(load_into, RECIPE.initial(seeded(0))),
    )
    model = RECIPE.build(whole.train, rng=seeded(1)).eval()
    whole.write(model, folder / "model")
    world = {"main": replace(whole, model=folder / "model")}
    ledger = Ledger.init(folder / "ledger", Policy(**policy))
    ledger.models.add("main", world["main"])
    return ledger, world


def ask(ledger: Ledger, world: dict[str, Subject], *ids: int, **more: Any) -> str:
    return ledger.request(Deletion(subject=world["main"], ids=[f"p-{i}" for i in ids]), **more).request


def serve(ledger: Ledger, world: dict[str, Subject], **more: Any) -> Served:
    return ServeJob(
        ledger=ledger, subjects=world, **{"at_once": True, "jobs": 1, "quick": True, **more}
    ).run()


@pytest.mark.filterwarnings("ignore::unweave.jobs.forget.UnsuitedWarning")
def test_an_edit_that_did_not_forget_is_not_released(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ask(ledger, world, *range(20))
    found = serve(ledger, world, edits={"nothing": Edited(untouched)}, oracles=0, holders=0)
    (main,) = found.models
    assert found.done
    assert (found.level, main["method"]) == ("E4", "retrain")
    assert "nothing: inconclusive; so it was trained from scratch" in main["why"]


@pytest.mark.filterwarnings("ignore::unweave.jobs.forget.UnsuitedWarning")
def test_without_a_recipe_it_stays_open_and_somebody_may_answer_for_it(tmp_path: Path) -> None:
    ledger, world = small(tmp_path, recipe=None)
    name = ask(ledger, world, *range(20))
    before = ledger.state().current["main"]
    found = serve(ledger, world, edits={"nothing": Edited(untouched)}, oracles=0, holders=0)
    assert not found.done
    assert "Next: define `recipe`" in found.waits
    state = ledger.state()
    assert (state.requests[name].status, state.current["main"]) == ("open", before)
    assert len(state.requests[name].tried) == 1
    new = found.models[0]["new"]
    with pytest.raises(InputError, match="was not released: nothing: inconclusive"):
        ledger.models.use("main", new)
    ledger.models.use("main", new, by="the DPO", reason="a filter stands before it")
    assert ledger.state().current["main"] == new
    entry = list(ledger.log.entries())[-1]
    assert (entry.kind, entry.body["by"]) == ("used", "the DPO")


@pytest.mark.filterwarnings("ignore::unweave.jobs.forget.UnsuitedWarning")
def test_rounds_are_counted_and_end_in_a_whole_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unweave.jobs.ledger import serve as module

    monkeypatch.setattr(
        module, "GOOD", ("forgotten", "inconclusive")
    )  # what the audit says is not the point here
    ledger, world = small(tmp_path, retrain_after=2)
    kinds = []
    for i in range(4):
        ask(ledger, world, 10 * i)
        due = plan(ledger, subjects=world, at_once=True)
        found = serve(ledger, world, edits={"anew": Edited(anew)}, oracles=0, holders=0)
        kinds.append((found.models[0]["method"], found.level, bool(due.retrain), ledger.state().approximate))
    assert kinds == [
        ("anew", "E2", False, 1), ("anew", "E2", False, 2), ("retrain", "E4", True, 0), ("anew", "E2", False, 1)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_model_of_unknown_origin_claims_no_more_than_suppression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unweave.jobs.ledger import serve as module

    monkeypatch.setattr(module, "GOOD", ("forgotten", "inconclusive"))
    ledger, world = small(tmp_path)
    ledger.models.add("main", world["main"], parent="unknown")
    ask(ledger, world, 1)
    assert any(
        "what main was made of is not known" in n for n in plan(ledger, subjects=world, at_once=True).notes
    )
    with pytest.warns(UserWarning, match="decide|does not suit|examples"):
        found = serve(
            ledger, world, edits={"anew": Edited(anew)}, oracles=4, holders=4, cache=tmp_path / "cache"
        )
    assert found.level == "E1"
    assert (
        serve_exact_after(ledger, world) == "E4"
    )  # a training from scratch owes nothing to where it came from


def serve_exact_after(ledger: Ledger, world: dict[str, Subject]) -> str:
    ask(ledger, world, 2)
    return serve(ledger, world).level


def test_what_cannot_be_opened_is_withdrawn_and_what_saw_nothing_is_left(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ledger.models.add("copy", world["main"], how="distilled", parent="main", recipients=["clinic"])
    other = world["main"].without(range(10))
    other.write(RECIPE.build(other.train, rng=seeded(2)), tmp_path / "other")
    ledger.models.add("other", replace(other, model=tmp_path / "other"))
    name = ask(ledger, world, 3)
    steps = {v.name: s for v, s in plan(ledger, subjects=world, at_once=True).steps}
    assert steps == {"main": "edit", "copy": "withdraw", "other": "leave"}
    found = serve(ledger, world)
    assert found.done
    assert set(ledger.state().current) == {"main", "other"}
    assert not (ledger.folder / "serving" / "copy").exists()
    bundle = json.loads((ledger.folder / "evidence" / name / "bundle.json").read_text())
    assert [(n["to"], n["model"], n["use instead"]) for n in bundle["notices"]] == [
        ("clinic", "copy", "nothing: withdrawn")
    ]
    assert "**Withdrawn:** copy" in (ledger.folder / "evidence" / name / "answer.md").read_text()
    assert {v.name for v in ledger.models.superseded()} == {"main", "copy"}


def test_examples_that_left_the_data_are_trained_without(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ask(ledger, world, 3, 4)
    removed = {"main": world["main"].without([3, 4])}
    (main,) = serve(ledger, removed).models
    assert (main["method"], main["level"]) == ("made anew", "E4")


class Stop(Exception):
    pass


@pytest.mark.slow
def test_a_stopped_serving_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unweave.jobs.ledger import serve as module

    ledger, world = small(tmp_path / "a")
    ask(ledger, world, 3, 4)
    through = serve(ledger, world)

    ledger, world = small(tmp_path / "b")
    ask(ledger, world, 3, 4)
    real = module._Batch.close
    monkeypatch.setattr(module._Batch, "close", lambda self: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):
        serve(ledger, world)
    assert ledger.state().batch == ("r-00001",)
    late = ask(ledger, world, 5)  # comes in between: not part of what was begun
    monkeypatch.setattr(module._Batch, "close", real)
    # stopped between the entry and the evidence
    monkeypatch.setattr(
        module,
        "write_evidence",
        lambda ledger: (_ for _ in ()).throw(Stop()) if ledger.state().served else [],
    )
    with pytest.raises(Stop):
        serve(ledger, world)
    monkeypatch.undo()
    assert verify(ledger) == ["the evidence of r-00001 is missing"]
    after = serve(ledger, world)
    assert after.requests == (late,)
    assert verify(ledger) == []
    assert [v.digest for v in ledger.state().versions][1] == through.models[0]["new"]
    assert len(list(ledger.folder.glob("runs/*"))) == 2


def test_a_failed_serving_is_kept_and_tried_again(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    everything = ask(ledger, world, *range(150))
    with pytest.raises(InputError, match="Delete the model instead"):
        serve(ledger, world)
    assert ledger.state().requests[everything].tried
    assert ledger.state().batch == ()
    failed = [e for e in ledger.log.entries() if e.kind == "failed"]
    assert failed[0].body["reason"] == "Serving stopped: InputError."


def test_purge_removes_what_is_the_ledgers_own(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ask(ledger, world, 3)
    serve(ledger, world)
    first = ledger.models.place(ledger.state().in_use()[0])
    ask(ledger, world, 4)
    found = serve(ledger, world, purge=True)
    assert not first.exists()
    assert found.still == (str(ledger.models.place(ledger.state().versions[0])),)  # the user's own file stays
    assert (tmp_path / "model").exists()
    assert verify(ledger) == []


def test_requests_are_gathered_for_a_window(tmp_path: Path) -> None:
    ledger, world = small(tmp_path, window=7)
    now = datetime.now(UTC)
    ask(ledger, world, 1, received=now - timedelta(days=6, hours=23))
    ask(ledger, world, 2, received=now - timedelta(days=1))
    state = ledger.state()
    assert due_now(state, 7, now)[0] == []
    assert "gathered until" in due_now(state, 7, now)[1]
    assert [a.name for a in due_now(state, 7, now + timedelta(hours=1))[0]] == ["r-00001", "r-00002"]
    assert len(due_now(state, 7, now, at_once=True)[0]) == 2
    assert serve(ledger, world, at_once=False).requests == ()
    ask(ledger, world, 3, urgent=True)
    assert len(due_now(ledger.state(), 7, now)[0]) == 3
    with pytest.raises(InputError, match="still to come"):
        ask(ledger, world, 5, received=now + timedelta(days=1))


def test_hold_lift_refuse_extend(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    one, two = ask(ledger, world, 1), ask(ledger, world, 2)
    for act in (ledger.hold, ledger.refuse):
        with pytest.raises(InputError, match="needs a reason"):
            act(one, " ")
    ledger.hold(one, "a court")
    with pytest.raises(InputError, match="cannot be held: it is held"):
        ledger.hold(one, "again")
    with pytest.raises(InputError, match="is not held: it is open"):
        ledger.lift(two, "x")
    ledger.refuse(two, "not theirs")
    assert "1 held" in due_now(ledger.state(), 7, datetime.now(UTC))[1]
    assert serve(ledger, world).requests == ()
    # what is held may not be trained on, what was refused may
    assert len(ledger.allowed(world["main"]).train) == 149
    assert ledger.lift(one, "settled").status == "open"
    until = ledger.known(one).due
    assert ledger.extend(one, "60 days", "many at once").due - until == timedelta(days=60)
    with pytest.raises(InputError, match="there is one extension"):
        ledger.extend(one, "1 day", "again")
    with pytest.raises(InputError, match="has no request 'r-9'"):
        ledger.hold("r-9", "x")
    serve(ledger, world)
    assert (
        "**Why it took longer:** many at once" in (ledger.folder / "evidence" / one / "answer.md").read_text()
    )
    told = report(ledger)
    assert told.overdue == ()
    assert report(ledger, now=datetime.now(UTC) + timedelta(days=400)).overdue == ()
    three = ask(ledger, world, 9)
    late = report(ledger, now=datetime.now(UTC) + timedelta(days=31))
    assert late.overdue == (three,)
    assert "1 OVERDUE" in late.text()


def test_models_are_refused_by_name(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    for parent, said in (("mian", "knows no model 'mian'"), ("main", "cannot be its own parent")):
        with pytest.raises(InputError, match=said):
            ledger.models.add("main", world["main"], parent=parent)
    with pytest.raises(InputError, match="letters, digits"):
        ledger.models.add("../main", world["main"])
    with pytest.raises(InputError, match="knows models by their files"):
        ledger.models.add("x", replace(world["main"], model=None))
    ask(ledger, world, 3)
    serve(ledger, world)
    with pytest.raises(InputError, match="the data of main hold 1 examples that were deleted"):
        ledger.models.add("main", world["main"])
    ledger.models.add("new", replace(ledger.allowed(world["main"]), model=tmp_path / "model"))
    with pytest.raises(InputError, match="has no version 'abcdefgh'. It has"):
        ledger.models.use("main", "abcdefgh")
    with pytest.raises(InputError, match="does not know how to open main"):
        opened(ledger.state().in_use()[0], ledger, {})


def test_evidence_stands_on_its_own_and_an_example_is_proven_to_be_in_it(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    name = ask(ledger, world, 3, 4, 5, 6, 7, ground="consent withdrawn", verified=True)
    serve(ledger, world)
    folder = ledger.folder / "evidence" / name
    assert verify_bundle(folder) == []
    proof = included(ledger, name, "p-5")
    assert proof is not None
    steps = [(side == "left", bytes.fromhex(beside)) for side, beside in proof["path"]]
    assert leads_to(bytes.fromhex(proof["leaf"]), steps, bytes.fromhex(proof["root"]))
    assert included(ledger, name, "p-9") is None

    bundle = json.loads((folder / "bundle.json").read_text())
    assert bundle["request"]["root"] == proof["root"]
    assert [e["kind"] for e in bundle["entries"]] == ["request", "serving", "served"]
    assert bundle["request"]["in time"] is True
    for change in (
        lambda b: b["entries"][2]["body"].update(level="E5"),
        lambda b: b["entries"][0].update(signature="00" * 64),
    ):
        altered = json.loads(json.dumps(bundle))
        change(altered)
        (folder / "bundle.json").write_text(json.dumps(altered))
        assert any("in it" in s for s in verify_bundle(folder)) or not ledger.public
        assert any("bundle.json was altered" in s for s in verify(ledger))
    (folder / "bundle.json").write_text("{")
    assert any("bundle.json was altered" in s for s in verify(ledger))
    with pytest.raises(IntegrityError, match="is damaged"):
        verify_bundle(folder)
    with pytest.raises(InputError, match="holds no evidence"):
        verify_bundle(tmp_path)


def test_a_log_put_back_from_before_is_told_by_the_evidence(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ask(ledger, world, 3)
    ledger.log._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (ledger.folder / "ledger.sqlite").read_bytes()
    serve(ledger, world)
    ledger.log.close()
    for file in ledger.folder.glob("ledger.sqlite-*"):
        file.unlink()
    (ledger.folder / "ledger.sqlite").write_bytes(before)
    found = verify(Ledger(ledger.folder))
    assert any("is gone or another than it was when" in s and s.startswith("entry 6") for s in found), found


def test_unsigned_and_gone_keys(tmp_path: Path) -> None:
    whole = subject(model=True)
    ledger = Ledger.init(tmp_path / "plain", sign=False)
    assert ledger.public == ""
    assert verify(ledger) == []
    assert all(e.signature == "" for e in ledger.log.entries())
    with pytest.raises(InputError, match="knows models by their files"):
        ledger.models.add("main", whole)
    with pytest.raises(InputError, match="is not empty"):
        Ledger.init(tmp_path / "plain")
    with pytest.raises(InputError, match="could be due"):
        Policy(window=30)
    (tmp_path / "plain" / "fingerprints.key").unlink()
    with pytest.raises(IntegrityError, match="is gone: which examples were deleted cannot be told"):
        Ledger(tmp_path / "plain")


@pytest.mark.slow
def test_an_earlier_request_that_comes_back_forces_a_training_from_scratch(tmp_path: Path) -> None:
    """Approximate edits with an audit that decides: one that holds, and one that brings an earlier class back."""
    train, heldout = digits()
    recipe = Supervised(network=partial(mlp, 64, 48, 10), epochs=12, lr=0.1)
    base = Subject(
        train=train, heldout=heldout, recipe=recipe, ids=list(range(len(train))), model=tmp_path / "model"
    )
    base.write(recipe.build(train, rng=seeded(1)), tmp_path / "model")
    ledger, world = Ledger.init(tmp_path / "ledger"), {"main": base}
    ledger.models.add("main", base)

    def forgets(model: nn.Module, data: Request[Any], rng: torch.Generator) -> nn.Module:
        return recipe.build(data.retain, rng=rng).eval()

    labels = read_labels(train)
    threes = train.subset((labels == 3).nonzero().flatten())

    def brings_back(model: nn.Module, data: Request[Any], rng: torch.Generator) -> nn.Module:
        both: Data[Any] = replace(
            data.retain, examples=torch.utils.data.ConcatDataset([data.retain.examples, threes.examples])
        )
        return recipe.build(both, rng=rng).eval()

    how = {
        "at_once": True,
        "jobs": 1,
        "quick": True,
        "cache": tmp_path / "cache",
        "ledger": ledger,
        "subjects": world,
    }
    ledger.request(Deletion(subject=base, classes=[3]))
    one = ServeJob(**how, edits={"forgets": Edited(forgets)}).run()
    assert (one.level, one.models[0]["outcome"]) == ("E2", "forgotten")
    ledger.request(Deletion(subject=base, classes=[5]))
    two = ServeJob(**how, edits={"brings back": Edited(brings_back)}).run()
    assert [(r["request"], r["outcome"]) for r in two.relapse] == [("r-00001", "not forgotten")]
    assert (two.level, two.models[0]["method"]) == ("E4", "retrain")
    assert "r-00001 came back; so it was trained from scratch" in two.models[0]["why"]
    ledger.request(Deletion(subject=base, classes=[7]))
    three = ServeJob(**how, edits={"forgets": Edited(forgets)}).run()
    assert [(r["request"], r["outcome"]) for r in three.relapse] == [
        ("r-00001", "forgotten"), ("r-00002", "forgotten")
    ]  # fmt: skip
    assert three.level == "E2"
    assert report(ledger).lapses == 1
    assert verify(ledger) == []
