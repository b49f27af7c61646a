"""The whole audit on small networks whose answer is known: retrained, untouched, masked, merely less sure."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from unweave.audit import Auditor, audit
from unweave.audit.classifier.cheats import last_linear
from unweave.audit.classifier.references import References
from unweave.audit.classifier.scores import Parts
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
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
    return build(digits()[0], range(6))


@pytest.fixture(scope="module")
def one_class():
    train, heldout = digits()
    request = Request.of(train, heldout, (read_labels(train) == 3).nonzero().flatten())
    return request, build(request.retain, range(10, 17))


@pytest.fixture(scope="module")
def at_random():
    train, heldout = digits()
    request = Request.of(train, heldout, torch.randperm(len(train), generator=seeded(7))[:180])
    return request, build(request.retain, range(20, 27))


@pytest.fixture(scope="module")
def auditors():
    """Number of holders and of oracles, and the request's -> what judges by them: its controls cost most."""
    return {}


@pytest.fixture
def judged(auditors):
    def judge(edited, holders, case, oracles=6, **settings):
        request, retrained = case
        which = len(holders), oracles, id(request)
        if which not in auditors:
            auditors[which] = auditor(request, holders, retrained[:oracles])
        return auditors[which].audit(edited, **settings)

    return judge


def auditor(request, holders, oracles, **settings):
    settings = {"rng": seeded(0), "quick": True, **settings}
    return Auditor.of(request, original=holders[0], holders=holders[1:], oracles=oracles, **settings)


