from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import world
from unweave import fit_, seeded
from unweave.augment import DataEfficientAugmentation, facility
from unweave.augment.data_efficient_augmentation import _budgets
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
