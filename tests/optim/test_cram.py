from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters
from unweave import seeded
from unweave.errors import InputError
from unweave.optim import CrAM


@pytest.mark.parametrize("plus", [True, False])
def test_is_the_equation(plus: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    ascended = [w.detach() + 0.3 * d for w, d in zip(weights, g, strict=True)]
    sizes = torch.cat([w.abs().flatten() for w in ascended if w.ndim > 1]).sort(descending=True).values
    keep = round(0.3 * len(sizes))
    alive = [
        w.abs() >= sizes[keep - 1] if w.ndim > 1 else torch.ones_like(w, dtype=torch.bool) for w in ascended
    ]
    assert sum(int(a.sum()) for a in alive if a.ndim > 1) == keep
    there = gradient_at([w * a for w, a in zip(ascended, alive, strict=True)])
    update = [d * a + (c if plus else 0) for d, a, c in zip(there, alive, g, strict=True)]
    expected = [w - 0.1 * u for w, u in zip(weights, update, strict=True)]
    CrAM(weights, lr=0.1, rho=0.3, sparsities=(0.7,), plus=plus).step(closure_of(weights))
    assert_near(weights, expected)


def test_draws_all_its_sparsities() -> None:
    weights = parameters()
    optimizer = CrAM(weights, lr=0.0, rho=0.0, sparsities=(0.25, 0.75))
    zeros = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        zeros.append(sum(int((w == 0).sum()) for w in weights if w.ndim > 1))
        return good()

    for _ in range(20):
        optimizer.step(closure)
    assert set(zeros[1::2]) == {5, 15}  # of 20 weights in layers
    assert set(zeros[::2]) == {0}


def test_the_draws_are_from_the_seed_and_the_step_alone() -> None:
    weights = parameters()
    optimizer = CrAM(weights, lr=0.0, rho=0.0, sparsities=(0.25, 0.5, 0.75), seed=7)
    good, zeros = closure_of(weights), []

    def closure() -> torch.Tensor:
        zeros.append(sum(int((w == 0).sum()) for w in weights if w.ndim > 1))
        return good()

    for _ in range(8):
        optimizer.step(closure)
    drawn = [int(torch.randint(3, (), generator=seeded(7 + t))) for t in range(8)]
    assert zeros[1::2] == [(5, 10, 15)[k] for k in drawn]
    assert len(set(drawn)) == 3
    assert optimizer.drawn == 8


def test_the_ascent_is_of_each_groups_length_and_vectors_are_not_compressed() -> None:
    weights = parameters()
    with torch.no_grad():
        weights[1].mul_(1e-6)  # far below every threshold
    before = [w.detach().clone() for w in weights]
    seen: list[list[torch.Tensor]] = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        seen.append([w.detach().clone() for w in weights])
        return good()

    CrAM(
        [{"params": weights[:2], "rho": 0.2}, {"params": weights[2:]}], lr=0.1, rho=0.5, sparsities=(0.0,)
    ).step(closure)
    g = gradient_at(before)
    assert_near(seen[1], [b + r * d for b, r, d in zip(before, (0.2, 0.2, 0.5), g, strict=True)])
    CrAM(weights, lr=0.1, rho=0.0, sparsities=(0.5,)).step(closure)
    assert torch.equal(seen[3][1], seen[2][1])
    assert sum(int((w == 0).sum()) for w in seen[3]) == 10


def test_at_least_one_weight_is_left() -> None:
    w = torch.tensor([[1.0, -3.0]], requires_grad=True)
    seen = []

    def closure() -> torch.Tensor:
        seen.append(w.detach().clone())
        w.grad = None
        loss = w.sum()
        loss.backward()
        return loss

    CrAM([w], lr=0.1, rho=0.0, sparsities=(0.9,), plus=False).step(closure)
    assert seen[1].tolist() == [[0.0, -3.0]]
    torch.testing.assert_close(w.detach(), torch.tensor([[1.0, -3.1]]))


def test_refuses_no_sparsity() -> None:
    with pytest.raises(InputError, match="CrAM.sparsities must be one or more shares; got none"):
        CrAM(parameters(), lr=0.1, sparsities=())
