"""What a step must not change: dead positions, frozen positions, and the last good values if it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module

from ..masks.mask import Mask


class Keeper:
    """Undoes, after each step, whatever the optimiser did outside the masks.

    Args:
        model: being trained.
        hold: positions that are dead in it are zero after every step.
        only: positions outside it keep their bits.
    """

    def __init__(self, model: Module, hold: Mask | None, only: Mask | None) -> None:
        self._model = model
        self.hold_(hold)
        pairs = only.match(model) if only else []
        self.frozen: list[tuple[Tensor, Tensor, Tensor]] = [
            (p, ~moves, p.detach().clone()) for _, p, moves in pairs
        ]

    def hold_(self, hold: Mask | None) -> None:
        """Hold another mask from now on."""
        pairs = hold.match(self._model) if hold else []
        self.dead = [(p, ~alive) for _, p, alive in pairs if not bool(alive.all())]

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of all that may not move, so that norms and momentum do not see them."""
        for parameter, drop in [*self.dead, *((p, still) for p, still, _ in self.frozen)]:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(drop, 0)

    @torch.no_grad()
    def restore_(self) -> None:
        """Put back what may not have moved."""
        for parameter, still, value in self.frozen:
            parameter.copy_(torch.where(still, value, parameter))
        for parameter, drop in self.dead:
            parameter.masked_fill_(drop, 0)

    def values(self) -> list[Tensor]:
        """What the frozen parameters were at the start, in order."""
        return [value for _, _, value in self.frozen]

    def resume_(self, values: Sequence[Tensor]) -> None:
        """Take these as what the frozen parameters were at the start."""
        pairs = zip(self.frozen, values, strict=True)
        self.frozen = [(p, still, value.to(p.device)) for (p, still, _), value in pairs]


class Snapshot:
    """The last good values of parameters and buffers, in memory of its own."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._copies = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def take(self) -> None:
        """Remember the values as they are."""
        if self._tensors:
            torch._foreach_copy_(self._copies, self._tensors)

    @torch.no_grad()
    def put_back_(self) -> None:
        """Set the tensors to what was remembered."""
        if self._tensors:
            torch._foreach_copy_(self._tensors, self._copies)


def global_norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all entries of all tensors."""
    if not tensors:
        return 0.0
    wide = [t.float() if t.dtype == torch.float16 else t for t in tensors]  # its squares would overflow
    return float(torch.stack([norm.float() for norm in torch._foreach_norm(wide)]).norm())
