from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.language_world import llama, text
from tests.prune.world import RECIPE, network, points, trained
from unweave import Mask, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.prune import NM, SparseModelSoup, StaticMask, recalibrate_, sparse_model_soups
from unweave.prune.sparse_model_soups import average
from unweave.random import draw_seed

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
    inputs, labels = points().examples.tensors
    model, data = (
        trained(batch_norm=True).double(),
        of_tensors(inputs.double(), labels, classes=3, batch_size=16),
    )
    mode = model.training
    for share, read in ((1.0, 3), (0.5, 2), (0.1, 1)):
        expected = torch.stack([model[1](x).mean(0) for x in inputs.double().split(16)[:read]]).mean(0)
        recalibrate_(model, data, share=share)
        torch.testing.assert_close(model[2].running_mean, expected.detach())
    assert model.training == mode
    assert model[2].momentum == 0.1


def mixed(monkeypatch: pytest.MonkeyPatch, target: float, weights: tuple[float, ...], **fields: Any) -> float:
    """The weight of the soup of copies with one weight each, whose quality falls with the distance from the target."""
    quality = lambda model, _: -abs(float(model.weight.detach()) - target)  # noqa: E731
    monkeypatch.setattr(sparse_model_soups, "_quality", quality)
    found = soup(**fields)._mix([linear(w) for w in weights], points(), points())
    return float(found.weight.detach())


def test_soups_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    make = partial(mixed, monkeypatch)
    assert make(2.0, (1.0, 2.0, 6.0)) == 3.0
    # from the best, 2, down: 1.5 is worse, 4 is worse; at 1.6 the mean of 2 and 1 is better, and 6 makes it worse
    assert make(2.0, (1.0, 2.0, 6.0), soup="greedy") == 2.0
    assert make(1.6, (1.0, 2.0, 6.0), soup="greedy") == 1.5
    assert make(0.0, (-1.0, 1.0, 3.0), soup="greedy") == 0.0  # 3 would make it 1
    assert (
        make(1.5, (1.0, 2.0, 3.0, 0.0), soup="greedy") == 1.5
    )  # all of equal worth are taken: 2, 0 and 3 give 1.5
    seen: list[list[float]] = []
    told = make(2.0, (1.0, 2.0, 6.0), soup=lambda q: seen.append(q) or [0.5, 0.25, 0.25])
    assert (told, seen) == (2.5, [[-1.0, 0.0, -4.0]])
    assert make(0.0, (-2.0, 2.0, 3.0), soup=lambda q: [0.0, 0.0, 1.0]) == 3.0  # as bad as the worst: kept
    with pytest.warns(UserWarning, match=r"the soup \(-4\) is worse .* worst copy \(-3\)"):
        assert make(0.0, (-2.0, 1.0, 3.0), soup=lambda q: [0.0, -0.5, 1.5]) == 1.0


def test_quality_is_accuracy_or_minus_the_loss() -> None:
    model, data = trained(), points()
    right = model(data.examples.tensors[0]).argmax(1) == data.examples.tensors[1]
    assert sparse_model_soups._quality(model, data) == pytest.approx(100 * float(right.double().mean()))
    reader, words = llama(layers=1), text(320)
    mean = torch.cat([words.task.losses(reader, batch) for batch in words.batches()]).mean()
    assert sparse_model_soups._quality(reader, words) == pytest.approx(-float(mean.detach()), rel=1e-5)


def test_what_each_copy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        sparse_model_soups, "parallel_map", lambda _, items, **kw: seen.append((items, kw)) or []
    )

    def told(**fields: Any) -> list[tuple[Any, int, float, int]]:
        made = soup(**fields)
        made._retrain(trained(), Mask({}), points(), 1, seeded(0))
        assert seen[-1][1]["jobs"] == made.jobs
        return seen[-1][0]

    base = draw_seed(seeded(0))
    assert told() == [(RECIPE, 2, 0.02, base), (RECIPE, 2, 0.02, base + 1), (RECIPE, 2, 0.02, base + 2)]
    assert [job[2] for job in told(lr=None)] == [RECIPE.lr] * 3
    assert told(copies=(1, 2), jobs=2) == [(RECIPE, 2, 0.02, base), (RECIPE, 2, 0.02, base + 1)]
    decays = told(vary="weight_decay", values=(0.0, 0.1, 0.2))
    assert [(job[0].weight_decay, *job[1:]) for job in decays] == [
        (v, 2, 0.02, base) for v in (0.0, 0.1, 0.2)
    ]
    lengths = told(vary="length", values=(1, 4, 2), epochs=10)
    assert lengths == [(RECIPE, v, 0.02, base) for v in (1, 4, 2)]
    rates = told(vary="schedule", values=(0.1, 0.4, 0.2), lr=None)
    assert rates == [(RECIPE, 2, v, base) for v in (0.1, 0.4, 0.2)]


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
