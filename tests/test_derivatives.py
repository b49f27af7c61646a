from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module

from unweave import Mask, seeded
from unweave.derivatives import (
    Point,
    Space,
    conjugate_gradients,
    fisher_diagonal,
    gradient_rows,
    hessian_product,
    mean_named_gradient,
    named_hessian_product,
    probe,
    softmax_ggn_product,
    spaced,
    summed_gradients,
    woodfisher,
)
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.tasks import Classify


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)
    model = nn.Sequential(*layers).double()
    model[1].running_mean.uniform_(-1, 1)
    return model


def points(n: int = 7, batch_size: int = 3):
    rng = seeded(1)
    inputs = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return of_tensors(inputs, torch.arange(n) % 3, classes=3, batch_size=batch_size)


def point(model: Module) -> Point:
    return Point.of(model, Classify(3), "Test")


def per_example(model: Module, value) -> Tensor:
    """One backward pass an example: [n, d]."""
    model.eval()
    rows = []
    for x, y in zip(*points().examples.tensors, strict=True):
        model.zero_grad()
        value(model(x[None])[0], y).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(rows)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y)


def dense(product, d: int) -> Tensor:
    return torch.stack([product(e) for e in torch.eye(d, dtype=torch.float64)])


class Branching(Module):
    """Control flow on data: torch.func cannot vectorise it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(x.sum() > -1e9) else self.inner(-x)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("vectorised", [True, False])
def test_gradient_rows_are_each_examples_own(batch_size: int, vectorised: bool) -> None:
    expected, p = per_example(net(), cross_entropy), point(net())
    data = points(batch_size=batch_size)
    rows = list(gradient_rows(p.losses, p.space, p.weights, data, 2, vectorised=vectorised))
    assert max(len(r) for r in rows) <= 2
    torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-10, atol=1e-12)


def test_gradients_held_at_once_fill_a_quarter_of_a_gibibyte() -> None:
    p = point(nn.Sequential(nn.Flatten(), nn.Linear(1 << 16, 3, bias=False)))  # float32
    assert p._rows == 2**28 // (3 * 2**16 * 4)
    large = SimpleNamespace(space=SimpleNamespace(size=2**27), here=p.here)
    assert Point._rows.fget(large) == 1  # one does not fit


def test_gradient_rows_fall_back_where_torch_func_cannot() -> None:
    p = point(Branching())
    rows = torch.cat(list(gradient_rows(p.losses, p.space, p.weights, points(), 3)))
    torch.testing.assert_close(rows, per_example(net(), cross_entropy), rtol=1e-10, atol=1e-12)


def test_gradient_rows_go_on_one_by_one_from_where_torch_func_stopped() -> None:
    at, calls = point(net()), []

    def losses(weights, batch):
        calls.append(len(batch[0]))
        if len(calls) == 2:
            raise RuntimeError("no batching rule")
        return at.losses(weights, batch)

    blocks = list(gradient_rows(losses, at.space, at.weights, points(), 3))
    assert [len(b) for b in blocks] == [3, 1, 1, 1, 1]
    torch.testing.assert_close(torch.cat(blocks), per_example(net(), cross_entropy), rtol=1e-10, atol=1e-12)


def test_a_true_error_is_not_hidden_by_the_fallback() -> None:
    p = Point.of(net(), Classify(5), "Test")
    with pytest.raises(InputError, match="classifier of 5 classes"):
        list(gradient_rows(p.losses, p.space, p.weights, points(), 3))


def test_gradient_of_the_mean_whatever_the_batching() -> None:
    expected = per_example(net(), cross_entropy).mean(0)
    for size in (1, 3, 7):
        torch.testing.assert_close(
            point(net()).gradient(points(batch_size=size)), expected, rtol=1e-10, atol=1e-12
        )


def test_fisher_diagonal_is_the_expectation_over_the_models_own_labels() -> None:
    model, p = net().eval(), point(net())
    expected = torch.zeros(p.space.size, dtype=torch.float64)
    shares = model(points().examples.tensors[0]).detach().softmax(-1)
    for y in range(3):
        g = per_example(net(), lambda logits, _, y=y: logits.log_softmax(-1)[y])
        expected += (shares[:, y, None] * g**2).mean(0)
    got = fisher_diagonal(p.outputs, p.space, p.weights, points(), 2)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    batch_squares = per_example(net(), cross_entropy).mean(0) ** 2
    assert float(got.sum()) > 2 * float(batch_squares.sum())  # squares of a batch's mean are another thing


def explicit(p: Point, data) -> tuple[Tensor, Tensor]:
    """Hessian and Gauss-Newton matrix, from torch's dense Jacobians."""
    (batch,) = data.batches()
    at = p.space.vector(p.weights)
    hessian = torch.autograd.functional.hessian(lambda w: p.losses(p.space.tensors(w), batch).mean(), at)
    jacobian = torch.autograd.functional.jacobian(lambda w: p.outputs(p.space.tensors(w), batch), at)
    s = p.outputs(p.weights, batch).softmax(-1)
    curved = torch.diag_embed(s) - s[:, :, None] * s[:, None, :]
    return hessian, torch.einsum("nia,nij,njb->ab", jacobian, curved, jacobian) / len(s)


