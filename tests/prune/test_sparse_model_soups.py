from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.prune.world import RECIPE, network, points, trained
from unweave import Mask, Supervised, seeded
from unweave.errors import InputError
from unweave.prune import NM, SparseModelSoup, StaticMask, sparse_model_soups
from unweave.prune.sparse_model_soups import average, recalibrate_

SIZE = 6 * 16 + 16 * 3
NORMED = Supervised(network=lambda: network(batch_norm=True), epochs=5, lr=0.1)


def soup(**fields) -> SparseModelSoup:
    return SparseModelSoup(
        **{"recipe": RECIPE, "sparsity": 0.75, "cycles": 2, "epochs": 2, "lr": 0.02} | fields
    )


def linear(*weights: float) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def test_average_by_hand() -> None:
    # .25 (4, 0, -2) + .75 (0.8, 0, 2) = (1.6, 0, 1)
    mixed = average([linear(4.0, 0.0, -2.0), linear(0.8, 0.0, 2.0)], [0.25, 0.75])
    torch.testing.assert_close(mixed.weight.detach(), torch.tensor([[1.6, 0.0, 1.0]]))


def test_counters_are_not_averaged() -> None:
    a, b = trained(batch_norm=True), trained(batch_norm=True)
    a[2].num_batches_tracked.fill_(7)
    b[2].num_batches_tracked.fill_(100)
    assert int(average([a, b], [0.5, 0.5])[2].num_batches_tracked) == 7


def test_recalibration_is_the_mean_over_batches() -> None:
    model, data = trained(batch_norm=True).double(), points()
    double = [(x.double(), y) for x, y in data.batches()]
    expected = torch.stack([model[1](x).mean(0) for x, _ in double]).mean(0)

    class Reads:  # the same batches in float64
        batch_size, task = data.batch_size, data.task
        __len__ = lambda self: len(data)  # noqa: E731
        batches = lambda self: iter(double)  # noqa: E731

    mode = model.training
    recalibrate_(model, Reads())
    torch.testing.assert_close(model[2].running_mean, expected.detach())
    assert model.training == mode
    assert model[2].momentum == 0.1


@pytest.mark.parametrize("how", ["uniform", "greedy", lambda q: [0.5, 0.25, 0.25]])
def test_sparsity_is_exact_with_every_soup(how) -> None:
    pruned = soup(soup=how, recipe=NORMED).apply(trained(batch_norm=True), points(), rng=seeded(0))
    assert Mask.of(pruned).count() == round(0.25 * SIZE)


