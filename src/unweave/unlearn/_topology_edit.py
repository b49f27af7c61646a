"""What edits of a pruned model's topology share: initial weights, the pruning rule, revived channels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Conv1d, Conv2d, Conv3d, Linear, Module

from ..errors import InputError
from ..masks import NM, Budget, Channel, Global, Mask, Pattern, Scope, Unstructured, select
from ..masks.layers import BATCH_NORMS, copied
from ..masks.silence import silence
from ..random import draw_seed, global_seed, seeded
from ..tasks import evaluating
from ..types import Data, Score


class Origin(Protocol):
    """A recipe that knows where training began and can train on; `Supervised` is one."""

    @property
    def epochs(self) -> int:
        """Of the whole training."""
        ...

    @property
    def lr(self) -> float:
        """Its peak learning rate."""
        ...

    def initial(self, rng: Generator) -> Module:
        """The untrained network, the same for every `rng`."""
        ...

    def train_(
        self,
        model: Module,
        data: Data[Any],
        *,
        epochs: int,
        lr: float,
        rng: Generator,
        hold: Mask | None = None,
        of: int | None = None,
    ) -> None:
        """Train `model` in place the recipe's way; with `of`, as the beginning of that many epochs."""
        ...


def sparse_mask(who: str, model: Module) -> Mask:
    """The mask read off `model`.

    Raises:
        InputError: if there is none.
    """
    mask = Mask.of(model)
    if not mask:
        raise InputError(f"{who} found nothing to un-prune: the model is dense. Use the unlearner by itself.")
    return mask


def initial_like(who: str, recipe: Origin, model: Module) -> Module:
    """A copy of `model` at the recipe's initial weights and buffers; frozen parameters stay the model's.

    Raises:
        InputError: if the recipe draws other weights each time, or makes another network.
    """
    first, second = recipe.initial(seeded(0)), recipe.initial(seeded(1))
    if any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)):
        raise InputError(
            f"{who} needs the weights that training began from, but the recipe draws new ones each time. "
            "Set its init_seed, or let its network load them from a file."
        )
    start = placed(who, first, model)
    _warn_if_unrelated(who, model, start)
    return start


def placed(who: str, initial: Module, model: Module) -> Module:
    """A copy of `model` with the weights and buffers of a recipe's `initial`; frozen parameters stay the model's.

    Raises:
        InputError: if the recipe makes another network.
    """
    start = copied(model)
    theirs, ours = floating(initial), floating(start)
    unlike = [
        n for n in {**ours, **theirs} if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape
    ]
    if unlike:
        raise InputError(
            f"{who}: the recipe makes another network than the model: {', '.join(unlike[:6])} differ in name "
            "or shape. Give the recipe that the model was made with."
        )
    with torch.no_grad():
        for name, tensor in ours.items():
            if not isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad:
                tensor.copy_(theirs[name])
        counts = {name: b for name, b in initial.named_buffers() if not b.is_floating_point()}
        for name, buffer in start.named_buffers():  # of batches, which weigh cumulative averages
            if name in counts and counts[name].shape == buffer.shape:
                buffer.copy_(counts[name])
    return start


def _warn_if_unrelated(who: str, model: Module, start: Module) -> None:
    """Warn if survivors correlate with the initial weights no more than chance would have it."""
    origins = dict(start.named_parameters())
    pairs = [(p[alive].double(), origins[n][alive].double()) for n, p, alive in Mask.of(model).match(model)]
    trained, first = (torch.cat([pair[i].detach().flatten() for pair in pairs]) for i in (0, 1))
    if len(trained) < 100:
        return
    correlation = float(torch.corrcoef(torch.stack([trained, first]))[0, 1])
    if not correlation * len(trained) ** 0.5 > 3:
        warnings.warn(
            f"{who}: the model's surviving weights bear no trace of the initial weights of the recipe "
            f"(correlation {correlation:.3f}). If training began elsewhere, the new mask will mean nothing.",
            UserWarning,
            stacklevel=4,
        )


def floating(model: Module) -> dict[str, Tensor]:
    """Every floating-point parameter and buffer by name, tied ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


@dataclass(frozen=True)
class _AsMany:
    """The budget that keeps each layer's own share of groups."""

    shares: Mapping[str, float]

    @property
    def sparsity(self) -> float:
        return 1 - sum(self.shares.values()) / len(self.shares)

    def densities(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, float] | None:
        return {name: self.shares[name] for name in shapes}


