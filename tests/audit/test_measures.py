"""Each measure against a hand-worked case, a slow version from its equation, or a known answer."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from unweave.audit.classifier.lira import lira, taken_for_members
from unweave.audit.classifier.membership import (
    auc,
    best_threshold,
    confidence_attack,
    svc_attack,
    threshold_attack,
)  # fmt: skip
from unweave.audit.classifier.probe import class_mean_probe, linear_probe
from unweave.audit.classifier.relearn import mean_loss_of, relearn_steps
from unweave.audit.classifier.scores import Answers, Parts, confidence, confidence_of
from unweave.audit.classifier.utility import against_each_other, average_gap, tug_of_war
from unweave.audit.cost import cost
from unweave.audit.rates import published
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.random import seeded
from unweave.statistics import bootstrap, prediction, wilson
from unweave.types import Request


class Logits(nn.Module):
    """Returns its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def of_logits(z: torch.Tensor, y: torch.Tensor):
    return of_tensors(z, y, classes=z.shape[1], batch_size=2)


# phi


def test_confidence_is_log_odds_to_the_last_digit() -> None:
    # p = (1/2, 1/4, 1/4) of label 0: log odds 0; of label 1: log(1/3)
    z = torch.log(torch.tensor([[0.5, 0.25, 0.25]] * 2))
    assert confidence_of(z, torch.tensor([0, 1])) == pytest.approx([0.0, np.log(1 / 3)], abs=1e-6)
    # naive form in float64 agrees where it is finite; where 1 - p is 0 in float64 ours still has 60 nats
    z = torch.randn(50, 4, generator=seeded(0)) * 3
    y = torch.arange(50) % 4
    p = z.double().softmax(1).gather(1, y[:, None])[:, 0]
    assert confidence_of(z, y) == pytest.approx((p.log() - (1 - p).log()).numpy(), abs=1e-9)
    assert confidence_of(torch.tensor([[60.0, 0.0]]), torch.tensor([0])) == pytest.approx([60.0])
    assert confidence_of(torch.tensor([[-torch.inf, 0.0]]), torch.tensor([0])) == pytest.approx([-100.0])


def test_answers() -> None:
    z = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    answers = Answers.of(Logits(), of_logits(z, torch.tensor([0, 0])), (2,))
    assert answers.correct.tolist() == [1.0, 0.0]
    assert answers.probability == pytest.approx([0.5, 0.1])
    assert answers.entropy[0] == pytest.approx(1.5 * np.log(2))
    assert answers.deleted == pytest.approx([np.log(1 / 3), np.log(4)], abs=1e-6)
    assert answers.accuracy() == 50.0
    several = Answers.of(Logits(), of_logits(z, torch.tensor([0, 0])), (1, 2))
    assert several.deleted == pytest.approx([np.log(1 / 3), np.log(4)], abs=1e-6)  # of the likelier one
    assert several.at(np.array([False, True])).deleted == pytest.approx([np.log(4)], abs=1e-6)


def test_a_task_without_labels_is_read_by_its_losses() -> None:
    class Squares:
        def losses(self, model, batch):
            return batch[0][:, 0]

        def outputs(self, model, batch):
            return batch[0]

    data = of_logits(torch.tensor([[np.log(2.0)], [np.log(4.0)]]).repeat(1, 2), torch.tensor([0, 0]))
    phi = confidence(Logits(), type(data)(data.examples, Squares(), 2))
    assert phi == pytest.approx([0.0, np.log(1 / 3)], abs=1e-6)  # p = 1/2 and 1/4


