from __future__ import annotations

import torch

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters, size
from unweave.optim import S2SAM


def test_is_the_equation() -> None:
    weights = parameters()
    naive = [w.detach().clone() for w in weights]
    optimizer = S2SAM(weights, lr=0.1, rho=0.3)
    last: list[torch.Tensor] | None = None
    for _ in range(4):
        at = naive if last is None else [w + 0.3 * d / size(last) for w, d in zip(naive, last, strict=True)]
        last = gradient_at(at)
        naive = [w - 0.1 * d for w, d in zip(naive, last, strict=True)]
        optimizer.step(closure_of(weights))
        assert_near(weights, naive)
    assert (optimizer.backwards, optimizer.forwards) == (4, 0)


def test_does_not_perturb_weights_that_died() -> None:
    weights = parameters()
    optimizer = S2SAM(weights, lr=0.1, rho=0.3)
    optimizer.step(closure_of(weights))
    with torch.no_grad():
        weights[0][0].zero_()
    seen = []
    good = closure_of(weights)

    def closure() -> torch.Tensor:
        seen.append(weights[0].detach().clone())
        return good()

    optimizer.step(closure)
    assert torch.equal(seen[0][0], torch.zeros(3, dtype=torch.float64))
    assert (seen[0][1:] != 0).all()
