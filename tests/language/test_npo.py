"""NPO: sums, cached log-probabilities, ascent in the limit, the weight of each text."""

from __future__ import annotations

import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    caught,
    gradient,
    llama,
    loss_of,
    mean,
    nll,
    request,
    token_nll,
)
from unweave import seeded
from unweave.language import NPO, GradDiff


def test_loss_is_the_equation() -> None:
    start, model, beta = llama(0), llama(1), 0.2
    ratio = lambda t: token_nll(start, t).sum() - token_nll(model, t).sum()  # noqa: E731
    due = mean(lambda t: 2 / beta * torch.log(1 + torch.exp(beta * ratio(t))))
    assert_equal(loss_of(NPO(beta=beta, alpha=0.0)), due)
    assert_equal(loss_of(NPO(beta=beta, alpha=2.0)), due + 2 * nll(model, KEPT))


def test_is_ascent_where_beta_is_small_and_weighs_texts_otherwise() -> None:
    start, model = llama(0), llama(1)
    parts = []
    for text in FORGET:
        model.zero_grad()
        (-token_nll(model, text).sum()).backward()  # gradient of lp
        parts.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    ratios = [float((token_nll(start, t).sum() - token_nll(model, t).sum()).detach()) for t in FORGET]
    for beta in (1e-4, 0.1):
        s = torch.tensor(ratios, dtype=torch.float64).mul(beta).exp()
        due = ((2 * s / (1 + s))[:, None] * torch.stack(parts)).mean(0)
        found = gradient(caught(NPO(beta=beta, alpha=0.0), start), model)
        assert float((found - due).norm() / due.norm()) < 1e-6  # norms of the model compute in float32
        cosine = float(torch.cosine_similarity(found, torch.stack(parts).mean(0), dim=0))
        assert cosine > 1 - 1e-6 if beta == 1e-4 else cosine < 1 - 1e-4


def test_reads_the_original_only_before_the_first_step() -> None:
    model = llama(0)
    found = caught(NPO(alpha=0.0), model)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    found["objective"](llama(1), next(found["data"].batches()))
    assert not calls


def test_what_is_kept_goes_with_its_text_in_any_order() -> None:
    found, model = caught(NPO(alpha=0.0), llama(0)), llama(1)
    shuffled = found["objective"](model, next(found["data"].batches(seeded(9))))
    assert_equal(shuffled, loss_of(NPO(alpha=0.0)))


def test_stops_pushing_what_ascent_goes_on_pushing() -> None:
    """The same steps: ascent goes further down than NPO, whose pull fades."""
    start, data = llama(0), request()
    gone = [
        float(nll(m.apply(start, data, rng=seeded(1)), FORGET).detach())
        for m in (GradDiff.ascent(epochs=30, lr=0.02), NPO(epochs=30, lr=0.02, beta=1.0, alpha=0.0))
    ]
    assert gone[0] > 1.5 * gone[1] > 1.5 * float(nll(start, FORGET).detach())
