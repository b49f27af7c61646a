"""GradDiff, GA and KL minimisation: the losses from their equations, each text read alone."""

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
)
from unweave.errors import InputError
from unweave.language import GradDiff


def test_loss_is_the_equation() -> None:
    model = llama(1)
    assert_equal(loss_of(GradDiff.ascent()), -nll(model, FORGET))
    assert_equal(loss_of(GradDiff(gamma=0.5, alpha=3.0)), -0.5 * nll(model, FORGET) + 3 * nll(model, KEPT))


def test_kl_is_over_the_answers_alone() -> None:
    start, model = llama(0), llama(1)
    parts = []
    for text in KEPT:
        p, q = (logits(m, text)[0].softmax(-1) for m in (start, model))
        parts += [(p[i] * (p[i] / q[i]).log()).sum() for i in range(len(p))]
    due = -nll(model, FORGET) + 2 * torch.stack(parts).mean()
    assert_equal(loss_of(GradDiff.kl_minimisation(alpha=2.0)), due)


def test_refuses_a_retain_loss_that_is_not_read() -> None:
    with pytest.raises(InputError, match="retain_loss='kl' would do nothing with alpha=0"):
        GradDiff(alpha=0.0, retain_loss="kl")
