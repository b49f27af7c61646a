"""One-shot pruning: score once, cut once. What is scored, tied together and kept are independent choices."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..masks.budgets import Budget, Global, PerOutput, Uniform
from ..masks.layers import RUNNING_NORMS, copied
from ..masks.mask import Mask
from ..masks.patterns import Channel, Pattern, Unstructured, fitting, refuse_own_sparsity, suited
from ..masks.scope import Scope, rows_first
from ..masks.select import select
from ..masks.silence import silence
from ..paper import Paper
from ..random import draw_seed, global_seed
from ..settings import settings
from ..types import Data, Score
from .cutting.together import NarrowWarning, Ranked, choose, ranked, units_of
from .magnitude import Magnitude
from .recalibrate import recalibrate_, require_statistics


@settings
class Prune:
    """Zero the lowest-scoring weights, once.

    Weights that were already zero stay zero, whether chosen or not. With the pattern `Channel` units are chosen that
    can be removed: a filter with everything that falls with it, such as the filters of other layers that it is added
    to, or the other rows of its head. A unit's score is that of all these weights, of those that read it, and of batch
    normalisation's scale where the score can tell it (Wanda, which looks at a layer's inputs, cannot). Biases and norms
    of a dead unit are zeroed too, so that it is silent and `shrink` can remove it. Filters that are tied to a layer out
    of scope stay; leave the last layer out of the score's scope, for its filters are the classes.

    Attributes:
        score: says how much each weight matters.
        pattern: which weights live or die together.
        budget: how much of each layer lives; an N:M pattern sets that itself, and leaves layers dense whose inputs its
            m does not divide.
        recalibrate: measure the running statistics of batch normalisation again on the data; see `recalibrate_`.
    """

    score: Score = Magnitude()
    pattern: Pattern = Unstructured()
    budget: Budget = Global(0.9)
    recalibrate: bool = False

    paper: ClassVar[Paper] = Magnitude.paper

    def __post_init__(self) -> None:
        refuse_own_sparsity(self, "budget", self.budget.sparsity)

    def mask(self, model: Module, data: Data[Any], *, rng: Generator) -> Mask:
        """The mask alone; `model` is left unchanged.

        Raises:
            InputError: if a score is NaN, or a layer would lose all its weights.
        """
        in_units = isinstance(self.pattern, Channel) and not isinstance(self.budget, PerOutput)
        with global_seed(draw_seed(rng)):
            scores = (_with_ends(self.score) if in_units else self.score).score(model, data)
        if in_units:
            return self._of_units(model, data, scores)
        if not isinstance(self.pattern, Unstructured) or isinstance(self.budget, PerOutput):
            _require_rows(model, scores)
        fit = fitting(self.pattern, {name: values.shape for name, values in scores.items()})
        chosen = {name: values for name, values in scores.items() if name in fit}
        return select(chosen, suited(self.pattern, self.score), self.budget)

    def _of_units(self, model: Module, data: Data[Any], scores: Mapping[str, Tensor]) -> Mask:
        pattern: Any = suited(self.pattern, self.score)
        return choose(model, scores, self._ranked(model, data, scores), pattern, self.budget)

    def _ranked(self, model: Module, data: Data[Any], scores: Mapping[str, Tensor]) -> Ranked:
        pattern: Any = self.pattern
        scope = getattr(self.score, "scope", None)
        own = scope.weights(model).keys() & scores.keys() if isinstance(scope, Scope) else set(scores)
        found = ranked(model, units_of(model, data), [name for name in scores if name in own], pattern)
        _require_rows(model, found.alone)
        return found

    def one_by_one(
        self, model: Module, data: Data[Any], *, rng: Generator
    ) -> dict[str, Callable[[float], Mask]]:
        """Layer, or group of units that fall together -> sparsity -> the mask of that alone, scored once for all.

        Of an N:M pattern the sparsity is its own, and no other is read.

        Raises:
            InputError: as `mask` does.
        """
        in_units = isinstance(self.pattern, Channel)
        with global_seed(draw_seed(rng)):
            scores = (_with_ends(self.score) if in_units else self.score).score(model, data)
        pattern = suited(self.pattern, self.score)
        if in_units:
            found = self._ranked(model, data, scores)
            parts = {name: Ranked({name: group}, [], []) for name, group in found.groups.items()}
            parts |= {name: Ranked({}, [name], [name]) for name in found.alone}
            return {
                name: partial(_unit_mask, model, scores, part, pattern, data) for name, part in parts.items()
            }
        by_row = isinstance(self.budget, PerOutput)
        if by_row or not isinstance(self.pattern, Unstructured):
            _require_rows(model, scores)
        fit = fitting(self.pattern, {name: values.shape for name, values in scores.items()})
        kind = PerOutput if by_row else Uniform
        return {
            name: lambda s, name=name, values=values: select({name: values}, pattern, kind(s))  # type: ignore[misc]
            for name, values in scores.items()
            if name in fit
        }

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned copy of `model`: dead weights are +0.0 exactly.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if a score is NaN, a layer would lose all its weights, or there is no batch normalisation to
                measure again.
        """
        data.require_examples("Prune")
        if self.recalibrate:
            require_statistics(model)
        pruned = copied(model)
        mask = self.mask(model, data, rng=rng)
        if isinstance(self.pattern, Channel):
            mask = silence(pruned, mask, data)
        mask.apply_(pruned)
        for found in narrowed(pruned) if isinstance(self.pattern, Channel) else ():
            warnings.warn(found, NarrowWarning, stacklevel=2)
        return recalibrate_(pruned, data) if self.recalibrate else pruned


