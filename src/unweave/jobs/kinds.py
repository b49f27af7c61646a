"""What a deletion asks of a kind of model: which methods serve it, what judges it, what is said beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Generator
from torch.nn import Module

from ..audit import Auditor
from ..audit.classifier.power import forecast
from ..audit.classifier.scores import deleted_classes, require_answers
from ..audit.result import Audit
from ..settings import settings
from ..types import Edit, Request
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


class Kind(Protocol):
    """A kind of model that data are deleted from."""

    @property
    def families(self) -> tuple[str, ...]:
        """Families whose methods serve its requests."""
        ...

    @property
    def recipe_by(self) -> str:
        """How a user says how the model was made, as an imperative."""
        ...

    def require_answers(self, model: Module, request: Request[Any], who: str) -> None:
        """Refuse a model that cannot answer the request's data."""
        ...

    def choose(self, request: Request[Any], recipe: Any, model: Module | None) -> Choice:
        """The method that a request is served by where none is named."""
        ...

    def doubt(self, name: str, edit: Edit[Any], request: Request[Any]) -> str:
        """Why a method does not suit a request, as a sentence; "" if it does."""
        ...

    def foreseen(self, request: Request[Any], oracles: int, holders: int, edits: int) -> str:
        """What so many models to compare with will not decide, in words; "" where they can."""
        ...

    def auditor(
        self,
        request: Request[Any],
        *,
        original: Module,
        holders: Sequence[Module],
        oracles: Sequence[Module],
        rng: Generator,
        quick: bool,
    ) -> Judge:
        """What judges edited models."""
        ...


@settings
class OfExamples:
    """Models that answer examples one by one: classifiers, and others that `audit.Auditor` can judge."""

    families: ClassVar[tuple[str, ...]] = ("unlearn",)
    recipe_by: ClassVar[str] = "define `recipe`"

    def require_answers(self, model: Module, request: Request[Any], who: str) -> None:
        """Refuse a model that cannot answer the request's data."""
        require_answers(model, request, who)

    def choose(self, request: Request[Any], recipe: Any, model: Module | None) -> Choice:
        """See `choose_for`."""
        return choose_for(request, recipe, model)

    def doubt(self, name: str, edit: Edit[Any], request: Request[Any]) -> str:
        """Why a method does not suit a request."""
        return doubt(name, edit, request)

    def foreseen(self, request: Request[Any], oracles: int, holders: int, edits: int) -> str:
        """See `forecast`."""
        return forecast(len(request.forget), oracles, holders, edits, whole=bool(deleted_classes(request)))

    def auditor(
        self,
        request: Request[Any],
        *,
        original: Module,
        holders: Sequence[Module],
        oracles: Sequence[Module],
        rng: Generator,
        quick: bool,
    ) -> Judge:
        """See `audit.Auditor`."""
        return Auditor.of(request, original=original, holders=holders, oracles=oracles, rng=rng, quick=quick)
