from __future__ import annotations

import pytest
import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters
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