def test_curvature_products_equal_dense_matrices() -> None:
    p = point(net())
    hessian, ggn = explicit(p, points(batch_size=7))
    d = p.space.size
    got = dense(lambda v: hessian_product(p.losses, p.space, p.weights, points(), v), d)
    torch.testing.assert_close(got, hessian, rtol=1e-9, atol=1e-11)
    got = dense(lambda v: softmax_ggn_product(p.outputs, p.space, p.weights, points(), v), d)
    torch.testing.assert_close(got, ggn, rtol=1e-9, atol=1e-11)
    assert float(torch.linalg.eigvalsh(got)[0]) > -1e-12
    assert (
        float(torch.linalg.eigvalsh(hessian)[0]) < -1e-3
    )  # so the two differ, and the Hessian alone is no metric


def test_products_see_living_trainable_weights_only() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[0, 1:] = 0
    model[3].bias.requires_grad_(False)
    whole, part = point(net()), point(model)
    assert part.space.size == whole.space.size - 2 - 3
    step = part.write(model, torch.ones(part.space.size, dtype=torch.float64), "Test")
    assert Mask.of(step) == Mask.of(model)
    assert torch.equal(step[3].bias, model[3].bias)
    assert torch.equal(step[0].weight[1:], model[0].weight[1:] + 1)
    rows = torch.cat(list(gradient_rows(part.losses, part.space, part.weights, points(), 3)))
    model.requires_grad_(True)
    alive = torch.ones(whole.space.size, dtype=torch.bool)
    alive[1:3] = alive[-3:] = False
    torch.testing.assert_close(rows, per_example(model, cross_entropy)[:, alive], rtol=1e-10, atol=1e-12)


def test_half_precision_is_read_in_float32() -> None:
    model = net().bfloat16()
    p = point(model)
    assert {w.dtype for w in p.weights.values()} == {torch.float32}
    still = p.write(model, torch.zeros(p.space.size), "Test")
    assert all(torch.equal(a, b) for a, b in zip(still.parameters(), model.parameters(), strict=True))


def test_space_goes_there_and_back() -> None:
    space = Space({"w": torch.Size([2, 2]), "b": torch.Size([2])}, {"w": torch.tensor([1, 2])})
    vector = torch.tensor([1.0, 2, 3, 4])
    assert torch.equal(space.vector(space.tensors(vector)), vector)
    assert space.tensors(vector)["w"].tolist() == [[0, 1], [2, 0]]
    batched = {"w": torch.arange(8.0).view(2, 2, 2), "b": torch.zeros(2, 2)}
    assert space.vector(batched).tolist() == [[1, 2, 0, 0], [5, 6, 0, 0]]