def test_parts_splits_the_held_out_set_only_for_whole_classes() -> None:
    x, y = torch.randn(12, 3, generator=seeded(0)), torch.arange(12) % 3
    train, heldout = of_tensors(x, y, classes=3), of_tensors(x, y, classes=3)
    whole = Parts.of(Request.of(train, heldout, [1, 4, 7, 10]))
    assert (whole.deleted, len(whole.control), len(whole.gone)) == ((1,), 8, 4)
    some = Parts.of(Request.of(train, heldout, [1, 4]))
    assert (some.deleted, len(some.control), some.gone) == ((), 12, None)
    with pytest.raises(EmptyDataError, match="deleted classes"):
        Parts.of(Request.of(train, heldout.subset([1, 4]), [1, 4, 7, 10]))


# intervals


def test_wilson() -> None:
    # Brown, Cai and DasGupta's form, worked by hand for 8 of 10: centre (8 + 1.92) / (10 + 3.84) = 0.717
    assert sum(wilson(8, 10)) / 2 == pytest.approx(0.7166, abs=1e-3)
    for hits, n, level in ((8, 10, 0.95), (1, 40, 0.95), (3, 7, 0.9)):
        known = binomtest(hits, n).proportion_ci(level, method="wilson")
        assert wilson(hits, n, level) == pytest.approx((known.low, known.high), rel=1e-9)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(InputError, match="between 0 and n = 3; got 4"):
        wilson(4, 3)


def test_prediction_is_students_t_of_one_more_value() -> None:
    # 1, 2, 3: mean 2, sd 1; t(0.975, 2) = 4.30265; one more value: sqrt(1 + 1/3), left-out ones: sqrt(1 - 1/9)
    values = np.array([1.0, 2.0, 3.0])
    assert prediction(values) == pytest.approx(
        (2 - 4.30265 * np.sqrt(4 / 3), 2 + 4.30265 * np.sqrt(4 / 3)), rel=1e-5
    )
    half = 4.30265 * np.sqrt(8 / 9)
    assert prediction(values, left_out=True) == pytest.approx((2 - half, 2 + half), rel=1e-5)
    assert prediction(values[:1]) == (-np.inf, np.inf)
    assert prediction(values, 0.9)[1] == pytest.approx(2 + 2.91999 * np.sqrt(4 / 3), rel=1e-5)


def test_bootstrap_covers_the_mean_and_repeats() -> None:
    x = np.random.default_rng(0).normal(5, 1, 400)
    low, high = bootstrap(lambda v: float(v.mean()), x, rng=seeded(0))
    assert low < x.mean() < high
    assert high - low == pytest.approx(4 / 20, rel=0.25)  # 2 * 1.96 * 1 / sqrt(400)
    assert (low, high) == bootstrap(lambda v: float(v.mean()), x, rng=seeded(0))


# membership


def test_best_threshold_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for n, m in ((5, 7), (30, 4)):
        a, b = draw.normal(1, 1, n).round(1), draw.normal(0, 1, m).round(1)
        balanced = lambda t, a=a, b=b: (a >= t).mean() + (b < t).mean()  # noqa: E731
        best = max(balanced(t) for t in np.concatenate([a, b, [99.0]]))
        assert balanced(best_threshold(a, b)) == pytest.approx(best)


def test_auc_counts_pairs() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(1, 1, 20).round(1), draw.normal(0, 1, 30).round(1)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in product(a, b)]
    assert auc(a, b) == pytest.approx(np.mean(pairs))


