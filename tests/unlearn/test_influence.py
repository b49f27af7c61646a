from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.utils.data import TensorDataset

from tests.contract import world
from unweave import Data, Request, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import predict
from unweave.unlearn import Influence
from unweave.unlearn.influence import crossing


@dataclass(frozen=True)
class Squared:
    """Half the squared error."""

    def losses(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (model(batch[0])[:, 0] - batch[1]) ** 2

    def outputs(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])


def ridge(x: Tensor, y: Tensor, decay: float) -> Tensor:
    """Minimum of the mean of squared errors / 2 + decay / 2 |w|^2."""
    return torch.linalg.solve(
        x.T @ x / len(x) + decay * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y / len(x)
    )


def linear(w: Tensor) -> nn.Linear:
    model = nn.Linear(len(w), 1, bias=False, dtype=w.dtype)
    with torch.no_grad():
        model.weight.copy_(w)
    return model


@pytest.mark.parametrize(("n", "d", "gone"), [(30, 5, 4), (12, 3, 6)])
def test_equals_the_closed_form_on_ridge_regression(n: int, d: int, gone: int) -> None:
    rng = seeded(n)
    x, y = (torch.randn(n, *s, generator=rng, dtype=torch.float64) for s in ((d,), ()))
    y = y + x.sum(1)
    train = Data(TensorDataset(x, y), Squared(), 4)
    before, after = ridge(x, y, 0.1), ridge(x[gone:], y[gone:], 0.1)
    method = Influence(inverse="cg", curvature="hessian", scale=1.0, damping=0.1, tolerance=1e-12)
    request = Request.of(train, train, list(range(gone)))
    edited = method.apply(linear(before), request, rng=seeded(0))
    torch.testing.assert_close(edited.weight[0], after, rtol=1e-9, atol=1e-9)
    assert float((after - before).norm()) > 0.01


def test_by_hand() -> None:
    # loss (w - y)^2 / 2 at w = 3; forget y = 0 (gradient 3), retain y = 2 and y = 4 (gradients 1 and -1, mean
    # 0). v = 1/3 * (3 - 0) = 1; WoodFisher with damping 1: F = (1 + 1) / 2 + 1 = 2; w = 3 + 1 / 2
    y = torch.tensor([0.0, 2, 4])
    data = Data(TensorDataset(torch.ones(3, 1), y), Squared())
    request = Request.of(data, data, [0])
    edited = Influence(scale=1.0, damping=1.0).apply(linear(torch.tensor([3.0])), request, rng=seeded(0))
    assert edited.weight.item() == pytest.approx(3.5)


def small_world() -> tuple[Module, Request]:
    torch.manual_seed(0)
    model = mlp(3, 4, 3).double()
    inputs = torch.randn(20, 3, dtype=torch.float64)
    train = of_tensors(inputs, torch.arange(20) % 3, classes=3, batch_size=6)
    return model, Request.of(train, train, [0, 3, 11])