def value(found, name):
    return next(m for m in found.measurements if m.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_class", "at_random"])
def test_retrained_passes_and_original_does_not(kind, holders, judged, request) -> None:
    case = request.getfixturevalue(kind)
    passed, failed = judged(case[1][6], holders, case), judged(holders[0], holders, case)
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
    assert not any("may still be known" in caveat for caveat in failed.verdict.caveats)
    assert value(passed, "relearn time").value > 20
    assert value(passed, "tug of war").value > 0.93
    assert value(passed, "average gap").value < value(failed, "average gap").value / 3


def test_a_masked_logit_looks_perfect_and_the_representation_tells(holders, judged, one_class) -> None:
    masked = LogitMask().apply(holders[0], one_class[0], rng=seeded(0))
    found = judged(masked, holders, one_class)
    assert value(found, "accuracy on forgotten examples").value == 0.0
    assert value(found, "accuracy on retained examples").value > 99
    probe = value(found, "representation probe, class means")
    assert probe.value == probe.original
    assert probe.value > probe.oracle_mean + 4 * probe.oracle_spread
    assert found.verdict.outcome == "answers only"
    assert "bit for bit the original's" in found.verdict.reason
    # nor does a little noise below the last layer help
    with torch.no_grad():
        for p in masked.parameters():
            p += 1e-6 * torch.randn(p.shape, generator=seeded(1))
    found = judged(masked, holders, one_class)
    assert found.verdict.outcome == "answers only"
    assert "last layer made anew" in found.verdict.reason
    assert "last layer made anew" in [c.name for c in found.verdict.checks if c.passed is False]
    assert {c.name for c in found.controls if c.passed and c.expected == "seen through"} == {
        f"cheat: {name} (3 made)" for name in ("silenced class", "last layer made anew", "copied answers")
    }


def test_frozen_layers_that_no_training_moves_are_no_evidence(holders, one_class) -> None:
    """Where oracles too keep the original's lower layers, as with a frozen body, their identity says nothing."""
    request, _ = one_class
    frozen = [mlp(64, 48, 10) for _ in range(3)]
    for i, model in enumerate(frozen):
        model.load_state_dict(holders[0].state_dict())
        with torch.no_grad():
            last_linear(model).weight += i
    r = References(request, Parts.of(request), [holders[0]], frozen[1:], 0)
    assert r.untouched(frozen[0]) == ""
    r = References(request, Parts.of(request), [holders[0]], [holders[1]], 0)
    assert "all 2 weight tensors" in r.untouched(frozen[0])
    assert r.untouched(holders[1]) == ""


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
def test_neither_less_confidence_nor_half_the_way_is_forgetting(kind, holders, judged, request) -> None:
    case = request.getfixturevalue(kind)
    for edited in (Cooler(holders[0], 2.0), Blend(holders[0], case[1][6])):
        assert judged(edited, holders, case).verdict.outcome in ("not forgotten", "partly forgotten")


def test_a_ruined_model_is_collapsed(holders, judged, at_random) -> None:
    ruined = mlp(64, 48, 10)
    found = judged(ruined, holders, at_random)
    assert found.verdict.outcome == "collapsed"
    assert "accuracy on held-out examples" in found.verdict.reason


def test_without_oracles_the_report_says_what_cannot_be_concluded(holders, judged, at_random) -> None:
    found = judged(at_random[1][0], holders, at_random, oracles=0)
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.position is None
    assert found.rates is None
    assert any("Without a retrained model" in caveat for caveat in found.verdict.caveats)
    assert value(found, "average gap").value is None
    assert "Without a retrained model" in value(found, "average gap").note
    assert all(m.oracle_mean is None for m in found.measurements)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_oracles_decide_nothing_and_say_so(count, holders, judged, at_random) -> None:
    for edited in (at_random[1][6], holders[1]):
        found = judged(edited, holders, at_random, oracles=count)
        assert found.verdict.outcome == "inconclusive"
        assert "nothing is decided with fewer than 4 of each" in found.verdict.reason
        assert found.controls == ()
        assert found.rates is None
    if count < 3:
        assert "at least 3 models" in value(found, "membership, LiRA example by example").note
        assert found.verdict.position is None


@pytest.mark.slow
def test_the_original_alone_decides_nothing(holders, judged, at_random) -> None:
    found = judged(at_random[1][6], holders[:1], at_random)
    assert found.verdict.outcome == "inconclusive"
    assert "1 that holds the data" in found.verdict.reason


@pytest.mark.slow
def test_the_mean_of_several_edits_is_judged(holders, at_random) -> None:
    request, oracles = at_random
    judge = auditor(request, holders, oracles[:5])
    passed, failed = judge.audit(oracles[5:7]), judge.audit([holders[0], holders[1]])
    assert (passed.verdict.outcome, failed.verdict.outcome) == ("forgotten", "not forgotten")
    assert "the mean of 2 edited models" in " ".join(passed.verdict.caveats)
    assert any("in groups of 2" in c.name for c in passed.controls)
    alone = [judge.decide(model).verdict.position for model in oracles[5:7]]
    assert passed.verdict.position == pytest.approx(sum(alone) / 2)
    with pytest.raises(InputError, match="no edited model"):
        judge.audit([])


@pytest.mark.slow
def test_quick_decides_the_same(holders, one_class) -> None:
    request, oracles = one_class
    quick, slow = (
        auditor(request, holders, oracles[:5], rng=seeded(3), quick=q).audit(oracles[6])
        for q in (True, False)
    )
    assert quick.verdict == slow.verdict
    assert quick.controls == slow.controls


@pytest.mark.slow
def test_what_may_remain_is_told(holders, judged, at_random) -> None:
    found = judged(at_random[1][6], holders, at_random)
    assert found.verdict.outcome == "forgotten"
    assert any(
        re.match(r"Tolerance: up to \d+ % of the request, \d+ of 180 examples, may still be known", c)
        for c in found.verdict.caveats
    )


@pytest.mark.slow
def test_a_shorter_training_is_no_collapse(holders, judged, at_random) -> None:
    """Retained accuracy ten points low and held-out equal: told as a caveat, never as a collapse."""
    request, _ = at_random
    short = Supervised(network=partial(mlp, 64, 48, 10), epochs=6).build(request.retain, rng=seeded(31))
    found = judged(short.eval(), holders, at_random)
    assert value(found, "accuracy on retained examples").value < 97
    assert found.verdict.outcome != "collapsed"
    assert any("memorised less of them" in c for c in found.verdict.caveats)


@pytest.mark.slow
def test_repeats_and_changes_no_model(holders, one_class) -> None:
    request, oracles = one_class
    model = oracles[6].train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    told = {"method": "x", "seconds": {"edit": 1.0, "retrain": 4.0}}
    a, b = (auditor(request, holders, oracles[:6]).audit(model, **told) for _ in range(2))
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


@pytest.mark.slow
def test_holders_were_called_held(holders, at_random) -> None:
    request, oracles = at_random
    asked = {"original": holders[0], "oracles": oracles[:2], "quick": True}
    with pytest.warns(DeprecationWarning, match="audit: held is called holders now"):
        former = audit(oracles[6], request, held=holders[1:3], rng=seeded(0), **asked)
    assert former == audit(oracles[6], request, holders=holders[1:3], rng=seeded(0), **asked)


def test_refuses_an_empty_part(holders, at_random) -> None:
    request, _ = at_random
    empty = replace(request, forget=request.forget.subset([]))
    with pytest.raises(EmptyDataError, match="audit's forget set needs at least one example"):
        audit(holders[0], empty, original=holders[0], rng=seeded(0))


def test_examples_that_a_model_has_no_answer_to_are_named(holders, at_random) -> None:
    request, _ = at_random
    inputs = request.heldout.examples.tensors[0].clone()
    inputs[5, 0] = float("nan")
    labels = request.heldout.examples.tensors[1]
    broken = replace(request, heldout=of_tensors(inputs, labels, classes=10, batch_size=64))
    told = rf"held-out examples: .* to 1 of {len(labels)} is NaN, .* number 5 of them"
    with pytest.raises(InputError, match=told):
        audit(holders[0], broken, original=holders[0], rng=seeded(0))
    lost = mlp(64, 48, 10)
    with torch.no_grad():
        lost[-1].bias[0] = float("nan")
    with pytest.raises(InputError, match=r"forget examples: .* 180 of 180 is NaN"):
        audit(lost, request, original=holders[0], rng=seeded(0))
