"""Which weights live: sets of positions inside a model's parameters, and their algebra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Embedding, EmbeddingBag, Module, Parameter

from ..errors import InputError
from .layers import NORMS, is_weight


@dataclass(frozen=True, eq=False)
class Mask:
    """Positions that live, as one boolean tensor a parameter. Parameters it does not name live whole.

    Attributes:
        keep: parameter name (as in `model.named_parameters()`) -> bool tensor of its shape; True lives.

    Example:
        >>> a = Mask({"weight": torch.tensor([True, True, False, False])})
        >>> b = Mask({"weight": torch.tensor([True, False, True, False])})
        >>> a.density(), a.iou(b)
        (0.5, 0.3333333333333333)
        >>> (a & ~b).keep["weight"].tolist()
        [False, True, False, False]
    """

    keep: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, alive in self.keep.items():
            if alive.dtype != torch.bool:
                raise InputError(f"Mask[{name!r}] must be a bool tensor; got {alive.dtype}.")

    @classmethod
    def of(cls, model: Module) -> Mask:
        """Read the mask off a pruned model's exact zeros.

        Only matrix weights of layers (see `Scope`) and the parameters of normalisation layers are read, and only
        where some but not all entries are zero: a bias that starts at zero, or a layer initialised to zero, was
        not pruned. What has zeros by construction, and is never pruned here, is not read: an embedding's padding
        row and what shares it, tables of positions and other bare parameters, the triangles that
        parametrizations.orthogonal keeps. A dense model gives an empty mask.
        """
        return cls({name: alive for name, alive in _zeros(model) if alive.any() and not alive.all()})

    def __bool__(self) -> bool:
        """True if the mask names at least one parameter."""
        return bool(self.keep)

    def __len__(self) -> int:
        """How many parameters it names."""
        return len(self.keep)

    def count(self) -> int:
        """How many named positions live."""
        return sum(int(alive.sum()) for alive in self.keep.values())

    def size(self) -> int:
        """How many positions are named, living or not."""
        return sum(alive.numel() for alive in self.keep.values())

    def density(self) -> float:
        """Share of the named positions that live; 1.0 for an empty mask."""
        return self.count() / self.size() if self.keep else 1.0

    def iou(self, other: Mask) -> float:
        """Living in both over living in either, summed over every parameter that one of the two names."""
        both = either = 0
        for _, a, b in self._pairs(other):
            both += int((a & b).sum())
            either += int((a | b).sum())
        return both / either if either else 1.0

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, torch.logical_and)

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, torch.logical_or)

    def __sub__(self, other: Mask) -> Mask:
        """Living here and not in `other`."""
        return self._combine(other, lambda a, b: a & ~b)

    def __invert__(self) -> Mask:
        return Mask({name: ~alive for name, alive in self.keep.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return all(torch.equal(a, b) for _, a, b in self._pairs(other))

    __hash__ = None  # type: ignore[assignment]

    def apply_(self, model: Module) -> Module:
        """Zero every dead position of `model`, in place, to +0.0 exactly.

        Raises:
            InputError: if the mask names a parameter the model lacks, or of another shape.
        """
        with torch.no_grad():
            for _, parameter, alive in self.match(model):
                parameter.masked_fill_(~alive, 0)
        return model

    def match(self, model: Module) -> list[tuple[str, Parameter, Tensor]]:
        """Pair each named parameter of `model` with its mask, on the parameter's device.

        Raises:
            InputError: if the mask names a parameter the model lacks, or of another shape.
        """
        parameters = {n.removeprefix("module."): p for n, p in model.named_parameters(remove_duplicate=False)}
        pairs = []
        for name, alive in self.keep.items():
            parameter = parameters.get(name.removeprefix("module."))
            if parameter is None:
                raise InputError(f"Mask names {name!r}, which the model lacks. It has: {_few(parameters)}.")
            if parameter.shape != alive.shape:
                raise InputError(
                    f"Mask[{name!r}] has shape {tuple(alive.shape)}; the model's parameter has "
                    f"{tuple(parameter.shape)}. The mask was made for another model."
                )
            pairs.append((name, parameter, alive.to(parameter.device)))
        return pairs

    def _pairs(self, other: Mask) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name in [*self.keep, *(n for n in other.keep if n not in self.keep)]:
            a, b = self.keep.get(name), other.keep.get(name)
            if a is not None and b is not None and a.shape != b.shape:
                raise InputError(f"masks differ in shape at {name!r}: {tuple(a.shape)} and {tuple(b.shape)}.")
            some = a if a is not None else b
            assert some is not None
            whole = torch.ones_like(some)
            yield name, whole if a is None else a, whole if b is None else b

    def _combine(self, other: Mask, rule: Callable[[Tensor, Tensor], Tensor]) -> Mask:
        return Mask({name: rule(a, b) for name, a, b in self._pairs(other)})


def _zeros(model: Module) -> Iterator[tuple[str, Tensor]]:
    seen = {id(p) for m in model.modules() if isinstance(m, Embedding | EmbeddingBag) for p in m.parameters()}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            matrix = parameter.ndim > 1 and is_weight(module, name)
            if id(parameter) in seen or not (matrix or isinstance(module, NORMS)):
                continue
            seen.add(id(parameter))
            alive = parameter.detach() != 0
            if isinstance(
                module, NORMS
            ):  # a shift that is still 0, beside a scale that is not, was not pruned
                alive = torch.stack([p.detach() != 0 for p in module.parameters(recurse=False)]).any(0)
            yield f"{prefix}.{name}" if prefix else name, alive


def _few(names: Mapping[str, object], most: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
