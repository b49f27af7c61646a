"""The classical end of the ladder: weighted words and pairs of words, and a linear model, naive Bayes or trees."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...statistics import Floats
from .words import cleaned

CLASSICAL = ("nb", "lr", "svm", "sgd", "forest", "boosting")


def pipeline(kind: str, min_count: int, seed: int) -> Any:
    """An unfitted pipeline of scikit-learn.

    Args:
        kind: one of `CLASSICAL`.
        min_count: comments that a word must occur in.
        seed: of what is drawn.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(
        preprocessor=cleaned, ngram_range=(1, 2), min_df=min_count, sublinear_tf=True,
        token_pattern=r"[a-z0-9]+(?:'[a-z]+)?",
    )  # fmt: skip
    made = {
        "nb": lambda: MultinomialNB(alpha=0.3, fit_prior=False),
        "lr": lambda: LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
        "svm": lambda: LinearSVC(C=0.5, class_weight="balanced", random_state=seed),
        "sgd": lambda: SGDClassifier(alpha=1e-4, class_weight="balanced", random_state=seed),
        "forest": lambda: RandomForestClassifier(300, class_weight="balanced_subsample", random_state=seed),
        "boosting": lambda: HistGradientBoostingClassifier(class_weight="balanced", random_state=seed),
    }[kind]()
    if kind == "boosting":
        return make_pipeline(words, FunctionTransformer(_dense, accept_sparse=True), made)
    return make_pipeline(words, made)


def score_of(fitted: Any, texts: list[str]) -> Floats:
    """Margin of the second class, or its log-odds where the model has probabilities alone, [n]."""
    if hasattr(fitted, "decision_function"):
        return np.asarray(fitted.decision_function(texts), dtype=float)
    p = np.clip(fitted.predict_proba(texts)[:, 1], 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p) - np.log1p(-p))


def _dense(table: Any) -> Any:
    return table.toarray()
