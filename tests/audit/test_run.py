"""The whole audit on small networks whose answer is known: retrained, untouched, masked, merely less sure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from unweave.audit import audit
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError
from unweave.fit.recipe import Supervised
from unweave.random import seeded
from unweave.tasks import read_labels
from unweave.types import Request
from unweave.unlearn.logit_mask import LogitMask

RECIPE = Supervised(network=partial(mlp, 64, 48, 10), epochs=25)


def build(data, seeds):
    return [RECIPE.build(data, rng=seeded(seed)).eval() for seed in seeds]


@pytest.fixture(scope="module")
def holders():
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


def judged(edited, holders, case, **settings):
    request, oracles = case
    oracles = settings.pop("oracles", oracles[:5])
    return audit(
        edited,
        request,
        original=holders[0],
        holders=holders[1:],
        oracles=oracles,
        rng=seeded(0),
        quick=True,
        **settings,
    )


def value(found, name):
    return next(m for m in found.measurements if m.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_class", "at_random"])
def test_retrained_passes_and_original_does_not(kind, holders, request) -> None:
    case = request.getfixturevalue(kind)
    passed, failed = judged(case[1][5], holders, case), judged(holders[0], holders, case)
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
    # likelihood ratios example by example: most of what the original says is likelier under holders
    ratio = value(failed, "membership, LiRA example by example")
    assert ratio.value == ratio.original > ratio.oracle_mean + 40
    assert abs(value(passed, ratio.name).value - ratio.oracle_mean) < 10
    assert value(failed, "relearn time").value == 0
    # what holds the data in its answers is not told that it hides them
    assert {check.passed for check in failed.verdict.checks if check.name == "relearn time"} == {False}
    assert failed.verdict.caveats == ()
    assert value(passed, "relearn time").value > 20
    assert value(passed, "tug of war").value > 0.93
    assert value(passed, "average gap").value < value(failed, "average gap").value / 3


def test_a_masked_logit_looks_perfect_and_the_representation_tells(holders, one_class) -> None:
    masked = LogitMask().apply(holders[0], one_class[0], rng=seeded(0))
    found = judged(masked, holders, one_class)
    assert value(found, "accuracy on forgotten examples").value == 0.0
    assert value(found, "accuracy on retained examples").value > 99
    probe = value(found, "representation probe, class means")
    assert probe.value == probe.original
    assert probe.value > probe.oracle_mean + 4 * probe.oracle_spread
    assert found.verdict.outcome == "inconclusive"
    assert "layers under them do not" in found.verdict.reason
    assert [c.name for c in found.verdict.checks if c.passed is False][
        0
    ] == "representation probe, class means"
    assert any("under its last layer" in caveat for caveat in found.verdict.caveats)
    assert not any(
        "under its last layer" in caveat
        for caveat in judged(one_class[1][5], holders, one_class).verdict.caveats
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
def test_neither_less_confidence_nor_half_the_way_is_forgetting(kind, holders, request) -> None:
    case = request.getfixturevalue(kind)
    for edited in (Cooler(holders[0], 2.0), Blend(holders[0], case[1][5])):
        assert judged(edited, holders, case).verdict.outcome == "not forgotten"


def test_a_ruined_model_is_collapsed(holders, at_random) -> None:
    ruined = mlp(64, 48, 10)
    found = judged(ruined, holders, at_random)
    assert found.verdict.outcome == "collapsed"
    assert "accuracy on retained examples" in found.verdict.reason


def test_without_oracles_the_report_says_what_cannot_be_concluded(holders, at_random) -> None:
    found = judged(at_random[1][0], holders, at_random, oracles=[])
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.position is None
    assert found.rates is None
    assert any("Without a retrained model" in caveat for caveat in found.verdict.caveats)
    assert value(found, "average gap").value is None
    assert "Without a retrained model" in value(found, "average gap").note
    assert all(m.oracle_mean is None for m in found.measurements)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_oracles_accept_nothing(count, holders, at_random) -> None:
    found = judged(at_random[1][5], holders, at_random, oracles=at_random[1][:count])
    assert "at least 3 models" in value(found, "membership, LiRA example by example").note
    assert count > 1 or not any(check.power for check in found.verdict.checks)
    assert found.verdict.outcome == "inconclusive"
    assert "fewer than three" in " ".join(found.verdict.caveats)


def test_the_original_alone_serves_with_a_caveat(holders, at_random) -> None:
    assert judged(at_random[1][5], holders[:1], at_random).verdict.outcome == "forgotten"
    found = judged(holders[1], holders[:1], at_random)
    assert found.verdict.outcome == "not forgotten"
    assert any("Only the original holds the data" in caveat for caveat in found.verdict.caveats)


def test_repeats_and_changes_no_model(holders, one_class) -> None:
    model = one_class[1][5].train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (
        judged(model, holders, one_class, method="x", seconds={"edit": 1.0, "retrain": 4.0}) for _ in range(2)
    )
    assert a == b
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    names = [m.name for m in a.measurements]
    assert len(names) == len(set(names))
    scores, classes = a.samples("scores"), a.rows("classes")
    assert set(scores) == {"edited", "original", "holders", "oracle"}
    assert {len(phi) for phi in scores.values()} == {len(one_class[0].forget)}
    assert set(classes) == {str(c) for c in range(10)}
    assert classes["3"]["edited"] == 0.0
    assert a.rows("layers") == {}
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


def test_masks_are_compared_only_if_they_can_be(holders, at_random) -> None:
    request, oracles = at_random
    same = audit(
        sparse(oracles[0], 1), request, original=sparse(holders[0], 1), oracles=[sparse(o, 1) for o in oracles[:3]],
        rng=seeded(0), quick=True,
    )  # fmt: skip
    assert value(same, "mask overlap").value == 1.0
    assert same.rows("layers")
    other = audit(
        sparse(oracles[0], 1), request, original=sparse(holders[0], 1),
        oracles=[sparse(o, 2 + i) for i, o in enumerate(oracles[:3])], rng=seeded(0), quick=True,
    )  # fmt: skip
    assert value(other, "mask overlap").value is None
    assert "init_seed" in value(other, "mask overlap").note


def test_holders_were_called_held(holders, at_random) -> None:
    request, oracles = at_random
    asked = {"original": holders[0], "oracles": oracles[:2], "quick": True}
    with pytest.warns(DeprecationWarning, match="audit: held is called holders now"):
        former = audit(oracles[5], request, held=holders[1:3], rng=seeded(0), **asked)
    assert former == audit(oracles[5], request, holders=holders[1:3], rng=seeded(0), **asked)


def test_refuses_an_empty_part(holders, at_random) -> None:
    request, _ = at_random
    empty = replace(request, forget=request.forget.subset([]))
    with pytest.raises(EmptyDataError, match="audit's forget set needs at least one example"):
        audit(holders[0], empty, original=holders[0], rng=seeded(0))
