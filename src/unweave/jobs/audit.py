"""Judge a model that was edited elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import InputError
from ..io.told import told_of
from ..progress import progress
from ..settings import settings
from .estimate import estimate
from .judging import Audited, Judging
from .subject import hashable


@settings
class AuditJob(Judging):
    """Judge an edited model: nearer to models that hold the data, or to models retrained without it?

    The subject brings the model before the edit.

    Attributes:
        edited: the model to judge, or its weights, of the same architecture.
        method: what was done to it, in words.
    """

    edited: Path | str | Module
    method: str = "edited"

    def __post_init__(self) -> None:
        if self.subject.model is None:
            raise InputError(
                "Subject.model is missing: an audit compares the edited model with the one before. Give its weights."
            )
        super().__post_init__()

    def plan(self) -> dict[str, Any]:
        """What is to be done, as plain JSON."""
        return {"methods": [], "edits": {}, **super().plan()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be told of the data and of the models that were read."""
        edited = () if isinstance(self.edited, Module) else told_of(self.edited)
        return tuple(dict.fromkeys((*super().notes, *edited)))

    def inputs(self) -> dict[str, Path | str]:
        """Name -> file, or hash, of all that is read."""
        return {**super().inputs(), f"edited {self.method}": hashable(self.edited)}

    def run(self, out: Path | str, *, command: Sequence[str] = ()) -> Audited:
        """Run every stage, or go on with a run that was stopped, to the same bits."""
        original, edited = self._models()
        with self.opened(out, command) as run, progress(f"{out}", 3) as bar:
            if (settled := self.settled(run, bar, [], command)) is not None:
                return settled
            for who, model in (("the original model", original), ("the edited model", edited)):
                self.subject.kind.require_answers(model, self.request, who)
            return self.judged(run, bar, original, {self.method: edited}, {}, command)

    def estimate(self) -> dict[str, float]:
        """Seconds that `run` would take, by stage."""
        return estimate(self, {self.method: None})

    def _models(self) -> tuple[Module, Module]:
        original = self.subject.given()
        assert original is not None
        return original, self.subject.opened(self.edited)
