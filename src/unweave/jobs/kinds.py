"""What a deletion asks of a kind of model: which methods serve it, what judges it, what is said beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Generator
from torch.nn import Module

from ..audit import Auditor
from ..audit.classifier.power import forecast
from ..audit.classifier.scores import deleted_classes, require_answers
from ..audit.classifier.verdict import Decision
from ..audit.result import Audit
from ..settings import settings
from ..types import Edit, Request
from ..unlearn.suits import SMALL
from .choice import Choice, choose_for, doubt


class Judge(Protocol):
    """Judges edited models of one request by the same references."""

    def audit(
        self,
        edited: Module | Sequence[Module],
        *,
        method: str = "",
        seconds: Mapping[str, float] | None = None,
    ) -> Audit:
        """Judge one edited model, or the mean of several."""
        ...

    def decide(self, edited: Module | Sequence[Module]) -> Decision:
        """The verdict alone, with its controls."""
        ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """What edited models are judged by.

    Attributes:
        request: that they were to serve.
        original: the model before the edit.
        holders: further models trained with the data.
        oracles: models trained without it.
        rng: governs samples and relearning.
        quick: spend less on the figures; the verdict stays the same.
    """

    request: Request[Any]
    original: Module
    holders: Sequence[Module]
    oracles: Sequence[Module]
    rng: Generator
    quick: bool = False


@settings
class Kind:
    """A kind of model that data are deleted from: as it stands, one that answers examples one by one.

    Attributes:
        audited: what the audit of such a model calls it.
        families: whose methods serve its requests.
        recipe_by: how a user says how the model was made, as an imperative.
        least: examples of an earlier request below which it is judged again together with others as small.
    """

    audited: ClassVar[Literal["classifier", "language"]] = "classifier"
    families: ClassVar[tuple[str, ...]] = ("unlearn",)
    recipe_by: ClassVar[str] = "define `recipe`"
    least: ClassVar[int] = SMALL

    def require_answers(self, model: Module, request: Request[Any], who: str) -> None:
        """Refuse a model that cannot answer the request's data."""
        require_answers(model, request, who)

    def choose(self, request: Request[Any], recipe: Any, model: Module | None) -> Choice:
        """The method that a request is served by where none is named."""
        return choose_for(request, recipe, model)

    def doubt(self, name: str, edit: Edit[Any], request: Request[Any]) -> str:
        """Why a method does not suit a request, as a sentence; "" if it does."""
        return doubt(name, edit, request)

    def foreseen(self, request: Request[Any], oracles: int, holders: int, edits: int) -> str:
        """What so many models to compare with will not decide, in words; "" where they can."""
        return forecast(len(request.forget), oracles, holders, edits, whole=bool(deleted_classes(request)))

    def judge(self, case: Case) -> Judge:
        """What judges edited models."""
        return Auditor.of(
            case.request, original=case.original, holders=case.holders, oracles=case.oracles, rng=case.rng,
            quick=case.quick,
        )  # fmt: skip

    def discreet(self) -> Self:
        """The same kind, of whose audits no example can be read."""
        return self
