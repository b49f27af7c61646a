"""What the sharpness-aware optimisers share: a base optimiser, exact restoring, a count of passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError

Closure = Callable[[], Tensor]


class Sharpness(Optimizer):
    """An optimiser that looks at the loss near the weights, around one that steps.

    `step(closure)` takes torch's closure: it zeroes gradients, computes the loss, runs backward where gradients are
    enabled, and returns the loss; it is called several times. Dead weights of a mask have gradient zero, so that no
    method here moves them. `param_groups` are those of the base optimiser, so learning-rate schedules reach it.
    Gradients are those of the whole batch over all processes (`fit_` averages them), so that every process perturbs
    alike; the published code lets each process perturb by its own part.

    Attributes:
        base: the optimiser that makes the update.
        backwards: closure calls with gradients, so far.
        forwards: closure calls without, so far.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer] = SGD,
        *,
        settings: dict[str, float],
        foreach: bool = True,
        **keywords: Any,
    ) -> None:
        self.base = base(params, **keywords)
        super().__init__(self.base.param_groups, {**self.base.defaults, **settings})
        self.param_groups = self.base.param_groups
        for group in self.param_groups:
            for name, value in settings.items():
                group.setdefault(name, value)
        self.foreach = foreach
        self.forwards = self.backwards = 0
        self._moved: list[Tensor] = []
        self._of: list[Tensor] = []
        self._saved: list[Tensor] = []

    def gradient(self, closure: Closure) -> Tensor:
        """Call the closure for loss and gradients.

        Raises:
            InputError: if it left no gradient.
        """
        self.backwards += 1
        with torch.enable_grad():
            loss = closure()
        if not any(p.grad is not None for group in self.param_groups for p in group["params"]):
            raise InputError(
                f"{type(self).__name__}: the closure left no gradient. It must run backward where gradients are "
                "enabled."
            )
        return loss

    def probe(self, closure: Closure) -> Tensor:
        """Call the closure for the loss alone.

        Raises:
            InputError: if it runs backward all the same.
        """
        self.forwards += 1
        try:
            with torch.no_grad():
                return closure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise InputError(
                f"{type(self).__name__} also calls its closure without gradients. Let it run backward only "
                "if loss.requires_grad."
            ) from error

    def ascent(self, weights: list[Tensor]) -> tuple[list[Tensor], float]:
        """Direction of the perturbation, and the length to divide it by: the gradient and its norm.

        Args:
            weights: parameters with a gradient.
        """
        gradients = [p.grad for p in weights if p.grad is not None]
        return gradients, norm(gradients, foreach=self.foreach)

    @torch.no_grad()
    def perturb(self) -> None:
        """Keep a copy of the weights and move them by rho along `ascent`, by the gradients that are there."""
        self.keep(self.trained())
        directions, length = self.ascent(self._moved)
        if length > 0:
            self.move(self._moved, directions, [rho / (length + 1e-12) for rho in self.rhos()])

    def keep(self, weights: list[Tensor]) -> None:
        """Keep a copy of these weights for `restore`, in the memory of the last one if they are the same."""
        if len(weights) == len(self._of) and all(
            w is of and w.dtype == old.dtype and w.device == old.device
            for w, of, old in zip(weights, self._of, self._saved, strict=True)
        ):
            put_back_(self._saved, weights, foreach=self.foreach)
        else:
            self._saved = copies(weights)
        self._moved = self._of = weights

    def move(self, weights: list[Tensor], by: list[Tensor], scales: list[float]) -> None:
        """Add `scale * by` to each weight in place."""
        if self.foreach:
            shift_(weights, by, scales)
            return
        for weight, step, scale in zip(weights, by, scales, strict=True):
            weight.add_(step, alpha=scale)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the weights that were kept; nothing if none were since the last time."""
        if self._moved:
            put_back_(self._moved, self._saved, foreach=self.foreach)
            self._moved = []

    def needed(self, closure: Closure | None) -> Closure:
        """The closure.

        Raises:
            InputError: if there is none.
        """
        if closure is None:
            raise InputError(
                f"{type(self).__name__}.step needs a closure that zeroes gradients, computes the loss, runs backward "
                "and returns the loss: it looks at the loss more than once a step."
            )
        return closure

    def trained(self) -> list[Tensor]:
        """Parameters with a gradient."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def rhos(self) -> list[float]:
        """`rho` of the group of each of these parameters."""
        return [g["rho"] for g in self.param_groups for p in g["params"] if p.grad is not None]

    def state_dict(self) -> dict[str, Any]:
        """Of the base optimiser and our own."""
        own = super().state_dict()["state"]
        return {**self.base.state_dict(), "own": own, "passes": [self.forwards, self.backwards]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read back what `state_dict` gave."""
        rest = dict(state_dict)
        own, passes = rest.pop("own"), rest.pop("passes")
        self.base.load_state_dict(rest)
        super().load_state_dict({"state": own, "param_groups": rest["param_groups"]})
        self.param_groups = self.base.param_groups
        self.forwards, self.backwards = passes

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "base" in self.__dict__:
            self.param_groups = self.base.param_groups


def norm(tensors: Iterable[Tensor], *, foreach: bool = True) -> float:
    """Euclidean norm of all tensors as one vector, in float32 or wider."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        kinds.setdefault((t.dtype, t.device), []).append(t)
    lengths = []
    for (dtype, _), alike in kinds.items():
        wide = _wide(dtype)
        norms = (
            torch._foreach_norm(alike, 2, wide)
            if foreach
            else [torch.linalg.vector_norm(t, dtype=wide) for t in alike]
        )
        lengths.append(float(torch.stack(list(norms)).norm()))
    return math.hypot(*lengths)


def dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """Inner product of two lists of tensors, each as one vector, in float32 or wider."""
    parts = [(x.to(_wide(x.dtype)) * y).sum() for x, y in zip(a, b, strict=True)]
    return math.fsum(float(p) for p in parts)


def together(values: list[float], device: torch.device) -> list[float]:
    """Mean of each value over the processes of a distributed training; the values themselves in one process."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized() or group.get_world_size() == 1:
        return values
    mean = torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    group.all_reduce(mean)
    return [float(v) / group.get_world_size() for v in mean]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def shift_(weights: list[Tensor], by: list[Tensor], scales: list[float]) -> None:
    """Add `scale * by` to each weight in place."""
    if len(set(scales)) == 1:
        torch._foreach_add_(weights, by, alpha=scales[0])
        return
    for weight, step, scale in zip(weights, by, scales, strict=True):
        weight.add_(step, alpha=scale)


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies in memory of their own."""
    return [t.detach().clone() for t in tensors]


def put_back_(weights: list[Tensor], saved: list[Tensor], *, foreach: bool = True) -> None:
    """Copy saved values back: exact, where subtracting a perturbation would drift."""
    if weights and foreach:
        torch._foreach_copy_(weights, saved)
        return
    for weight, value in zip(weights, saved, strict=True):
        weight.copy_(value)


def check_rho(who: str, rho: float) -> None:
    """Refuse a negative or infinite radius.

    Raises:
        InputError: naming the optimiser.
    """
    if not 0 <= rho < math.inf:
        raise InputError(
            f"{who}: rho must be at least 0 and finite; got {rho}. It is the radius of the perturbation."
        )


def every_parameter(groups: Iterable[dict[str, Any]]) -> list[Tensor]:
    """Parameters that can be trained, whether or not they have a gradient."""
    return [p for p in chain.from_iterable(g["params"] for g in groups) if p.requires_grad]
