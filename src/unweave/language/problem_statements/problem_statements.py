"""Problem statements: does a comment of a review point out a problem? A ladder of classifiers with one habit.

Xiao, Zingle, Jia et al., "Detecting Problem Statements in Peer Assessments", EDM 2020
(https://arxiv.org/abs/2006.04532): classical models on weighted words, then a CNN, recurrent networks with attention
and capsules, hierarchical attention, and BERT.

The paper's settings could not be read; those here are the field's usual ones. Decided here: comments are cleaned of
markup and addresses and lower-cased, stop words and bigrams stay ("no problems found" hangs on them); classes weigh
alike; the vocabulary is that of the training comments. What needs comments aside (early stopping, calibration, a
precision to reach) takes a tenth of them, whole groups at a time, so that no reviewer is on both sides. A comment
without a word is no problem: it is counted in a warning, and takes no part in training. Capsules route steps that
attention has weighed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import Module

from ...errors import InputError
from ...io.padding import Padded
from ...io.text_folder import TextExamples
from ...paper import Paper
from ...random import global_seed
from ...settings import Count, Inner, Part, Positive, SomeShare, Whole, checked
from ...statistics import Floats
from ...tasks import predict
from ...tasks.classify import Classify
from ...types import Data
from . import nets
from .classical import CLASSICAL, pipeline, score_of
from .training import threshold_for, trained
from .words import LONGEST, SENTENCES, WORDS, Vocabulary, cleaned, sentences_of, words_of

Kind = Literal[
    "nb", "lr", "svm", "sgd", "forest", "boosting",
    "cnn", "bilstm", "bigru", "attention", "capsules", "han", "encoder",
]  # fmt: skip
MARGINS = ("svm", "sgd")
_ASIDE, _LEARNED = 10, 100


class ReviewClassifier:
    """Tell comments of two kinds apart, with scikit-learn's habit: `fit`, `predict`, `predict_proba`, `score`, `clone`.

    The second of the two labels in sorted order (1, True, "problem" after "other") is the one to be found.

    Args:
        model: from the ladder: naive Bayes, logistic regression, linear SVM, SGD, random forest, boosting on weighted
            words and pairs of words; a CNN; recurrent networks plain ("bilstm", "bigru"), with attention, with
            attention and capsules; hierarchical attention ("han"); or a transformers encoder from a `folder`.
        folder: of the encoder, with its tokenizer.
        vectors: file of pretrained word vectors, as GloVe's; 100 numbers a word learned on the spot unless given.
        tune: whether pretrained vectors go on learning.
        min_count: words that occur less often in training are unknown.
        epochs: at most; 20 for networks and 3 for an encoder unless given.
        patience: epochs without a better F1 on the comments aside before training ends, at its best epoch.
        lr: of Adam; 1e-3, and 2e-5 for an encoder, unless given.
        batch_size: comments a step.
        dropout: of networks.
        calibrate: fit probabilities to the comments aside (Platt); an SVM and SGD, which have none, always do.
        precision: choose the threshold on the comments aside so that this share of what is found is right.
        threshold: probability from which a comment counts as a problem; unless given, that of the model's own
            decision: even odds, or a margin of 0, of a model trained as if both labels were as frequent. Calibrated
            probabilities follow the labels' frequencies, so that even odds of these would find few problems.
        seed: governs everything drawn.

    Raises:
        InputError: if a setting is out of its range or would do nothing with this model.
    """

    paper: ClassVar[Paper] = Paper(
        "Detecting Problem Statements in Peer Assessments", "Xiao, Zingle, Jia et al.", "EDM", 2020, "2006.04532",
    )  # fmt: skip

    @checked
    def __init__(
        self,
        model: Kind = "svm",
        *,
        folder: Path | str | None = None,
        vectors: Path | str | None = None,
        tune: bool = True,
        min_count: Count = 2,
        epochs: Count | None = None,
        patience: Count = 3,
        lr: Positive | None = None,
        batch_size: Count = 64,
        dropout: Part = 0.3,
        calibrate: bool = False,
        precision: SomeShare | None = None,
        threshold: Inner | None = None,
        seed: Whole = 0,
    ) -> None:
        self.model, self.folder, self.vectors, self.tune, self.min_count = (
            model,
            folder,
            vectors,
            tune,
            min_count,
        )
        self.epochs, self.patience, self.lr, self.batch_size, self.dropout = (
            epochs,
            patience,
            lr,
            batch_size,
            dropout,
        )
        self.calibrate, self.precision, self.threshold, self.seed = calibrate, precision, threshold, seed
        trained = model not in CLASSICAL
        idle = {
            "folder": model != "encoder", "vectors": not trained or model == "encoder", "tune": vectors is None,
            "min_count": model == "encoder", "epochs": not trained, "patience": not trained, "lr": not trained,
            "batch_size": not trained, "dropout": not trained or model == "encoder",
            "calibrate": model in MARGINS, "threshold": precision is not None,
        }  # fmt: skip
        for name, unread in idle.items():
            default = inspect.signature(ReviewClassifier).parameters[name].default
            if unread and getattr(self, name) != default:
                beside = "with a precision to reach" if name == "threshold" else f"with model={model!r}"
                beside = "without pretrained vectors" if name == "tune" and trained else beside
                raise InputError(
                    f"ReviewClassifier.{name}={getattr(self, name)!r} would do nothing {beside}. Leave it out."
                )
        if model == "encoder" and folder is None:
            raise InputError("ReviewClassifier.folder must name a transformers folder for model='encoder'.")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Its settings, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **settings: Any) -> ReviewClassifier:
        """Change settings, checked together; what was fitted stays."""
        known = self.get_params()
        other = next((name for name in settings if name not in known), None)
        if other is not None:
            raise InputError(f"ReviewClassifier has no setting {other!r}. It has: {', '.join(known)}.")
        type(self).__init__(self, **{**known, **settings})
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's tools ask first: it is a classifier of two classes, of texts."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier", target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(two_d_array=False, string=True),
        )  # fmt: skip

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` was called."""
        return hasattr(self, "classes_")

    def fit(
        self, X: Sequence[str], y: Sequence[Any], groups: Sequence[Any] | None = None
    ) -> ReviewClassifier:
        """Learn from comments.

        Args:
            X: n comments.
            y: n labels of two kinds.
            groups: reviewer or reviewed work of each; comments of one are never on both sides of a split. Comments
                alike but for case are one group unless given.

        Raises:
            InputError: if lengths differ, there are not two labels, or too few comments to set some aside.
        """
        texts = [str(text) for text in X]
        if len(texts) != len(y) or (groups is not None and len(groups) != len(texts)):
            raise InputError(
                f"ReviewClassifier.fit needs one label, and one group if any, a comment; got {len(texts)} comments, "
                f"{len(y)} labels and {'no' if groups is None else len(groups)} groups."
            )
        kept = [i for i, text in enumerate(texts) if words_of(text)]
        if len(kept) < len(texts):
            warnings.warn(
                f"{len(texts) - len(kept)} comments without a word are left out of training.", stacklevel=2
            )
        labels = np.asarray(y)[kept]
        classes = np.unique(labels)
        if len(classes) != 2:
            raise InputError(
                f"ReviewClassifier tells two kinds apart; the labels are {', '.join(map(str, classes[:5])) or 'none'}."
            )
        target = (labels == classes[1]).astype(np.int64)
        own = [texts[i] for i in kept]
        of = [cleaned(text) for text in own] if groups is None else [str(groups[i]) for i in kept]
        train, aside = np.arange(len(own)), np.arange(0)
        if (
            self.model not in CLASSICAL
            or self.calibrate
            or self.precision is not None
            or self.model in MARGINS
        ):
            train, aside = self._set_aside(target, of)
        self._learn([own[i] for i in train], target[train], [own[i] for i in aside], target[aside])
        self.scale_, self.shift_ = 1.0, 0.0
        if len(aside):
            self._adjust(self._scores([own[i] for i in aside]), target[aside])
        if self.precision is None:
            own_decision = float(1 / (1 + np.exp(-self.shift_)))
            self.threshold_ = own_decision if self.threshold is None else self.threshold
        self.classes_, self.n_features_in_ = classes, 1
        return self

    def decision_function(self, X: Sequence[str]) -> Floats:
        """Log-odds of the second label by its probability, [n]; minus infinity for a comment without a word."""
        texts = self._fitted(X)
        told = np.array([bool(words_of(text)) for text in texts], dtype=bool)
        if not told.all():
            warnings.warn(
                f"{int((~told).sum())} comments without a word are taken for {self.classes_[0]}.",
                stacklevel=2,
            )
        found = np.full(len(texts), -np.inf)
        if told.any():
            scores = self._scores([text for text, some in zip(texts, told, strict=True) if some])
            found[told] = self.scale_ * scores + self.shift_
        return found

    def predict_proba(self, X: Sequence[str]) -> Floats:
        """Probabilities of both labels, [n, 2]."""
        odds = self.decision_function(X)
        found = np.exp(-np.logaddexp(0, -odds))
        return np.stack([1 - found, found], 1)

    def predict(self, X: Sequence[str]) -> Any:
        """Labels, [n]."""
        found = self.predict_proba(X)[:, 1]
        return self.classes_[(found >= self.threshold_).astype(int)]

    def score(
        self, X: Sequence[str], y: Sequence[Any], sample_weight: Sequence[float] | None = None
    ) -> float:
        """Share of labels that are right."""
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))

    def attention(self, X: Sequence[str]) -> list[list[tuple[str, float]]]:
        """For each comment its words, as far as they were read, with the weights of attention, which add up to 1.

        Raises:
            InputError: if the model has no attention over words of its own.
        """
        if self.model not in ("attention", "capsules", "han"):
            raise InputError(
                f"ReviewClassifier: model={self.model!r} has no attention to show. Use attention or han."
            )
        found = []
        for text in self._fitted(X):
            ids = self._ids([text])
            with torch.no_grad():
                _, weights = self.network_.eval().read(ids)  # type: ignore[operator]
            told = weights[ids != 0].tolist()
            nested = [s[:WORDS] for s in sentences_of(text)[:SENTENCES]]
            words = [w for s in nested for w in s] if self.model == "han" else words_of(text)[:LONGEST]
            found.append(list(zip(words, told, strict=True)) if words else [])
        return found

    def network(self, vocabulary: Vocabulary | None = None) -> Module:
        """An untrained network of this kind, drawn from torch's global generator: for a recipe of your own.

        Args:
            vocabulary: of the words it reads; that of `fit` unless given.

        Raises:
            InputError: if the model is none of the networks.
        """
        if self.model == "encoder":
            from ...io.loading import loading, transformers_class

            kind = transformers_class("AutoModelForSequenceClassification")
            with loading(Path(str(self.folder))):
                made: Module = kind.from_pretrained(self.folder, num_labels=2, local_files_only=True)
            return made
        if self.model in CLASSICAL:
            raise InputError(
                f"ReviewClassifier: model={self.model!r} is no network. Choose one of cnn, ..., han."
            )
        known = self.vocabulary_ if vocabulary is None else vocabulary
        table = (
            torch.randn(len(known), _LEARNED) * 0.1
            if self.vectors is None
            else known.vectors(Path(self.vectors))
        )
        table[0] = 0
        rnn: Any = partial(nets.RNN, kind="lstm" if self.model == "bilstm" else "gru")
        makers: dict[str, Any] = {"cnn": nets.CNN, "han": nets.HAN, "bilstm": rnn, "bigru": rnn}
        make = makers.get(self.model) or partial(nets.RNN, pool=self.model)  # type: ignore[arg-type]
        built: Module = make(table, tune=self.tune or self.vectors is None, dropout=self.dropout)
        return built

    def data(
        self, texts: Sequence[str], y: Sequence[int] | Any, vocabulary: Vocabulary | None = None
    ) -> Data[Classify]:
        """Comments as its network reads them, with labels 0 and 1.

        Args:
            texts: n comments.
            y: n labels.
            vocabulary: of the words; that of `fit` unless given.
        """
        labels = torch.as_tensor(np.asarray(y).astype(np.int64))
        if self.model == "encoder":
            from ...io.loading import quiet, read_tokenizer

            tokenizer = read_tokenizer(Path(str(self.folder)))
            with quiet():
                rows = [dict(tokenizer(text, truncation=True, max_length=128)) for text in texts]
            filled = [{**row, "labels": int(label)} for row, label in zip(rows, labels, strict=True)]
            return Data(
                TextExamples(filled, texts), Classify(2), self.batch_size, Padded(tokenizer.pad_token_id or 0)
            )
        known = self.vocabulary_ if vocabulary is None else vocabulary
        return Data(
            torch.utils.data.TensorDataset(self._ids(texts, known), labels), Classify(2), self.batch_size
        )

    def _ids(self, texts: Sequence[str], vocabulary: Vocabulary | None = None) -> torch.Tensor:
        known = self.vocabulary_ if vocabulary is None else vocabulary
        return known.nested(texts) if self.model == "han" else known.flat(texts)

    def _fitted(self, X: Sequence[str]) -> list[str]:
        if not hasattr(self, "classes_"):
            raise InputError("ReviewClassifier is not fitted yet. Call fit(comments, labels) first.")
        return [str(text) for text in X]

    def _set_aside(self, y: Any, groups: Sequence[str]) -> tuple[Any, Any]:
        """Positions to train on, and those of about a tenth, whole groups, with both labels on both sides."""
        from sklearn.model_selection import StratifiedGroupKFold

        folds = min(_ASIDE, len(set(groups)))
        for n in range(folds, 1, -1):
            split = StratifiedGroupKFold(n, shuffle=True, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # few of a class: looked at just below
                found = list(split.split(y, y, groups))
            for train, aside in found:
                if len(set(y[train])) == len(set(y[aside])) == 2:
                    return train, aside
        raise InputError(
            f"ReviewClassifier sets a part of the comments aside, whole groups with both labels; {len(y)} comments in "
            f"{len(set(groups))} groups do not allow it. Give more, or choose nb, lr, forest or boosting, plain."
        )

    def _learn(self, texts: list[str], y: Any, aside: list[str], known: Any) -> None:
        if self.model in CLASSICAL:
            self.pipeline_ = pipeline(self.model, self.min_count, self.seed)
            try:
                self.pipeline_.fit(texts, y)
            except ValueError as error:  # no word is left, say
                raise InputError(
                    f"ReviewClassifier cannot learn from these {len(texts)} comments ({error})."
                ) from error
            return
        if self.model != "encoder":
            self.vocabulary_ = Vocabulary.of(texts, least=self.min_count)
        with global_seed(self.seed):
            net = self.network()
        encoder = self.model == "encoder"
        self.network_, self.epochs_ = trained(
            net, self.data(texts, y), self.data(aside, known), y, known,
            epochs=self.epochs or (3 if encoder else 20), lr=self.lr or (2e-5 if encoder else 1e-3),
            patience=self.patience, seed=self.seed, label=f"train {self.model}",
        )  # fmt: skip

    def _scores(self, texts: list[str]) -> Floats:
        """Log-odds, or the margin of a model that has none, [n]."""
        if self.model in CLASSICAL:
            return score_of(self.pipeline_, texts)
        logits = predict(self.network_, self.data(texts, [0] * len(texts))).double()
        return np.asarray((logits[:, 1] - logits[:, 0]).numpy())

    def _adjust(self, scores: Floats, y: Any) -> None:
        if self.calibrate or self.model in MARGINS:
            from sklearn.linear_model import LogisticRegression

            fitted = LogisticRegression(C=1e6).fit(scores[:, None], y)
            self.scale_, self.shift_ = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if self.precision is not None:
            p = 1 / (1 + np.exp(-(self.scale_ * scores + self.shift_)))
            self.threshold_ = threshold_for(p, y, self.precision)
