"""Gradients an example, Fisher, Hessian and Gauss-Newton products over a data set, of functions of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError
from ..types import Batch, Data
from .space import Space, Weights

Function = Callable[[Weights, Batch], Tensor]
"""(weights, batch) -> [n] or [n, k]."""


class _Reader(Module):
    def __init__(self, model: Module, read: Callable[[Module, Batch], Tensor]) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, batch: Batch) -> Tensor:
        return self.read(self.model, batch)


def functional(model: Module, read: Callable[[Module, Batch], Tensor]) -> Function:
    """(model, batch) -> tensor as (weights, batch) -> tensor; weights not given are the model's own."""
    reader = _Reader(model, read)

    def call(weights: Weights, batch: Batch) -> Tensor:
        # fused attention kernels have no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            out: Tensor = functional_call(reader, {f"model.{n}": w for n, w in weights.items()}, (batch,))
        return out

    return call


def example_gradients(function: Function, weights: Weights, batch: Batch) -> Weights:
    """Gradient of each example's own value, all examples at once (torch.func).

    Args:
        function: (weights, batch) -> [n], one value an example.
        weights: name -> tensor.
        batch: nested tensors whose first dimension is n.

    Returns:
        Name -> [n, *shape].
    """

    def one(at: Weights, example: Batch) -> Tensor:
        return function(at, _as_batch(example))[0]

    out: Weights = vmap(grad(one), in_dims=(None, 0))(weights, batch)
    return out


def _as_batch(example: Any) -> Batch:
    if isinstance(example, Tensor):
        return example.unsqueeze(0)
    if isinstance(example, Mapping):
        return {name: _as_batch(part) for name, part in example.items()}
    return type(example)(_as_batch(part) for part in example)


def gradient_rows(
    function: Function, space: Space, weights: Weights, data: Data[Any], most: int, *, vectorised: bool = True
) -> Iterator[Tensor]:
    """Per-example gradients in the data's order, in blocks [b, d].

    A model or batch that torch.func cannot vectorise is read one example at a time instead.

    Args:
        function: (weights, batch) -> [n].
        space: coordinates.
        weights: where to differentiate.
        data: at least one example.
        most: examples a block.
        vectorised: False reads one example at a time from the start.
    """
    size = max(1, min(most, data.batch_size))
    done = 0
    if vectorised:
        for batch in replace(data, batch_size=size).batches():
            try:
                rows = space.vector(example_gradients(function, weights, batch)).detach()
            except (RuntimeError, ValueError, TypeError, AttributeError):
                break  # a true error comes again below, without torch.func around it
            yield rows
            done += len(rows)
    if done < len(data):
        for batch in replace(data, batch_size=1).batches(start=done):
            yield _gradient(lambda at, b=batch: function(at, b)[0], space, weights)[None]  # type: ignore[misc]


def mean_gradient(losses: Function, space: Space, weights: Weights, data: Data[Any]) -> Tensor:
    """Gradient [d] of the mean over examples, whatever the batching."""
    total = torch.zeros_like(space.vector(weights))
    for batch in data.batches():
        total += _gradient(lambda at, b=batch: losses(at, b).sum(), space, weights)  # type: ignore[misc]
    return total / len(data)


def fisher_diagonal(outputs: Function, space: Space, weights: Weights, data: Data[Any], most: int) -> Tensor:
    """Diagonal of the Fisher information of a softmax classifier, over its own predictive distribution.

    D_j = mean over examples of sum_y p(y|x) (d log p(y|x) / d w_j)^2. Squares are taken example by example;
    squaring a batch's mean gradient gives another, usually smaller, number. Labels are not used.

    Args:
        outputs: (weights, batch) -> logits [n, k].
        space: coordinates.
        weights: where to differentiate.
        data: at least one example.
        most: examples whose gradients are held at once.

    Returns:
        [d], non-negative, in 1 / (weight unit)^2.

    Raises:
        InputError: if the outputs are not one row of logits an example.
    """
    total = torch.zeros_like(space.vector(weights))
    with torch.no_grad():
        shares = torch.cat([outputs(weights, batch).softmax(-1) for batch in data.batches()])
    if shares.ndim != 2:
        raise InputError(
            f"the Fisher diagonal is that of a softmax classifier with outputs [n, classes]; got {list(shares.shape)}."
        )
    for y in range(shares.shape[1]):
        at = 0
        surprise: Function = lambda w, b, y=y: outputs(w, b).log_softmax(-1)[:, y]  # type: ignore[misc]  # noqa: E731
        for rows in gradient_rows(surprise, space, weights, data, most):
            total += shares[at : at + len(rows), y].to(rows) @ rows.square()
            at += len(rows)
    return total / len(data)


def hessian_product(
    losses: Function, space: Space, weights: Weights, data: Data[Any], vector: Tensor
) -> Tensor:
    """Hessian of the mean loss times `vector` [d], by differentiating twice."""
    total = torch.zeros_like(vector)
    along = space.tensors(vector)
    for batch in data.batches():

        def slope(at: Weights, batch: Batch = batch) -> Tensor:
            return _dot(_graph_gradient(losses(at, batch).sum(), at), along)

        total += _gradient(slope, space, weights)
    return total / len(data)


def softmax_ggn_product(
    outputs: Function, space: Space, weights: Weights, data: Data[Any], vector: Tensor
) -> Tensor:
    """Gauss-Newton matrix of the mean cross-entropy times `vector` [d]: mean of J'(diag(p) - pp')J v.

    Positive semi-definite everywhere, and the Hessian itself where logits are linear in the weights.
    """
    total = torch.zeros_like(vector)
    along = space.tensors(vector)
    for batch in data.batches():
        at = {name: w.detach().requires_grad_() for name, w in weights.items()}
        logits = outputs(at, batch)
        cotangent = torch.zeros_like(logits, requires_grad=True)
        pulled = _graph_gradient((logits * cotangent).sum(), at)
        (pushed,) = torch.autograd.grad(_dot(pulled, along), cotangent, retain_graph=True)  # J v
        p = logits.detach().softmax(-1)
        curved = p * (pushed - (p * pushed).sum(-1, keepdim=True))
        back = torch.autograd.grad((logits * curved).sum(), list(at.values()), materialize_grads=True)
        total += space.vector(dict(zip(at, back, strict=True)))
    return total / len(data)


def _gradient(value: Callable[[Weights], Tensor], space: Space, weights: Weights) -> Tensor:
    at = {name: w.detach().requires_grad_() for name, w in weights.items()}
    out = value(at)
    if not out.requires_grad:  # constant in the weights
        return torch.zeros_like(space.vector(weights))
    gradients = torch.autograd.grad(out, list(at.values()), materialize_grads=True)
    return space.vector(dict(zip(at, gradients, strict=True)))


def _graph_gradient(value: Tensor, at: Weights) -> Weights:
    gradients = torch.autograd.grad(value, list(at.values()), create_graph=True, materialize_grads=True)
    return dict(zip(at, gradients, strict=True))


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
