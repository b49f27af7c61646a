"""What a ledger says and does along the line of models: parents, late children, models in shards, words and cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unweave import OwnLoop, seeded
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.io.checkpoint import load_into
from unweave.jobs import ExactJob, ForgetJob, Subject
from unweave.jobs.deletion import Deletion
from unweave.jobs.ledger import Ledger, Policy, plan, verify
from unweave.jobs.ledger.evidence import old_evidence, remove_evidence
from unweave.jobs.ledger.parents import unlike
from unweave.jobs.ledger.statistics import report
from unweave.jobs.ledger.utility import lost
from unweave.jobs.subject import Before
from unweave.prune import Global, Prune
from unweave.tasks import read_labels
from unweave.unlearn import SISA, Retrain
from unweave.unlearn.exact.folder import read_record

from ..subjects import RECIPE, subject
from .test_serve import ask, serve, small

NETWORK = partial(RECIPE.initial, seeded(0))
STEPS: list[str] = []


def distilled(given: Path) -> Callable[..., nn.Module]:
    def recipe(train: Any, seed: int, parent: Path = given) -> nn.Module:
        STEPS.append(str(parent))
        teacher, student = load_into(NETWORK(), parent).eval(), RECIPE.initial(seeded(seed))
        x = torch.stack([train[i][0] for i in range(len(train))])
        optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.mse_loss(student(x), teacher(x).detach()).backward()
            optimizer.step()
        return student

    return recipe


def with_child(folder: Path) -> tuple[Ledger, dict[str, Subject]]:
    """A ledger of the small model, and the subject of a child that a plain function makes of it."""
    ledger, world = small(folder)
    recipe = OwnLoop(function=distilled(folder / "model"))
    child = replace(world["main"], recipe=recipe, model=folder / "child", network=NETWORK, load=None)
    child.write(recipe.build(child.train, rng=seeded(1)), folder / "child")
    return ledger, {**world, "small": child}


def test_an_exact_round_says_exact_in_model_card_report_and_evidence(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    name = ask(ledger, world, 3, 4)
    (main,) = serve(ledger, world).models
    assert (main["level"], main["outcome"]) == ("E4", "exact")
    card = (ledger.folder / "serving" / "main" / "README.md").read_text()
    assert "Exact.** Exact by construction" in card
    run = ledger.models.place(ledger.state().in_use()[0]).parent
    for text in (card, (run / "report.md").read_text(), (run / "report.html").read_text()):
        assert "Inconclusive" not in text
        assert "No control was run" not in text
        assert "nothing is decided" not in text
    bundle = json.loads((ledger.folder / "evidence" / name / "bundle.json").read_text())
    assert bundle["audits"]["main"]["verdict"]["outcome"] == "exact"

    name = ask(ledger, world, 5)  # the data still hold what went first: the ledger keeps it out
    serve(ledger, world)
    run = ledger.models.place(ledger.state().in_use()[0]).parent
    for text in ((run / "report.md").read_text(), (run / "model" / "README.md").read_text()):
        assert "none is in the data any more" not in text
        assert (
            "1 earlier request deleted 2 examples from this model: 2 are kept out of the data by the ledger"
            in text
        )


def test_what_became_of_earlier_examples_in_words() -> None:
    told = {
        (2, 0): "2 are still in the data and are kept out",
        (0, 2): "2 are kept out of the data by the ledger",
        (1, 1): "1 are still in the data and are kept out, 1 are kept out of the data by the ledger",
        (0, 0): "none is in the data any more",
    }
    for (there, out), words in told.items():
        before = Before(requests=1, examples=2, positions=tuple(range(there)), kept_out=out)
        assert str(before) == f"1 earlier request deleted 2 examples from this model: {words}"
    assert str(Before()) == ""


def test_a_run_of_an_exact_method_without_references_is_exact(tmp_path: Path) -> None:
    owner = subject(model=True)
    done = ForgetJob(
        subject=owner, classes=["ash"], edits={"retrain": Retrain(recipe=RECIPE)}, oracles=0, holders=0
    ).run(tmp_path / "run")
    assert (done.audits[0].verdict.outcome, done.passed) == ("exact", True)
    assert "the model that is handed out" not in (tmp_path / "run" / "holders.json").read_text()


def test_a_training_function_gets_the_version_of_its_parent_in_use(tmp_path: Path) -> None:
    ledger, world = with_child(tmp_path)
    ledger.models.add("small", world["small"], how="distilled", parent="main")
    ask(ledger, world, 3, 4)
    STEPS.clear()
    found = serve(ledger, world)
    main, child = found.models
    (new,) = (v for v in ledger.state().in_use() if v.name == "main")
    assert STEPS == [str(ledger.models.place(new))]
    assert (child["step"], child["level"], child["outcome"]) == ("make anew", "E4", "exact")
    in_use = {v.name: v for v in ledger.state().in_use()}
    assert in_use["small"].parent == main["new"]
    assert "made anew by its own recipe" in (ledger.models.place(in_use["small"]) / "README.md").read_text()
    assert verify(ledger) == []

    # of an example that the child alone saw, it is made of the parent in use, not of the recipe's own
    fewer = world["main"].without([3, 4, 9])
    fewer.write(RECIPE.build(fewer.train, rng=seeded(2)), tmp_path / "fewer")
    ledger.models.add("main", replace(fewer, model=tmp_path / "fewer"))
    asked = {**world, "main": replace(fewer, model=tmp_path / "fewer")}
    ledger.request(Deletion(subject=world["main"], ids=["p-9"]))
    STEPS.clear()
    steps = {m["name"]: m["step"] for m in serve(ledger, asked).models}
    assert steps == {"main": "leave", "small": "make anew"}
    assert [Path(step).resolve() for step in STEPS] == [tmp_path / "fewer"]


def test_a_pruned_child_whose_recipe_trains_a_dense_one_is_not_made_dense(tmp_path: Path) -> None:
    ledger, world = with_child(tmp_path)
    main = load_into(NETWORK(), tmp_path / "model")
    pruned = Prune(budget=Global(0.5)).apply(main, world["main"].train, rng=seeded(0))
    world["main"].write(pruned, tmp_path / "pruned")
    with pytest.raises(InputError, match=r"small is pruned \(.* and its recipe trains a dense one"):
        ledger.models.add("small", replace(world["main"], model=tmp_path / "pruned"), parent="main")
    world["small"] = replace(world["small"], model=tmp_path / "pruned")  # a function, which cannot be asked
    ledger.models.add("small", world["small"], parent="main")
    ask(ledger, world, 3)
    found = serve(ledger, world)
    assert not found.done
    assert "small was not released: the model is pruned and its recipe made a dense one" in found.waits
    assert "its recipe made a network of 1,191 weights" in unlike(main, mlp(8, 99, 3))
    assert unlike(main, NETWORK()) == ""


def test_a_child_of_a_withdrawn_parent_is_withdrawn(tmp_path: Path) -> None:
    ledger, world = with_child(tmp_path)
    ledger.models.add("small", world["small"], parent="main")
    ask(ledger, world, 3)
    STEPS.clear()
    found = serve(ledger, {"small": world["small"]})
    assert [m["step"] for m in found.models] == ["withdraw", "withdraw"]
    assert "main, which it is made of, was withdrawn" in found.models[1]["why"]
    assert STEPS == []


def test_a_parent_that_a_function_cannot_take_is_refused() -> None:
    def needs(train: Any, seed: int, parent: Path) -> nn.Module:
        raise AssertionError

    def takes_none(train: Any, seed: int) -> nn.Module:
        raise AssertionError

    with pytest.raises(InputError, match="Give parent a default"):
        OwnLoop(function=needs)
    with pytest.raises(InputError, match=r"takes no parent, so OwnLoop\.parent would do nothing"):
        OwnLoop(function=takes_none, parent=Path("model"))


def test_a_child_taken_in_after_a_deletion_is_late_and_made_anew(tmp_path: Path) -> None:
    ledger, world = with_child(tmp_path)
    ask(ledger, world, 3, 4)
    serve(ledger, world)
    assert ledger.models.late() == []
    ledger.models.add("small", world["small"], how="distilled", parent="main")
    told = report(ledger)
    assert told.late == ("small",)
    assert "HOLDS what was deleted, due at once: serve" in told.text()
    waits = plan(ledger, subjects=world)
    assert (waits.late, {v.name: s for v, s in waits.steps}) == (
        ("small",), {"main": "leave", "small": "make anew"}
    )  # fmt: skip
    new = ask(ledger, world, 9)  # waits for its window, which what is late does not
    STEPS.clear()
    found = serve(ledger, world, at_once=False)
    (now,) = (v for v in ledger.state().in_use() if v.name == "main")
    assert STEPS == [str(ledger.models.place(now))]
    assert (found.done, found.requests, found.level) == (True, (), "E4")
    assert "Served: what was taken in late" in str(found)
    assert report(ledger).late == ()
    assert ledger.known(new).status == "open"
    assert verify(ledger) == []
    # a version that would undo a deletion is no late one
    with pytest.raises(InputError, match="the data of small hold 2 examples that were deleted"):
        ledger.models.add("small", world["small"])
    # without what opens it, it is withdrawn
    ledger.models.add("copy", world["main"], how="copied")
    assert (
        serve(ledger, {n: world[n] for n in ("main", "small")}, at_once=False).models[-1]["step"]
        == "withdraw"
    )
    assert report(ledger).late == ()


def test_earlier_versions_of_the_users_are_not_called_purgeable(tmp_path: Path) -> None:
    ledger, world = small(tmp_path)
    ask(ledger, world, 3)
    serve(ledger, world)
    told = report(ledger)
    assert (told.superseded, "serve --purge" in told.text()) == ((0, 1), False)
    assert "Earlier versions elsewhere, which are yours to remove: 1" in told.text()
    ask(ledger, world, 4)
    serve(ledger, world)
    assert report(ledger).superseded == (1, 1)
    found = serve(ledger, world, purge=True)  # nothing is open: what is left is removed all the same
    assert report(ledger).superseded == (0, 1)
    assert found.still == (str(tmp_path / "model"),)
    assert str(tmp_path / "model") in str(found)


def test_what_a_request_takes_too_much_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, world = small(tmp_path)
    request = ask(ledger, world, *range(0, 90))
    notes = plan(ledger, subjects=world, at_once=True).notes
    assert "it takes 60% of the data of main: see who asks before it is served" in notes
    found = serve(ledger, world, edits={"wreck": Retrain(recipe=replace(RECIPE, lr=1e-6, epochs=1))})
    assert any("accuracy on held-out examples fell by" in s for s in found.models[0]["lost"])
    assert any("of class" in s for s in found.models[0]["lost"])
    assert "see who asked for what, and why" in str(found)
    bundle = json.loads((ledger.folder / "evidence" / request / "bundle.json").read_text())
    assert bundle["models"][0]["lost"] == found.models[0]["lost"]
    # one that was chosen, and not named, gives way to a whole training
    ledger, world = small(tmp_path / "again", recipe=replace(RECIPE, init_seed=None, epochs=40))
    monkeypatch.setattr("unweave.jobs.ledger.serve.lost", lambda *_: ["its accuracy fell"])
    ask(ledger, world, 3)
    (main,) = serve(ledger, world).models
    assert (main["method"], main["why"]) == (
        "retrain", "short-retrain: its accuracy fell; so it was trained from scratch"
    )  # fmt: skip
    labels = read_labels(world["main"].train)
    gone = world["main"].without((labels == 0).nonzero().flatten())  # what a class deletion takes is no loss
    old, new = NETWORK(), NETWORK()
    with torch.no_grad():
        for p in new.parameters():
            p.zero_()
    assert not any("ash" in s for s in lost(gone, old, new))


def test_evidence_is_kept_for_as_long_as_the_policy_says(tmp_path: Path) -> None:
    ledger, world = small(tmp_path, keep="1 month")
    request = ask(ledger, world, 3)
    serve(ledger, world)
    now = datetime.now(UTC)
    assert old_evidence(ledger, now + timedelta(days=27)) == []
    later = now + timedelta(days=33)
    assert report(ledger, now=later).old == (request,)
    assert "Evidence whose time is over: 1; serve --purge" in report(ledger, now=later).text()
    assert remove_evidence(ledger, later) == [request]
    assert not (ledger.folder / "evidence" / request).exists()
    assert (verify(ledger), report(ledger, now=later).old) == ([], ())
    assert ask(ledger, world, 3) == request  # who asked is still known under the key
    serve(ledger, world)
    assert not (ledger.folder / "evidence" / request).exists()
    with pytest.raises(InputError):
        Policy(keep="for ever")


@pytest.mark.parametrize("kind", ["SISA", pytest.param("S3T", marks=pytest.mark.slow)])
def test_a_model_in_shards_is_served_to_the_bit(tmp_path: Path, kind: str) -> None:
    if kind == "SISA":
        fast = replace(RECIPE, epochs=2)
        whole = replace(subject(), recipe=fast, ids=[f"p-{i}" for i in range(150)])
        method: Any = SISA(recipe=fast, shards=2, slices=2)
    else:
        from tests.unlearn.test_s3t import FAST, base, images

        data = images()
        method = FAST(shards=2, slices=2)
        whole = Subject(
            train=data, heldout=data, model=base(), network=base, ids=[f"p-{i}" for i in range(len(data))]
        )
    trained = ExactJob(subject=whole, method=method).run(tmp_path / "trained")
    world = {"main": replace(whole, model=trained.folder)}
    ledger = Ledger.init(tmp_path / "ledger")
    ledger.models.add("main", world["main"])
    for ids in ((3, 17), (5,)):
        name = ask(ledger, world, *ids)
        found = serve(ledger, world)
        (main,) = found.models
        assert (found.done, main["level"], main["outcome"]) == (True, "E4", "exact")
        record = read_record(ledger.folder / "serving" / "main")
        assert not {f"p-{i}" for i in (3, 17, 5)[: len(ids) + 1]} & set(record["deleted"])
        bundle = json.loads((ledger.folder / "evidence" / name / "bundle.json").read_text())
        assert bundle["audits"]["main"]["identical"] is True
        assert "tensors have the same bits" in main["why"]
    assert len(record["deleted"]) == 3
    assert verify(ledger) == []
