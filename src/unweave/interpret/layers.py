"""One layer of a model by its name: its output as rows of vectors, read in passing or put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import BATCH_NORMS, CONVS

Change = Callable[[Tensor], Tensor | None]


def find_layer(model: Module, name: str) -> Module:
    """The module of that name in `named_modules`.

    Raises:
        InputError: if there is none; names the nearest.
    """
    modules: dict[str, Module] = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    known = [n for n in modules if n]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    near += [n for n in known if name and n not in near and n.split(".")[-1] == name.split(".")[-1]][
        : 3 - len(near)
    ]
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else f"There are: {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}."
    )
    raise InputError(f"this {type(model).__name__} has no layer {name!r}. {hint}")


@contextmanager
def through(model: Module, name: str, change: Change) -> Iterator[list[int]]:
    """Hand the layer's output to `change` at every pass of the block; what it returns, unless None, goes on instead.

    A layer that answers with a tuple, or an object with `last_hidden_state`, is read by its first tensor. Maps
    [n, c, h, w], and what convolutions and batch normalisation give, have a vector at each place; elsewhere vectors
    lie in the last dimension. `change` sees and gives vectors last.

    Yields:
        A list whose length is how often the layer was called.

    Raises:
        InputError: if there is no such layer, or its output holds no vectors.
    """
    module, calls = find_layer(model, name), list[int]()
    places_after = isinstance(module, (*CONVS, *BATCH_NORMS))

    def hook(_: Module, __: Any, output: Any) -> Any:
        calls.append(len(calls))
        tensor = _tensor(output, name)
        first = tensor.ndim == 4 or (places_after and tensor.ndim > 2)
        new = change(tensor.movedim(1, -1) if first else tensor)
        if new is None:
            return None
        return _replaced(output, new.movedim(-1, 1) if first else new)

    handle = module.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def once(calls: list[int], name: str) -> None:
    """Refuse a layer that a pass does not call exactly once.

    Raises:
        InputError: if it was called never, or several times.
    """
    if len(calls) != 1:
        raise InputError(
            f"the layer {name!r} was called {len(calls)} times in one pass; its activations are read only where it is "
            "called once. Name a layer inside or above it."
        )


def _tensor(output: Any, name: str) -> Tensor:
    if hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    found = next(iter(output), None) if isinstance(output, (tuple, list)) else output
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 2:
        shown = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(
            f"the layer {name!r} answers with {shown}; activations are floating point, [n, ..., width]."
        )
    return found


def _replaced(output: Any, new: Tensor) -> Any:
    if hasattr(output, "last_hidden_state"):
        output.last_hidden_state = new
        return output
    if isinstance(output, tuple):
        return (new, *output[1:])
    if isinstance(output, list):
        return [new, *output[1:]]
    return new


def rows(activations: Tensor, present: Tensor | None) -> Tensor:
    """Vectors [n, ..., d] as rows [m, d], without those where `present`, bool [n, ...], is False."""
    if present is None:
        return activations.reshape(-1, activations.shape[-1])
    if present.shape != activations.shape[:-1]:
        raise InputError(
            f"the layer answers with {tuple(activations.shape)}, and the texts have {tuple(present.shape)} positions. "
            "Name a layer that gives a vector a token."
        )
    return activations[present.to(activations.device)]


def gradient_of(model: Module, name: str, loss_of: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """A layer's output in one pass and the gradient there of the loss of that pass, both detached, vectors last.

    Args:
        model: frozen or not; left unchanged.
        name: of the layer.
        loss_of: one forward pass to a scalar: a sum over examples, or the gradient would depend on how many there are.

    Raises:
        InputError: if no gradient comes through: the model was run without gradients, or is quantised, or the loss
            does not depend on the layer.
    """
    held: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        held.append(x.detach().requires_grad_())
        return held[-1]

    with torch.enable_grad(), through(model, name, leaf) as calls:
        loss = loss_of()
        once(calls, name)
    found = torch.autograd.grad(loss, held[0], allow_unused=True)[0] if loss.requires_grad else None
    if found is None:
        raise InputError(
            f"no gradient of the loss reaches the layer {name!r}. Is its forward pass under torch.no_grad, quantised, "
            "or beside the loss?"
        )
    if not bool(found.isfinite().all()):
        raise InputError(
            f"a gradient at the layer {name!r} is not finite. Run the model in float32, or bfloat16 instead of float16."
        )
    return held[0].detach(), found.detach()
