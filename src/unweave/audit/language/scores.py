"""Scores of one text under one model: how well it is known, by probability, by words, by what a member would show."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ...errors import InputError
from ...statistics import Floats

MeanOf = Literal["geometric", "arithmetic"]


def rouge_l(answer: Sequence[Hashable], truth: Sequence[Hashable]) -> tuple[float, float]:
    """ROUGE-L of an answer against the truth, by words: recall and F1 of the longest common subsequence.

    Raises:
        InputError: if the truth has no word.

    Example:
        >>> rouge_l("a b c".split(), "a x c d".split())
        (0.5, 0.5714285714285714)
    """
    if not truth:
        raise InputError("ROUGE-L needs a truth of at least one word.")
    row = [0] * (len(truth) + 1)
    for word in answer:
        diagonal = 0
        for j, other in enumerate(truth, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    common = row[-1]
    return common / len(truth), 2 * common / (len(truth) + len(answer))


def extraction_strength(right: Sequence[bool]) -> float:
    """1 - k / n, k the shortest beginning of an answer of n tokens after which every further one is greedily right.

    Args:
        right: whether each token is the likeliest after those before it; the end token left out.

    Example:
        >>> extraction_strength([True, False, True, True])
        0.5
    """
    wrong = [i for i, r in enumerate(right) if not r]
    return 1 - (wrong[-1] + 1) / len(right) if wrong else 1.0


def truth_ratio(wrong: Sequence[float], right: float, mean: MeanOf = "geometric") -> float:
    """How likely wrong answers are beside the right one in other words: > 1 where wrong ones are preferred.

    The paper takes the arithmetic mean of the wrong answers' length-normalised probabilities, OpenUnlearning the
    geometric one: figures of the two are not comparable.

    Args:
        wrong: mean loss a token of each wrong answer, in nats.
        right: the same of the paraphrased right answer.
        mean: over the wrong answers.

    Raises:
        InputError: if there is no wrong answer.

    Example:
        >>> round(truth_ratio([1.0, 3.0], 2.0), 3), round(truth_ratio([1.0, 3.0], 2.0, "arithmetic"), 3)
        (1.0, 1.543)
    """
    if not len(wrong):
        raise InputError("a truth ratio needs wrong answers beside the right one; got none.")
    losses = np.asarray(wrong, dtype=np.float64) - right
    return float(np.exp(-losses.mean()) if mean == "geometric" else np.exp(-losses).mean())


@dataclass(frozen=True)
class Quality:
    """Whether two models' truth ratios on the forget set are told apart.

    Attributes:
        log10_p: log10 of the p-value of the two-sample Kolmogorov-Smirnov test; above log10 0.05 = -1.3 they are not.
        n: questions of each; p-values at different n are not comparable.
    """

    log10_p: float
    n: int


def forget_quality(edited: Floats, retrained: Floats) -> Quality:
    """TOFU's forget quality of truth ratios [n] of an edited and of a retrained model.

    Raises:
        InputError: if both are the same object, whose quality is 1 whatever it is.
    """
    if edited is retrained:
        raise InputError("forget quality compares two models; got the same figures twice.")
    p = float(stats.ks_2samp(edited, retrained).pvalue)
    return Quality(float(np.log10(max(p, 1e-300))), len(edited))


@dataclass(frozen=True)
class Seen:
    """A text's counted tokens under one model.

    Attributes:
        log_p: log-probability of each, [t].
        mean: of the log-probabilities of all tokens at each place, under the model's own distribution, [t].
        sd: their standard deviation, [t].
        right: whether each is the likeliest, [t].
    """

    log_p: Floats
    mean: Floats
    sd: Floats
    right: tuple[bool, ...]

    @property
    def loss(self) -> float:
        """Mean loss a token in nats."""
        return -float(self.log_p.mean())

    def min_k(self, share: float, *, standardised: bool = False) -> float:
        """Mean of the smallest share of log-probabilities; Min-K++ where each is standardised by its place's.

        Shi et al., 2024, arXiv 2310.16789; Zhang et al., 2024, arXiv 2404.02936. Higher is more member-like.
        """
        values = (self.log_p - self.mean) / np.maximum(self.sd, 1e-6) if standardised else self.log_p
        lowest = np.sort(values)[: max(1, round(share * len(values)))]
        return float(lowest.mean())

    def zlib(self, text: bytes) -> float:
        """Summed loss a byte of the text compressed."""
        return -float(self.log_p.sum()) / len(zlib.compress(text))
