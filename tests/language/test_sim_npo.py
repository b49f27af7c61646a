"""SimNPO: means a token, delta inside beta, gamma a weight."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    caught,
    llama,
    loss_of,
    mean,
    nll,
    token_nll,
)
from unweave.language import SimNPO


def test_loss_is_the_equation() -> None:
    model, beta, delta = llama(1), 2.5, 0.4
    due = mean(lambda t: 2 / beta * torch.log(1 + torch.exp(-beta * (token_nll(model, t).mean() - delta))))
    method = SimNPO(beta=beta, delta=delta, gamma=0.3, alpha=1.5)
    assert_equal(loss_of(method), 0.3 * due + 1.5 * nll(model, KEPT))


def test_loss_falls_as_texts_become_unlikely() -> None:
    model, method = llama(1), SimNPO(alpha=0.0)
    found = caught(method, llama(0))
    batch = next(found["data"].batches())
    before, loss = float(nll(model, FORGET).detach()), found["objective"](model, batch)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.01 * p.grad
    assert float(nll(model, FORGET).detach()) > before
    assert float(found["objective"](model, batch).detach()) < float(loss.detach())
