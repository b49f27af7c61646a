from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, AdamW

from tests.optim.problem import assert_near, closure_of, gradient_at, parameters
from unweave import seeded
from unweave.errors import InputError
from unweave.optim import PerpGrad
from unweave.optim.perp_grad import orthogonal


def test_by_hand() -> None:
    w, g = torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(orthogonal(w, g), torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(orthogonal(w, g, rescale=False), torch.tensor([0.0, 4.0]))


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_is_orthogonal_and_as_long(seed: int) -> None:
    rng = seeded(seed)
    w, g = (torch.randn(3, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    found = orthogonal(w, g)
    assert abs(float((found * w).sum())) < 1e-9 * float(w.norm() * g.norm())
    assert float(found.norm()) == pytest.approx(float(g.norm()))


def test_limits() -> None:
    g = torch.randn(4, generator=seeded(0))
    assert torch.equal(orthogonal(torch.zeros(4), g), g)  # a weight of zero has no direction
    assert float(orthogonal(g * 3, g, cap=10.0).norm()) <= 10 * 1e-6 * float(
        g.norm()
    )  # the residue stays small
    assert orthogonal(g, torch.zeros(4)).abs().sum() == 0


def test_steps_with_the_projected_gradient_and_leaves_vectors_alone() -> None:
    weights = parameters()
    g = gradient_at(weights)
    expected = [w - 0.1 * (orthogonal(w, d) if w.ndim > 1 else d) for w, d in zip(weights, g, strict=True)]
    PerpGrad(weights, base=SGD, lr=0.1).step(closure_of(weights))
    assert_near(weights, expected)


def test_agrees_with_pytorch_optimizer_where_vectors_are_projected() -> None:
    theirs = pytest.importorskip("pytorch_optimizer").OrthoGrad
    one, two = parameters(), parameters()
    ours = PerpGrad(one, base=AdamW, lr=0.01, vectors=True)
    other = theirs(AdamW(two, lr=0.01))
    for _ in range(5):
        ours.step(closure_of(one))
        closure_of(two)()
        other.step()
    assert_near(one, two)


def test_a_single_number_can_still_move() -> None:
    w = torch.tensor([2.0], requires_grad=True)
    w.grad = torch.tensor([1.0])
    PerpGrad([w], base=SGD, lr=0.1, vectors=True).step()
    assert w.item() == pytest.approx(1.9)


@pytest.mark.parametrize(("cap", "factor"), [(1.0, 1.0), (1.2, 1.2), (2.0, 1.25)])
def test_the_cap_bounds_the_rescaling(cap: float, factor: float) -> None:
    # g = (3, 4) at w = (2, 0): what is left is (0, 4), to be stretched by 5 / 4
    torch.testing.assert_close(
        orthogonal(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0]), cap=cap),
        torch.tensor([0.0, 4 * factor]),
    )


def test_half_precision_is_projected_in_single() -> None:
    rng = seeded(0)
    w, g = (torch.randn(64, 64, generator=rng).half() for _ in range(2))
    found = orthogonal(100 * w, g)
    assert found.dtype == torch.float16
    expected = orthogonal(100 * w.double(), g.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("vectors", [False, True])
def test_each_setting_reaches_the_step(vectors: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    for settings_, told in (({"rescale": False}, {"rescale": False}), ({"cap": 1.01}, {"cap": 1.01})):
        at = [w.detach().clone().requires_grad_() for w in weights]
        expected = [
            w - 0.1 * (orthogonal(w, d, **told) if w.ndim > 1 or vectors else d)
            for w, d in zip(at, g, strict=True)
        ]
        PerpGrad(at, base=SGD, lr=0.1, vectors=vectors, **settings_).step(closure_of(at))
        assert_near(at, expected)


def test_a_cap_on_no_rescaling_is_refused() -> None:
    with pytest.raises(InputError, match="PerpGrad.cap does nothing without rescale; got 10.0"):
        PerpGrad(parameters(), lr=0.1, rescale=False, cap=10.0)
