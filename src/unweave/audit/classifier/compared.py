"""One edited model beside its references, for every figure to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from ...types import Measurement, Request
from ..measured import measurement
from .references import DEAR, Read, References
from .scores import Parts

NEAR = "near the retrained models"


@dataclass(frozen=True)
class Compared:
    """The edited model among those that it is compared with.

    Attributes:
        references: what it is compared with.
        edited: the model in question.
        edited_read: its answers.
        quick: fewer examples and oracles in the figures that are costly; none of them is the verdict's.
    """

    references: References
    edited: Module
    edited_read: Read
    quick: bool

    @property
    def request(self) -> Request[Any]:
        """See `References`."""
        return self.references.request

    @property
    def parts(self) -> Parts:
        """See `References`."""
        return self.references.parts

    @property
    def holders(self) -> Sequence[Module]:
        """See `References`."""
        return self.references.holders

    @property
    def oracles(self) -> Sequence[Module]:
        """See `References`."""
        return self.references.oracles

    @property
    def seed(self) -> int:
        """See `References`."""
        return self.references.seed

    @property
    def original(self) -> Module:
        """The model before the edit."""
        return self.holders[0]

    @property
    def dear(self) -> int:
        """How many oracles take part in the probes."""
        return DEAR // 2 if self.quick else DEAR

    @property
    def accuracy_word(self) -> str:
        """What the share of right answers is called: of a task without classes it is the mean of exp(-loss)."""
        return "accuracy" if hasattr(self.request.forget.task, "labels") else "exp(-loss)"

    @property
    def holders_read(self) -> list[Read]:
        """The holders' answers, the original's first."""
        return self.references.holders_read

    @property
    def oracles_read(self) -> list[Read]:
        """The oracles' answers."""
        return self.references.oracles_read

    def measure(
        self,
        name: str,
        figure: Callable[[Read], float],
        *,
        unit: str,
        n: int,
        direction: str = NEAR,
        interval: tuple[float, float] | None = None,
        note: str = "",
    ) -> Measurement:
        """One figure of the edited model, the original and all oracles."""
        return measurement(
            name,
            figure(self.edited_read),
            figure(self.holders_read[0]),
            [figure(read) for read in self.oracles_read],
            unit=unit,
            direction=direction,
            n=n,
            interval=interval,
            note=note,
        )
