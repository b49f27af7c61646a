"""What one request took out, the next one leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unweave import Data
from unweave.errors import InputError
from unweave.io.deleted import read_deleted
from unweave.jobs import ForgetJob, PruneJob, Subject, TrainJob, UnsuitedWarning
from unweave.jobs.deletion import Deletion
from unweave.unlearn import FineTune, Retrain

from .subjects import RECIPE, subject


@dataclass(frozen=True)
class Noted:
    """A recipe that notes what it was given."""

    seen: list[list[float]]

    def initial(self, rng: torch.Generator) -> Any:
        return RECIPE.initial(rng)

    def build(self, data: Data[Any], *, rng: torch.Generator) -> Any:
        self.seen.append([float(data.examples[i][0][0]) for i in range(len(data))])
        return RECIPE.build(data, rng=rng)


@pytest.fixture
def first(tmp_path: Path) -> Subject:
    """After a request for class cedar."""
    done = ForgetJob(
        subject=subject(model=True),
        classes=["cedar"],
        edits={"retrain": Retrain(recipe=RECIPE)},
        oracles=0,
        holders=0,
    ).run(tmp_path / "one")
    return replace(subject(), model=done.model)


def test_the_record_names_what_is_gone(first: Subject) -> None:
    record = read_deleted(Path(str(first.model)))
    assert record is not None
    assert (record.requests, len(record.gone), record.by) == (1, 50, "content")
    assert first.before.positions == tuple(range(2, 150, 3))
    assert len(first.left.train) == 100
    assert (
        "1 earlier request deleted 50 examples from this model: 50 are still in the data and are kept out"
        in str(first.before)
    )


def test_the_second_request_keeps_the_first_out(first: Subject, tmp_path: Path) -> None:
    noted = Noted([])
    second = replace(first, recipe=noted)
    job = ForgetJob(
        subject=second, positions=[0, 1, 3], edits={"retrain": Retrain(recipe=noted)}, oracles=1, holders=1, jobs=1,
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert len(job.request.retain) == 97
    assert [float(job.request.forget.examples[i][0][0]) for i in range(3)] == [
        float(subject().train.examples[i][0][0]) for i in (0, 1, 3)
    ]
    with pytest.warns(UnsuitedWarning, match="decide nothing"):
        done = job.run(tmp_path / "two")
    value = [float(subject().train.examples[i][0][0]) for i in range(150)]
    gone = [value[i] for i in range(2, 150, 3)]
    left = [v for v in value if v not in gone]
    now = [value[i] for i in (0, 1, 3)]
    # of edit, oracle and holder: the holder alone has what this request deletes, none has what the first did
    assert sorted(map(sorted, noted.seen)) == sorted(map(sorted, [
        [v for v in left if v not in now], [v for v in left if v not in now], left
    ]))  # fmt: skip
    record = read_deleted(done.model)
    assert record is not None
    assert (record.requests, len(record.gone)) == (2, 53)
    assert "3 of 100 training examples" in job.selected[1]


def test_what_is_deleted_already(first: Subject) -> None:
    with pytest.raises(
        InputError, match="all 50 examples that were named are deleted already: 1 earlier request"
    ):
        _ = Deletion(subject=first, classes=["cedar"]).selected
    positions, words = Deletion(subject=first, positions=[2, 3, 5, 6]).selected
    assert positions.tolist() == [3, 6]
    assert "2 that were named are deleted already" in words
    drawn = Deletion(subject=first, random=20).selected[0]
    assert len(drawn) == 20
    assert not set(drawn.tolist()) & set(first.before.positions)


def test_rows_that_left_the_data_and_ids(first: Subject, tmp_path: Path) -> None:
    removed = replace(first, train=subject().left.without(range(2, 150, 3)).train, columns={})
    assert removed.before.positions == ()
    assert "none is in the data any more" in str(removed.before)
    with pytest.raises(InputError, match="now gives them ids"):
        _ = replace(first, ids=list(range(150))).before
    other = replace(first, train=replace(first.train, examples=subject().heldout.examples))
    with pytest.raises(InputError, match="have changed, or it is another data set"):
        _ = other.before


def test_pruning_and_training_keep_it_out_and_say_so(first: Subject, tmp_path: Path) -> None:
    pruned = PruneJob(subject=first, sparsity=0.5, recover_epochs=1)
    assert "50 are still in the data" in pruned.plan()["deleted before"]
    record = read_deleted(pruned.run(tmp_path / "pruned").model)
    assert record is not None
    assert (record.requests, len(record.gone)) == (1, 50)
    noted = Noted([])
    TrainJob(subject=replace(first, recipe=noted)).run(tmp_path / "trained")
    assert [len(s) for s in noted.seen] == [100]


def test_a_model_of_which_nothing_was_deleted_has_no_record(tmp_path: Path) -> None:
    pruned = PruneJob(subject=subject(model=True), sparsity=0.5).run(tmp_path / "pruned")
    assert read_deleted(pruned.model) is None
    assert "deleted before" not in PruneJob(subject=subject(model=True)).plan()


def test_another_key_is_refused_by_name(
    first: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNWEAVE_KEY", str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"one/model names what was deleted under the key .*UNWEAVE_KEY"):
        ForgetJob(
            subject=replace(first), classes=["ash"], edits={"fine-tune": FineTune()}, oracles=0, holders=0
        )


def test_without_takes_rows_of_everything() -> None:
    s = replace(subject(), ids=[f"i{i}" for i in range(150)]).without([0, 149])
    assert len(s.train) == 148
    assert (s.ids[0], s.ids[-1]) == ("i1", "i148")
    assert s.columns["owner"] == [i // 10 for i in range(1, 149)]
    assert torch.equal(s.train.examples[0][0], subject().train.examples[1][0])
