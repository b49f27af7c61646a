"""DPO: sums of log-probabilities, log-ratios to the original of both answers."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    KEPT,
    OTHER,
    assert_equal,
    llama,
    loss_of,
    nll,
    token_nll,
)
from unweave.language import DPO
from unweave.language.dpo import preference


def test_loss_is_the_equation() -> None:
    start, model, beta = llama(0), llama(1), 0.3
    ratio = lambda t: token_nll(start, t).sum() - token_nll(model, t).sum()  # noqa: E731
    each = [
        -2 / beta * torch.log(1 / (1 + torch.exp(-beta * (ratio(o) - ratio(y)))))
        for y, o in zip(FORGET, OTHER, strict=True)
    ]
    assert_equal(loss_of(DPO(beta=beta, alpha=0.7)), torch.stack(each).mean() + 0.7 * nll(model, KEPT))


def test_the_same_answer_costs_the_log_of_two() -> None:
    same = torch.randn(3, dtype=torch.float64)
    assert_equal(preference(same, same, 0.1), 3 * 2 / 0.1 * torch.tensor(2.0).double().log())
