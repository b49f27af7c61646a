"""Data in the forms people have: data sets, DataLoaders, tensors, arrays, DataFrames, Hugging Face datasets.

Each form says what its examples are (in the user's own form, for the user's own loop) and what a model and a task read
of them. Nothing is copied but what numbers need to become tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from ..errors import InputError
from ..tasks.batches import INPUTS, TARGETS, TEXT, Reads
from ..types import Data
from .padding import Padded
from .targets import Read

FORMS = (
    "an unweave Data, a data set with a length, a DataLoader, tensors or arrays (inputs, labels), a pandas "
    "DataFrame or a Hugging Face dataset"
)


@dataclass(frozen=True)
class Form:
    """One data set as the user has it.

    Attributes:
        given: the whole, as the user has it.
        item: position -> one example as the user has it.
        take: positions -> these examples, as the user has the whole.
        targets: of all examples, as given.
        reads: which of a batch the model reads.
        made: targets as the task reads them -> the data set that is read.
        batch_size: None leaves the default.
        collate: None leaves the default.
        columns: name -> one value an example, to choose by.
        ids: of the examples; () are positions.
        names: of the classes, where the form knows them.
        notes: what was decided, in sentences.
    """

    given: Any
    item: Callable[[int], Any]
    take: Callable[[Sequence[int]], Any]
    targets: Any
    reads: Reads
    made: Callable[[Tensor | None], Dataset[Any]]
    batch_size: int | None = None
    collate: Callable[[list[Any]], Any] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ids: Sequence[Any] = ()
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def data(self, read: Read) -> Data[Any]:
        """What methods and audits read."""
        examples = self.made(read.numbers(self.targets) if _renumbers(read) else None)
        if not isinstance(examples, Subset) and examples is not self.given:
            examples.own = self  # type: ignore[attr-defined]
            if len(self.ids):
                examples.ids = self.ids  # type: ignore[attr-defined]
        how = {"batch_size": self.batch_size, "collate": self.collate}
        return Data(examples, read.task, **{k: v for k, v in how.items() if v is not None})  # type: ignore[arg-type]


def form_of(value: Any, *, label: str | None = None, inputs: Any = None, who: str = "train") -> Form:
    """Read what a user gave as a data set.

    Args:
        value: the data, in one of the forms of `FORMS`.
        label: column of the label, for a DataFrame, a Hugging Face dataset or dictionaries.
        inputs: columns or keys that the model reads, or the number of inputs of tuples; all but the label unless given.
        who: begins messages.

    Raises:
        InputError: if it is no such form, or lacks what is named; says what it is and how to mend it.
    """
    if isinstance(value, DataLoader):
        return _of_loader(value, label, inputs, who)
    hub, pandas = sys.modules.get("datasets"), sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        from .frames import of_frame

        return of_frame(value, label, inputs, who)
    if hub is not None and isinstance(value, (hub.DatasetDict, hub.IterableDataset, hub.IterableDatasetDict)):
        raise InputError(
            f"{who} is a {type(value).__name__}; give one map-style split of it, such as data['train']."
        )
    if hub is not None and isinstance(value, hub.Dataset):
        from .frames import of_hub

        return of_hub(value, label, inputs, who)
    if isinstance(value, (tuple, list)) and len(value) > 1 and all(_is_array(part) for part in value):
        return _of_arrays(tuple(value), inputs, who)
    if type(value) is TensorDataset:
        return _of_arrays(value.tensors, inputs, who, given=value)
    if isinstance(value, Mapping) and value and all(_is_array(part) for part in value.values()):
        return _of_items(_Columns(value, who), label, inputs, who)
    if isinstance(value, IterableDataset):
        raise InputError(
            f"{who} is an IterableDataset, whose examples have no positions, so that none can be named. Give "
            "a data set with a length and __getitem__."
        )
    if (
        isinstance(value, type)
        or not (hasattr(value, "__getitem__") and hasattr(value, "__len__"))
        or _is_array(value)
    ):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise InputError(f"{who} must be {FORMS}; got {got}.")
    return _of_items(value, label, inputs, who)


def _of_loader(loader: DataLoader[Any], label: str | None, inputs: Any, who: str) -> Form:
    sampler, size = loader.sampler, loader.batch_size
    if size is None or not isinstance(sampler, (RandomSampler, SequentialSampler)):
        what = "batch_sampler" if size is None else type(sampler).__name__
        raise InputError(
            f"{who} is a DataLoader whose {what} chooses the examples, which unweave does by its seed. Give "
            "the data set itself, or Subset(data set, indices)."
        )
    form = form_of(loader.dataset, label=label, inputs=inputs, who=who)
    own = loader.collate_fn is not default_collate
    said = ["batch size", *(["collate_fn"] if own else [])]
    left = ["shuffle"] * isinstance(sampler, RandomSampler) + ["drop_last"] * loader.drop_last
    note = f"{who} is a DataLoader: its data set, {' and '.join(said)} are taken" + (
        f", not its {' and '.join(left)}: unweave shuffles by its own seed and reads every example."
        if left
        else "."
    )
    collate = loader.collate_fn if own else form.collate
    return replace(form, batch_size=size, collate=collate, notes=(*form.notes, note))


def _of_arrays(parts: tuple[Any, ...], inputs: Any, who: str, given: Any = None) -> Form:
    if len({len(part) for part in parts}) > 1:
        counts = [len(part) for part in parts]
        raise InputError(
            f"{who} pairs {counts[0]} inputs with {counts[-1]} labels."
            if len(parts) == 2
            else f"{who} has parts of different lengths: {counts}."
        )
    at = _target_at([part[0] for part in parts] if len(parts[0]) else list(parts), inputs, who)
    if len(parts) == 2 and np.ndim(parts[0]) == 1 and np.ndim(parts[1]) > 1:
        raise InputError(
            f"{who} pairs inputs of shape {tuple(parts[0].shape)} with labels of shape {tuple(parts[1].shape)}. "
            "Are inputs and labels swapped? A pair is (inputs, labels)."
        )

    def made(targets: Tensor | None) -> Dataset[Any]:
        kept = [torch.as_tensor(p) if i != at or targets is None else targets for i, p in enumerate(parts)]
        return Rows(*kept)

    strange = [
        str(p.dtype)
        for i, p in enumerate(parts)
        if i != at and not isinstance(p, Tensor) and p.dtype.kind in "OUS"
    ]
    if strange:
        raise InputError(f"inputs of {who} are {strange[0]}, which a model cannot read. Give numbers.")
    whole = given if given is not None else parts
    return Form(
        given=whole, item=lambda i: tuple(part[i] for part in parts),
        take=lambda positions: tuple(_at(part, positions) for part in parts),
        targets=parts[at], reads=None if at == 1 else at, made=made, notes=_passed_over(len(parts), at, who),
        ids=getattr(given, "ids", ()),
    )  # fmt: skip


class Rows(TensorDataset):
    """Tensors of equal length, with the form that they came from as `own`."""


class Renumbered(Dataset[Any]):
    """A data set whose targets are replaced, with the form that it came from as `own`.

    Attributes:
        base: whose examples are read.
        targets: one an example.
        at: position or key of the target; a key is renamed "labels".
    """

    def __init__(self, base: Any, targets: Tensor | None, at: Any, keys: Sequence[str] = ()) -> None:
        self.base, self.targets, self.at, self.keys = base, targets, at, tuple(keys)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> Any:
        item = self.base[i]
        value = item[self.at] if self.targets is None else self.targets[i]
        if isinstance(item, Mapping):
            return {**{k: item[k] for k in self.keys}, "labels": value}
        return (*item[: self.at], value, *item[self.at + 1 :])


class _Columns(Dataset[Any]):
    """A dictionary of arrays as a data set of dictionaries."""

    def __init__(self, columns: Mapping[str, Any], who: str) -> None:
        self.columns = dict(columns)
        counts = {name: len(part) for name, part in columns.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"{who} has parts of different lengths: {counts}.")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: part[i] for name, part in self.columns.items()}


def _of_items(value: Any, label: str | None, inputs: Any, who: str) -> Form:
    n = len(value)
    if n == 0:
        raise InputError(f"{who} holds no examples.")
    first = _read(value, 0, who)
    notes: tuple[str, ...] = ()
    reads: Reads = None
    at: Any
    if isinstance(first, Mapping):
        at, keys = _keys(first, label, inputs, who)
        reads = None if keys[0] == TEXT or len(keys) == 1 else tuple(keys)
        left = [k for k in first if k not in (at, *keys)]
        notes = (f"of the examples of {who}, {', '.join(map(str, left))} are passed over.",) if left else ()
    elif isinstance(first, (tuple, list)) and len(first) > 1:
        at, keys = _target_at(list(first), inputs, who), []
        reads, notes = None if at == 1 else at, _passed_over(len(first), at, who)
    else:
        raise InputError(
            f"{who} must hold pairs (input, label), or dictionaries with a label; its first example is a "
            f"{type(first).__name__}."
        )
    targets = [_target(_read(value, i, who), at, i, who) for i in range(n)]
    plain = not isinstance(first, Mapping) or at in TARGETS

    def made(numbers: Tensor | None) -> Dataset[Any]:
        same: Dataset[Any] = value
        return same if numbers is None and plain else Renumbered(value, numbers, at, keys)

    text = isinstance(first, Mapping) and TEXT in keys
    return Form(
        given=value, item=lambda i: value[i], take=lambda positions: Subset(value, list(positions)), targets=targets,
        reads=reads, made=made, collate=Padded() if text else None, notes=notes, ids=_ids(value),
    )  # fmt: skip


def _ids(value: Any) -> Sequence[Any]:
    """Ids of a data set, or of the one that a Subset is of."""
    if isinstance(value, Subset) and not hasattr(value, "ids"):
        inner = _ids(value.dataset)
        return [inner[int(at)] for at in value.indices] if len(inner) else ()
    held: Sequence[Any] = getattr(value, "ids", ())
    return held if hasattr(held, "__len__") else ()


def _keys(first: Mapping[str, Any], label: str | None, inputs: Any, who: str) -> tuple[str, list[str]]:
    at = label or next((k for k in TARGETS if k in first), "")
    if at not in first:
        named = f"{label!r}" if label else f"one of {', '.join(TARGETS)}"
        raise InputError(
            f"the examples of {who} have no label {named}; they have {', '.join(map(str, first))}. Name it: label = ..."
        )
    others = [str(k) for k in first if k != at]
    known = next((k for k in INPUTS if k in first), None)
    keys = list(inputs) if isinstance(inputs, (list, tuple)) else [known] if known else others
    absent = [k for k in keys if k not in first]
    if absent or not keys:
        raise InputError(
            f"the examples of {who} have no {', '.join(absent) or 'input'}; they have {', '.join(map(str, first))}."
        )
    return at, keys


def _target_at(parts: Sequence[Any], inputs: Any, who: str) -> int:
    """Where among the parts of an example its target is."""
    if isinstance(inputs, int) and len(parts) > 2:
        if not 0 < inputs < len(parts):
            raise InputError(
                f"inputs must say how many of the {len(parts)} parts of an example of {who} the model reads; got "
                f"{inputs!r}."
            )
        return inputs
    second = parts[1]
    measured = isinstance(second, float) or "float" in str(getattr(second, "dtype", ""))
    return 1 if len(parts) == 2 or (np.ndim(second) == 0 and not measured) else len(parts) - 1


def _passed_over(parts: int, at: int, who: str) -> tuple[str, ...]:
    if parts == 2:
        return ()
    if at == parts - 1:
        return (
            f"examples of {who} have {parts} parts: the model is given the first {at}, the last is the label.",
        )
    read = "the first is" if at == 1 else f"the first {at} are"
    return (
        f"examples of {who} have {parts} parts: {read} the input, number {at + 1} is the label, what follows is passed "
        "over. Another number of inputs: inputs = ...",
    )


def _target(item: Any, at: Any, i: int, who: str) -> Any:
    try:
        value = item[at]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{who} must hold pairs (input, label); example {i} has no label ({error!r})."
        ) from error
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _read(value: Any, i: int, who: str) -> Any:
    try:
        return value[i]
    except Exception as error:  # the data set is the user's own code
        raise InputError(f"reading example {i} of {who} failed ({type(error).__name__}: {error}).") from error


def _renumbers(read: Read) -> bool:
    return bool(read.places)


def _at(part: Any, positions: Sequence[int]) -> Any:
    return part[torch.as_tensor(positions) if isinstance(part, Tensor) else np.asarray(positions)]


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) and np.ndim(value) > 0
