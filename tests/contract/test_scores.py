"""What every score promises: one finite number a weight in scope, from the model and the data alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import world
from tests.contract.scores import SCORES, ScoreRow
from unweave.errors import EmptyDataError
from unweave.masks import Scope
from unweave.random import global_seed

EVERY = pytest.mark.parametrize("row", SCORES, ids=lambda row: row.name)


def scored(row: ScoreRow, seed: int = 0, **kinds: bool) -> dict[str, torch.Tensor]:
    with global_seed(seed):
        found: dict[str, torch.Tensor] = row.make().score(world.model(**kinds), world.points()[0])
    return found


@EVERY
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch-norm"])
def test_one_finite_number_a_weight(row: ScoreRow, batch_norm: bool) -> None:
    model = world.model(batch_norm=batch_norm)
    shapes = {name: w.shape for name, w in Scope().weights(model).items()}
    found = scored(row, batch_norm=batch_norm)
    assert {name: s.shape for name, s in found.items()} == shapes
    assert all(bool(s.isfinite().all()) and s.std() > 0 for s in found.values())
    assert row.signed == any(bool((s < 0).any()) for s in found.values())


@EVERY
def test_leaves_the_model_alone_and_is_deterministic(row: ScoreRow) -> None:
    model, data = world.model(), world.points()[0]
    before, modes = world.state(model), [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    with global_seed(0):
        first = row.make().score(model, data)
    with global_seed(0):
        again = row.make().score(model, data)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    other = scored(row, seed=1)
    assert row.random == any(not torch.equal(first[n], other[n]) for n in first)


@EVERY
def test_reads_the_data_or_does_not(row: ScoreRow) -> None:
    data = world.points()[0]
    model = world.model()
    inputs, labels = data.examples.tensors
    moved = replace(data, examples=torch.utils.data.TensorDataset(inputs.roll(1, 1) * 2, labels))
    with global_seed(0):
        here = row.make().score(model, data)
    with global_seed(0):
        there = row.make().score(model, moved)
    apart = max(float((here[n] - there[n]).norm() / here[n].norm()) for n in here)
    assert (apart > 1e-2) == row.reads


@EVERY
def test_refuses_no_examples_where_it_reads_them(row: ScoreRow) -> None:
    if row.reads:
        with pytest.raises(EmptyDataError):
            row.make().score(world.model(), world.points()[0].subset([]))
