"""SatImp: both powers, not differentiated."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    llama,
    loss_of,
    nll,
    token_nll,
)
from unweave.language import WGA, SatImp


def test_loss_is_the_equation() -> None:
    model = llama(1)
    each = torch.cat([token_nll(model, t) for t in FORGET])
    p = torch.exp(-each)
    due = -(p**2.0 * (1 - p) ** 0.5 * each).mean()
    assert_equal(
        loss_of(SatImp(beta1=2.0, beta2=0.5, gamma=0.3, alpha=2.0)), 0.3 * due + 2 * nll(model, KEPT)
    )


def test_is_wga_without_importance() -> None:
    assert_equal(loss_of(SatImp(beta1=0.7, beta2=0.0, gamma=1.0)), loss_of(WGA(beta=0.7)))