NARROW = 0.1
"""Share of its channels below which a layer is told of."""


def narrowed(model: Module) -> list[str]:
    """A sentence for each layer of a pruned model that has less than a tenth of its channels left."""
    found = []
    for name, alive in Mask.of(model).keep.items():
        rows = alive.flatten(1).any(1) if alive.ndim > 1 else None
        if rows is not None and rows.float().mean() < NARROW:
            layer = name.rpartition(".")[0] or name
            found.append(
                f"{layer} is left with {int(rows.sum())} of its {len(rows)} channels, through which little can "
                "pass. Spare it: a budget that looks at each layer (uniform, erk), less sparsity, or its name in the "
                "score's scope (skip)."
            )
    return found


def _unit_mask(
    model: Module, scores: Mapping[str, Tensor], part: Ranked, pattern: Any, data: Data[Any], sparsity: float
) -> Mask:
    return silence(model, choose(model, scores, part, pattern, Uniform(sparsity)), data)


class _Falling(Scope):
    """The weights of a scope, and the scales of batch normalisation, which fall with a channel."""

    def weights(self, model: Module, kinds: tuple[type[Module], ...] | None = None) -> dict[str, Parameter]:
        found = super().weights(model, kinds)
        for name, module in model.named_modules():
            scale = module.weight if isinstance(module, RUNNING_NORMS) else None
            if isinstance(scale, Parameter) and scale.requires_grad:
                found[f"{name}.weight" if name else "weight"] = scale
        return found


def _with_ends(score: Score) -> Score:
    """A score of all that may fall with what is chosen: layers that read it, and scales; those to skip excepted."""
    scope: Any = getattr(score, "scope", None)
    if not isinstance(scope, Scope) or not dataclasses.is_dataclass(score):
        return score
    falling = _Falling(skip=scope.skip, least=0.0 if scope.only else scope.least)
    wider: Any = dataclasses.replace(score, scope=falling)
    made: Score = wider
    return made


def _require_rows(model: Module, scores: Iterable[str]) -> None:
    odd = [n for n in scores if not rows_first(model.get_submodule(n.rpartition(".")[0]))]
    if odd:
        raise InputError(
            f"patterns and budgets an output take Linear and Conv layers, whose first dimension is the outputs; "
            f"{', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''} are of another kind. Leave them out of the "
            "scope (skip; --skip on the command line), or prune single weights."
        )
