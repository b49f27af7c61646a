"""Which tensors of a checkpoint are a model's: prefixes taken off, pruning masks folded in, and all of it told.

Nothing is guessed: a spelling is taken only where every name then agrees with the model's, and of several sets of
weights that fit only one that is alone, or equal to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .told import tell

_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and AveragedModel, and of torch.compile
_COUNTERS = ("num_batches_tracked",)  # which checkpoints of old lack
_AVERAGED = "n_averaged"  # beside the weights of an AveragedModel
_MOST = 3  # leading parts that all names share and the model's lack


@dataclass(frozen=True)
class Held:
    """A set of named tensors in a weights file.

    Attributes:
        at: keys that lead to it, "" where it is the whole file.
        tensors: by name.
    """

    at: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Fitted:
    held: Held
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def fitting(own: Mapping[str, Tensor], held: Sequence[Held], weights: Path) -> dict[str, Tensor]:
    """The tensors of a weights file under the names of a model, told where they had to be found.

    Args:
        own: the model's state.
        held: sets of tensors in the file, at least one.
        weights: the file, for messages.

    Raises:
        InputError: if none has the model's names, or several that differ have them.
    """
    fits = [found for one in held if (found := _fitted(own, one)) is not None]
    same_shape = [f for f in fits if all(own[n].shape == t.shape for n, t in f.tensors.items() if n in own)]
    fits = same_shape or fits
    if not fits:
        _refuse_names(own, held, weights)
    if any(not _equal(fits[0].tensors, other.tensors) for other in fits[1:]):
        names = " and ".join(repr(f.held.at) for f in fits)
        raise InputError(
            f"{weights} holds {len(fits)} sets of weights that fit the model and differ: {names}. Save the one that is "
            f"meant alone: torch.save(torch.load(file)[{fits[0].held.at!r}], other)."
        )
    chosen = fits[0]
    notes = ((f"from {chosen.held.at!r}",) if chosen.held.at else ()) + chosen.notes
    if notes:
        tell(f"{weights}: read {len(chosen.tensors)} tensors, {', '.join(notes)}.")
    return chosen.tensors


def sets_of_tensors(content: Any) -> list[Held]:
    """Every set of named tensors in a checkpoint: the whole, or what lies under its keys; optimisers' are none."""
    found: list[Held] = []

    def walk(node: Any, at: str, depth: int) -> None:
        if not isinstance(node, Mapping) or not node or not all(isinstance(key, str) for key in node):
            return
        if all(is_plain(value) for value in node.values()):
            found.append(Held(at, dict(node)))
        elif depth < _MOST:
            for key, value in node.items():
                walk(value, f"{at}.{key}" if at else key, depth + 1)

    walk(content, "", 0)
    return found


def is_plain(value: Any) -> bool:
    """Whether something is a tensor of plain numbers in memory: not sparse, quantised, or without values."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _fitted(own: Mapping[str, Tensor], held: Held) -> _Fitted | None:
    tensors, folded = _folded(own, held.tensors)
    for names, note in _spellings(own, tensors):
        lacking, strange = _differences(own, names)
        if strange == [_AVERAGED] and "module" in note:
            strange, note = [], f"{note}, {_AVERAGED!r} left out"
        if lacking and all(name.rpartition(".")[2] in _COUNTERS for name in lacking):
            note = ", ".join(filter(None, (note, f"{len(lacking)} counters of batches left at 0")))
            lacking = []
        if not lacking and not strange:
            kept = {new: tensors[old] for new, old in names.items() if new != _AVERAGED or new in own}
            return _Fitted(held, kept, tuple(filter(None, (note, folded))))
    return None


def _spellings(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, str], str]]:
    yield {name: name for name in tensors}, ""
    mine = {_unwrapped(name): name for name in own}
    plain = {_unwrapped(name): name for name in tensors}
    if len(mine) < len(own) or len(plain) < len(tensors):
        return  # two names would become one
    wrappers = sorted({part for name in (*tensors, *own) for part in name.split(".") if part in _WRAPPERS})
    note = f"prefix {' and '.join(repr(w + '.') for w in wrappers)} taken off" if wrappers else ""
    for _ in range(_MOST + 1):
        yield {mine.get(name, name): old for name, old in plain.items()}, note
        first = {name.partition(".")[0] for name in plain if name != _AVERAGED}
        if len(first) != 1 or any("." not in name for name in plain):
            return
        note = ", ".join(filter(None, (note, f"prefix {first.pop() + '.'!r} taken off")))
        plain = {name.partition(".")[2]: old for name, old in plain.items()}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _folded(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights times masks, where torch.nn.utils.prune left both and the model has neither."""
    kept = dict(tensors)
    if any(name.endswith("_orig") for name in own):
        return kept, ""
    for name, weight in tensors.items():
        whole = name.removesuffix("_orig")
        mask = tensors.get(f"{whole}_mask")
        if whole != name and mask is not None and mask.shape == weight.shape and whole not in tensors:
            if bool(((mask == 0) | (mask == 1)).all()):
                kept[whole] = torch.where(mask == 1, weight, torch.zeros_like(weight))
                del kept[name], kept[f"{whole}_mask"]
    count = len(tensors) - len(kept)
    return kept, f"{count} masks of torch.nn.utils.prune applied to their weights" if count else ""


def _differences(own: Mapping[str, Tensor], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names that the model has and the file lacks, tied ones aside, and names that the model lacks."""
    there = set(names)
    given = {_place(own[name]) for name in there if name in own}
    lacking = [name for name in own if name not in there and _place(own[name]) not in given]
    return lacking, [name for name in there if name not in own]


def _refuse_names(own: Mapping[str, Tensor], held: Sequence[Held], weights: Path) -> None:
    nearest = max(held, key=lambda one: len(set(one.tensors) & set(own)))
    lacking, _ = _differences(own, nearest.tensors)
    strange = [name for name in nearest.tensors if name not in own]
    parts = [f"lacks {_few(lacking)}"] if lacking else []
    parts += [f"has {_few(strange)}, which the model lacks"] if strange else []
    where = f" (under {nearest.at!r})" if nearest.at else ""
    raise InputError(
        f"{weights}{where} does not fit the model: it {' and '.join(parts)}. Give the network that was "
        f"saved.{_cure(strange)}"
    )


def _cure(strange: Sequence[str]) -> str:
    leaves = {name.rpartition(".")[2] for name in strange}
    if {"weight_g", "weight_v"} <= leaves or {"weight_orig", "weight_u"} <= leaves:
        return (
            " Its weights are computed by a hook of old: take it off before saving (remove_weight_norm, "
            "remove_spectral_norm)."
        )
    return ""


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def _place(tensor: Tensor) -> Any:
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