@pytest.mark.parametrize(
    ("vary", "values"),
    [("weight_decay", (0.0, 1e-4, 1e-2)), ("length", (1, 2, 3)), ("schedule", (0.01, 0.02, 0.04))],
)
def test_copies_differ_in_the_varied_thing_alone(vary, values, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list = []
    mix = sparse_model_soups.SparseModelSoup._mix
    monkeypatch.setattr(
        SparseModelSoup,
        "_mix",
        lambda self, copies, train, judge: (seen.append(copies), mix(self, copies, train, judge))[1],
    )
    own = {"length": {"epochs": 10}, "schedule": {"lr": None}}.get(vary, {})
    soup(vary=vary, values=values, **own).apply(trained(), points(), rng=seeded(0))
    same = soup(vary=vary, values=(values[0],) * 3, **own)
    varied = seen[0]
    assert not torch.equal(varied[0][1].weight, varied[1][1].weight)
    same.apply(trained(), points(), rng=seeded(0))
    assert all(torch.equal(seen[2][0][1].weight, copy[1].weight) for copy in seen[2])


def test_masks_are_nested_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[list[Mask]] = []
    mix = SparseModelSoup._mix
    monkeypatch.setattr(
        SparseModelSoup,
        "_mix",
        lambda self, c, t, j: (masks.append([Mask.of(m) for m in c]), mix(self, c, t, j))[1],
    )
    soup().apply(trained(), points(), rng=seeded(0))
    first, second = masks
    assert all(m == first[0] for m in first)
    assert all(m == second[0] for m in second)
    assert first[0].count() == round(0.5 * SIZE)
    assert (second[0] - first[0]).count() == 0


def test_rebase_false_trains_several_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    mix = SparseModelSoup._mix
    monkeypatch.setattr(
        SparseModelSoup, "_mix", lambda self, c, t, j: (counts.append(len(c)), mix(self, c, t, j))[1]
    )
    soup(rebase=False).apply(trained(), points(), rng=seeded(0))
    soup(copies=(1, 2)).apply(trained(), points(), rng=seeded(0))
    assert counts == [1, 3, 1, 2]


def test_processes_do_not_change_the_bits() -> None:
    here, there = (soup(cycles=1, jobs=jobs).apply(trained(), points(), rng=seeded(0)) for jobs in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_a_soup_worse_than_its_worst_copy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(models, weights):
        mixed = average(models, weights)
        with torch.no_grad():
            mixed[3].bias.copy_(torch.tensor([0.0, 0.0, 1e4]))  # always says class 2
        return mixed

    monkeypatch.setattr(sparse_model_soups, "average", ruined)
    with pytest.warns(UserWarning, match="worse on validation data than its worst copy"):
        pruned = soup(cycles=1).apply(trained(), points(), rng=seeded(0))
    assert float(pruned[3].bias[2].detach()) < 1e3


def test_refuses() -> None:
    with pytest.raises(InputError, match="pruned differently"):
        average([linear(1.0, 0.0), linear(0.0, 1.0)], [0.5, 0.5])
    with pytest.raises(InputError, match="names or shapes"):
        average([linear(1.0, 0.0), linear(1.0, 0.0, 1.0)], [0.5, 0.5])
    with pytest.raises(InputError, match="sum 1"):
        average([linear(1.0)], [0.5])
    length = {"vary": "length", "epochs": 10}
    with pytest.raises(InputError, match="values must hold 3"):
        soup(**length)
    for values in ((0, 1, 2), (1.5, 2, 3)):
        with pytest.raises(InputError, match="whole numbers of at least 1"):
            soup(**length, values=values)
    with pytest.raises(InputError, match="epochs=2 would do nothing since values are the epochs"):
        soup(vary="length", values=(1, 2, 3))
    with pytest.raises(InputError, match="lr=0.02 would do nothing since values are the learning rates"):
        soup(vary="schedule", values=(0.1, 0.2, 0.3))
    with pytest.raises(InputError, match="above 0 for vary='schedule'"):
        soup(vary="schedule", values=(0.1, 0.2, 0), lr=None)
    with pytest.raises(InputError, match="rebase=False would do nothing since there is one cycle"):
        soup(cycles=1, rebase=False)
    with pytest.raises(
        InputError, match=r"sparsity=0\.75 would do nothing since NM\(2, 4\) sets its own sparsity, 0\.5"
    ):
        soup(pattern=NM(2, 4))
    with pytest.raises(InputError, match="already prunes"):
        soup(recipe=Supervised(network=network, sparse=StaticMask()))
    with pytest.raises(InputError, match="copies must be"):
        soup(copies=(1, 2, 3))
    with pytest.raises(InputError, match="recalibrate"):
        soup(recalibrate=0.0)
    with pytest.raises(InputError, match="epochs must be a whole number at least 1"):
        soup(epochs=0)
    with pytest.raises(InputError, match="already prunes"):
        soup(recipe=Supervised(network=network, prune=soup()))
    with pytest.raises(InputError, match="needs a recipe with SGD"):
        soup(
            recipe=Supervised(network=network, optimizer=torch.optim.Adam),
            vary="weight_decay",
            values=(0, 1, 2),
        )
    with pytest.raises(InputError, match="beside"):
        soup(validation=0.9).apply(trained(), points(1), rng=seeded(0))