def flat(model: Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def naive(model: Module, request: Request, damping: float) -> Tensor:
    """H^-1 v, example by example, with a d x d matrix and the public formula of v."""
    gradients = []
    for part in (request.forget, request.retain):
        rows = []
        for batch in replace(part, batch_size=1).batches():
            model.zero_grad()
            part.task.losses(model, batch).sum().backward()
            rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        gradients.append(torch.stack(rows))
    f, r = gradients
    n = len(f) + len(r)
    v = f.sum(0) / n - len(f) / (n * len(r)) * r.sum(0)
    inverse = torch.eye(len(v), dtype=torch.float64) / damping
    for g in r:
        inverse -= torch.outer(inverse @ g, inverse @ g) / (len(r) + g @ inverse @ g)
    return inverse @ v


@pytest.mark.parametrize("memory_gib", [2.0, 1.5e-6])  # all 17 gradients at once; 3 at a time
def test_woodfisher_step_equals_the_naive_one(memory_gib: float) -> None:
    model, request = small_world()
    before = flat(model)
    expected = naive(deepcopy(model), request, 0.05)
    method = Influence(scale=0.5, damping=0.05, memory_gib=memory_gib)
    edited = method.apply(model, request, rng=seeded(0))
    torch.testing.assert_close(flat(edited) - before, 0.5 * expected, rtol=1e-9, atol=1e-10)


def test_a_sample_of_the_retain_set_is_drawn_from_rng() -> None:
    model, request = small_world()
    method = Influence(scale=1.0, samples=5)
    a, b, c = (flat(method.apply(model, request, rng=seeded(s))) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert float((a - c).norm() / (a - flat(model)).norm()) > 0.1


def test_with_overwhelming_damping_it_is_one_gradient_step() -> None:
    model, request = small_world()
    before = flat(model)
    ascent = naive(deepcopy(model), request, 1e9) * 1e9  # v itself
    for inverse in ("woodfisher", "cg"):
        method = Influence(inverse=inverse, scale=1e9, damping=1e9)
        edited = method.apply(model, request, rng=seeded(0))
        torch.testing.assert_close(flat(edited) - before, ascent, rtol=1e-5, atol=1e-7)


def loss(model: Module, data: Data) -> float:
    return float(predict(model, data, data.task.losses).mean())


def memorised() -> tuple[Module, Request]:
    """A network that knows its examples by heart: a tenth of the labels are wrong."""
    rng = seeded(0)
    labels = torch.arange(80) % 3
    inputs = torch.randn(80, 8, generator=rng) + nn.functional.one_hot(labels, 8)
    labels = torch.where(torch.rand(80, generator=rng) < 0.1, (labels + 1) % 3, labels)
    train = of_tensors(inputs, labels, classes=3, batch_size=16)
    recipe = Supervised(network=lambda: mlp(8, 64, 3), epochs=60, lr=0.1)
    return recipe.build(train, rng=seeded(1)), Request.of(train, train, list(range(10)))


def test_forgets_more_than_a_plain_gradient_step_of_equal_harm() -> None:
    model, request = memorised()
    plain = Influence(damping=1e3).apply(model, request, rng=seeded(0))  # v itself: no curvature
    shaped = Influence().apply(model, request, rng=seeded(0))
    for edited in (plain, shaped):
        assert loss(edited, request.retain) == pytest.approx(loss(model, request.retain) + 0.05, abs=2e-3)
    gained = [loss(edited, request.forget) - loss(model, request.forget) for edited in (plain, shaped)]
    assert gained[1] > 1.5 * gained[0] > 0


def test_searches_stop_where_they_say() -> None:
    model, request = world.model(), world.request()
    hard = replace(request, heldout=request.heldout.subset([0, 1, 2, 3]))
    hard = replace(hard, forget=request.forget.subset([0, 1, 2, 3]))
    target = loss(model, hard.heldout) if loss(model, hard.heldout) > loss(model, hard.forget) else None
    if target is None:
        hard = replace(hard, heldout=hard.forget, forget=hard.heldout)
        target = loss(model, hard.heldout)
    edited = Influence(scale="heldout").apply(model, hard, rng=seeded(0))
    assert loss(edited, hard.forget) == pytest.approx(target, rel=0.05)
    with pytest.raises(InputError, match="scale='heldout' has nothing to do"):
        Influence(scale="heldout").apply(model, replace(hard, heldout=hard.forget), rng=seeded(0))


def test_crossing() -> None:
    for x in (0.0002, 0.3, 1.0, 15.0):
        assert crossing(lambda a, x=x: a < x, who="") == pytest.approx(x, rel=1 / 32)
    with pytest.raises(InputError, match="^Z found that a step of 6e-05 .* too long already"):
        crossing(lambda a: False, who="Z")
    with pytest.raises(InputError, match="^Z found no step long enough, up to 16 times"):
        crossing(lambda a: True, who="Z")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0.0}, 'Influence.scale must be above 0, or "retain" or "heldout"; got 0.0'),
        ({"scale": float("nan")}, "scale must be above 0"),
        ({"scale": "best"}, "got 'best'"),
        ({"inverse": "lu"}, '"woodfisher" or "cg"; got'),
        ({"curvature": "k"}, '"ggn" or "hessian"; got'),
        ({"samples": 0}, "samples must be a whole number at least 1; got 0"),
        ({"steps": 0}, "steps must be a whole number at least 1; got 0"),
        ({"damping": -1.0}, "damping must be above 0, or None; got -1.0"),
        ({"slack": 0.0}, "slack must be above 0"),
        ({"inverse": "cg", "tolerance": 1.0}, "tolerance must be above 0 and below 1"),
        ({"memory_gib": float("inf")}, "memory_gib must be above 0"),
    ],
)
def test_refuses(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Influence(**fields)


@pytest.mark.parametrize(("inverse", "damping"), [("woodfisher", 1e-5), ("cg", 1e-2)])
def test_default_damping(inverse: str, damping: float) -> None:
    model, request = small_world()
    plain, said = (
        flat(Influence(inverse=inverse, scale=0.1, **given).apply(model, request, rng=seeded(0)))
        for given in ({}, {"damping": damping})
    )
    assert torch.equal(plain, said)
    other = Influence(inverse=inverse, scale=0.1, damping=2 * damping).apply(model, request, rng=seeded(0))
    assert not torch.equal(plain, flat(other))


@pytest.mark.parametrize("slack", [0.02, 0.2])
def test_slack_is_what_the_retain_loss_may_rise(slack: float) -> None:
    model, request = memorised()
    edited = Influence(slack=slack).apply(model, request, rng=seeded(0))
    assert loss(edited, request.retain) == pytest.approx(loss(model, request.retain) + slack, rel=0.05)


def test_ggn_and_hessian_are_what_cg_solves_with() -> None:
    # loss (w - y)^2 / 2 has Hessian 1; as cross-entropy's Gauss-Newton its single output gives 0: step v / damping
    y = torch.tensor([0.0, 2, 4])
    data = Data(TensorDataset(torch.ones(3, 1), y), Squared())
    request = Request.of(data, data, [0])
    method = Influence(inverse="cg", scale=1.0, damping=0.5, curvature="hessian")
    assert method.apply(linear(torch.tensor([3.0])), request, rng=seeded(0)).weight.item() == pytest.approx(
        3 + 1 / 1.5
    )
    flatter = replace(method, curvature="ggn")
    assert flatter.apply(linear(torch.tensor([3.0])), request, rng=seeded(0)).weight.item() == pytest.approx(
        5
    )


def test_equal_gradients_leave_nothing_to_remove() -> None:
    data = Data(TensorDataset(torch.ones(4, 1), torch.tensor([2.0, 2, 2, 2])), Squared())
    with pytest.raises(InputError, match="have the same gradient"):
        Influence().apply(linear(torch.tensor([3.0])), Request.of(data, data, [0]), rng=seeded(0))


def test_reads_the_heldout_set_only_to_search_by_it() -> None:
    model, request = small_world()
    bare = replace(request, heldout=request.heldout.subset([]))
    Influence(scale=0.1).apply(model, bare, rng=seeded(0))
    with pytest.raises(EmptyDataError, match="scale='heldout' .held-out set"):
        Influence(scale="heldout").apply(model, bare, rng=seeded(0))
