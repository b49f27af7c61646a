"""Derivatives that the second-order methods share: gradients an example, Fisher, Hessian, linear solves.

Everything here takes a plain function (weights, batch) -> [n] or [n, k] and works on flat vectors [d] of the
weights that may move; `Point` makes both from a model and its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError, NonFiniteError
from ..mask import Mask
from ..types import Batch, Data

Weights = dict[str, Tensor]
Function = Callable[[Weights, Batch], Tensor]
Product = Callable[[Tensor], Tensor]
Curvature = Literal["ggn", "hessian"]


@dataclass(frozen=True, eq=False)
class Space:
    """The positions a method may move, as coordinates of one vector.

    Attributes:
        shapes: parameter name -> shape.
        living: parameter name -> flat int64 positions that live; a parameter it does not name lives whole.

    Example:
        >>> space = Space({"w": torch.Size([2, 2]), "b": torch.Size([1])}, {"w": torch.tensor([0, 3])})
        >>> space.size, space.tensors(torch.tensor([1.0, 2.0, 3.0]))["w"].tolist()
        (3, [[1.0, 0.0], [0.0, 2.0]])
    """

    shapes: Mapping[str, torch.Size]
    living: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Coordinates, d."""
        return sum(self._length(name) for name in self.shapes)

    def vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of shape [*lead, *shape] as one of shape [*lead, d]."""
        parts = []
        for name, shape in self.shapes.items():
            tensor = tensors[name]
            flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], shape.numel())
            parts.append(flat[..., self.living[name]] if name in self.living else flat)
        return torch.cat(parts, -1)

    def tensors(self, vector: Tensor) -> Weights:
        """A vector [d] as one tensor a parameter; exactly zero at dead positions."""
        lengths = [self._length(name) for name in self.shapes]
        out = {}
        parts = torch.split(vector, lengths)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            if name in self.living:
                part = part.new_zeros(shape.numel()).index_copy(0, self.living[name], part)
            out[name] = part.reshape(shape)
        return out

    def _length(self, name: str) -> int:
        return len(self.living[name]) if name in self.living else self.shapes[name].numel()


@dataclass(frozen=True, eq=False)
class Point:
    """A model and its task as functions of the weights that may move, at the model's own weights.

    Trainable parameters are the coordinates, without the pruned zeros of `Mask.of`. Half-precision models are
    read in float32. Everything is in eval mode: batch normalisation uses its running statistics, so that an
    example's gradient does not depend on its batch.

    Attributes:
        space: coordinates.
        weights: where the model stands, by parameter name.
        losses: (weights, batch) -> [n].
        outputs: (weights, batch) -> [n, k].
    """

    space: Space
    weights: Weights
    losses: Function
    outputs: Function

    @classmethod
    def of(cls, model: Module, task: Any, who: str) -> Point:
        """Read off `model`, which is left unchanged.

        Raises:
            InputError: naming `who`, if no weight may move, or one is not finite.
        """
        copy = deepcopy(model).eval()
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.dtype in (torch.bfloat16, torch.float16):
                tensor.data = tensor.data.float()
        weights = {name: p.detach() for name, p in copy.named_parameters() if p.requires_grad}
        keep = Mask.of(copy).keep
        living = {n: keep[n].flatten().nonzero().flatten() for n in weights if n in keep}
        space = Space({name: w.shape for name, w in weights.items()}, living)
        if space.size == 0:
            raise InputError(
                f"{who} found no weight it may move. Set requires_grad on at least one parameter."
            )
        if not bool(space.vector(weights).isfinite().all()):
            raise InputError(f"{who} was given a model with infinite or NaN weights.")
        return cls(space, weights, functional(copy, task.losses), functional(copy, task.outputs))

    @property
    def here(self) -> Tensor:
        """The weights as a vector [d]."""
        return self.space.vector(self.weights)

    def gradient(self, data: Data[Any]) -> Tensor:
        """Gradient [d] of the mean loss over `data`."""
        return mean_gradient(self.losses, self.space, self.weights, data)

    def product(self, data: Data[Any], curvature: Curvature) -> Product:
        """Multiply by the mean loss's Hessian ("hessian") or softmax Gauss-Newton matrix ("ggn")."""
        if curvature == "hessian":
            return lambda v: hessian_product(self.losses, self.space, self.weights, data, v)
        return lambda v: softmax_ggn_product(self.outputs, self.space, self.weights, data, v)

    def mean_loss(self, data: Data[Any], step: Tensor | None = None) -> float:
        """Mean loss over `data`, at the weights moved by `step` [d]."""
        at = self.weights if step is None else self._moved(step)
        with torch.no_grad():
            return float(sum(self.losses(at, batch).sum() for batch in data.batches())) / len(data)

    def write(self, model: Module, step: Tensor, who: str) -> Module:
        """A copy of `model`, in its own dtype, moved by `step` [d]; all other positions keep their bits.

        Raises:
            NonFiniteError: naming `who`, if a weight would become infinite or NaN.
        """
        if not bool((self.here + step).isfinite().all()):
            raise NonFiniteError(
                f"{who} would make a weight infinite or NaN; the model was kept. Raise damping."
            )
        moved, result = self._moved(step), deepcopy(model)
        with torch.no_grad():
            for name, parameter in result.named_parameters():
                if name in moved:
                    parameter.copy_(moved[name])
        return result

    def _moved(self, step: Tensor) -> Weights:
        return {name: self.weights[name] + by for name, by in self.space.tensors(step).items()}


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
    """
    total = torch.zeros_like(space.vector(weights))
    with torch.no_grad():
        shares = torch.cat([outputs(weights, batch).softmax(-1) for batch in data.batches()])
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


def conjugate_gradients(
    product: Product,
    vector: Tensor,
    *,
    damping: float,
    steps: int,
    tolerance: float,
    limit: float | None = None,
) -> Tensor:
    """Solve (A + damping I) x = vector, symmetric positive definite (Hestenes and Stiefel, 1952).

    Args:
        product: v -> A v.
        vector: [d].
        damping: added to A's diagonal.
        steps: products at most.
        tolerance: residual norm to reach, as a share of the norm of `vector`.
        limit: residual norm to reach, instead of that share.

    Raises:
        InputError: if A + damping I is not positive definite, or the residual is not reached in `steps`.
        NonFiniteError: if a product is not finite.

    Example:
        >>> conjugate_gradients(lambda v: 3 * v, torch.tensor([8.0]), damping=1.0, steps=5, tolerance=1e-6)
        tensor([2.])
    """
    x, residual = torch.zeros_like(vector), vector.clone()
    direction, square = residual.clone(), float(vector @ vector)
    goal = (tolerance**2) * square if limit is None else limit**2
    for _ in range(steps):
        if square <= goal:
            return x
        image = product(direction) + damping * direction
        bend = float(direction @ image)
        if bend != bend:
            raise NonFiniteError("a curvature product is not finite; the model was kept.")
        if bend <= 0:
            raise InputError(
                f"the curvature with damping {damping:g} is not positive definite (found "
                f"{bend / float(direction @ direction):.3g} along a direction), so it has no minimum to step "
                "to. Raise damping, or set curvature to 'ggn'."
            )
        length = square / bend
        x, residual = x + length * direction, residual - length * image
        former, square = square, float(residual @ residual)
        direction = residual + (square / former) * direction
    if square <= goal:
        return x
    reached, wanted = ((end / float(vector @ vector)) ** 0.5 for end in (square, goal))
    raise InputError(
        f"conjugate gradients reached a relative residual of {reached:.2g} in {steps} steps; {wanted:.2g} "
        "was wanted. Raise steps, damping or tolerance."
    )


def woodfisher(block: Callable[[int], Tensor], blocks: int, vector: Tensor, damping: float) -> Tensor:
    """Multiply `vector` by the inverse of (damping I + G'G / N) exactly, for N gradients G [N, d].

    This is what the recursion of Singh and Alistarh (2020, eq. 5) arrives at after N single-sample gradients
    g, F^-1 <- F^-1 - F^-1 g g' F^-1 / (N + g' F^-1 g) from F^-1 = I / damping, without a d x d matrix:
    (v - G' (N damping I + G G')^-1 G v) / damping.

    Args:
        block: i -> rows [b, d] of G; called again for the same i when there are several.
        blocks: how many.
        vector: [d].
        damping: positive.
    """
    gram_rows: list[list[Tensor]] = [[] for _ in range(blocks)]
    seen = []
    for i in range(blocks):
        rows = block(i)
        seen.append((rows @ vector).double())
        for j in range(i):
            gram_rows[i].append((rows @ block(j).T).double())
        gram_rows[i].append((rows @ rows.T).double())
    gram = torch.cat(
        [
            torch.cat([*gram_rows[i], *(gram_rows[j][i].T for j in range(i + 1, blocks))], 1)
            for i in range(blocks)
        ]
    )
    shift = len(gram) * damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(gram + shift, torch.cat(seen))
    out, at = vector.clone(), 0
    for i in range(blocks):
        rows = block(i)
        out -= solved[at : at + len(rows)].to(rows.dtype) @ rows
        at += len(rows)
    return out / damping


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
