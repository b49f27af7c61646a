from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.utils.data import TensorDataset

from tests.contract import world
from unweave import Data, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError, NonFiniteError
from unweave.tasks import predict
from unweave.unlearn import Newton
from unweave.unlearn._certificate import gaussian_noise
from unweave.unlearn.newton import lissa

DECAY = 0.02
CONSTANTS = {
    "norm_bound": 3.0,
    "hessian_lipschitz": 2.0,
    "smallest_eigenvalue": 0.0,
    "epsilon": 1.0,
    "delta": 1e-3,
}


@dataclass(frozen=True)
class Squared:
    def losses(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (model(batch[0])[:, 0] - batch[1]) ** 2

    def outputs(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])


def one_weight(w: float) -> tuple[Module, Request]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, w)
    data = Data(TensorDataset(torch.ones(3, 1), torch.tensor([9.0, 0.0, 2.0])), Squared())
    return model, Request.of(data, data, [0])


def test_by_hand() -> None:
    # retain loss (w - 0)^2 / 2 and (w - 2)^2 / 2: gradient w - 1, Hessian 1. At w = 3 with weight decay 0.5
    # and damping 0.5: (2 + 0.5 * 3) / (1 + 0.5 + 0.5) = 1.75. An unsquared norm would give another gradient,
    # and no shift.
    model, request = one_weight(3.0)
    method = Newton(damping=0.5, weight_decay=0.5, std=0.0, curvature="hessian")
    assert method.apply(model, request, rng=seeded(0)).weight.item() == pytest.approx(1.25, rel=1e-5)


def logistic() -> tuple[Data, Tensor, Tensor]:
    rng = seeded(0)
    y = torch.arange(200) % 2
    x = torch.randn(200, 4, generator=rng, dtype=torch.float64) + y[:, None] * torch.tensor([1.0, -1, 0.5, 0])
    return of_tensors(x, y, classes=2, batch_size=64), x, y


def minimum(x: Tensor, y: Tensor, decay: float = DECAY) -> tuple[nn.Linear, Tensor]:
    """Exact optimum of logistic regression by Newton's method with dense matrices, and the Hessian there."""
    w = torch.zeros(10, dtype=torch.float64)

    def objective(w: Tensor) -> Tensor:
        logits = x @ w[:8].view(2, 4).T + w[8:]
        return nn.functional.cross_entropy(logits, y) + decay / 2 * w.square().sum()

    for _ in range(20):
        hessian = torch.autograd.functional.hessian(objective, w)
        gradient = torch.autograd.functional.jacobian(objective, w)
        w = w - torch.linalg.solve(hessian, gradient)
    assert float(gradient.norm()) < 1e-12
    model = nn.Linear(4, 2).double()
    with torch.no_grad():
        model.weight.copy_(w[:8].view(2, 4))
        model.bias.copy_(w[8:])
    return model, torch.autograd.functional.hessian(objective, w)


