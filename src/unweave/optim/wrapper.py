"""An optimiser around another that steps: one set of groups, both saved and copied whole, exact ways back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import InputError
from ..settings import check
from .vectors import copies, copy_

Closure = Callable[[], Tensor]


class Wrapper(Optimizer):
    """What an optimiser needs that looks at the loss near the weights, around one that steps.

    Final classes give it `__init__` and `step` and override nothing else. `step(closure)` takes torch's closure: it
    zeroes gradients, computes the loss, runs backward where gradients are enabled, and returns the loss; it may be
    called several times. Dead weights of a mask have gradient zero, so that no method here moves them. `param_groups`
    are those of the base optimiser, so learning-rate schedules reach it. Gradients are those of the whole batch over
    all processes (`fit_` averages them), so that every process perturbs alike; the published code lets each process
    perturb by its own part.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        keywords: for the base, such as lr and momentum.
        rho: radius of groups without their own; None for a method without a radius.
        foreach: move all tensors at once.

    Attributes:
        base: the optimiser that makes the update.
        backwards: backward passes so far.
        forwards: closure calls without gradients so far.
        entries: names of the attributes that `state_dict` keeps beside the states.

    Raises:
        InputError: if a group's rho is not what the constructor takes, or the base has a `rho` of another meaning.
    """

    entries: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer], keywords: Mapping[str, Any], *,
        rho: float | None = None, foreach: bool = True,
    ) -> None:  # fmt: skip
        made = base(params, **keywords)
        if rho is not None and "rho" in made.defaults:
            raise InputError(
                f"{type(self).__name__} keeps its radius in each group as `rho`, where {type(made).__name__} keeps "
                "something else. Give another base."
            )
        super().__init__(made.param_groups, {**made.defaults, **({} if rho is None else {"rho": rho})})
        self._torchs = frozenset(vars(self))
        self.base, self.foreach = made, foreach
        self.param_groups = made.param_groups
        self.forwards = self.backwards = 0
        self._counted = False
        self._kept: list[Tensor] = []
        self._values: list[Tensor] = []
        self._away = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with a radius of its own if it has one.

        Raises:
            InputError: if the constructor would not take that radius.
        """
        if "rho" in param_group:
            check(type(self).__init__, {"rho": param_group["rho"]}, owner=type(self).__name__)
        super().add_param_group(param_group)

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

    def gradient(self, closure: Closure) -> Tensor:
        """Call the closure for loss and gradients.

        Raises:
            InputError: if it left no gradient.
        """
        self.backwards += 1
        self._counted = True
        with torch.enable_grad():
            loss = closure()
        if not any(p.grad is not None for group in self.param_groups for p in group["params"]):
            raise InputError(
                f"{type(self).__name__}: the closure left no gradient. It must run backward where gradients are "
                "enabled."
            )
        return loss

    def passed(self) -> None:
        """Count the last backward pass if the caller's loop made it by itself; `gradient` has counted its own."""
        self.backwards += not self._counted
        self._counted = True

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

    def trained(self) -> list[Tensor]:
        """Parameters with a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def gradients(self, weights: list[Tensor]) -> list[Tensor]:
        """Gradients of these parameters.

        Raises:
            InputError: if one has none, or a sparse one; names the parameter.
        """
        found = [p.grad for p in weights if p.grad is not None]
        if len(found) < len(weights):
            raise InputError(
                f"{type(self).__name__}: a later pass left no gradient where the first left one. The closure must use "
                "the same parameters each time."
            )
        for weight, gradient in zip(weights, found, strict=True):
            if gradient.layout is not torch.strided:
                raise InputError(
                    f"{type(self).__name__} got a sparse gradient for {self._name(weight)}, which it cannot add to the "
                    "weights. Make the layer with sparse=False, or train it by an optimiser of its own."
                )
        return found

    def _name(self, weight: Tensor) -> str:
        for group in self.param_groups:
            for p, name in zip(group["params"], group.get("param_names", ()), strict=False):
                if p is weight:
                    return str(name)
        return f"a parameter of shape {tuple(weight.shape)}"

    def remember(self, weights: list[Tensor]) -> None:
        """Keep the gradients of these weights in the state, as "last"."""
        for p, gradient in zip(weights, self.gradients(weights), strict=True):
            if "last" in self.state[p]:
                self.state[p]["last"].copy_(gradient)
            else:
                self.state[p]["last"] = gradient.detach().clone()

    def keep(self, weights: list[Tensor]) -> None:
        """Keep a copy of these weights for `restore`, in the memory of the last one if they are the same.

        Raises:
            InputError: if weights were kept and not restored since: they would be lost.
        """
        if self._away:
            raise InputError(
                f"{type(self).__name__}: the weights are away already, as first_step leaves them. Call second_step or "
                "restore before the next first_step."
            )
        if len(weights) == len(self._kept) and all(
            w is of and w.shape == old.shape and w.dtype == old.dtype and w.device == old.device
            for w, of, old in zip(weights, self._kept, self._values, strict=True)
        ):
            copy_(self._values, weights, foreach=self.foreach)
        else:
            self._values = copies(weights)
        self._kept, self._away, self._counted = weights, True, False

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the weights that were kept; nothing if none were since the last time."""
        if self._away:
            copy_(self._kept, self._values, foreach=self.foreach)
            self._away = self._counted = False

    def state_dict(self) -> dict[str, Any]:
        """Of the base optimiser and our own."""
        own = super().state_dict()["state"]
        more = {name: getattr(self, name) for name in self.entries}
        return {**self.base.state_dict(), "own": own, "passes": [self.forwards, self.backwards], **more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read back what `state_dict` gave.

        Raises:
            InputError: if another kind of optimiser gave it.
        """
        rest = dict(state_dict)
        ours = {name: rest.pop(name) for name in ("own", "passes", *self.entries) if name in rest}
        lacking = [name for name in ("own", "passes", *self.entries) if name not in ours]
        if lacking:
            raise InputError(
                f"{type(self).__name__}.load_state_dict got a state without {', '.join(lacking)}. Give what the "
                f"state_dict of a {type(self).__name__} returned."
            )
        self.base.load_state_dict(rest)
        super().load_state_dict({"state": ours.pop("own"), "param_groups": rest["param_groups"]})
        self.forwards, self.backwards = ours.pop("passes")
        for name, value in ours.items():
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # torch's own keeps three entries and forgets what a subclass holds; hooks, which it made itself, and a
        # schedule's patch of `step` are not for a copy
        ours = {n: v for n, v in vars(self).items() if n not in self._torchs and not hasattr(type(self), n)}
        if not self._away:
            ours |= {"_kept": [], "_values": []}
        return {**super().__getstate__(), **ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = self.base.param_groups
