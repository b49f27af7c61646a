"""What a block asks of the trainings in it: to be timed, recorded, or resumable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.fit import Estimate, context, each, estimating, recording, resumable, timed
from unweave.fit.context import current_estimate, next_checkpoint, record
from unweave.fit.recipe import mean_loss


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    ticks = iter(times)
    monkeypatch.setattr(context, "monotonic", lambda: next(ticks))


def test_the_rest_is_told_from_the_steps_between_first_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 10.0, 10.25, 10.5, 10.75, 20, 22, 24, 26)
    estimate = Estimate()
    assert [estimate.enough(step, 12) for step in range(1, 5)] == [False, False, False, True]
    assert estimate.seconds == 8 * 0.25
    assert estimate.enough(1, 6) is False  # a second training has a clock of its own
    assert [estimate.enough(step, 6) for step in range(2, 5)][-1]
    assert estimate.seconds == 8 * 0.25 + 2 * (26 - 20) / 3


def test_too_short_a_time_goes_on_and_a_last_step_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, *(0.125 * k for k in range(8)))
    estimate = Estimate(least=0.625)
    assert [estimate.enough(step, 8) for step in range(1, 7)] == [False] * 5 + [True]
    assert estimate.seconds == 2 * 0.125
    clock(monkeypatch, *(float(k) for k in range(4)))
    estimate = Estimate()
    assert not any(estimate.enough(step, 4) for step in range(1, 5))
    assert estimate.seconds == 0


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
    assert [(fit.steps, fit.stopped) for fit in fits] == [(4, True)]
    assert found.seconds > 0
    assert not list(tmp_path.iterdir())
