"""What every optimiser promises: torch's own contract, masks, resuming, one seed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from tests.contract import world
from tests.contract.optimizers import OPTIMIZERS, OptimizerRow
from unweave import Mask, fit_, seeded
from unweave.fit.recipe import mean_loss

EVERY = pytest.mark.parametrize("row", OPTIMIZERS, ids=lambda row: row.name)


def train(row: OptimizerRow, model: Module, *, epochs: int = 2, seed: int = 3, **kw: object) -> Module:
    data = world.points()[0]
    fit_(
        model, data, mean_loss(data), row.make(model.parameters(), lr=0.05),
        epochs=epochs, rng=seeded(seed), **kw,
    )  # fmt: skip
    return model


def closure_of(model: Module, optimizer: torch.optim.Optimizer, counts: dict[str, int]):
    data = world.points()[0]
    batch = next(data.batches())

    def closure() -> Tensor:
        counts["backward" if torch.is_grad_enabled() else "probe"] += 1
        if torch.is_grad_enabled():
            optimizer.zero_grad()
        loss = data.task.losses(model, batch).mean()
        if loss.requires_grad:
            loss.backward()
        return loss

    return closure


@EVERY
def test_is_deterministic_and_learns(row: OptimizerRow) -> None:
    model, data = world.model(), world.points()[0]
    untrained = world.network()
    before = torch.get_rng_state()
    first, second = train(row, deepcopy(untrained)), train(row, deepcopy(untrained))
    assert torch.equal(before, torch.get_rng_state()), "drew from torch's global generator"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    losses = [
        float(torch.cat([data.task.losses(m, b).detach() for b in data.batches()]).mean())
        for m in (untrained, first)
    ]
    assert losses[1] < losses[0]
    assert [m.training for m in model.modules()] == [m.training for m in train(row, model).modules()]


@EVERY
def test_counts_its_calls(row: OptimizerRow) -> None:
    model = world.network()
    optimizer = row.make(model.parameters(), lr=0.05)
    for expected in row.calls:
        counts = {"backward": 0, "probe": 0}
        optimizer.step(closure_of(model, optimizer, counts))
        assert (counts["backward"], counts["probe"]) == (expected, row.probes)


@EVERY
def test_returns_the_clean_loss(row: OptimizerRow) -> None:
    model = world.network()
    optimizer = row.make(model.parameters(), lr=0.05)
    closure = closure_of(model, optimizer, {"backward": 0, "probe": 0})
    with torch.no_grad():
        clean = float(closure())
    returned = float(optimizer.step(closure).detach())
    if row.clean is not None:
        assert returned == pytest.approx(clean, abs=row.clean)


@EVERY
def test_its_term_switched_off_is_sgd(row: OptimizerRow) -> None:
    if row.plain is None:
        pytest.skip("has no such setting")
    one, two = world.network(), None
    two = deepcopy(one)
    data = world.points()[0]
    for model, optimizer in (
        (one, row.plain(one.parameters(), lr=0.05)), (two, SGD(two.parameters(), lr=0.05, momentum=0.9))
    ):  # fmt: skip
        fit_(model, data, mean_loss(data), optimizer, epochs=2, rng=seeded(3))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        if row.plain_exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@EVERY
def test_keeps_a_mask(row: OptimizerRow) -> None:
    model = world.model(sparse=True)
    mask = Mask.of(model)
    if row.zeros == "warned":
        with pytest.warns(UserWarning, match="mask"):
            train(row, model, hold=mask)
    else:
        train(row, model, hold=mask)
    for _, weight, alive in mask.match(model):
        assert torch.equal(weight[~alive], torch.zeros_like(weight[~alive]))


@EVERY
def test_leaves_frozen_and_unused_parameters_alone(row: OptimizerRow) -> None:
    model = world.network()
    last = [*model.parameters()][-1]
    last.requires_grad_(False)
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    before = last.clone()
    train(row, model)
    assert torch.equal(before, last)
    assert torch.equal(model.unused, torch.ones(3))


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_works_in(row: OptimizerRow, dtype: str) -> None:
    if dtype not in row.dtypes:
        pytest.skip("documented as unsupported")
    model = world.network().to(getattr(torch, dtype))
    for p in train(row, model).parameters():
        assert p.dtype == getattr(torch, dtype)
        assert torch.isfinite(p).all()


@EVERY
def test_resumes_to_the_same_bits(row: OptimizerRow) -> None:
    whole = world.network()
    halves = deepcopy(whole)
    counts = {"backward": 0, "probe": 0}
    a = row.make(whole.parameters(), lr=0.05)
    for _ in range(6):
        a.step(closure_of(whole, a, counts))
    b = row.make(halves.parameters(), lr=0.05)
    for _ in range(3):
        b.step(closure_of(halves, b, counts))
    saved = deepcopy(b.state_dict())
    again = row.make(halves.parameters(), lr=0.05)
    again.load_state_dict(saved)
    for _ in range(3):
        again.step(closure_of(halves, again, counts))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), halves.parameters(), strict=True))


@EVERY
def test_a_scheduler_reaches_the_step(row: OptimizerRow) -> None:
    model = world.network()
    optimizer = row.make(model.parameters(), lr=0.05)
    schedule = StepLR(optimizer, step_size=1, gamma=0.0)
    closure = closure_of(model, optimizer, {"backward": 0, "probe": 0})
    for _ in range(2):  # some do no update at their first step
        optimizer.step(closure)
    schedule.step()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@EVERY
def test_needs_its_closure(row: OptimizerRow) -> None:
    if row.closure == "needed":
        with pytest.raises((ValueError, TypeError), match="closure"):
            row.make(world.network().parameters(), lr=0.05).step()


@EVERY
def test_refuses_bad_input(row: OptimizerRow) -> None:
    assert row.bad, "every optimiser documents at least one error"
    for make, pattern in row.bad:
        with pytest.raises(ValueError, match=pattern):
            make(list(world.network().parameters()))
