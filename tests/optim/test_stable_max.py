from __future__ import annotations

import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.optim import StableMaxCrossEntropy, softmax_collapse_rate, stable_max


def naive(z: torch.Tensor) -> torch.Tensor:
    s = torch.where(z >= 0, z + 1, 1 / (1 - z))
    return s / s.sum(1, keepdim=True)


def test_by_hand() -> None:
    # s(1) = 2, s(0) = 1, s(-1) = 1/2
    p = stable_max(torch.tensor([[1.0, 0.0, -1.0]]))
    torch.testing.assert_close(p, torch.tensor([[4 / 7, 2 / 7, 1 / 7]]))


def test_is_the_equation() -> None:
    z = 5 * torch.randn(50, 7, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(stable_max(z), naive(z), rtol=1e-12, atol=0)
    y = torch.arange(50) % 7
    expected = -naive(z).gather(1, y[:, None]).log()
    torch.testing.assert_close(StableMaxCrossEntropy()(z, y), expected.mean())
    torch.testing.assert_close(StableMaxCrossEntropy(reduction="sum")(z, y), expected.sum())
    torch.testing.assert_close(StableMaxCrossEntropy(reduction="none")(z, y), expected[:, 0])


def test_is_smooth_at_zero_and_keeps_the_order() -> None:
    z = torch.tensor([[1e-7, 0.0], [-1e-7, 0.0]], dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(stable_max(z)[:, 0].sum(), z)[0][:, 0]
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-6)
    assert float(slopes[0]) == pytest.approx(0.25, rel=1e-6)
    logits = torch.randn(20, 6, generator=seeded(1))
    assert torch.equal(stable_max(logits).argsort(1), logits.argsort(1))


def test_keeps_its_gradient_where_softmax_collapses() -> None:
    z = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    assert softmax_collapse_rate(z.detach()) == 1.0
    assert not torch.autograd.grad(torch.nn.functional.cross_entropy(z, y), z)[0].any()
    assert torch.autograd.grad(StableMaxCrossEntropy()(z, y), z)[0].abs().min() > 1e-6


def test_the_collapse_rate_counts_examples_and_minds_the_dtype() -> None:
    z = torch.tensor([[0.0, -20.0], [0.0, -40.0], [0.0, -1.0]])
    assert softmax_collapse_rate(z) == pytest.approx(2 / 3)
    assert softmax_collapse_rate(z.double()) == pytest.approx(1 / 3)


def test_refuses() -> None:
    with pytest.raises(InputError, match="reduction"):
        StableMaxCrossEntropy(reduction="most")
    with pytest.raises(InputError, match="integer labels"):
        StableMaxCrossEntropy()(torch.zeros(2, 3), torch.zeros(2))


def test_the_dtype_is_that_of_the_computation() -> None:
    z, y = torch.tensor([[1e-9, 0.0]]), torch.tensor([1])
    exact = torch.log(torch.tensor(2 + 1e-9, dtype=torch.float64))
    assert StableMaxCrossEntropy()(z, y).dtype == torch.float64
    assert float(StableMaxCrossEntropy()(z, y)) == pytest.approx(float(exact), rel=1e-14)
    single = StableMaxCrossEntropy(dtype=torch.float32)(z, y)
    assert single.dtype == torch.float32
    assert stable_max(z.half()).dtype == torch.float32
    with pytest.raises(InputError, match="dtype must be a floating type; got torch.int64"):
        StableMaxCrossEntropy(dtype=torch.int64)


def test_probabilities_over_another_dimension() -> None:
    z = 3 * torch.randn(4, 5, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(stable_max(z, 0), naive(z.T).T, rtol=1e-12, atol=0)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="integer labels"):
        StableMaxCrossEntropy()(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
