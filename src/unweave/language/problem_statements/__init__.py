"""Which comments of a review point out a problem: a ladder of text classifiers, and one evaluation for all of them."""

from __future__ import annotations

from .evaluation import Evaluation, deduplicated, evaluate
from .problem_statements import ReviewClassifier
from .words import Vocabulary

__all__ = ["Evaluation", "ReviewClassifier", "Vocabulary", "deduplicated", "evaluate"]