@runtime_checkable
class OneShot(Protocol):
    """A pruning that scores once and cuts once; `Prune` is one."""

    @property
    def score(self) -> Score:
        """How much each weight matters."""
        ...

    @property
    def pattern(self) -> Pattern:
        """What lives and dies together."""
        ...

    @property
    def budget(self) -> Budget:
        """How much lives."""
        ...


class _Magnitude:
    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in Scope().weights(model).items()}


@dataclass(frozen=True)
class Rule:
    """How the mask was made, as far as its makers or the mask itself say; it makes masks with as many groups.

    Attributes:
        weights: the part of the mask that the score covers.
        rest: the other part, which no new mask changes.
        score: of the weights.
        pattern: what lives and dies together.
        together: whether layers are compared with one another.
        silent: whether dead filters take their bias and normalisation with them.
    """

    weights: Mask
    rest: Mask
    score: Score
    pattern: Pattern
    together: bool
    silent: bool

    @classmethod
    def read(
        cls,
        who: str,
        model: Module,
        data: Data[Any],
        recipe: object,
        unit: Literal["weight", "filter"] | None = None,
        scope: Literal["layer", "global"] | None = None,
    ) -> Rule:
        """From `unit` and `scope` where given, else from a one-shot `recipe.prune`, else from the mask.

        Raises:
            InputError: if the model is dense, nothing that was pruned can be scored, the mask is not by whole
                filters though `unit` says so, or is and `unit` says not, or `scope` is given for N:M.
        """
        mask = sparse_mask(who, model)
        made_by = getattr(recipe, "prune", None)
        prune = made_by if isinstance(made_by, OneShot) else None
        score: Score = prune.score if prune else _Magnitude()
        weights = _scored(who, mask, score, model, data)
        by_filter = all(_by_filter(alive) for alive in weights.keep.values())
        if unit is not None and (unit == "filter") != by_filter:
            found = "by whole filters" if by_filter else "by single weights"
            raise InputError(
                f"{who}.unit is {unit!r}, but the model was pruned {found}. Leave it None to have it read."
            )
        of_mask = Channel() if by_filter else Unstructured()
        pattern: Pattern = prune.pattern if prune and unit is None else of_mask
        if scope is not None and isinstance(pattern, NM):
            raise InputError(
                f"{who}.scope would do nothing for an N:M mask, whose every group keeps n. Leave it out."
            )
        together = scope == "global" or (
            scope is None and prune is not None and isinstance(prune.budget, Global)
        )
        silenced = _silenced(model, weights, data) if by_filter else None
        rest = {n: a for n, a in mask.keep.items() if n not in weights.keep and n not in (silenced or ())}
        return cls(weights, Mask(rest), score, pattern, together, silenced is not None)

    def scores(self, model: Module, data: Data[Any], rng: Generator) -> dict[str, Tensor]:
        """Scores of the weights that the mask names."""
        with global_seed(draw_seed(rng)):
            scored = self.score.score(model, data)
        return {name: scored[name] for name in self.weights.keep}

    def select(
        self, scores: Mapping[str, Tensor], model: Module, data: Data[Any], *, grown: float = 0.0
    ) -> Mask:
        """As many groups as live in the mask, plus the share `grown` of the dead ones, by `scores`.

        Args:
            scores: of the weights.
            model: that the mask is for; left unchanged.
            data: one batch of it is shown to the model where filters are pruned.
            grown: from 0 to 1.

        Raises:
            InputError: if N:M groups should grow in part: they cannot and stay N:M.
        """
        if grown >= 1:
            whole = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
            return Mask({**self.rest.keep, **whole})
        if grown and isinstance(self.pattern, NM):
            raise InputError("an N:M mask can only be grown whole: use growth=1.")
        living = {n: alive.to(scores[n].device, torch.float32) for n, alive in self.weights.keep.items()}
        alive = {n: self.pattern.group(n, living[n]) > 0 for n in scores}
        total = {n: a.numel() for n, a in alive.items()}
        wanted = {n: int(a.sum()) + round(grown * int((~a).sum())) for n, a in alive.items()}
        budget: Budget
        if self.together:
            budget = Global(max(0.0, 1 - sum(wanted.values()) / sum(total.values())))
        else:
            budget = _AsMany({n: wanted[n] / total[n] for n in alive})
        chosen = select(scores, self.pattern, budget)
        if self.silent:
            chosen = silence(model, chosen, data)
        return Mask({**self.rest.keep, **chosen.keep})


