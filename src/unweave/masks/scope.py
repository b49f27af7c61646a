"""Which weights a score covers, and what of all matrix weights that leaves dense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from torch.nn import (
    Conv1d,
    Conv2d,
    Conv3d,
    Embedding,
    EmbeddingBag,
    Linear,
    Module,
    Parameter,
)
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ..errors import InputError
from ..settings import Range, settings
from .layers import CONVS, NORMS, TRANSPOSED, is_weight
from .mask import Mask

ROWS = (Linear, Conv1d, Conv2d, Conv3d)
"""Layers of one weight whose first dimension is the outputs, and whose input a hook can read."""


@dataclass(frozen=True)
class Weight:
    """A matrix weight of a model.

    Attributes:
        name: as in `model.named_parameters()`.
        layer: whose parameter it is.
        parameter: the weight.
        left: why it cannot be pruned; "" if it can.
    """

    name: str
    layer: Module
    parameter: Parameter
    left: str = ""


@dataclass(frozen=True)
class Coverage:
    """What a scope looks at, of all matrix weights that it was not told to leave out.

    Attributes:
        looked: weights in scope.
        total: those, and what is left dense for a reason.
        left: parameter name -> why it is left dense.
    """

    looked: int
    total: int
    left: dict[str, str]

    @property
    def share(self) -> float:
        """Of the matrix weights, in scope; 1 for a model without any."""
        return self.looked / self.total if self.total else 1.0


@settings(kw_only=False)
class Scope:
    """Matrix weights, less those left out; never biases, norms or what an embedding shares.

    Linear layers and convolutions of every kind, transformers' `Conv1D`, recurrent layers, attention's projections and
    fused experts are known. Frozen and parametrised weights, and bare parameters that are no experts, are left dense.

    Attributes:
        only: names of parameters or modules, or patterns such as "encoder.*"; just these are in scope. Empty: all.
        skip: the same; these stay dense.
        first: whether the first weight is in scope.
        last: whether the last weight is in scope; a head that shares an embedding's never is.
        least: share of the matrix weights, apart from those named here, that must be in scope; below it, what is left
            dense is told and nothing is pruned.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    first: bool = True
    last: bool = True
    least: Annotated[
        float, Range(at_least=0, at_most=1, why="It is the share of matrix weights to look at.")
    ] = 0.9

    def layers(
        self, model: Module, kinds: tuple[type[Module], ...] | None = None
    ) -> list[tuple[str, Module, Parameter]]:
        """(parameter name, its layer, the weight) in the model's order; tied weights once.

        Args:
            model: whose weights.
            kinds: layers that the method can read; None takes every kind that is known.

        Raises:
            InputError: if nothing is in scope, less than `least` is, or a name of `only` or `skip` fits no weight.
        """
        chosen = self._chosen(model, kinds)
        entries = [(w.name, w.layer, w.parameter) for w in chosen if not w.left]
        seen = _covered(chosen)
        left = "; ".join(f"{name} ({why})" for name, why in list(seen.left.items())[:5])
        more = f"; and {len(seen.left) - 5} more" if len(seen.left) > 5 else ""
        if not entries:
            raise InputError(
                "no weight is in scope for pruning: "
                + (f"left dense are {left}{more}." if left else "none is chosen.")
            )
        if seen.share < self.least:
            raise InputError(
                f"only {100 * seen.share:.0f} % of the model's matrix weights would be looked at; {left}{more} would "
                "stay dense. Name what is meant (only, skip; --only, --skip on the command line), or accept it with "
                f"least={int(100 * seen.share) / 100} (--least)."
            )
        return entries

    def weights(self, model: Module, kinds: tuple[type[Module], ...] | None = None) -> dict[str, Parameter]:
        """Parameter name -> weight, in the model's order; see `layers`."""
        return {name: weight for name, _, weight in self.layers(model, kinds)}

    def coverage(self, model: Module, kinds: tuple[type[Module], ...] | None = None) -> Coverage:
        """What of the model's matrix weights is in scope, and why the rest is not; refuses nothing."""
        return _covered(self._chosen(model, kinds))

    def covers(self, model: Module) -> set[str]:
        """Names of the matrix weights that are chosen, those included that are left dense for a reason."""
        return {w.name for w in self._chosen(model, None)}

    def _chosen(self, model: Module, kinds: tuple[type[Module], ...] | None) -> list[Weight]:
        found = list(matrices(model, kinds))
        names = [w.name for w in found]
        for pattern in (*self.only, *self.skip):
            if not any(_named(name, pattern) for name in names):
                raise InputError(
                    f"Scope: {pattern!r} names no weight; there are: {', '.join(names[:8])}. Give a parameter's or "
                    "module's whole name, or a pattern such as 'encoder.*'."
                )
        inner = found[0 if self.first else 1 : None if self.last or _head_is_shared(model) else -1]
        return [
            w
            for w in inner
            if (not self.only or any(_named(w.name, pattern) for pattern in self.only))
            and not any(_named(w.name, pattern) for pattern in self.skip)
        ]


