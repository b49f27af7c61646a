from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.prune.world import convolutional, images, points, state, trained
from unweave import Mask, seeded
from unweave.errors import EmptyDataError, InputError, LeftDenseWarning
from unweave.masks.silence import silence
from unweave.prune import (
    NM,
    Channel,
    Global,
    GraSP,
    Magnitude,
    Prune,
    RandomScores,
    Scope,
    Taylor,
    Uniform,
    recalibrate_,
)  # fmt: skip
from unweave.types import Score


def test_dead_weights_are_positive_zero_and_living_ones_keep_their_bits() -> None:
    model = trained()
    pruned = Prune(budget=Global(0.75)).apply(model, points(), rng=seeded(0))
    mask = Mask.of(pruned)
    assert mask.count() == round(0.25 * (6 * 16 + 16 * 3))
    for name, alive in mask.keep.items():
        before, after = model.get_parameter(name), pruned.get_parameter(name)
        assert torch.equal(before[alive], after[alive])
        assert not torch.signbit(after[~alive]).any()
    assert torch.equal(model[1].bias, pruned[1].bias)


def test_no_sparsity_changes_nothing() -> None:
    model = trained()
    pruned = Prune(budget=Global(0.0)).apply(model, points(), rng=seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), pruned.parameters(), strict=True))


def test_removes_less_energy_than_random_scores() -> None:
    model = trained()
    lost = []
    for score in (Magnitude(), RandomScores(seed=0)):
        pruned = Prune(score=score, budget=Global(0.5)).apply(model, points(), rng=seeded(0))
        lost.append(
            sum(
                float((a - b).detach().square().sum())
                for a, b in zip(model.parameters(), pruned.parameters(), strict=True)
            )
        )
    assert lost[0] < 0.4 * lost[1]


def test_channels_are_silent() -> None:
    model, data = convolutional(), images()
    scope = Scope(last=False)
    pruned = Prune(score=Magnitude(scope=scope), pattern=Channel(), budget=Uniform(0.5)).apply(
        model, data, rng=seeded(0)
    )
    seen = pruned[:3](data.examples.tensors[0])
    dead = (pruned[0].weight == 0).flatten(1).all(1)
    assert int(dead.sum()) == 2
    assert not seen[:, dead].any()
    assert seen[:, ~dead].std() > 0.1
    mask = Prune(score=Magnitude(scope=scope), pattern=Channel(), budget=Uniform(0.5)).mask(
        model, data, rng=seeded(0)
    )
    weights = Mask({name: keep for name, keep in mask.keep.items() if keep.ndim > 1})
    loud = weights.apply_(convolutional())[:2](data.examples.tensors[0])
    assert (
        loud[:, dead].abs().max() > 0.1
    )  # the control: what the batch normalisation's shift emits otherwise
    assert set(silence(model, mask, data).keep) == set(mask.keep) | {
        f"{i}.{p}" for i in (1, 4, 7) for p in ("weight", "bias")
    }


def test_an_own_sparsity_of_the_pattern_takes_no_other_budget() -> None:
    for budget in (Global(0.9), Uniform(0.5), Uniform(2 / 3)):  # the default says nothing, the others agree
        Prune(pattern=NM(1, 3) if budget.sparsity == 2 / 3 else NM(2, 4), budget=budget)
    with pytest.raises(
        InputError, match=r"Prune\.budget=Uniform\(sparsity=0\.6\) would do nothing since NM\(2, 4\)"
    ):
        Prune(pattern=NM(2, 4), budget=Uniform(0.6))


def test_two_of_four() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    pruned = Prune(pattern=NM(2, 4)).apply(model, points(), rng=seeded(0))
    assert ((pruned[1].weight != 0).view(3, 2, 4).sum(-1) == 2).all()


def test_refuses() -> None:
    with pytest.raises(EmptyDataError, match="Prune needs"):
        Prune().apply(trained(), points().subset([]), rng=seeded(0))
    model = trained()
    model[1].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"1\.weight contain NaN"):
        Prune().apply(model, points(), rng=seeded(0))


def test_a_layer_that_m_does_not_divide_stays_dense_and_is_named() -> None:
    model = trained()
    with pytest.warns(
        LeftDenseWarning, match=r"NM\(1, 4\) leaves 66.7 % .* dense: 1.weight \(4 does not divide its 6"
    ):
        pruned = Prune(pattern=NM(1, 4), budget=Global(0.75)).apply(model, points(), rng=seeded(0))
    assert torch.equal(pruned[1].weight, model[1].weight)
    assert bool(((pruned[3].weight != 0).view(3, 4, 4).sum(2) == 1).all())
    with pytest.raises(InputError, match=r"NM\(1, 7\) fits no weight in scope"):
        Prune(pattern=NM(1, 7), budget=Global(6 / 7)).apply(model, points(), rng=seeded(0))


def test_filters_are_pooled_as_the_score_says() -> None:
    data, model = points(), trained()

    def living(pattern: Channel, score: Score) -> set[int]:
        mask = Prune(score=score, pattern=pattern, budget=Uniform(0.5)).mask(model, data, rng=seeded(0))
        return set(mask.keep["1.weight"].any(1).nonzero().flatten().tolist())

    inner = Scope(last=False)
    for score in (Taylor(scope=inner), GraSP(scope=inner), Magnitude(scope=inner)):
        every = replace(score, scope=Scope()).score(model, data)
        values = torch.cat(
            [every["1.weight"], every["3.weight"].T], 1
        )  # what makes a unit, and what reads it
        summed, squared = values.sum(1), values.square().sum(1)  # GraSP's keep their sign
        own = squared if isinstance(score, Magnitude) else summed
        assert living(Channel(), score) == set(own.topk(8).indices.tolist())
        assert living(Channel("mean"), score) == set(summed.topk(8).indices.tolist())
        assert living(Channel("l2"), score) == set(squared.topk(8).indices.tolist())


def test_recalibrates_on_its_data() -> None:
    data, model = points(), trained(batch_norm=True)
    plain = Prune(budget=Global(0.8)).apply(model, data, rng=seeded(0))
    again = Prune(budget=Global(0.8), recalibrate=True).apply(model, data, rng=seeded(0))
    expected = state(recalibrate_(plain, data))
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert not torch.equal(again[2].running_var, model[2].running_var)
    with pytest.raises(InputError, match="no batch normalisation"):
        Prune(recalibrate=True).apply(trained(), data, rng=seeded(0))
