"""What a block asks of the trainings in it: to be timed, recorded, or resumable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.fit import Estimate, context, each, estimating, few, recording, resumable, timed
from unweave.fit.context import current_estimate, next_checkpoint, record
from unweave.fit.recipe import mean_loss
from unweave.tasks import predict


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    ticks = iter(times)
    monkeypatch.setattr(context, "monotonic", lambda: next(ticks))


def test_the_rest_is_told_from_the_steps_between_first_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 10.0, 10.25, 10.5, 10.75, 11.0, 20, 27, 29, 31, 33)
    estimate = Estimate()
    assert [estimate.enough(step, 12) for step in range(1, 6)] == [False, False, False, False, True]
    assert estimate.seconds == 7 * 0.25
    assert [estimate.enough(step, 6) for step in range(1, 6)][-1]  # a second training has a clock of its own
    assert estimate.seconds == 7 * 0.25 + 2.0  # of the usual step: the first one was slow


def test_too_short_a_time_goes_on_and_a_last_step_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, *(0.125 * k for k in range(8)))
    estimate = Estimate(least=0.625)
    assert [estimate.enough(step, 8) for step in range(1, 7)] == [False] * 5 + [True]
    assert estimate.seconds == 2 * 0.125
    clock(monkeypatch, *(float(k) for k in range(5)))
    estimate = Estimate()
    assert not any(estimate.enough(step, 5) for step in range(1, 6))
    assert estimate.seconds == 0


def test_the_first_few_batches_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 3.0, 4.0, 5.0)
    estimate = Estimate()
    assert list(estimate.few("abcdefgh", 8)) == list("abcd")
    assert estimate.seconds == 4 * 1.0
    clock(monkeypatch, *(0.001 * k for k in range(5)))  # too fast to be timed: all are read
    assert list(estimate.few("abcde", 5)) == list("abcde")
    assert estimate.seconds == 4.0
    data = of_tensors(torch.arange(40.0)[:, None], torch.arange(40) % 2, batch_size=4)
    read = lambda model, batch: batch[0]  # noqa: E731
    assert torch.equal(predict(nn.Identity(), data, read)[:, 0], torch.arange(40.0))
    clock(monkeypatch, *(float(k) for k in range(9)))
    with estimating() as cut:
        found = predict(nn.Identity(), data, read)
    assert torch.equal(found[:, 0], torch.arange(40.0) % 16)  # of all shapes, and of none of the meaning
    assert cut.seconds == 6.0


def test_of_steps_that_are_no_training_the_first_few_stand_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(few(range(8))) == list(range(8))
    clock(monkeypatch, 0.0, 3.0, 4.0, 5.0)
    with estimating() as cut:
        assert list(few(range(8))) == list(range(4))
    assert cut.seconds == 4 * 1.0


def test_of_many_alike_the_first_is_timed_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def work(i: int) -> int:
        seen.append(i)
        if (estimate := current_estimate.get()) is not None:
            estimate.seconds += 0.5  # a training inside, cut short
        return 10 * i

    assert each(work, [1, 2, 3]) == [10, 20, 30]
    assert not timed()
    seen.clear()
    clock(monkeypatch, 4.0, 6.0)
    with estimating() as cut:
        assert timed()
        assert each(work, [1, 2, 3]) == [10, 10, 10]
        assert each(work, [5]) == [50]
        assert each(work, []) == []
    assert seen == [1, 5]
    assert cut.seconds == 0.5 + 2 * (2.0 + 0.5) + 0.5


def test_blocks_end_with_their_blocks(tmp_path: Path) -> None:
    assert next_checkpoint() is None
    assert current_estimate.get() is None
    record("nobody listens")
    with recording() as outer, resumable(tmp_path / "new" / "one"):
        record(1)
        with recording() as inner, resumable(tmp_path / "two"):
            record(2)
            assert next_checkpoint() == tmp_path / "two" / "fit-0001.safetensors"
        record(3)
        names = [path.name for _ in range(2) if (path := next_checkpoint())]
    assert (outer, inner) == ([1, 3], [2])
    assert names == ["fit-0001.safetensors", "fit-0002.safetensors"]
    assert (tmp_path / "new" / "one").is_dir()
    assert next_checkpoint() is None
    with estimating() as found:
        assert current_estimate.get() is found
    assert current_estimate.get() is None


def test_an_estimate_cuts_a_training_short_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    data = of_tensors(torch.zeros(40, 2), torch.arange(40) % 2, batch_size=4)
    model = nn.Linear(2, 2)
    with estimating() as found, resumable(tmp_path), recording() as fits:
        found.least = 0.0
        fit_(model, data, mean_loss(data), SGD(model.parameters(), 0.1), epochs=9, rng=seeded(0))
    assert [(fit.steps, fit.stopped) for fit in fits] == [(5, True)]
    assert found.seconds > 0
    assert not list(tmp_path.iterdir())
