"""Keep some experts of a block: slice weights and router, and say the new count wherever the model does."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import InputError
from .blocks import MoE


def groups_of(model: Module) -> int:
    """Groups that the router chooses from first, which must stay equally large; 1 where it has none."""
    config = getattr(model, "config", None)
    if getattr(config, "topk_method", "") == "greedy":
        return 1
    return getattr(config, "n_group", None) or 1


def require_count(model: Module, moe: MoE, keep: int, who: str) -> None:
    """Refuse a number of experts that a block cannot be cut to.

    Raises:
        InputError: if it is more than there are, less than a token uses, or does not fit the router's groups.
    """
    n, groups = moe.count, groups_of(model)
    if not moe.top_k <= keep <= n:
        raise InputError(
            f"{who} must keep from {moe.top_k} (each token uses so many) to {n} experts in {moe.name}; got {keep}."
        )
    limited = getattr(getattr(model, "config", None), "topk_group", None) or groups
    if groups > 1 and (keep % groups or limited * (keep // groups) < moe.top_k or keep < 2 * groups):
        raise InputError(
            f"{who}: the router of {moe.name} chooses {limited} of {groups} groups, then {moe.top_k} experts from "
            f"them. {keep} experts do not fit: keep a multiple of {groups}, at least "
            f"{groups * max(2, -(-moe.top_k // limited))}."
        )


def best_experts(
    model: Module, moe: MoE, scores: Tensor, keep: int, protect: Sequence[int] = ()
) -> list[int]:
    """Indices of the `keep` experts of highest score, the same number in each of the router's groups, rising.

    Args:
        model: holds the block.
        moe: the block.
        scores: [experts], higher is worth keeping; of equal ones the first stays.
        keep: how many.
        protect: experts that stay whatever their score.
    """
    ranked = scores.double().clone()
    if len(protect):
        ranked[list(protect)] = torch.inf
    parts = ranked.view(groups_of(model), -1)
    best = parts.sort(dim=1, descending=True, stable=True).indices[:, : keep // len(parts)]
    offsets = torch.arange(len(parts), device=best.device)[:, None] * parts.shape[1]
    return sorted((best + offsets).flatten().tolist())


def keep_experts_(model: Module, kept: dict[str, Sequence[int]], moes: Sequence[MoE], who: str) -> None:
    """Drop every other expert, in place; values that stay keep their bits.

    Where all blocks end with one count, the model's configuration says it too, and transformers reads the saved model.

    Args:
        model: changed in place.
        kept: block -> indices of the experts to keep, rising.
        moes: the model's blocks, read from it; they are read anew afterwards.
        who: named in errors.

    Raises:
        InputError: if a number does not fit; nothing is changed then.
    """
    by_name = {moe.name: moe for moe in moes}
    for name, chosen in kept.items():
        require_count(model, by_name[name], len(chosen), who)
    field = expert_count(model, moes[0]) if hasattr(model, "config") else None
    for name, chosen in kept.items():
        moe = by_name[name]
        before = getattr(moe.experts, "kept", tuple(range(moe.count)))
        of = getattr(moe.experts, "of", moe.count)
        slice_(moe, torch.tensor(list(chosen)))
        held: Any = moe.experts
        held.kept, held.of = tuple(before[i] for i in chosen), of
        recount_(model, moe, len(chosen), field)
    counts = {moe.count for moe in moes}
    if len(counts) == 1 and field is not None:
        made = _made(type(model), deepcopy(model.config), field, counts.pop())
        if made is not None:
            _take_numbers_(model, made)
            setattr(model.config, field, getattr(made.config, field))


def expert_count(model: Any, moe: MoE) -> str | None:
    """The name of the configuration's number of experts, found by trying: None if no number is it."""

    def there(made: Any) -> int:
        """Experts of the block in a model as the configuration describes it: pruned blocks may hold fewer."""
        parts = made.get_submodule(moe.name).named_children() if made is not None else ()
        return next((len(p) for _, c in parts for p in c.parameters(recurse=False) if p.ndim == 3), 0)

    kind, config = type(model), model.config
    n = there(_made(kind, deepcopy(config)))
    for name, value in config.to_dict().items():
        if (
            not isinstance(value, bool)
            and value == n > 0
            and there(_made(kind, deepcopy(config), name, n + 1)) == n + 1
        ):
            return str(name)
    return None


def recount_(model: Module, moe: MoE, count: int, field: str | None, *, only: Module | None = None) -> None:
    """Let a block's modules say the new count: the numbers that differ in a model made with it.

    Args:
        model: holds the block.
        moe: the block.
        count: the new one.
        field: the configuration's number (`expert_count`); None changes nothing.
        only: the one module of the block to change.
    """
    if field is None:
        return
    model_config: Any = model.config
    made = _made(type(model), deepcopy(model_config), field, count)
    if made is not None:
        parts = dict(made.get_submodule(moe.name).named_modules())
        for name, own in moe.block.named_modules():
            if name in parts and (only is None or own is only):
                _take_own_numbers_(own, parts[name])


def _take_numbers_(module: Module, like: Module) -> None:
    parts = dict(like.named_modules())
    for name, own in module.named_modules():
        if name in parts:
            _take_own_numbers_(own, parts[name])


def _take_own_numbers_(own: Module, like: Module) -> None:
    for attribute, value in vars(like).items():
        here = getattr(own, attribute, None)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (here, value))
        if whole and here != value and not attribute.startswith("_"):
            setattr(own, attribute, value)


def _made(kind: Any, config: Any, field: str = "", count: int = 0) -> Any:
    """A model without storage, one number of whose configuration may be another; None if there is none."""
    try:
        if field:
            setattr(config, field, count)
        with torch.device("meta"):
            return kind(config)
    except Exception:  # whatever a model raises at numbers that do not go together
        return None


def slice_(moe: MoE, kept: Tensor) -> None:
    """Keep these experts of a block's tensors, in place; its counts stay (see `recount_`)."""
    n = moe.count
    for module in (moe.experts, moe.router):
        slice_own_(module, n, kept)


def slice_own_(module: Module, n: int, kept: Tensor) -> None:
    """Keep these entries of each of a module's own tensors that has n, in place."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.ndim and len(tensor) == n:
            cut = tensor.detach().index_select(0, kept.to(tensor.device))
            new = Parameter(cut, tensor.requires_grad) if isinstance(tensor, Parameter) else cut
            setattr(module, name, new)