ATTACKS = [
    threshold_attack,
    lambda a, b, f, rng: confidence_attack(a[:, None], b[:, None], f[:, None], rng=rng),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_find_members_whatever_the_ratio_and_say_when_they_cannot(attack) -> None:
    draw = np.random.default_rng(0)
    for n, m in ((2000, 500), (500, 2000)):
        found = attack(draw.normal(2, 1, n), draw.normal(0, 1, m), draw.normal(2, 1, 400), rng=seeded(0))
        assert found.member > 0.75
        assert found.balanced_accuracy == pytest.approx(0.84, abs=0.03)  # Phi(1)
        blind = attack(draw.normal(0, 1, n), draw.normal(0, 1, m), draw.normal(0, 1, 400), rng=seeded(0))
        assert blind.powerless
        assert not found.powerless


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_attack_is_worth_is_measured_on_those_it_was_not_fitted_on(attack) -> None:
    draw = np.random.default_rng(0)
    worth = [
        attack(draw.normal(0, 1, 12), draw.normal(0, 1, 12), np.zeros(1), rng=seeded(k)).balanced_accuracy
        for k in range(60)
    ]
    assert np.mean(worth) == pytest.approx(0.5, abs=0.06)  # on their own half a threshold is right in 0.75


def test_unweighted_svc_says_whatever_its_class_ratio_says() -> None:
    """The card's check: confidences of a model with a small gap, 1000 to 900 or 900 to 1000."""
    draw = np.random.default_rng(0)
    member, other, target = (draw.beta(a, 1, 1000)[:, None] for a in (12, 10, 10))
    swing = {}
    for balanced in (False, True):
        shares = [
            svc_attack(member[:n], other[:m], target, rng=seeded(0), balanced=balanced).member
            for n, m in ((1000, 900), (900, 1000))
        ]
        swing[balanced] = abs(shares[0] - shares[1])
    assert swing[False] > 0.8
    assert swing[True] < 0.25


def test_attacks_refuse_too_little() -> None:
    with pytest.raises(InputError, match="at least 4 known members"):
        threshold_attack(np.zeros(3), np.zeros(9), np.zeros(1), rng=seeded(0))


# LiRA


def test_lira_by_hand() -> None:
    # out: -1, 1 (mean 0), in: 3, 5 (mean 4); pooled variance of each side 2; phi 4: log ratio 4^2 / (2 * 2) = 4
    shadows, member = np.array([[-1.0], [1.0], [3.0], [5.0]]), np.array([[False], [False], [True], [True]])
    assert lira(np.array([4.0]), shadows, member) == pytest.approx([4.0], abs=1e-4)
    assert lira(np.array([0.0]), shadows, member, online=False) == pytest.approx([0.5])
    with pytest.raises(InputError, match="at least one shadow model"):
        lira(np.array([4.0]), shadows, np.ones((4, 1), dtype=bool))


@pytest.mark.parametrize(("models", "own"), [(63, False), (64, True)])
def test_lira_trusts_an_examples_own_variance_from_64_models_a_side(models: int, own: bool) -> None:
    # the models alternate around 0 (outside) and 4 (inside): by 1 on the first example, by 3 on the second
    turns = np.where(np.arange(2 * models) % 2, 1.0, -1.0)[:, None] * np.array([1.0, 3.0])
    member = np.repeat([False, True], models)[:, None].repeat(2, 1)
    shadows = turns + 4.0 * member
    got = lira(np.array([4.0, 4.0]), shadows, member)
    sides = [shadows[:models], shadows[models:]]
    if own:
        spread = [side.std(0, ddof=1) for side in sides]
    else:
        spread = [np.sqrt(((side - side.mean(0)) ** 2).sum() / (2 * models - 2)) for side in sides]
    out, inside = (norm.logpdf(4.0, side.mean(0), s + 1e-6) for side, s in zip(sides, spread, strict=True))
    assert got == pytest.approx(inside - out, rel=1e-12)


def test_lira_beats_a_global_threshold_where_examples_differ() -> None:
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 3, 1000)
    member = draw.random((33, 1000)) < 0.5
    phi = hard + member + draw.normal(0, 1, (33, 1000))
    scores, truth = lira(phi[0], phi[1:], member[1:]), member[0]
    per_example = auc(scores[truth], scores[~truth])
    assert per_example > 0.72  # known parameters give Phi(1 / sqrt 2) = 0.76
    assert per_example - auc(phi[0][truth], phi[0][~truth]) > 0.08


