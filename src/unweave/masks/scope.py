"""Which parameters a score covers."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import Conv1d, Conv2d, Conv3d, Linear, Module, Parameter

from ..errors import InputError
from ..settings import settings

_PRUNABLE = (Linear, Conv1d, Conv2d, Conv3d)


@settings(kw_only=False)
class Scope:
    """Weights of linear and convolutional layers, less those left out; never biases, norms or embeddings.

    Attributes:
        only: parts of parameter names; just weights whose names contain one of them are in scope. Empty: all.
        skip: parts of parameter names; a weight whose name contains one of them stays dense.
        first: whether the first such layer is in scope.
        last: whether the last such layer is in scope.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    first: bool = True
    last: bool = True

    def layers(self, model: Module) -> list[tuple[str, Module, Parameter]]:
        """(parameter name, its layer, the weight) in the model's order; tied weights once, frozen ones not.

        Raises:
            InputError: if nothing is in scope, or a part of `only` or `skip` fits no weight.
        """
        found = list(_weights(model))
        names = [name for name, _, _ in found]
        for part in (*self.only, *self.skip):
            if not any(part in name for name in names):
                raise InputError(
                    f"Scope: no prunable weight's name contains {part!r}; there are: {', '.join(names[:8])}."
                )
        if not self.first:
            found = found[1:]
        if not self.last:
            found = found[:-1]
        chosen = [
            entry
            for entry in found
            if (not self.only or any(part in entry[0] for part in self.only))
            and not any(part in entry[0] for part in self.skip)
            and entry[2].requires_grad
        ]
        if not chosen:
            raise InputError(
                "no weight is in scope for pruning: the model has no Linear or Conv layer that is neither "
                "skipped nor frozen."
            )
        return chosen

    def weights(self, model: Module) -> dict[str, Parameter]:
        """Parameter name -> weight, in the model's order."""
        return {name: weight for name, _, weight in self.layers(model)}


def _weights(model: Module) -> Iterator[tuple[str, Module, Parameter]]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight") if isinstance(module, _PRUNABLE) else None
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            yield f"{prefix}.weight" if prefix else "weight", module, weight
