"""What a certificate does not hold for: one refusal for every certified method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.random import seeded
from unweave.types import Request
from unweave.unlearn import Newton
from unweave.unlearn._certificate import check_certifiable


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def pruned() -> nn.Sequential:
    model = plain()
    with torch.no_grad():
        model[0].weight[:, :3] = 0
    return model


def frozen() -> nn.Sequential:
    model = plain()
    model[0].weight.requires_grad_(False)
    return model


REFUSED = [
    (normed, r"running statistics \(1 layers: BatchNorm1d\)"),
    (pruned, "pruned model: which weights live was chosen with the forgotten data"),
    (frozen, r"frozen weights \(0.weight\): what they learned"),
]


@pytest.mark.parametrize(("make", "why"), REFUSED)
def test_what_the_proof_does_not_see_is_refused(make, why) -> None:
    with pytest.raises(InputError, match=f"^Method cannot certify a .*{why}.*Leave the constants out"):
        check_certifiable("Method", make())
    check_certifiable("Method", plain())
    check_certifiable("Method", nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)))


@pytest.mark.parametrize(("make", "why"), REFUSED)
def test_newton_certifies_none_of_them_and_runs_without_a_certificate(make, why) -> None:
    x = torch.randn(40, 6, generator=seeded(0))
    data = of_tensors(x, x[:, :3].argmax(1), classes=3, batch_size=8)
    request = Request.of(data.subset(range(32)), data.subset(range(32, 40)), range(4))
    constants = {
        "norm_bound": 50.0, "hessian_lipschitz": 0.01, "smallest_eigenvalue": -0.5, "epsilon": 1.0, "delta": 1e-4,
    }  # fmt: skip
    promised = Newton(curvature="hessian", damping=20.0, **constants)
    with pytest.raises(InputError, match=why):
        promised.apply(make().eval(), request, rng=seeded(0))
    promised.apply(plain().eval(), request, rng=seeded(0))
    Newton(damping=20.0).apply(make().eval(), request, rng=seeded(0))