def test_lira_takes_for_members_what_holders_answer_likelier() -> None:
    # three examples; holders lie at 4, oracles at 0, with equal spread: the ratio turns at 2
    holders, oracles = np.array([[3.0] * 3, [5.0] * 3]), np.array([[-1.0] * 3, [1.0] * 3])
    assert taken_for_members(np.array([2.1, 1.9, 9.0]), holders, oracles) == pytest.approx(2 / 3)
    assert taken_for_members(np.array([2.0, 0.0, 0.0]), holders, oracles) == 0.0


# figures


def test_average_gap_and_tug_of_war() -> None:
    oracles = np.array([[80.0, 100.0, 90.0], [90.0, 100.0, 90.0]])
    assert average_gap([100.0, 100.0, 87.0], oracles) == pytest.approx((15 + 0 + 3) / 3)
    assert tug_of_war([100.0, 100.0, 87.0], oracles) == pytest.approx(0.85 * 1.0 * 0.97)
    assert against_each_other(oracles, average_gap) == pytest.approx([10 / 3, 10 / 3])
    assert len(against_each_other(oracles[:1], average_gap)) == 0


def test_cost() -> None:
    seconds, ratio = cost({"edit": 2.0, "retrain": 8.0})
    assert (seconds.value, seconds.oracle_mean, ratio.value) == (2.0, 8.0, 0.25)
    assert cost(None) == ()
    assert len(cost({"edit": 2.0})) == 1
    with pytest.raises(InputError, match="must not be negative"):
        cost({"edit": -1.0})


def test_relearning_is_sooner_for_a_model_that_knows() -> None:
    x = torch.randn(60, 8, generator=seeded(0))
    data = of_tensors(x, (x[:, 0] > 0).long(), classes=2, batch_size=20)
    torch.manual_seed(0)
    fresh = mlp(8, 16, 2)
    near = mlp(8, 16, 2)
    steps = partial(relearn_steps, data=data, rng=seeded(0), lr=3e-2)
    target = mean_loss_of(fresh, data) / 3
    before = [p.clone() for p in fresh.parameters()]
    late = steps(fresh, target=target, cap=60)
    assert all(torch.equal(p, q) for p, q in zip(before, fresh.parameters(), strict=True))
    near.load_state_dict(fresh.state_dict())
    optimizer = torch.optim.Adam(near.parameters(), 1e-2)
    while mean_loss_of(near, data) > 1.2 * target:
        optimizer.zero_grad()
        data.task.losses(near, (x, (x[:, 0] > 0).long())).mean().backward()
        optimizer.step()
    assert 0 < steps(near, target=target, cap=60) < late / 2
    assert steps(near, target=1e9) == 0
    assert steps(fresh, target=0.0, cap=7) == 7


class Features(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.last = nn.Identity(), nn.Linear(2, 3)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, 1] *= self.scale
        return self.last(x)


def test_probes_read_the_representation_not_the_output() -> None:
    # classes lie at angles 0, 60 and 120 degrees; a network that crushes the second axis cannot tell them apart
    draw = torch.randn(90, 2, generator=seeded(0)) * 0.1
    y = torch.arange(90) % 3
    angle = y * torch.pi / 3
    x = torch.stack([angle.cos(), angle.sin()], 1) + draw
    train, heldout = of_tensors(x, y, classes=3), of_tensors(x + 0.01, y, classes=3)
    request = Request.of(train, heldout, (y == 1).nonzero().flatten())
    parts = Parts.of(request)
    knows, share = Features(1.0), Features(0.0)
    assert class_mean_probe(knows, request, parts) == (1.0, 30)
    assert class_mean_probe(share, request, parts)[0] < 0.5
    assert linear_probe(knows, parts.gone, parts.control, rng=seeded(0)) > 0.6
    masked = Features(1.0)
    with torch.no_grad():
        masked.last.bias[1] = -1e4
    assert class_mean_probe(masked, request, parts) == (1.0, 30)


def test_published_rates_are_read_as_shipped() -> None:
    for rates in published():
        assert 0 <= rates.oracles_interval[0] <= rates.oracles_accepted <= rates.oracles_interval[1] <= 1
        assert rates.source
