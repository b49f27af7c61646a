"""Scores of single texts, against definitions worked out by hand or the slow way."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from scipy import stats

from tests.language.world import FORGET, llama, logits, request, token_nll
from unweave.audit.language.read import Told, margins_of, quantised, states
from unweave.audit.language.scores import (
    Seen,
    extraction_strength,
    forget_quality,
    rouge_l,
    truth_ratio,
)
from unweave.errors import InputError


def longest(a: list[str], b: list[str]) -> int:
    """Of all common subsequences, by trying every one of a."""
    best = 0
    for keep in range(2 ** len(a)):
        part = [w for i, w in enumerate(a) if keep >> i & 1]
        rest = iter(b)
        if all(w in rest for w in part):
            best = max(best, len(part))
    return best


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (list(rng.choice(list("abc"), rng.integers(1, 8))) for _ in range(2))
        common = longest(a, b)
        assert rouge_l(a, b) == (common / len(b), 2 * common / (len(a) + len(b)))
    assert rouge_l([], ["a"]) == (0.0, 0.0)
    with pytest.raises(InputError, match="at least one word"):
        rouge_l(["a"], [])


@pytest.mark.parametrize(
    ("right", "due"),
    [
        ([True] * 4, 1.0),
        ([False] * 4, 0.0),
        ([True, True, True, False], 0.0),
        ([False, True, True, True], 0.75),
    ],
)
def test_extraction_strength_counts_from_the_last_wrong_token(right, due) -> None:
    assert extraction_strength(right) == due


def test_truth_ratios_of_both_means_and_their_quality() -> None:
    wrong, right = [0.5, 2.0], 1.0
    p = [np.exp(-w) for w in wrong]
    assert truth_ratio(wrong, right, "arithmetic") == pytest.approx(np.mean(p) / np.exp(-right), rel=1e-12)
    assert truth_ratio(wrong, right) == pytest.approx(np.sqrt(p[0] * p[1]) / np.exp(-right), rel=1e-12)
    a, b = np.linspace(0, 1, 20), np.linspace(0.5, 2, 20)
    assert 10 ** forget_quality(a, b).log10_p == pytest.approx(stats.ks_2samp(a, b).pvalue)
    assert forget_quality(a, b).n == 20
    with pytest.raises(InputError, match="same figures twice"):
        forget_quality(a, a)
    with pytest.raises(InputError, match="needs wrong answers"):
        truth_ratio([], 1.0)


def test_a_reading_is_each_text_read_alone() -> None:
    model, data = llama(1), request(batch_size=4).forget
    told = Told.of(model, data)
    for text, seen in zip(FORGET, told.seen, strict=True):
        each = token_nll(model, text).detach().numpy()
        assert np.allclose(-seen.log_p, each, atol=1e-12)
        z, y = logits(model, text)
        p = z.softmax(-1).detach()
        mean = (p * p.log()).sum(-1)
        assert np.allclose(seen.mean, mean.numpy(), atol=1e-10)
        assert np.allclose(seen.sd, (p * (p.log() - mean[:, None]) ** 2).sum(-1).sqrt().numpy(), atol=1e-7)
        assert list(seen.right) == (z.argmax(-1) == y).tolist()
    odds = np.exp(-told.losses) / (1 - np.exp(-told.losses))
    assert np.allclose(told.phi, np.log(odds), atol=1e-9)


def test_membership_scores_by_hand() -> None:
    seen = Seen(
        np.array([-1.0, -3.0, -2.0, -6.0]), np.full(4, -2.0), np.array([1.0, 0.5, 1.0, 4.0]), (True,) * 4
    )
    assert seen.min_k(0.5) == -4.5  # of -6 and -3
    assert seen.min_k(0.5, standardised=True) == -1.5  # of -2 and -1
    assert seen.loss == 3.0
    assert seen.zlib(b"a" * 100) == 12.0 / len(zlib.compress(b"a" * 100))
    assert seen.min_k(0.01) == -6.0


def test_a_quantised_copy_has_few_values_a_row_and_the_model_keeps_its_own() -> None:
    model = llama(0)
    before = [p.detach().clone() for p in model.parameters()]
    copy = quantised(model, bits=3).requires_grad_(False)
    for p, old, new in zip(model.parameters(), before, copy.parameters(), strict=True):
        assert p.equal(old)
        if p.ndim > 1:
            step = old.abs().amax(-1, keepdim=True) / 3
            assert torch.allclose(new / step, (new / step).round(), atol=1e-9)
            assert float((new - old).abs().max()) <= float(step.max()) / 2 + 1e-12
        else:
            assert new.equal(old)


def test_states_are_what_the_head_reads_and_margins_miss_no_token() -> None:
    model, data = llama(0), request().forget
    found, tokens = states(model, data)
    again = torch.cat([logits(model, t)[0] for t in FORGET])
    assert torch.allclose(found @ model.lm_head.weight.T, again, atol=1e-10)
    assert tokens.tolist() == [k for t in FORGET for k in logits(model, t)[1].tolist()]
    own = tokens.numpy().copy()
    own[0] = 999  # a token that nothing retained has
    margins = margins_of(found.detach().numpy(), own, found.detach().numpy(), tokens.numpy())
    assert margins[0] == 0
    assert len(margins) == len(own)
    assert np.mean(margins[1:] > 0) > 0.5