def flat(model: Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_equals_the_exact_solve_on_logistic_regression(curvature: str) -> None:
    data, x, y = logistic()
    before, after = minimum(x, y)[0], minimum(x[10:], y[10:])[0]
    request = Request.of(data, data, list(range(10)))
    method = Newton(damping=1e-9, weight_decay=DECAY, std=0.0, curvature=curvature, tolerance=1e-8)
    edited = method.apply(before, request, rng=seeded(0))
    # the dense solve at the same point
    logits = x[10:] @ flat(before)[:8].view(2, 4).T + flat(before)[8:]
    p = logits.softmax(-1)
    design = torch.cat([x[10:], torch.ones(190, 1, dtype=torch.float64)], 1)
    gradient = (p - nn.functional.one_hot(y[10:], 2)).T @ design / 190  # [class, input and bias]
    gradient = torch.cat([gradient[:, :4].flatten(), gradient[:, 4]]) + DECAY * flat(before)
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    full = torch.einsum("nij,na,nb->iajb", curved, design, design) / 190
    order = [(i, a) for i in range(2) for a in range(4)] + [(0, 4), (1, 4)]
    hessian = torch.stack([torch.stack([full[i, a, j, b] for j, b in order]) for i, a in order])
    step = torch.linalg.solve(hessian + (DECAY + 1e-9) * torch.eye(10), gradient)
    assert float((flat(edited) - flat(before) + step).norm() / step.norm()) < 1e-6
    # and so nearly the retrained optimum
    far = float((flat(before) - flat(after)).norm())
    assert float((flat(edited) - flat(after)).norm()) < 0.1 * far
    assert float((flat(edited) - flat(after)).norm() / flat(after).norm()) < 1e-2


def test_lissa_tends_to_the_exact_solution() -> None:
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    v = torch.tensor([1.0, -1.0], dtype=torch.float64)
    exact = torch.linalg.solve(a + 0.5 * torch.eye(2), v)
    torch.testing.assert_close(lissa(lambda x: a @ x, v, 0.5, 3.0, 200, 2), exact)
    # h_1 = v + v - A v / scale, by hand for A = 1, damping 1, scale 4: (1 + 1 - 2 / 4) / 4
    got = lissa(lambda x: x, torch.ones(1), 1.0, 4.0, 1, 1)
    assert float(got) == pytest.approx(0.375)
    with pytest.raises(NonFiniteError, match="LiSSA recursion diverged"):
        lissa(lambda x: 100 * x, v, 0.5, 3.0, 50, 1)


def test_lissa_solver_agrees_with_conjugate_gradients() -> None:
    data, x, y = logistic()
    model, request = minimum(x, y)[0], Request.of(data, data, list(range(40)))
    settings = {"damping": 0.2, "weight_decay": DECAY, "std": 0.0}
    exact = flat(Newton(**settings, tolerance=1e-8).apply(model, request, rng=seeded(0))) - flat(model)
    fast = Newton(**settings, solver="lissa", lissa_scale=2.0, steps=100, repeats=6, samples=80)
    got = flat(fast.apply(model, request, rng=seeded(0))) - flat(model)
    assert float((got - exact).norm() / exact.norm()) < 0.1


def test_noise_has_the_stated_spread_and_nothing_else_is_random() -> None:
    model, request = world.model(dtype=torch.float64), world.request()
    still = flat(Newton(std=0.0).apply(model, request, rng=seeded(0)))
    assert torch.equal(still, flat(Newton(std=0.0).apply(model, request, rng=seeded(1))))
    noise = flat(Newton(std=0.01).apply(model, request, rng=seeded(0))) - still
    assert float(noise.std()) == pytest.approx(0.01, rel=0.15)
    assert abs(float(noise.mean())) < 0.003


def test_raises_the_forget_loss_and_not_the_retain_loss() -> None:
    model, request = world.model(), world.request()

    def loss(m: Module, data: Data) -> float:
        return float(predict(m, data, data.task.losses).mean())

    edited = Newton(std=0.0, damping=0.1, weight_decay=0.0).apply(model, request, rng=seeded(0))
    assert loss(edited, request.retain) < loss(model, request.retain)
    off = Newton(std=0.0, damping=1e9, weight_decay=0.0).apply(
        model, request, rng=seeded(0)
    )  # its own term off
    assert abs(loss(off, request.forget) - loss(model, request.forget)) < 1e-6


def test_certificate_bounds_the_real_distance() -> None:
    data, x, y = logistic()
    before, after = minimum(x, y)[0], minimum(x[10:], y[10:])[0]
    c = 1.01 * max(float(flat(before).norm()), float(flat(after).norm()))
    # third derivatives of cross-entropy of 2 logits are below 1 / (6 sqrt 3) in the margin, which moves with
    # norm sqrt 2
    lipschitz = float((x.square().sum(1) + 1).pow(1.5).max()) * 2**1.5 / (6 * sqrt(3))
    method = Newton(
        damping=1e-3, weight_decay=DECAY, curvature="hessian", tolerance=1e-8,
        norm_bound=c, hessian_lipschitz=lipschitz, smallest_eigenvalue=0.0, epsilon=1.0, delta=1e-5,
    )  # fmt: skip
    promised = method.certificate()
    assert promised.certified
    assert promised.bound is not None
    still = Newton(damping=1e-3, weight_decay=DECAY, curvature="hessian", std=0.0, tolerance=1e-8)
    request = Request.of(data, data, list(range(10)))
    edited = still.apply(before, request, rng=seeded(0))
    assert 0 < float((flat(edited) - flat(after)).norm()) < promised.bound
    noise = flat(method.apply(before, request, rng=seeded(3))) - flat(edited)
    torch.testing.assert_close(
        noise, promised.sigma * torch.randn(10, generator=seeded(3)).double(), rtol=1e-4, atol=1e-4
    )


def test_certificate_by_hand() -> None:
    # 2 C (M C + damping) + G = 2 * 3 * (2 * 3 + 0.1) + 0.4 = 37; over 0 + 0.9 + 0.1 = 1, times 1 + tolerance
    method = Newton(
        **CONSTANTS, damping=0.1, weight_decay=0.9, gradient_bound=0.4, tolerance=0.5, curvature="hessian"
    )
    made = method.certificate()
    assert made.bound == pytest.approx(55.5)
    assert made.sigma == pytest.approx(55.5 * sqrt(2 * log(1250)))
    assert made.statement.startswith("certified (1, 0.001)")
    plain = Newton(std=0.25).certificate()
    assert (plain.certified, plain.sigma, plain.bound, plain.epsilon) == (False, 0.25, None, None)
    assert plain.statement.startswith("noisy Newton, not certified")
    assert gaussian_noise(1, epsilon=0.5, delta=0.1) == pytest.approx(2 * sqrt(2 * log(12.5)))


def test_a_model_beyond_the_norm_bound_is_not_certified() -> None:
    model, request = one_weight(4.0)
    with pytest.raises(InputError, match="norm_bound is 3, but the model's weights have norm 4"):
        Newton(**CONSTANTS, curvature="hessian").apply(model, request, rng=seeded(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"damping": 0.0}, "Newton.damping must be above 0; got 0.0"),
        ({"std": -1.0}, "std must be at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"steps": 0}, "steps must be a whole number at least 1"),
        ({"samples": 0}, "samples must be a whole number at least 1"),
        ({"curvature": "k"}, '"ggn" or "hessian"; got'),
        ({"solver": "lu"}, '"cg" or "lissa"; got'),
        (
            {"norm_bound": 1.0, "delta": 0.1},
            "lacks hessian_lipschitz, smallest_eigenvalue, epsilon for a certificate",
        ),
        (CONSTANTS, "certified only with solver='cg' and curvature='hessian'"),
        ({**CONSTANTS, "curvature": "hessian", "solver": "lissa"}, "certified only with"),
        (
            {**CONSTANTS, "curvature": "hessian", "epsilon": 2.0},
            "epsilon must be above 0 and at most 1, or None; got 2.0. The noise formula",
        ),
        ({**CONSTANTS, "curvature": "hessian", "delta": 0.0}, "delta must be above 0 and below 1"),
        (
            {**CONSTANTS, "curvature": "hessian", "smallest_eigenvalue": -9.0},
            "no finite bound to certify: .* above 0.*it is -8.9",
        ),
        ({**CONSTANTS, "curvature": "hessian", "norm_bound": 1e200}, "no finite bound to certify"),
    ],
)
def test_refuses(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Newton(**fields)


def test_weight_decay_and_damping_shift_a_flat_curvature() -> None:
    # a single output has Gauss-Newton matrix 0: step (gradient + 0.5 w) / (0.5 + 0.25) with gradient w - 1 at w = 3
    model, request = one_weight(3.0)
    method = Newton(damping=0.25, weight_decay=0.5, std=0.0)
    assert method.apply(model, request, rng=seeded(0)).weight.item() == pytest.approx(
        3 - 3.5 / 0.75, rel=1e-5
    )


def test_lissa_of_one_sample_by_hand() -> None:
    # Hessian 1 on any sample, shift 0.5 + 0.5, scale 4, gradient 2 + 1.5: h0 = 3.5, h1 = 3.5 + 3.5 - 2 * 3.5 / 4,
    # h2 = 5.25 + 3.5 - 2 * 5.25 / 4 = 6.125; the mean of equal repeats over the scale is 1.53125
    model, request = one_weight(3.0)
    method = Newton(
        damping=0.5, weight_decay=0.5, std=0.0, curvature="hessian", solver="lissa", lissa_scale=4.0, steps=2,
        repeats=3, samples=2,
    )  # fmt: skip
    assert method.apply(model, request, rng=seeded(0)).weight.item() == pytest.approx(3 - 1.53125, rel=1e-6)


def test_lissa_reads_that_many_examples_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = one_weight(3.0)
    seen: list[int] = []

    class Counting(Squared):
        def losses(self, model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            seen.append(len(batch[0]))
            return super().losses(model, batch)

    counted = Data(request.retain.examples, Counting())
    method = Newton(curvature="hessian", solver="lissa", lissa_scale=4.0, steps=3, repeats=2, samples=7)
    method.apply(model, Request(request.forget, counted, counted), rng=seeded(0))
    assert sorted(seen) == [2] + 6 * [7]  # one gradient, then repeats x steps samples with replacement


def test_a_certified_solver_goes_to_the_residual_in_its_bound() -> None:
    # excess 2 C (M C + damping) + G = 37 (by hand above), so a residual below 0.01 * 37 will do: from the gradient
    # 0.5 + 0.9 * 0.1 at w = 0.1 nothing needs solving, and the step is 0. With tolerance 1e-3 it is solved.
    model, request = one_weight(0.1)
    settings = {
        **CONSTANTS,
        "damping": 0.1,
        "weight_decay": 0.9,
        "gradient_bound": 0.4,
        "curvature": "hessian",
    }
    for tolerance, step in ((0.03, 0.0), (1e-3, (0.1 - 1 + 0.09) / 2)):
        method = Newton(**settings, tolerance=tolerance)
        edited = method.apply(model, request, rng=seeded(3))
        noise = method.certificate().sigma * torch.randn(1, generator=seeded(3))
        assert edited.weight.item() - float(noise) == pytest.approx(0.1 - step, abs=1e-4)


def test_gaussian_noise_is_the_mechanisms() -> None:
    assert gaussian_noise(2.0, epsilon=0.5, delta=0.05) == pytest.approx(4 * sqrt(2 * log(25)))