def matrices(model: Module, kinds: tuple[type[Module], ...] | None = None) -> Iterator[Weight]:
    """Every matrix weight of a model once, those that cannot be pruned with the reason.

    What an embedding holds or shares is none, nor a norm's scale, nor a bare parameter whose first dimension is 1 (a
    token, a table of positions) or that is a vector.

    Args:
        model: whose weights.
        kinds: layers that the caller can read; weights of others are left.
    """
    seen = {id(p) for m in model.modules() if isinstance(m, Embedding | EmbeddingBag) for p in m.parameters()}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            if id(parameter) in seen or parameter.ndim < 2 or isinstance(module, NORMS):
                continue
            seen.add(id(parameter))
            known = is_weight(module, own)
            if not known and (parameter.shape[0] == 1 or parameter.squeeze().ndim < 2):
                continue
            left = "" if known else _unknown(module)
            if known and not parameter.requires_grad:
                left = "frozen"
            elif known and kinds is not None and not isinstance(module, kinds):
                left = f"of a {type(module).__name__}, which is not read"
            yield Weight(name, module, parameter, left)


def _head_is_shared(model: Module) -> bool:
    """Whether the last layer's weight is an embedding's."""
    shared = {
        id(p) for m in model.modules() if isinstance(m, Embedding | EmbeddingBag) for p in m.parameters()
    }
    last = [
        id(p)
        for m in model.modules()
        if not isinstance(m, Embedding | EmbeddingBag)
        for own, p in m.named_parameters(recurse=False)
        if p.ndim > 1 and is_weight(m, own)
    ]
    return bool(last) and last[-1] in shared


def kept(model: Module) -> dict[str, tuple[int, int]]:
    """Matrix weight -> (how many of it live, how many it has), those left dense included; by the model's zeros.

    Args:
        model: pruned or not; see `matrices` for what counts and `Mask.of` for what is read as pruned.
    """
    alive = Mask.of(model).keep
    return {
        w.name: (int(alive[w.name].sum()) if w.name in alive else w.parameter.numel(), w.parameter.numel())
        for w in matrices(model)
    }


def share_kept(model: Module) -> float:
    """Of all matrix weights of a model, those left dense included, the share that lives; 1 if it has none."""
    counts = kept(model).values()
    return sum(living for living, _ in counts) / max(1, sum(total for _, total in counts)) if counts else 1.0


def rows_first(layer: Module) -> bool:
    """Whether the weight's first dimension is the layer's outputs, as patterns of rows take it."""
    return isinstance(layer, ROWS) and not isinstance(layer, TRANSPOSED)


def _unknown(module: Module) -> str:
    if isinstance(module, ParametrizationList) or is_parametrized(module):
        return "of a parametrisation: remove it before pruning"
    if isinstance(module, (Linear, *CONVS)):
        return "of a weight that is computed before each call: remove what computes it"
    return f"a bare parameter of {type(module).__name__}"


def _named(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


def _covered(chosen: list[Weight]) -> Coverage:
    looked = sum(w.parameter.numel() for w in chosen if not w.left)
    left = {w.name: w.left for w in chosen if w.left}
    return Coverage(looked, looked + sum(w.parameter.numel() for w in chosen if w.left), left)
