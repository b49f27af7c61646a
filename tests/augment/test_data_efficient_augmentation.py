from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import world
from unweave import fit_, seeded
from unweave.augment import DataEfficientAugmentation, facility
from unweave.augment.data_efficient_augmentation import _budgets
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError


def similarity(n: int, seed: int = 0) -> np.ndarray:
    x = torch.randn(n, 3, generator=seeded(seed), dtype=torch.float64)
    apart = torch.cdist(x, x)
    return (apart.max() - apart).numpy()


def covered(s: np.ndarray, chosen: list[int]) -> float:
    return float(s[:, chosen].max(1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_within_the_guarantee_and_lazy_is_greedy(seed: int) -> None:
    s = similarity(12, seed)
    best = max(covered(s, list(c)) for c in combinations(range(12), 3))
    picked = facility(s, 3)
    assert covered(s, picked) >= 0.63 * best
    naive: list[int] = []
    for _ in range(3):
        naive.append(max((j for j in range(12) if j not in naive), key=lambda j: covered(s, [*naive, j])))
    assert covered(s, picked) == pytest.approx(covered(s, naive))
    values = [covered(s, facility(s, k)) for k in range(1, 13)]
    assert values == sorted(values)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.floats(0.0, 1.0),
    st.sampled_from(["equal", "proportional"]),
)
@settings(deadline=None)
def test_budgets_are_exact_and_within_the_classes(sizes: list[int], share: float, how: str) -> None:
    n = sum(sizes)
    total = min(n, max(len(sizes), round(share * n)))
    given_ = _budgets(dict(enumerate(sizes)), total, how)
    assert sum(given_.values()) == total
    assert all(1 <= given_[c] <= s for c, s in enumerate(sizes))


def gradients(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    rng = seeded(0)
    labels = torch.arange(n) % 3
    groups = torch.randn(30, 4, generator=rng)  # many examples are near copies of a few
    return groups[torch.randint(30, (n,), generator=rng)] + 0.05 * torch.randn(n, 4, generator=rng), labels


def test_the_subset_stands_for_all() -> None:
    g, labels = gradients()
    errors = {}
    for method in ("facility", "random"):
        found = []
        for seed in range(5):
            chosen = DataEfficientAugmentation(budget=0.2, method=method).select(g, labels, rng=seeded(seed))
            counts = chosen.represents.bincount(minlength=len(labels))[chosen.positions].clamp(min=1).float()
            told = (counts[:, None] * g[chosen.positions]).sum(0)
            if method == "random":
                told = g[chosen.positions].mean(0) * len(labels)
            found.append(float((told - g.sum(0)).norm() / g.sum(0).norm()))
        errors[method] = sum(found) / 5
    assert errors["facility"] < 0.5 * errors["random"]


def test_weights_have_mean_one_and_classes_their_own_representatives() -> None:
    g, labels = gradients()
    chosen = DataEfficientAugmentation(budget=0.1).select(g, labels, rng=seeded(0))
    assert len(chosen.positions) == 30
    assert float(chosen.weights.sum()) == pytest.approx(30, rel=1e-5)
    assert (labels[chosen.represents] == labels).all()
    assert torch.isin(chosen.represents, chosen.positions).all()
    assert (labels[chosen.positions].bincount() == 10).all()


def test_the_losses_choose_the_largest() -> None:
    g, labels = gradients()
    chosen = DataEfficientAugmentation(budget=0.1, method="loss").select(g, labels, rng=seeded(0))
    for c in range(3):
        sizes = g[labels == c].norm(dim=1)
        mine = g[chosen.positions[labels[chosen.positions] == c]].norm(dim=1)
        assert mine.min() >= sizes.sort(descending=True).values[9] - 1e-6


def test_trains_with_augmented_copies_of_the_chosen_only() -> None:
    data, seen = world.points()[0], []

    def augment(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x + 0.1

    how = DataEfficientAugmentation(budget=0.2, warm=1, every=2)
    model = world.network()
    objective, after = how.training(data, augment, rng=seeded(0))
    fit_(
        model,
        data,
        objective,
        torch.optim.SGD(model.parameters(), 0.05),
        epochs=3,
        rng=seeded(0),
        after_step=after,
    )
    per_epoch = [torch.cat(seen[:6]), torch.cat(seen[6:])]
    assert [len(x) for x in per_epoch] == [18, 18]  # none in the first epoch, then a fifth of 90 each
    assert torch.equal(per_epoch[0].sort(0).values, per_epoch[1].sort(0).values)


def test_choosing_leaves_the_model_alone() -> None:
    model, data = world.model(batch_norm=True), world.points()[0]
    model.train()
    before = world.state(model)
    DataEfficientAugmentation(budget=0.2).choose(model, data, rng=seeded(0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_refuses() -> None:
    for bad in ({"budget": 0.0}, {"method": "odd"}, {"every": 0}):
        with pytest.raises(InputError, match="DataEfficientAugmentation"):
            DataEfficientAugmentation(**bad)
    g, labels = gradients()
    with pytest.raises(InputError, match="below the number of classes, 3"):
        DataEfficientAugmentation(budget=0.005).select(g, labels, rng=seeded(0))
    with pytest.raises(InputError, match="not finite"):
        DataEfficientAugmentation().select(g * float("nan"), labels, rng=seeded(0))
    with pytest.raises(EmptyDataError):
        DataEfficientAugmentation().choose(world.model(), world.points()[0].subset([]), rng=seeded(0))


class Fixed(torch.nn.Module):
    """Answers with its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


LOGITS = 3 * torch.randn(40, 3, generator=seeded(3), dtype=torch.float64)
LABELS = torch.arange(40) % 3


def test_gradients_are_p_less_y() -> None:
    # the norm of p - y is that of the loss's slope by autograd, example by example
    data = of_tensors(LOGITS, LABELS, classes=3, batch_size=7)
    how = DataEfficientAugmentation(budget=0.3, method="loss", shares="proportional")
    chosen = how.choose(Fixed(), data, rng=seeded(0))
    at = LOGITS.clone().requires_grad_()
    slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(at, LABELS, reduction="sum"), at)[0]
    sizes, expected = slopes.norm(dim=1), []
    for c in range(3):
        mine = [i for i in range(40) if int(LABELS[i]) == c]
        expected += sorted(mine, key=lambda i: -float(sizes[i]))[:4]
    assert chosen.positions.tolist() == sorted(expected)
    facility_ = DataEfficientAugmentation(budget=0.3).choose(Fixed(), data, rng=seeded(0))
    told = DataEfficientAugmentation(budget=0.3).select(slopes, LABELS, rng=seeded(0))
    assert torch.equal(facility_.positions, told.positions)
    assert torch.equal(facility_.represents, told.represents)


def test_weights_count_whom_each_stands_for() -> None:
    chosen = DataEfficientAugmentation(budget=0.25).select(LOGITS, LABELS, rng=seeded(0))
    for i in range(40):
        rivals = [int(j) for j in chosen.positions if LABELS[j] == LABELS[i]]
        nearest = min(rivals, key=lambda j: float((LOGITS[i] - LOGITS[j]).norm()))
        assert int(chosen.represents[i]) == nearest
    counts = torch.tensor([float((chosen.represents == j).sum()) for j in chosen.positions])
    assert counts.sum() == 40
    torch.testing.assert_close(chosen.weights, counts * 10 / 40)
    assert len(set(chosen.weights.tolist())) > 1


@pytest.mark.parametrize("weighted", [False, True])
def test_the_objective_is_the_mean_over_plain_and_augmented_examples(weighted: bool) -> None:
    # 40 examples in batches of 16 (16, 16, 8); a fifth, 8, are chosen: 3, 3 and 2 beside a batch
    data = of_tensors(LOGITS, LABELS, classes=3, batch_size=16)
    how = DataEfficientAugmentation(budget=0.2, warm=1, every=1, weighted=weighted)
    seen: list[torch.Tensor] = []

    def augment(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return 2 * x

    objective, after = how.training(data, augment, rng=seeded(0))
    model, batches = Fixed(), list(data.batches())

    def losses(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -x.log_softmax(1)[torch.arange(len(y)), y]

    for batch in batches:
        assert float(objective(model, batch)) == pytest.approx(float(losses(*batch).mean()), rel=1e-12)
    assert not seen
    after(SimpleNamespace(last_of_epoch=True, epoch=0, model=model))
    chosen = how.choose(model, data, rng=seeded(0))
    values = [float(objective(model, batch)) for batch in batches]
    assert [len(x) for x in seen] == [3, 3, 2]
    met = []
    for value, batch, x in zip(values, batches, seen, strict=True):
        at = [next(i for i in range(40) if torch.equal(LOGITS[i], row)) for row in x]
        met += at
        extra = losses(2 * x, LABELS[at])
        if weighted:
            where = [chosen.positions.tolist().index(i) for i in at]
            extra = extra * chosen.weights[where].double()
        n, m = len(batch[1]), len(at)
        expected = (n * losses(*batch).mean() + m * extra.mean()) / (n + m)
        assert value == pytest.approx(float(expected), rel=1e-12)
    assert sorted(met) == chosen.positions.tolist()
    assert met != sorted(met)
    again = [float(objective(model, batch)) for batch in batches]  # the next epoch goes round again
    assert again == values


@pytest.mark.parametrize(
    ("warm", "every", "expected"),
    [(1, 2, [0, 2, 4]), (0, 2, [1, 3, 5]), (3, 1, [2, 3, 4, 5]), (2, 3, [1, 4])],
)
def test_chooses_after_the_warm_epochs_and_every_so_many(warm: int, every: int, expected: list[int]) -> None:
    data = of_tensors(LOGITS, LABELS, classes=3, batch_size=16)
    how = DataEfficientAugmentation(budget=0.2, warm=warm, every=every)
    made: list[torch.Tensor] = []
    objective, after = how.training(data, lambda x: (made.append(x), x)[1], rng=seeded(0))
    orders, chosen = [], []
    for epoch in range(6):
        for last in (False, True):
            after(SimpleNamespace(last_of_epoch=last, epoch=epoch, model=Fixed()))
        made.clear()
        for batch in data.batches():
            objective(Fixed(), batch)
        order = torch.cat(made) if made else torch.zeros(0)
        if len(order) and not any(torch.equal(order, o) for o in orders):
            chosen.append(epoch)  # the subset is the same; its order is drawn anew
            orders.append(order)
    assert chosen == expected


def test_budgets_by_hand() -> None:
    assert _budgets({0: 2, 1: 20, 2: 20}, 12, "equal") == {0: 2, 1: 5, 2: 5}
    assert _budgets({0: 4, 1: 16, 2: 20}, 10, "proportional") == {0: 1, 1: 4, 2: 5}
    assert _budgets({0: 1, 1: 1, 2: 40}, 3, "proportional") == {0: 1, 1: 1, 2: 1}
    assert _budgets({0: 10, 1: 10, 2: 10}, 11, "equal") == {0: 4, 1: 4, 2: 3}


def test_random_subsets_are_of_the_generator_alone() -> None:
    how = DataEfficientAugmentation(budget=0.25, method="random")
    one, two, other = (how.select(LOGITS, LABELS, rng=seeded(s)).positions for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    with pytest.raises(InputError, match="rng must be"):
        how.select(LOGITS, LABELS, rng=None)


def test_refuses_a_task_that_cannot_and_too_many_columns() -> None:
    bare = replace(of_tensors(LOGITS, LABELS), task=object())
    with pytest.raises(InputError, match="needs a task that is Labelled"):
        DataEfficientAugmentation().choose(Fixed(), bare, rng=seeded(0))
    with pytest.raises(InputError, match="needs a task that is Perturbing"):
        DataEfficientAugmentation().training(bare, lambda x: x, rng=seeded(0))
    with pytest.raises(InputError, match="facility: 4 columns were asked for; there are 3"):
        facility(np.ones((3, 3)), 4)
