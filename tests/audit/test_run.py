"""The whole audit on small networks whose answer is known: retrained, untouched, masked, merely less sure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from unweave.audit import audit
from unweave.datasets import digits
from unweave.errors import EmptyDataError
from unweave.nets import mlp
from unweave.random import seeded
from unweave.recipe import Supervised
from unweave.tasks import read_labels
from unweave.types import Request
from unweave.unlearn.logit_mask import LogitMask

RECIPE = Supervised(network=partial(mlp, 64, 48, 10), epochs=25)


def build(data, seeds):
    return [RECIPE.build(data, rng=seeded(seed)).eval() for seed in seeds]


@pytest.fixture(scope="module")
def held():
    return build(digits()[0], range(5))


@pytest.fixture(scope="module")
def one_class():
    train, heldout = digits()
    request = Request.of(train, heldout, (read_labels(train) == 3).nonzero().flatten())
    return request, build(request.retain, range(10, 16))


@pytest.fixture(scope="module")
def at_random():
    train, heldout = digits()
    request = Request.of(train, heldout, torch.randperm(len(train), generator=seeded(7))[:180])
    return request, build(request.retain, range(20, 26))


def judge(edited, held, case, **settings):
    request, oracles = case
    oracles = settings.pop("oracles", oracles[:5])
    return audit(
        edited,
        request,
        original=held[0],
        held=held[1:],
        oracles=oracles,
        rng=seeded(0),
        quick=True,
        **settings,
    )


def value(found, name):
    return next(m for m in found.measurements if m.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_class", "at_random"])
def test_retrained_passes_and_original_does_not(kind, held, request) -> None:
    case = request.getfixturevalue(kind)
    passed, failed = judge(case[1][5], held, case), judge(held[0], held, case)
    assert (passed.verdict.outcome, failed.verdict.outcome) == ("forgotten", "not forgotten")
    assert all(control.passed for control in (*passed.controls, *failed.controls))
    assert passed.rates is not None
    assert passed.rates.unedited_rejected == 1.0
    # every attack that has power sees the original, and takes the retrained model for what it is
    for name in ("threshold attack", "SVC attack, balanced"):
        attack = value(failed, f"membership, {name}")
        assert attack.value == attack.original
        assert attack.value > attack.oracle_mean + 10
        assert value(passed, f"membership, {name}").value < attack.value - 10
    assert value(failed, "relearn time").value == 0
    assert value(passed, "relearn time").value > 20
    assert value(passed, "tug of war").value > 0.93
    assert value(passed, "average gap").value < value(failed, "average gap").value / 3


def test_a_masked_logit_looks_perfect_and_the_representation_tells(held, one_class) -> None:
    masked = LogitMask().apply(held[0], one_class[0], rng=seeded(0))
    found = judge(masked, held, one_class)
    assert value(found, "accuracy on forgotten examples").value == 0.0
    assert value(found, "accuracy on retained examples").value > 99
    probe = value(found, "representation probe, class means")
    assert probe.value == probe.original
    assert probe.value > probe.oracle_mean + 4 * probe.oracle_spread
    assert found.verdict.outcome == "inconclusive"
    assert "layers under them do not" in found.verdict.reason
    assert any("under its last layer" in caveat for caveat in found.verdict.caveats)
    assert not any(
        "under its last layer" in caveat for caveat in judge(one_class[1][5], held, one_class).verdict.caveats
    )


class Cooler(nn.Module):
    """The same model, less sure of everything."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) / self.temperature


class Blend(nn.Module):
    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a(x) + self.b(x)) / 2


@pytest.mark.parametrize("kind", ["one_class", "at_random"])
def test_neither_less_confidence_nor_half_the_way_is_forgetting(kind, held, request) -> None:
    case = request.getfixturevalue(kind)
    for edited in (Cooler(held[0], 2.0), Blend(held[0], case[1][5])):
        assert judge(edited, held, case).verdict.outcome == "not forgotten"


def test_a_ruined_model_is_collapsed(held, at_random) -> None:
    ruined = mlp(64, 48, 10)
    found = judge(ruined, held, at_random)
    assert found.verdict.outcome == "collapsed"
    assert "accuracy on retained examples" in found.verdict.reason


def test_without_oracles_the_report_says_what_cannot_be_concluded(held, at_random) -> None:
    found = judge(at_random[1][0], held, at_random, oracles=[])
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.position is None
    assert found.rates is None
    assert any("Without a retrained model" in caveat for caveat in found.verdict.caveats)
    assert value(found, "average gap").value is None
    assert "Without a retrained model" in value(found, "average gap").note
    assert all(m.oracle_mean is None for m in found.measurements)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_oracles_accept_nothing(count, held, at_random) -> None:
    found = judge(at_random[1][5], held, at_random, oracles=at_random[1][:count])
    assert found.verdict.outcome == "inconclusive"
    assert "fewer than three" in " ".join(found.verdict.caveats)


def test_the_original_alone_serves_with_a_caveat(held, at_random) -> None:
    assert judge(at_random[1][5], held[:1], at_random).verdict.outcome == "forgotten"
    found = judge(held[1], held[:1], at_random)
    assert found.verdict.outcome == "not forgotten"
    assert any("Only the original holds the data" in caveat for caveat in found.verdict.caveats)


def test_repeats_and_changes_no_model(held, one_class) -> None:
    model = one_class[1][5].train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (
        judge(model, held, one_class, method="x", seconds={"edit": 1.0, "retrain": 4.0}) for _ in range(2)
    )
    assert a == b
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    names = [m.name for m in a.measurements]
    assert len(names) == len(set(names))
    assert set(a.scores) == {"edited", "original", "held", "oracle"}
    assert {len(phi) for phi in a.scores.values()} == {len(one_class[0].forget)}
    assert set(a.per_class) == {str(c) for c in range(10)}
    assert a.per_class["3"]["edited"] == 0.0
    assert value(a, "time of the edit over one retraining").value == 0.25
    for m in a.measurements:
        assert m.direction
        assert m.n > 0
        if m.interval is not None:
            assert m.interval[0] <= m.value + 1e-9
            assert m.value - 1e-9 <= m.interval[1]
    model.eval()


def sparse(model: nn.Module, seed: int) -> nn.Module:
    pruned = mlp(64, 48, 10)
    pruned.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in pruned.parameters():
            if p.ndim > 1:
                p *= torch.rand(p.shape, generator=seeded(seed)) < 0.5
    return pruned.eval()


def test_masks_are_compared_only_if_they_can_be(held, at_random) -> None:
    request, oracles = at_random
    same = audit(
        sparse(oracles[0], 1), request, original=sparse(held[0], 1), oracles=[sparse(o, 1) for o in oracles[:3]],
        rng=seeded(0), quick=True,
    )  # fmt: skip
    assert value(same, "mask overlap").value == 1.0
    assert same.layers
    other = audit(
        sparse(oracles[0], 1), request, original=sparse(held[0], 1),
        oracles=[sparse(o, 2 + i) for i, o in enumerate(oracles[:3])], rng=seeded(0), quick=True,
    )  # fmt: skip
    assert value(other, "mask overlap").value is None
    assert "init_seed" in value(other, "mask overlap").note


def test_refuses_an_empty_part(held, at_random) -> None:
    request, _ = at_random
    empty = replace(request, forget=request.forget.subset([]))
    with pytest.raises(EmptyDataError, match="audit's forget set needs at least one example"):
        audit(held[0], empty, original=held[0], rng=seeded(0))
