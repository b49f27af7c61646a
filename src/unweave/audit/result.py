"""What an audit finds, whatever kind of model it looked at: plain frozen records, ready for JSON and for the report."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..audit.shown import place
from ..errors import InputError
from ..types import Measurement
from .notebook import fragment

Kind = Literal["classifier", "drawing", "language"]
"""Kinds of model, one auditor each: classifiers, pipelines that draw what a text asks for, language models."""
ClassifierOutcome = Literal[
    "forgotten",
    "exact",
    "not forgotten",
    "partly forgotten",
    "answers only",
    "over-forgotten",
    "collapsed",
    "inconclusive",
]
DrawingOutcome = Literal["erased", "not erased", "damaged", "inconclusive"]
Outcome = Literal[ClassifierOutcome, DrawingOutcome]


@dataclass(frozen=True)
class Word:
    """An outcome for somebody who has read nothing else.

    Attributes:
        meaning: one sentence.
        symbol: a shape, so that outcomes can be told apart without colour.
    """

    meaning: str
    symbol: str


OUTCOMES: dict[Kind, dict[Outcome, Word]] = {
    "classifier": {
        "forgotten": Word(
            "On the deleted examples, this model answers like models that never saw them.", "✓"
        ),
        "exact": Word(
            "Exact by construction: this model was trained from initial weights without the deleted examples, and "
            "never read them.",
            "◆",
        ),
        "not forgotten": Word(
            "On the deleted examples, this model still answers like models trained on them.", "✕"
        ),
        "partly forgotten": Word(
            "On the deleted examples, this model answers part of the way between models trained on them and models "
            "that never saw them.",
            "◐",
        ),
        "answers only": Word(
            "This model answers the deleted examples like models that never saw them, but still holds them under its "
            "answers: they are hidden, not gone.",
            "◒",
        ),
        "over-forgotten": Word(
            "This model answers the deleted examples worse than models that never saw them. "
            "That is a trace too: it can show which examples were deleted.",
            "▲",
        ),
        "collapsed": Word(
            "This model lost abilities it should have kept, so nothing can be said for its forgetting.", "■"
        ),
        "inconclusive": Word(
            "The evidence does not decide whether this model has forgotten the deleted examples.", "?"
        ),
    },
    "drawing": {
        "erased": Word(
            "Asked for an erased concept, this pipeline draws it seldom or never, as far as its images can tell; "
            "nothing that was tried brings it back, and what was looked at of the rest is whole.",
            "✓",
        ),
        "not erased": Word("An erased concept can still be drawn from this pipeline.", "✕"),
        "damaged": Word("This pipeline lost some of what it should have kept.", "■"),
        "inconclusive": Word("The evidence does not decide whether the concepts are gone.", "?"),
    },
}
OUTCOMES["language"] = {
    outcome: Word(word.meaning.replace("example", "text"), word.symbol)
    for outcome, word in OUTCOMES["classifier"].items()
}
"""Kind of model -> its outcomes."""
_SAID = {True: "✓", False: "✕", None: "?"}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Error rates of a verdict, leave-one-out over models that set its threshold, or on models that did not.

    Attributes:
        oracles: retrained models judged.
        oracles_accepted: share called forgotten, with its 95 % interval.
        unedited: models that still hold the data, judged.
        unedited_rejected: share called by a word that says that they hold the data, with its 95 % interval.
        inconclusive: share of all judged models called inconclusive.
        wrong: share of all judged models called the opposite of what they are.
        source: which models, in words ("leave-one-out, this run"; "40 + 40 models on digits, ...").
    """

    oracles: int
    oracles_accepted: float
    oracles_interval: tuple[float, float]
    unedited: int
    unedited_rejected: float
    unedited_interval: tuple[float, float]
    inconclusive: float
    wrong: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One test that the verdict rests on beside the position of the answers.

    Attributes:
        name: of the measurement that it reads.
        half: "answers", or "memory" for what lies under them.
        power: whether these reference models could have shown a difference. A test without power neither
            flags a model nor clears it.
        passed: whether the model came out like one that never saw the data; None without power.
        position: 0 where models that hold the data lie, 1 where retrained ones do; None where the figure has no
            such scale.
        accepted: interval of `position` that passes.
    """

    name: str
    half: Literal["answers", "memory"]
    power: bool
    passed: bool | None
    position: float | None = None
    accepted: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.power == (self.passed is None):
            raise InputError(
                f"{self.name}: a test passes or fails if it has power, and does neither if it has none; got "
                f"power={self.power}, passed={self.passed}."
            )

    @property
    def symbol(self) -> str:
        """✓ passed, ✕ failed, ? without power."""
        return _SAID[self.passed]

    @property
    def sentence(self) -> str:
        """What came out, in words."""
        like = {
            True: "like a retrained model",
            False: "like a model that holds the data",
            None: "cannot tell here",
        }
        at = "" if self.position is None or not self.power else f" (position {place(self.position)})"
        return f"{self.name}: {like[self.passed]}{at}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer: like models that hold the data, or like models that never saw it?

    Attributes:
        outcome: a word of `OUTCOMES` for the kind of model.
        reason: one or two sentences for a lay reader, with the figures that decided.
        position: of the answers. 0 = where models trained with the data lie on average, 1 = where retrained ones
            lie; None where it was not measured.
        accepted: interval of `position` that passes; None where the references do not lie apart.
        rejected: where 95 % of models that hold the data lie.
        checks: the other tests.
        caveats: what cannot be concluded, one sentence each.
        next_step: what would decide, where this does not.
    """

    outcome: Outcome
    reason: str
    position: float | None = None
    accepted: tuple[float, float] | None = None
    rejected: tuple[float, float] | None = None
    checks: tuple[Check, ...] = ()
    caveats: tuple[str, ...] = ()
    next_step: str = ""

    def __eq__(self, other: object) -> bool:
        """Equal to a verdict of the same content, and, as in former releases, to its word."""
        if isinstance(other, str):
            warnings.warn(
                "a verdict has more than a word now: compare its outcome", DeprecationWarning, stacklevel=2
            )
            return self.outcome == other
        if not isinstance(other, Verdict):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.outcome)

    @property
    def why(self) -> str:
        """The reason, and the next step where there is one."""
        return f"{self.reason} {self.next_step}".strip()


