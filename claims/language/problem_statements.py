"""The ladder of classifiers on sentences of real peer reviews, which of them point out a problem."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from typing import Any

import torch

from claims.data import shared
from claims.effects import Effect
from claims.framework import Claim
from unweave.language import ReviewClassifier, deduplicated
from unweave.language.problem_statements.evaluation import figures_of

LADDER: dict[str, dict[str, Any]] = {
    "nb": {},
    "lr": {},
    "svm": {},
    "sgd": {},
    "attention": {"epochs": 4, "patience": 2, "lr": 2e-3},
    "han": {"epochs": 4, "patience": 2, "lr": 2e-3},
}
FIGURE = "% balanced accuracy"

claim = Claim(
    statement="Hierarchical attention tells problem statements best, before a recurrent network with attention, a linear SVM, "
    "logistic regression and naive Bayes.",
    reported="hierarchical attention 93.1 %, BiGRU with attention and capsules 90.5 %, SVM 89.71 %, SGD 89.70 %, logistic "
    "regression 88.98 %, on more than 18,000 comments of students",
    data="sentences of ICLR reviews (DISAPERE): 5,034 to train on and 3,146 of other reviews held out, after duplicates were "
    "dropped; a problem is a sentence of negative polarity",
    figures={name: FIGURE for name in LADDER} | {f"{name}, F1": "% F1 of problems" for name in LADDER},
    baseline="each rung as it comes, without pretrained vectors: 100 numbers a word learned from these sentences alone",
    criterion="hierarchical attention at least 2 points above the SVM on every seed; the SVM not below naive Bayes",
    effects=(
        Effect(
            "hierarchical attention over SVM", better="han", worse="svm", margin=2.0, every=True, paper=3.39
        ),
        Effect("SVM over naive Bayes", better="svm", worse="nb"),
        Effect("SVM over logistic regression", better="svm", worse="lr", paper=0.73, headline=False),
        Effect("hierarchical over plain attention", better="han", worse="attention", headline=False),
    ),
    settings={"networks": "at most 4 epochs, Adam 2e-3, best epoch on a tenth of the reviews"},
    note="Sentences stand for themselves here, where the paper has whole comments: the second level of hierarchical attention "
    "has nothing to choose. Classical rungs differ between seeds by the reviews set aside alone. A first run decided an SVM and SGD by even odds of "
    "their calibrated probabilities, which took back the weights of the rare label (balanced accuracy 63.1 and 60.9 %): a "
    "fault of ours, since mended.",
)


@lru_cache
def sentences(part: str) -> tuple[list[str], list[int], list[str]]:
    """Sentences, whether each is a problem, and its review."""
    with gzip.open(shared(f"text/disapere_{part}.jsonl.gz"), "rt", encoding="utf8") as file:
        rows = [json.loads(line) for line in file]
    texts, y = [r["text"] for r in rows], [int(r["polarity"] == "pol_negative") for r in rows]
    kept, labels, _ = deduplicated(texts, y)
    return [texts[i] for i in kept], labels, [rows[i]["review_id"] for i in kept]


def measure(seed: int) -> dict[str, float]:
    import warnings

    import numpy as np

    torch.set_num_threads(1)
    texts, y, reviews = sentences("train")
    held, right, _ = sentences("test")
    row = {}
    for name, settings in LADDER.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # sentences without a word
            made = ReviewClassifier(name, seed=seed, **settings).fit(texts, y, reviews)  # type: ignore[arg-type]
            p = made.predict_proba(held)[:, 1]
        found = figures_of(np.array(right) == 1, p >= made.threshold_, p)
        row[name] = 100 * found["balanced accuracy"]
        row[f"{name}, F1"] = 100 * found["F1 of problems"]
    return row
