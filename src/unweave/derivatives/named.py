"""Gradients by parameter name, batch by batch, of a copy of the model made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import NonFiniteError
from ..masks.layers import RUNNING_NORMS, copied
from ..masks.scope import Scope
from ..types import Data, Task

Norms = Literal["batch", "running"]


@contextmanager
def probe(model: Module, scope: Scope | None, norms: Norms) -> Iterator[tuple[Module, dict[str, Parameter]]]:
    """A copy of `model` to differentiate, without dropout, and its weights in scope.

    Args:
        model: left unchanged.
        scope: chooses the weights; None takes every parameter that is not frozen.
        norms: "batch" normalises by the batch's own statistics, as at initialisation one must: running
            statistics are still 0 and 1 there. "running" uses those of the trained model.
    """
    copy = copied(model).eval()
    if scope is None:
        weights = {name: p for name, p in copy.named_parameters() if p.requires_grad}
    else:
        weights = scope.weights(copy)
    if norms == "batch":
        for module in copy.modules():
            if isinstance(module, RUNNING_NORMS):
                module.train()
    with torch.enable_grad():
        yield copy, weights


def spaced(data: Data[Task], examples: int | None) -> Data[Task]:
    """At most `examples` of the data, evenly spaced, so that data sorted by class still shows all of them."""
    if examples is None or examples >= len(data):
        return data
    return data.subset(torch.linspace(0, len(data) - 1, examples).round().long())


def batch_gradients(
    model: Module, data: Data[Any], weights: dict[str, Parameter]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(number of examples, gradient of their mean loss, float32 or wider) for each batch.

    Raises:
        NonFiniteError: if a loss is not finite.
    """
    for batch in data.batches():
        losses = data.task.losses(model, batch)
        loss = losses.mean()
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"the loss of the model to be scored is {float(loss.detach())}; no gradient can score it."
            )
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        yield (
            len(losses),
            {
                name: torch.zeros_like(w, dtype=_wide(w)) if g is None else g.to(_wide(w))
                for (name, w), g in zip(weights.items(), gradients, strict=True)
            },
        )


def mean_named_gradient(model: Module, data: Data[Any], weights: dict[str, Parameter]) -> dict[str, Tensor]:
    """Gradient of the mean loss over all examples."""
    return summed_gradients(model, data, weights, lambda n, gradient: gradient * (n / len(data)))


def summed_gradients(
    model: Module, data: Data[Any], weights: dict[str, Parameter], fold: Callable[[int, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Sum over batches of `fold` of (examples in it, gradient of their mean loss), for each weight.

    Args:
        model: differentiated as it stands.
        data: read in order, in its own batches.
        weights: of `model`.
        fold: (n, gradient, float32 or wider) -> tensor of its shape.
    """
    total = {name: torch.zeros_like(w, dtype=_wide(w)) for name, w in weights.items()}
    for n, gradients in batch_gradients(model, data, weights):
        for name, gradient in gradients.items():
            total[name] += fold(n, gradient)
    return total


def named_hessian_product(
    model: Module, data: Data[Any], weights: dict[str, Parameter], vector: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Hessian of the mean loss over all examples, restricted to `weights`, times `vector`, by differentiating twice."""
    total = {name: torch.zeros_like(v) for name, v in vector.items()}
    leaves = list(weights.values())
    for batch in data.batches():
        with sdpa_kernel(SDPBackend.MATH):  # fused attention kernels have no second derivative
            losses = data.task.losses(model, batch)
        gradients = torch.autograd.grad(losses.mean(), leaves, create_graph=True, allow_unused=True)
        pairs = zip(gradients, vector.values(), strict=True)
        along = [(g * v).sum() for g, v in pairs if g is not None and g.requires_grad]
        if not along:  # linear in the weights
            continue
        products = torch.autograd.grad(torch.stack(along).sum(), leaves, allow_unused=True)
        for name, product in zip(weights, products, strict=True):
            if product is not None:
                total[name] += product.to(total[name].dtype) * (len(losses) / len(data))
    return total


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
