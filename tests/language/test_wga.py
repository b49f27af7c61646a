"""WGA: the weight is not differentiated."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    assert_equal,
    caught,
    gradient,
    llama,
    loss_of,
    token_nll,
)
from unweave.language import WGA, GradDiff


def test_loss_and_gradient_are_the_equations() -> None:
    model, beta = llama(1), 0.6
    each = torch.cat([token_nll(model, t) for t in FORGET])
    weight = torch.exp(-each.detach()) ** beta
    due = -0.5 * (weight * each).mean()
    assert_equal(loss_of(WGA(beta=beta, gamma=0.5, alpha=0.0)), due)
    model.zero_grad()
    due.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    found = gradient(caught(WGA(beta=beta, gamma=0.5, alpha=0.0), llama(0)), model)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-10


def test_is_ascent_without_its_power() -> None:
    assert_equal(loss_of(WGA(beta=0.0)), loss_of(GradDiff()))
