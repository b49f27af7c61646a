"""A pruned model that costs no more than was asked: the least sparsity that gets there is searched for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch.nn import Module

from ..errors import InputError
from ..io.packed import bytes_packed
from ..prune import Shrunk
from ..settings import Inner, settings
from ..types import Data
from .measured import Figures, alive, macs, mebibytes, times, weights

Cost = Literal["macs", "latency", "bytes", "parameters"]

WORDS: dict[str, str] = {
    "macs": "multiplications", "latency": "time of one batch", "bytes": "bytes of weights",
    "parameters": "parameters",
}  # fmt: skip
_TRIES = 12
_NEAR = 0.005  # so far below the target, the search ends
_FINE = 1 / 512  # so near to a sparsity that costs too much, it ends too


@settings
class Target:
    """What a pruned model may cost at most, as a share of what the dense one costs.

    Attributes:
        of: "macs", multiply-adds an example; "latency", the time of one held-out batch, measured on this machine;
            "bytes", of the weights as they are written; "parameters", those that are left, or are not zero.
        share: of the dense model's.
    """

    of: Cost
    share: Inner

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.of}={self.share:g}"

    @classmethod
    def read(cls, text: str) -> Self:
        """What `macs=0.5` says.

        Raises:
            InputError: if it names no cost, or no share of it.
        """
        of, _, said = text.partition("=")
        share: float | None = None
        with suppress(ValueError):
            share = float(said)
        if of not in WORDS or share is None:
            raise InputError(
                f"a target is one of {', '.join(WORDS)} with a share of the dense model's, such as macs=0.5; got "
                f"{text!r}."
            )
        return cls(of=of, share=share)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Candidate:
    """A model pruned at some sparsity.

    Attributes:
        silenced: at its full size.
        small: without what is dead; None where nothing was removed.
        told: what is to be told of it.
        why: nothing could be removed.
    """

    silenced: Module
    small: Shrunk | None = None
    told: tuple[str, ...] = ()
    why: str = ""

    @property
    def model(self) -> Module:
        """The smaller of the two."""
        return self.silenced if self.small is None else self.small.model


def share_of(target: Target, before: Module, found: Candidate, data: Data[Any], *, packed: bool) -> float:
    """What a candidate costs, as a share of what the dense model costs.

    Args:
        target: names the cost.
        before: the dense model.
        found: the candidate.
        data: its first batch is timed.
        packed: whether its weights are to be written packed.
    """
    after = found.model
    if target.of == "macs":
        return macs(after, data) / macs(before, data)
    if target.of == "latency":
        was, now = times(before, after, data)
        return now.median / was.median
    if target.of == "parameters":
        return weights(after) / weights(before) if found.small else alive(after) / alive(before)
    full = mebibytes(before) * 2**20
    return bytes_packed(dict(after.named_parameters())) / full if packed else mebibytes(after) * 2**20 / full


def searched(
    target: Target, make: Callable[[float], Candidate], cost: Callable[[Candidate], float]
) -> tuple[Candidate, str]:
    """The candidate of the least sparsity that costs no more than the target, and what is to be told of the search.

    Sparsities are tried between the largest known to cost too much and the smallest known to be enough, where a
    straight line between the two would meet the target.

    Args:
        target: to reach.
        make: prunes at a sparsity; InputError where that is too much.
        cost: share that a candidate costs.

    Raises:
        InputError: if no sparsity reaches it, with the nearest that is reached.
    """
    low, dear = 0.0, 1.0
    high, cheap = 1.0, 0.0
    best: tuple[float, Candidate, float] | None = None
    nearest, why, tries = (1.0, 0.0), "", 0
    at = 1 - target.share
    while tries < _TRIES and high - low > _FINE:
        tries += 1
        try:
            found = make(at)
        except InputError as error:
            why, high, cheap = str(error), at, 0.0
        else:
            share, why = cost(found), found.why or why
            nearest = min(nearest, (share, at))
            if share <= target.share:
                best, high, cheap = (at, found, share), at, share
                if target.share - share <= _NEAR:
                    break
            else:
                low, dear = at, share
        line = (dear - target.share) / max(dear - cheap, 1e-9) if best else 0.5
        at = low + (high - low) * min(0.9, max(0.1, line))
    words = WORDS[target.of]
    if best is None:
        raise InputError(
            f"the target {target} cannot be reached on this model: the nearest is {nearest[0]:.3f} of its {words}, at "
            f"a sparsity of {nearest[1]:.3f}. {_advice(target, why)}"
        )
    at, found, share = best
    return found, (
        f"Target {target}: of {tries} sparsities that were tried, {at:.3f} is the least that reaches it, with "
        f"{share:.3f} of the dense model's {words}."
    )


def measured_again(target: Target, figures: Figures) -> list[str]:
    """What is told where a time that was searched for does not hold when it is measured once more."""
    if target.of != "latency":
        return []
    before, after, _ = figures["time of one batch"]
    if after <= target.share * before:
        return []
    spread = max(figures["time of one batch, between quartiles"][:2])
    return [
        f"Measured once more the time is {after / before:.3f} of the dense model's, which is above the target; runs "
        f"differ by {spread:.3g} ms between their quartiles. Ask for multiplications (macs=) where the machine is "
        "shared or the model this small."
    ]


def _advice(target: Target, why: str) -> str:
    more = f" More was refused: {why}" if why else ""
    return f"Ask for a larger share, leave less out of the scope, or choose another pattern or budget.{more}"
