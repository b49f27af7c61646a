"""Population membership attacks: which forget examples does one who knows some members take for members?

They are reported beside the verdict, never instead of it. Each is fitted on one half of the known members
(retained examples) and non-members (held-out ones) and scored on the other; an attack that is right in under
55 % of the balanced cases has no power, and its share of members means nothing. Both sides count alike,
however many there are: the unweighted support vector machine of the papers follows the larger side instead
(Jia et al., 2023, arXiv 2304.04934; shares of 0.0 or 1.0 for the same confidences), and is here for
comparison with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from torch import Generator

from ...errors import InputError
from ...random import draw_seed
from ...statistics import Floats

POWER = 0.55


@dataclass(frozen=True)
class Attack:
    """What an attack found.

    Attributes:
        member: share of the targets taken for members.
        balanced_accuracy: share right of members and of non-members it was not fitted on, averaged; 0.5 is a
            coin.
        n: targets.
    """

    member: float
    balanced_accuracy: float
    n: int

    @property
    def powerless(self) -> bool:
        """Whether its answers mean nothing."""
        return self.balanced_accuracy < POWER


def threshold_attack(members: Floats, others: Floats, targets: Floats, *, rng: Generator) -> Attack:
    """Call whoever lies above one threshold a member; the threshold has the best balanced accuracy.

    After Song and Mittal (2021, arXiv 2003.10595), with one threshold for all classes.

    Args:
        members: a score of each known member, [n]; higher is more member-like.
        others: of each known non-member, [m].
        targets: of those in question, [k].
        rng: splits the known ones in halves.

    Raises:
        InputError: if there are fewer than four members or non-members, or no target.

    Example:
        >>> from unweave.random import seeded
        >>> low, high, asked = np.arange(10.0), np.arange(10.0) + 10, np.array([12.0, 14.0, 1.0, 2.0])
        >>> threshold_attack(high, low, asked, rng=seeded(0)).member
        0.5
    """
    (a, a_check), (b, b_check) = _halves(members, others, targets, rng)
    cut = best_threshold(a, b)
    return Attack(
        float((targets >= cut).mean()),
        (float((a_check >= cut).mean()) + float((b_check < cut).mean())) / 2,
        len(targets),
    )


def best_threshold(members: Floats, others: Floats) -> float:
    """Threshold t that maximises the balanced accuracy of "score >= t is a member", [n] and [m]."""
    values = np.unique(np.concatenate([members, others]))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    hit = 1 - np.searchsorted(np.sort(members), cuts) / len(members)
    passed = np.searchsorted(np.sort(others), cuts) / len(others)
    return float(cuts[int((hit + passed).argmax())])


def confidence_attack(members: Floats, others: Floats, targets: Floats, *, rng: Generator) -> Attack:
    """Logistic regression, both sides weighted alike (as Golatkar et al., 2020, and bad teaching attack).

    Args:
        members: features of known members, [n, f].
        others: of known non-members, [m, f].
        targets: of those in question, [k, f].
        rng: splits the known ones in halves.

    Raises:
        InputError: if there are fewer than four members or non-members, or no target.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    return _fitted(model, members, others, targets, rng)


def svc_attack(
    members: Floats, others: Floats, targets: Floats, *, rng: Generator, balanced: bool = False
) -> Attack:
    """The papers' "MIA-efficacy" attack: support vector machine with RBF kernel, C = 3, gamma 1 / features.

    Efficacy in those papers is 1 - `member`. They fit it on all known examples; here on half, so that the
    other half can say what it is worth.

    Args:
        members: features of known members, [n, f]; the papers use the probability of the true label.
        others: of known non-members, [m, f].
        targets: of those in question, [k, f].
        rng: splits the known ones in halves.
        balanced: weigh both sides alike; the papers do not.

    Raises:
        InputError: if there are fewer than four members or non-members, or no target.
    """
    from sklearn.svm import SVC

    model = SVC(C=3, gamma="auto", kernel="rbf", class_weight="balanced" if balanced else None)
    return _fitted(model, members, others, targets, rng)


def auc(members: Floats, others: Floats) -> float:
    """Probability that a random member scores higher than a random non-member, ties half; [n] and [m].

    Example:
        >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        0.875
    """
    n, m = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def _fitted(model: Any, members: Floats, others: Floats, targets: Floats, rng: Generator) -> Attack:
    (a, a_check), (b, b_check) = _halves(members, others, targets, rng)
    model.fit(np.concatenate([a, b]), np.concatenate([np.ones(len(a)), np.zeros(len(b))]))
    share = [float(model.predict(x).mean()) for x in (targets, a_check, b_check)]
    return Attack(share[0], (share[1] + 1 - share[2]) / 2, len(targets))


def _halves(members: Floats, others: Floats, targets: Floats, rng: Generator) -> list[tuple[Floats, Floats]]:
    if min(len(members), len(others)) < 4 or len(targets) == 0:
        raise InputError(
            "a membership attack needs at least 4 known members, 4 known non-members and a target; got "
            f"{len(members)}, {len(others)} and {len(targets)}."
        )
    draw = np.random.default_rng(draw_seed(rng))
    split = []
    for known in (members, others):
        order = draw.permutation(len(known))
        split.append((known[order[: len(known) // 2]], known[order[len(known) // 2 :]]))
    return split
