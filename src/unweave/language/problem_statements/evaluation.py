"""One evaluation for every classifier of comments: no duplicate and no group on both sides, several splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...statistics import Floats
from .words import cleaned, sentences_of

_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    """What was measured on comments of groups that were not trained on.

    Attributes:
        figures: name -> value of each split: shares from 0 to 1.
        kept: comments after duplicates were dropped.
        duplicates: comments that were dropped.
        disagreeing: of these, such whose label differed from the one that was kept.
        several: share of comments with more than one sentence; where it is small, `han` has little to do.
    """

    figures: Mapping[str, Floats]
    kept: int
    duplicates: int
    disagreeing: int
    several: float

    def __str__(self) -> str:
        rows = [
            f"{name:20} {np.mean(v):.3f} ± {np.std(v, ddof=len(v) > 1):.3f}"
            for name, v in self.figures.items()
        ]
        return "\n".join(
            [
                *rows,
                f"{self.kept:,} comments, {self.duplicates:,} duplicates dropped ({self.disagreeing:,} with another "
                f"label), {100 * self.several:.0f} % of several sentences",
            ]
        )


def deduplicated(texts: Sequence[str], y: Sequence[Any]) -> tuple[list[int], list[Any], int]:
    """Of comments alike but for case, markup and addresses the first, with the label that most of them have.

    Returns:
        Positions that are kept, their labels (the first one's where the count is even), and how many had another.
    """
    alike: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        alike.setdefault(cleaned(text), []).append(i)
    kept, labels, other = [], [], 0
    for places in alike.values():
        told = [y[i] for i in places]
        label = max(dict.fromkeys(told), key=told.count)
        kept.append(places[0])
        labels.append(label)
        other += sum(t != label for t in told)
    return kept, labels, other


def evaluate(
    classifier: Any,
    texts: Sequence[str],
    y: Sequence[Any],
    groups: Sequence[Any],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    folds: int = 5,
    deduplicate: bool = True,
) -> Evaluation:
    """Fit on part of the groups and measure on the others, once a seed.

    Args:
        classifier: with `get_params`, `fit(texts, y, groups)`, `predict`, `predict_proba`; one is made anew each time,
            with the seed of the split where it has one.
        texts: n comments.
        y: n labels of two kinds; the second in sorted order is the one to be found.
        groups: reviewer or reviewed work of each comment.
        seeds: one split each.
        folds: one in this many groups is held out.
        deduplicate: drop comments that are alike, before anything else.

    Raises:
        InputError: if lengths differ, or there are fewer than `folds` groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not len(texts) == len(y) == len(groups) or len(set(groups)) < max(2, folds) or not seeds:
        raise InputError(
            f"evaluate needs a label and a group a comment, at least {max(2, folds)} groups and a seed; got "
            f"{len(texts)} comments, {len(y)} labels, {len(groups)} groups "
            f"({len(set(groups))} different) and {len(seeds)} seeds."
        )
    kept, labels, other = deduplicated(texts, y) if deduplicate else (list(range(len(texts))), list(y), 0)
    own, of, told = [texts[i] for i in kept], [str(groups[i]) for i in kept], np.asarray(labels)
    rows: list[dict[str, float]] = []
    for seed in seeds:
        settings = classifier.get_params()
        made = type(classifier)(**({**settings, "seed": seed} if "seed" in settings else settings))
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        train, test = next(iter(split.split(own, told, of)))
        made.fit([own[i] for i in train], told[train], [of[i] for i in train])
        held = [own[i] for i in test]
        right = told[test] == np.unique(told)[1]
        said = made.predict(held) == np.unique(told)[1]
        rows.append(figures_of(right, said, made.predict_proba(held)[:, 1]))
    several = float(np.mean([len(sentences_of(text)) > 1 for text in own]))
    figures = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Evaluation(figures, len(kept), len(texts) - len(kept), other, several)


def figures_of(right: Any, said: Any, probability: Floats) -> dict[str, float]:
    """Figures of one split.

    Args:
        right: whether each comment is a problem, bool [n].
        said: whether it was called one, bool [n].
        probability: that it is one, [n].
    """
    from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score

    return {
        "accuracy": float(np.mean(right == said)),
        "majority": float(max(np.mean(right), 1 - np.mean(right))),
        "balanced accuracy": float(balanced_accuracy_score(right, said)),
        "macro F1": float(f1_score(right, said, average="macro", zero_division=0)),
        "F1 of problems": float(f1_score(right, said, zero_division=0)),
        "AUROC": float(roc_auc_score(right, probability)),
        "Brier score": float(brier_score_loss(right, probability)),
        "calibration error": calibration_error(right, probability),
    }


def calibration_error(right: Any, probability: Floats) -> float:
    """Mean distance of what is said from what happens, over ten bins of probability weighed by their comments."""
    at = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gaps = [
        np.mean(at == k) * abs(np.mean(right[at == k]) - np.mean(probability[at == k]))
        for k in range(_BINS)
        if (at == k).any()
    ]
    return float(np.sum(gaps))