def recursion(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """The published recursion, with the d x d matrix it speaks of."""
    inverse = torch.eye(rows.shape[1], dtype=rows.dtype) / damping
    for g in rows:
        moved = inverse @ g
        inverse = inverse - torch.outer(moved, moved) / (len(rows) + g @ moved)
    return inverse @ v


@pytest.mark.parametrize(("n", "d"), [(1, 4), (5, 9), (9, 5), (40, 12)])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_woodfisher_equals_the_sequential_recursion(n: int, d: int, size: int) -> None:
    rng = seeded(n)
    rows, v = (
        torch.randn(n, d, generator=rng, dtype=torch.float64),
        torch.randn(d, generator=rng, dtype=torch.float64),
    )
    blocks = rows.split(size)
    got = woodfisher(lambda i: blocks[i], len(blocks), v, 0.01)
    torch.testing.assert_close(got, recursion(rows, v, 0.01), rtol=1e-9, atol=1e-9)
    matrix = 0.01 * torch.eye(d, dtype=torch.float64) + rows.T @ rows / n
    torch.testing.assert_close(got, torch.linalg.solve(matrix, v), rtol=1e-9, atol=1e-9)


def test_woodfisher_by_hand() -> None:
    # one gradient (2): F = 1 + 2 * 2 / 1 = 5; two of them, (2) and (4): F = 1 + (4 + 16) / 2 = 11
    assert float(woodfisher(lambda _: torch.tensor([[2.0]]), 1, torch.tensor([10.0]), 1.0)) == pytest.approx(
        2
    )
    assert float(
        woodfisher(lambda _: torch.tensor([[2.0], [4.0]]), 1, torch.tensor([11.0]), 1.0)
    ) == pytest.approx(1)


def test_conjugate_gradients() -> None:
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    v = torch.tensor([1.0, 2.0], dtype=torch.float64)
    got = conjugate_gradients(lambda x: a @ x, v, damping=0.5, steps=2, tolerance=1e-10)
    torch.testing.assert_close(got, torch.linalg.solve(a + 0.5 * torch.eye(2), v))
    zero = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(conjugate_gradients(lambda x: a @ x, zero, damping=0.5, steps=2, tolerance=1e-3), zero)
    with pytest.raises(InputError, match="relative residual of .* in 1 steps; 1e-10 was wanted"):
        conjugate_gradients(lambda x: a @ x, v, damping=0.5, steps=1, tolerance=1e-10)
    with pytest.raises(InputError, match="damping 0.5 is not positive definite"):
        conjugate_gradients(lambda x: -a @ x, v, damping=0.5, steps=9, tolerance=1e-10)


@pytest.mark.parametrize("limit", [2.0, 0.1])
def test_conjugate_gradients_stop_at_a_residual_asked_for(limit: float) -> None:
    bends, vector, calls = torch.arange(1.0, 11, dtype=torch.float64), torch.ones(10, dtype=torch.float64), []

    def product(v: Tensor) -> Tensor:
        calls.append(v)
        return bends * v

    how = {"damping": 0.5, "tolerance": 1e-12, "limit": limit}
    x = conjugate_gradients(product, vector, steps=99, **how)
    assert float((vector - (bends + 0.5) * x).norm()) <= limit
    with pytest.raises(InputError, match="Raise steps, damping or tolerance"):
        conjugate_gradients(product, vector, steps=len(calls) - 1, **how)


def test_refuses_models_without_weights_to_move() -> None:
    with pytest.raises(InputError, match="Test found no weight it may move"):
        point(net().requires_grad_(False))
    broken = net()
    with torch.no_grad():
        broken[0].bias[0] = torch.nan
    with pytest.raises(InputError, match="infinite or NaN weights"):
        point(broken)


def test_sums_over_batches_are_folded_with_their_sizes() -> None:
    rows = per_example(net(), cross_entropy)
    batches = [rows[0:3].mean(0), rows[3:6].mean(0), rows[6:7].mean(0)]
    for fold, expected in (
        (lambda n, g: n * g, rows.sum(0)),
        (lambda n, g: (n * g).square(), sum((n * g) ** 2 for n, g in zip((3, 3, 1), batches, strict=True))),
    ):
        with probe(net(), None, "running") as (copy, weights):
            got = summed_gradients(copy, points(), weights, fold)
        torch.testing.assert_close(
            torch.cat([g.flatten() for g in got.values()]), expected, rtol=1e-10, atol=1e-12
        )


def test_the_mean_gradient_by_name_is_over_examples_not_batches() -> None:
    with probe(net(), None, "running") as (copy, weights):
        got = mean_named_gradient(copy, points(), weights)
    expected = per_example(net(), cross_entropy).mean(0)
    torch.testing.assert_close(
        torch.cat([g.flatten() for g in got.values()]), expected, rtol=1e-10, atol=1e-12
    )


def test_fewer_examples_are_taken_from_the_first_to_the_last() -> None:
    data = of_tensors(torch.arange(10.0)[:, None], torch.arange(10) // 4, classes=3)
    for examples, positions in ((4, [0, 3, 6, 9]), (3, [0, 4, 9]), (1, [0])):
        assert [float(x) for x, _ in spaced(data, examples).examples] == positions
    assert spaced(data, 10) is spaced(data, 99) is spaced(data, None) is data


def test_a_probe_without_a_scope_takes_what_is_not_frozen() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    with probe(model, None, "running") as (copy, weights):
        assert list(weights) == ["0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
        assert weights["3.weight"] is copy[3].weight
        assert copy is not model
        assert not any(module.training for module in copy.modules())
    with probe(model, None, "batch") as (copy, _):
        assert [module.training for module in copy.modules()] == [False, False, True, False, False]


def test_a_point_reads_rows_and_fisher_diagonal_at_itself() -> None:
    p = point(net())
    torch.testing.assert_close(
        torch.cat(list(p.gradient_rows(points()))), per_example(net(), cross_entropy), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        p.fisher_diagonal(points()), fisher_diagonal(p.outputs, p.space, p.weights, points(), 1)
    )


@pytest.mark.parametrize("batch_size", [2, 7])
def test_the_hessian_by_name_is_that_of_the_mean_loss(batch_size: int) -> None:
    # two of three weights: the product is the Hessian's block of these alone
    model, data = net().eval(), points(batch_size=batch_size)
    weights = {n: p for n, p in model.named_parameters() if n in ("0.weight", "3.weight")}
    vector = {n: torch.randn(p.shape, generator=seeded(2), dtype=torch.float64) for n, p in weights.items()}
    found = named_hessian_product(model, data, weights, vector)
    inputs, labels = data.examples.tensors

    def loss(*leaves: Tensor) -> Tensor:
        moved = torch.func.functional_call(model, dict(zip(weights, leaves, strict=True)), (inputs,))
        return nn.functional.cross_entropy(moved, labels)

    _, expected = torch.autograd.functional.hvp(loss, tuple(weights.values()), tuple(vector.values()))
    for product, naive in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(product, naive)


def test_the_hessian_of_a_loss_linear_in_the_weights_is_zero() -> None:
    class Linear:
        def losses(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return model(batch[0])[:, 0]

        outputs = losses

    model = nn.Linear(3, 1).double()
    data = replace(points(), task=Linear())
    weights = dict(model.named_parameters())
    vector = {n: torch.ones_like(p) for n, p in weights.items()}
    found = named_hessian_product(model, data, weights, vector)
    assert not any(product.any() for product in found.values())


def test_a_fisher_diagonal_of_other_outputs_is_refused() -> None:
    p = point(net())
    sequence = lambda weights, batch: p.outputs(weights, batch)[:, None, :]  # noqa: E731
    with pytest.raises(InputError, match=r"outputs \[n, classes\]; got \[7, 1, 3\]"):
        fisher_diagonal(sequence, p.space, p.weights, points(), 2)
