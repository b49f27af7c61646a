"""CE-U: towards one's own next best tokens, the first of each answer left out."""

from __future__ import annotations

import pytest
import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    llama,
    logits,
    loss_of,
    nll,
    request,
)
from unweave import seeded
from unweave.errors import InputError
from unweave.language import CEU
from unweave.language.ce_u import next_best
from unweave.tasks.language import Text, texts


def test_loss_is_the_equation_and_skips_first_tokens() -> None:
    model = llama(1)
    parts = []
    for text in FORGET:
        z, y = logits(model, text)
        for row, k in list(zip(z, y, strict=True))[1:]:
            others = [j for j in range(len(row)) if j != int(k)]
            wanted = row[others].softmax(0)
            parts.append(-(wanted * row.log_softmax(0)[others]).sum())
    assert_equal(loss_of(CEU()), torch.stack(parts).mean())
    assert_equal(loss_of(CEU(alpha=2.0)), torch.stack(parts).mean() + 2 * nll(model, KEPT))


def test_the_target_is_not_differentiated() -> None:
    z = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    next_best(z, torch.tensor([2])).sum().backward()
    wanted = z.detach().clone()
    wanted[0, 2] = -torch.inf
    assert torch.allclose(z.grad, z.detach().softmax(1) - wanted.softmax(1), atol=1e-12)


def test_refuses_answers_of_one_token() -> None:
    from dataclasses import replace

    data = replace(request(), forget=texts([Text([1, 2, 3], 2)]))
    with pytest.raises(InputError, match="no text to forget has a second one"):
        CEU().apply(llama(), data, rng=seeded(0))
