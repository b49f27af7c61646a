"""Forgetting and auditing as jobs: from Python in a few lines, refused at once where they cannot work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import RECIPE, subject
from unweave import seeded
from unweave.errors import InputError
from unweave.jobs import Audited, AuditJob, ForgetJob
from unweave.parallel import build_models
from unweave.unlearn import FineTune, Retrain


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))


def test_forgets_a_class_of_a_model_at_hand(tmp_path: Path) -> None:
    edits = {"mine": Retrain(recipe=RECIPE), "fine-tune": FineTune(epochs=2)}
    job = ForgetJob(
        subject=subject(model=True), classes=["ash"], edits=edits, oracles=4, holders=3, jobs=1, quick=True
    )
    model = subject(model=True).model
    assert isinstance(model, torch.nn.Module)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = job.run(tmp_path / "run")
    assert [audit.method for audit in done.audits] == ["mine", "fine-tune"]
    assert done.audits[0].verdict.outcome == "forgotten"  # a retraining is what the audit asks for
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert Audited.read(tmp_path / "run") == done
    assert "50 of 150 training examples, all of class ash" in str(done)
    assert set(done.audits[0].rows("classes")) == {"ash", "birch", "cedar"}
    assert done.page.is_file()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["holders"] == 3
    assert record["command"] == []
    assert list(record["stages"]) == [
        "edit mine",
        "edit fine-tune",
        "reference",
        "audit",
        "holders",
        "report",
    ]
    assert (tmp_path / "run" / "compared" / "fine-tune" / "model.safetensors").is_file()
    written = (tmp_path / "run" / "run.json").read_bytes()
    assert job.run(tmp_path / "run") == done
    assert (tmp_path / "run" / "run.json").read_bytes() == written
    judged = json.loads(done.json())
    assert judged["version"] == 2
    scores = next(p for p in judged["audits"][0]["panels"] if p["name"] == "scores")
    assert "holders" in json.dumps(scores)
    for name, audit in zip(("mine", "fine-tune"), done.audits, strict=True):
        cost, retrain = (
            json.loads((tmp_path / "run" / of).read_text())
            for of in (f"costs/{name}.json", "retraining.json")
        )
        assert cost["resumed"] is False
        time = next(m for m in audit.measurements if m.name == "time of the edit")
        assert (time.value, time.oracle_mean) == (cost["cpu_seconds"], retrain["cpu_seconds"])


@dataclass(frozen=True)
class Interrupted:
    """Fine-tunes; the first time it is stopped after the training."""

    once: Path

    def apply(self, model: torch.nn.Module, data: Any, *, rng: torch.Generator) -> torch.nn.Module:
        done = FineTune(epochs=1).apply(model, data, rng=rng)
        if not self.once.exists():
            self.once.touch()
            raise KeyboardInterrupt
        return done


def test_the_time_of_an_edit_that_was_gone_on_with_is_known_as_such(tmp_path: Path) -> None:
    edits = {"fine-tune": Interrupted(tmp_path / "once")}
    job = ForgetJob(subject=subject(model=True), random=30, edits=edits, oracles=0, holders=0, quick=True)
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "run")
    job.run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "costs" / "fine-tune.json").read_text())["resumed"] is True


def test_judges_a_model_edited_elsewhere(tmp_path: Path) -> None:
    model = subject(model=True).model
    assert isinstance(model, torch.nn.Module)
    job = AuditJob(
        subject=subject(model=True), edited=model, where="owner=3", oracles=4, holders=3, jobs=1, quick=True
    )
    done = job.run(tmp_path / "run")
    assert done.audits[0].verdict.outcome != "forgotten"  # nothing was edited
    assert "Model:" not in str(done)  # none was made
    assert list(json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]) == [
        "model", "training data", "held-out data", "edited edited"
    ]  # fmt: skip


def test_an_estimate_writes_nothing(tmp_path: Path) -> None:
    job = ForgetJob(
        subject=subject(), random=30, edits={"fine-tune": FineTune()}, oracles=2, holders=1, jobs=1
    )
    seconds = job.estimate()
    assert list(seconds) == [
        "read the data", "train the model", "edit fine-tune", "train 2 oracles", "train 1 holders", "audit"
    ]  # fmt: skip
    assert all(value > 0 for value in seconds.values())
    assert not list(tmp_path.iterdir())


def test_an_estimate_counts_rounds_of_processes_and_what_is_not_yet_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unweave.jobs.estimate as module

    job = ForgetJob(
        subject=subject(model=True), random=30, edits={"fine-tune": FineTune(epochs=1)}, oracles=5, holders=3,
        jobs=2, quick=True, cache=tmp_path / "models",
    )  # fmt: skip

    @contextmanager
    def told(seconds: dict[str, float], name: str) -> Iterator[None]:
        yield
        seconds[name] = 2.0

    monkeypatch.setattr(module, "_told", told)
    found = job.estimate()
    assert found["train 5 oracles"] == 3 * 2.0 + module.WORKERS  # two at once: three rounds
    assert found["train 3 holders"] == 2 * 2.0 * 10 / 8  # of ten batches, not of eight, by processes that run
    build_models(RECIPE, job.subject.train, job.holder_seeds[:2], jobs=1, cache=job.models)
    assert job.estimate()["train 1 holders"] == 2.5
    build_models(RECIPE, job.subject.train, job.holder_seeds[2:], jobs=1, cache=job.models)
    assert not any("holders" in stage for stage in job.estimate())


@pytest.mark.parametrize(
    ("given", "positions", "words"),
    [
        ({"classes": ["birch"]}, range(1, 150, 3), "50 of 150 training examples, all of class birch"),
        ({"classes": (2,)}, range(2, 150, 3), "all of class 2"),
        ({"where": "owner=3"}, range(30, 40), "10 of 150 training examples, all with one value of owner"),
        ({"ids": [7, 3]}, (3, 7), "by their ids"),
        ({"positions": [9, 2]}, (2, 9), "by their positions"),
        ({"positions": torch.tensor([4])}, (4,), "1 of 150"),
    ],
)  # fmt: skip
def test_examples_are_named_in_five_ways(given: dict[str, Any], positions: Any, words: str) -> None:
    found, told = ForgetJob(subject=subject(), edits={"a": FineTune()}, **given).selected
    assert found.tolist() == list(positions)
    assert words in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to forget was named"),
        ({"classes": ["ash"], "random": 3}, "got several: classes, random"),
        ({"random": 150}, "ForgetJob.random must be between 1 and 149"),
        ({"random": 0}, "ForgetJob.random must be between 1 and 149"),
        ({"where": "owner"}, "ForgetJob.where must be COLUMN=VALUE"),
        ({"positions": [1.5]}, "ForgetJob.positions must be"),
        ({"positions": torch.tensor([1.5])}, "positions must be whole numbers; got torch.float32"),
        ({"positions": torch.ones(150, dtype=torch.bool)}, "Of a mask, give mask.nonzero"),
        ({"positions": [3, 3]}, "duplicates"),
        ({"positions": []}, "the forget set is empty"),
        ({"ids": "absent.txt"}, "absent.txt"),
        ({"random": 9, "edits": {}}, "ForgetJob.edits is empty"),
        ({"random": 9, "edits": {"a": RECIPE}}, "ForgetJob.edits must be"),
        ({"random": 9, "oracles": -1}, "ForgetJob.oracles must be a whole number at least 0; got -1"),
        ({"random": 9, "jobs": 0}, "ForgetJob.jobs must be a whole number at least 1, or None; got 0"),
        ({"random": 9, "subject": replace(subject(), recipe=None)}, "has no recipe"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ForgetJob(**{"subject": subject(), "edits": {"fine-tune": FineTune()}, **given})


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seed_draws_the_examples_and_no_model_is_taken_twice(seed: int) -> None:
    job, other = (
        ForgetJob(subject=subject(), edits={"a": FineTune()}, random=9, seed=s) for s in (seed, seed + 1)
    )
    drawn = torch.randperm(150, generator=seeded(seed))[:9]
    assert job.selected[0].tolist() == sorted(drawn.tolist())
    assert job.selected[0].tolist() != other.selected[0].tolist()
    assert job.selected[1].endswith(f"drawn at random with seed {seed}")
    seeds = [*job.oracle_seeds, *job.holder_seeds, *other.oracle_seeds, *other.holder_seeds]
    assert len(set(seeds)) == 32


def test_an_audit_needs_the_model_before() -> None:
    with pytest.raises(InputError, match=r"Subject.model is missing"):
        AuditJob(subject=subject(), edited="model.safetensors", random=3)


@pytest.mark.slow
def test_several_edits_are_made_from_models_that_hold_the_data_and_judged_by_their_mean(
    tmp_path: Path,
) -> None:
    job = ForgetJob(
        subject=subject(model=True), classes=["ash"], edits={"mine": Retrain(recipe=RECIPE)}, several=2, oracles=5,
        holders=5, jobs=1, quick=True,
    )  # fmt: skip
    assert job.plan()["edits of each"] == 2
    done = job.run(tmp_path / "run")
    assert done.audits[0].verdict.outcome == "forgotten"
    assert any("the mean of 2 edited models" in c for c in done.audits[0].verdict.caveats)
    assert any("in groups of 2" in c.name for c in done.audits[0].controls)
    first, second = (
        (tmp_path / "run" / at / "model.safetensors").read_bytes() for at in ("model", "several/mine-1")
    )
    assert first != second
    assert job.run(tmp_path / "run") == done


def test_several_edits_need_as_many_models_that_hold_the_data() -> None:
    with pytest.raises(InputError, match=r"several is 4: .* holders = 2 are trained. Give at least 7"):
        ForgetJob(
            subject=subject(model=True),
            classes=["ash"],
            edits={"a": FineTune()},
            several=4,
            holders=2,
            oracles=4,
        )


def test_what_references_cannot_decide_is_said_before_any_training() -> None:
    few = ForgetJob(subject=subject(model=True), random=3, edits={"a": Retrain(recipe=RECIPE)})
    assert "3 scattered examples can hardly be judged with 8 references" in " ".join(few.doubts)
    none = ForgetJob(
        subject=subject(model=True), random=3, edits={"a": Retrain(recipe=RECIPE)}, oracles=0, holders=0
    )
    assert none.doubts == ()
    whole = ForgetJob(subject=subject(model=True), classes=["ash"], edits={"a": Retrain(recipe=RECIPE)})
    assert whole.doubts == ()


def test_a_method_called_retrain_does_not_share_the_file_of_what_retraining_costs(tmp_path: Path) -> None:
    job = ForgetJob(
        subject=subject(model=True), positions=[0, 1], edits={"retrain": Retrain(recipe=RECIPE)}, oracles=0, holders=0
    )  # fmt: skip
    done = job.run(tmp_path)
    costs = json.loads((tmp_path / "costs" / "retrain.json").read_text())
    assert costs["cpu_seconds"] > 0
    assert json.loads((tmp_path / "retraining.json").read_text()) == {}  # no other model was trained
    assert job.run(tmp_path).audits == done.audits