@dataclass(frozen=True, kw_only=True)
class Control:
    """A case whose answer is known, looked at before the edited model is.

    Attributes:
        name: "original model", "8 retrained models, each judged by the others", ...
        expected: what must come out: an outcome, or in words ("anything but forgotten", "at least 50 %").
        got: what came out.
        passed: whether they agree. Where a control fails, the verdict is inconclusive, whatever it would have been.
    """

    name: str
    expected: str
    got: str
    passed: bool

    @property
    def symbol(self) -> str:
        """✓ passed, ✕ failed."""
        return _SAID[self.passed]

    @property
    def sentence(self) -> str:
        """What came out, and what had to."""
        called = "called " if any(self.got in outcomes for outcomes in OUTCOMES.values()) else ""
        due = "as it must be" if self.passed else f"but must be {called}{self.expected}"
        return f"{self.name}: {called}{self.got}, {due}"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Figures that a picture shows: one value a label and series.

    Attributes:
        name: "classes" (accuracy on held-out examples of each), "layers" (densities "edited" and "original",
            overlaps "iou_original" and "iou_oracle", as shares), "concepts" (images that show the one asked for)
            or "turns" (the same after each erasure).
        unit: of every value.
        rows: label -> series ("edited", "original", "oracle", ...) -> value.
    """

    name: Literal["classes", "layers", "concepts", "turns"]
    unit: str
    rows: dict[str, dict[str, float]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Figures that a picture shows: one value an example and series.

    Attributes:
        name: "scores": how sure a model is of the right answer.
        unit: of every value.
        samples: series ("edited", "original", "oracle", "holders") -> a value an example, in one order.
    """

    name: Literal["scores"]
    unit: str
    samples: dict[str, list[float]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Passages:
    """Texts side by side: what each model says.

    Attributes:
        name: "answers": to the prompts of some deleted texts.
        rows: prompt -> series ("truth", "edited", "original", "oracle") -> text.
    """

    name: Literal["answers"]
    rows: dict[str, dict[str, str]] = field(repr=False)


Panel = Rows | Samples | Passages


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything the audit of one edited model found. Shows itself in a notebook.

    Attributes:
        kind: of model.
        method: what was audited, in words ("unprune + salun").
        verdict: the answer.
        controls: run before the answer is given.
        rates: leave-one-out error rates of this run's verdict; None where they are not known.
        measurements: every figure; names are unique.
        panels: what the pictures of this kind of model show; names are unique.

    Raises:
        InputError: if the outcome is none of this kind of model.
    """

    kind: Kind
    method: str
    verdict: Verdict
    controls: tuple[Control, ...] = ()
    rates: Rates | None = None
    measurements: tuple[Measurement, ...] = ()
    panels: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        known = OUTCOMES.get(self.kind, {})
        if self.verdict.outcome not in known:
            raise InputError(
                f"unknown outcome {self.verdict.outcome!r}: a {self.kind} audit has {', '.join(known) or 'none'}."
            )

    if not TYPE_CHECKING:  # former names are no part of what is checked

        def __getattr__(self, name: str) -> Any:
            if name not in _FORMER:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            now, read = _FORMER[name]
            warnings.warn(f"Audit.{name} is {now} now", DeprecationWarning, stacklevel=2)
            return read(self)

    @property
    def passed(self) -> bool:
        """Whether what was to go is gone."""
        return self.verdict.outcome in ("forgotten", "exact", "erased")

    @property
    def word(self) -> Word:
        """The outcome's meaning and symbol."""
        return OUTCOMES[self.kind][self.verdict.outcome]

    @property
    def tested(self) -> list[tuple[str, str]]:
        """Symbol and sentence of each control, then of each check."""
        return [
            *((c.symbol, c.sentence) for c in self.controls),
            *((c.symbol, c.sentence) for c in self.verdict.checks),
        ]

    def rows(self, name: str) -> dict[str, dict[str, float]]:
        """Label -> series -> value of a panel; empty where the audit has no such panel."""
        return next((p.rows for p in self.panels if isinstance(p, Rows) and p.name == name), {})

    def samples(self, name: str) -> dict[str, list[float]]:
        """Series -> values of a panel; empty where the audit has no such panel."""
        return next((p.samples for p in self.panels if isinstance(p, Samples) and p.name == name), {})

    def passages(self, name: str) -> dict[str, dict[str, str]]:
        """Prompt -> series -> text of a panel; empty where the audit has no such panel."""
        return next((p.rows for p in self.panels if isinstance(p, Passages) and p.name == name), {})

    def _repr_html_(self) -> str:
        return fragment(self)


_FORMER: dict[str, tuple[str, Callable[[Audit], Any]]] = {
    "reason": ("Audit.verdict.reason", lambda audit: audit.verdict.reason),
    "concepts": ('Audit.rows("concepts")', lambda audit: audit.rows("concepts")),
    "scores": ('Audit.samples("scores")', lambda audit: audit.samples("scores")),
    "per_class": ('Audit.rows("classes")', lambda audit: audit.rows("classes")),
    "layers": ('Audit.rows("layers")', lambda audit: audit.rows("layers")),
}
"""Former attribute of an audit -> what it is called now, and how it is read."""
