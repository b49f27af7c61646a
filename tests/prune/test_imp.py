from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.prune.world import RECIPE, points
from unweave import Mask, Supervised, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.prune import IMP, NM, Prune, StaticMask

SHORT = replace(RECIPE, epochs=2)


@pytest.mark.parametrize(
    ("sparsity", "rate", "rounds"), [(0.9, 0.2, 11), (0.36, 0.2, 2), (0.2, 0.2, 1), (0.5, 0.9, 1)]
)
def test_rounds(sparsity: float, rate: float, rounds: int) -> None:
    assert IMP(recipe=SHORT, sparsity=sparsity, rate=rate).rounds == rounds


@pytest.mark.slow
def test_ends_at_the_asked_sparsity_and_is_deterministic() -> None:
    imp = IMP(recipe=SHORT, sparsity=0.8, rate=0.5)
    first, second = (imp.build(points(), rng=seeded(0)) for _ in range(2))
    assert Mask.of(first).count() == round(0.2 * Mask.of(first).size())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_each_round_removes_the_same_share_of_what_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    train = Supervised.train_

    def watch(
        self: Supervised, model: torch.nn.Module, data: object, *, hold: Mask | None, **rest: object
    ) -> None:
        seen.append(hold.count() if hold is not None else 144)
        train(self, model, data, hold=hold, **rest)

    monkeypatch.setattr(Supervised, "train_", watch)
    IMP(recipe=SHORT, sparsity=0.875, rate=0.5).build(points(), rng=seeded(0))
    assert seen == [144, 72, 36, 18]


@pytest.mark.parametrize("restart", ["rewind", "reinit"])
def test_final_training_starts_from_the_masked_initial_weights(
    restart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    train = Supervised.train_
    monkeypatch.setattr(
        Supervised,
        "train_",
        lambda self, model, *a, **k: (
            starts.append([p.detach().clone() for p in model.parameters()]),
            train(self, model, *a, **k),
        ),
    )
    recipe = replace(SHORT, init_seed=None)
    final = IMP(recipe=recipe, sparsity=0.5, rate=0.3, restart=restart).build(points(), rng=seeded(0))
    alive = final[1].weight != 0
    begun, ended = starts[0][0], starts[-1][0]
    assert len(starts) == 3
    assert not ended[~alive].any()
    assert torch.equal(ended[alive], begun[alive]) == (restart == "rewind")


def test_rewinding_late_goes_back_to_the_remembered_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    train = Supervised.train_

    def watch(self, model, data, *, epochs, **rest):
        begun = [p.detach().clone() for p in model.parameters()]
        train(self, model, data, epochs=epochs, **rest)
        calls.append((epochs, begun, [p.detach().clone() for p in model.parameters()]))

    monkeypatch.setattr(Supervised, "train_", watch)
    IMP(recipe=SHORT, sparsity=0.3, rate=0.5, rewind_epochs=1).build(points(), rng=seeded(0))
    assert [c[0] for c in calls] == [1, 1, 1]
    alive = calls[2][1][0] != 0
    assert torch.equal(calls[2][1][0][alive], calls[0][2][0][alive])
    assert all(torch.equal(a, b) for a, b in zip(calls[1][1], calls[0][2], strict=True))


def test_refuses() -> None:
    with pytest.raises(InputError, match=r"IMP\.sparsity must be above 0 and below 1; got 1\.0"):
        IMP(recipe=SHORT, sparsity=1.0)
    with pytest.raises(InputError, match=r"IMP\.rate"):
        IMP(recipe=SHORT, rate=0.0)
    with pytest.raises(InputError, match="rewind_epochs must be below 2"):
        IMP(recipe=SHORT, rewind_epochs=2)
    for own in ({"prune": Prune()}, {"sparse": StaticMask()}):
        with pytest.raises(InputError, match="already prunes"):
            IMP(recipe=replace(SHORT, **own))
    with pytest.raises(
        InputError, match=r"IMP removes weights step by step; NM\(2, 4\) sets its own sparsity"
    ):
        IMP(recipe=SHORT, pattern=NM(2, 4))
    with pytest.raises(EmptyDataError):
        IMP(recipe=SHORT).build(points().subset([]), rng=seeded(0))