def _scored(who: str, mask: Mask, score: Score, model: Module, data: Data[Any]) -> Mask:
    """The part of the mask that the score covers."""
    with global_seed(0):
        scored = score.score(model, data)
    weights = Mask({name: alive for name, alive in mask.keep.items() if name in scored})
    if not weights:
        raise InputError(
            f"{who}: the pruning rule scores none of the weights ({', '.join(list(mask.keep)[:4])}): "
            "they were pruned by another rule, or are frozen."
        )
    return weights


def _silenced(model: Module, weights: Mask, data: Data[Any]) -> list[str] | None:
    """Biases and normalisations that are dead where the filters of `weights` are; None if one of them is not."""
    silenced = silence(model, weights, data)
    parameters = dict(model.named_parameters())
    extra = [name for name in silenced.keep if name not in weights.keep]
    dead = all(not parameters[name][~silenced.keep[name]].any() for name in extra)
    return extra if dead else None


def _by_filter(alive: Tensor) -> bool:
    rows = alive.flatten(1)
    return bool((rows.all(1) | ~rows.any(1)).all())


def woken(model: Module, grown: Module, data: Data[Any]) -> dict[str, Tensor]:
    """Entries behind channels that were constant in `model` and carry something in `grown`.

    A pruned filter leaves its followers a constant. They are found by what they read on one batch of `data`,
    not by the graph: entries of batch normalisations (scale, shift, running statistics) and input slices of
    linear and ungrouped convolutional layers. A channel that a shortcut also feeds was never constant, and
    is left alone.

    Returns:
        Name of a parameter or buffer -> bool tensor of its shape.
    """
    before, after = _constant_inputs(model, data), _constant_inputs(grown, data)
    fresh: dict[str, Tensor] = {}
    for prefix, module in grown.named_modules():
        if prefix not in before or prefix not in after:
            continue
        channels = before[prefix] & ~after[prefix]
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(module, BATCH_NORMS) and tensor.ndim == 1:
                fresh[f"{prefix}.{name}" if prefix else name] = channels
            elif name == "weight" and not isinstance(module, BATCH_NORMS):
                slices = channels.view(1, -1, *[1] * (tensor.ndim - 2)).expand(tensor.shape)
                fresh[f"{prefix}.{name}" if prefix else name] = slices
    return fresh


def _constant_inputs(model: Module, data: Data[Any]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def watch(name: str, channels: int) -> Any:
        def hook(_: Module, args: tuple[Tensor, ...]) -> None:
            at = -1 if args[0].shape[-1] == channels and args[0].ndim != 4 else 1
            values = args[0].detach().movedim(at, 0).flatten(1)
            spread = values.amax(1) - values.amin(1)
            constant = spread <= 1e-6 * (1 + values.abs().amax(1))
            seen[name] = seen[name] & constant if name in seen else constant

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            handles.append(module.register_forward_pre_hook(watch(name, module.in_features)))
        elif isinstance(module, (Conv1d, Conv2d, Conv3d)) and module.groups == 1:
            handles.append(module.register_forward_pre_hook(watch(name, module.in_channels)))
        elif isinstance(module, BATCH_NORMS):
            handles.append(module.register_forward_pre_hook(watch(name, module.num_features)))
    try:
        with evaluating(model):
            data.task.outputs(model, next(data.batches()))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def revived_positions(mask: Mask, model: Module, grown: Module, data: Data[Any]) -> dict[str, Tensor]:
    """Positions to start afresh: those dead in the mask, the biases of dead filters, and what they wake."""
    fresh = {name: ~alive for name, alive in mask.keep.items()}
    parameters = dict(model.named_parameters())
    for name, dead in list(fresh.items()):
        bias = parameters.get(name.removesuffix("weight") + "bias")
        if dead.ndim > 1 and bias is not None and bias.shape == dead.shape[:1]:
            filters = dead.flatten(1).all(1)
            if filters.any():
                fresh[name.removesuffix("weight") + "bias"] = filters
    for name, positions in woken(model, grown, data).items():
        fresh[name] = fresh[name].to(positions.device) | positions if name in fresh else positions
    return fresh


@torch.no_grad()
def move_(
    model: Module, start: Module, share: float, fresh: dict[str, Tensor], values: dict[str, Tensor]
) -> None:
    """Fresh positions take `values`; the others go to start + share * (where they are - start)."""
    origins = floating(start)
    for name, tensor in floating(model).items():
        if isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad:
            continue
        moved = tensor if share == 1 else torch.lerp(origins[name], tensor, share)
        if name in fresh:
            moved = torch.where(fresh[name].to(tensor.device), values[name], moved)
        tensor.copy_(moved)
