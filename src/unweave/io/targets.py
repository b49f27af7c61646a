"""From the targets that people have (words, numbers from 1, floats, one-hot rows) to a task and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..tasks import Binary, Classify, MultiLabel, Regress
from ..tasks.batches import Reads

KINDS = ("classes", "binary", "multi-label", "regression")
"""What `task` in a project file may be, beside a Task object."""


@dataclass(frozen=True)
class Read:
    """How the targets of a project are read.

    Attributes:
        task: that reads batches of them.
        names: of the classes, in the order of the model's outputs; () where they are numbers from 0, or no classes.
        places: value as given -> its number; {} where targets are read as they are.
        notes: what was decided, in sentences.
    """

    task: Any
    names: tuple[str, ...] = ()
    places: Mapping[Any, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def numbers(self, targets: Any) -> Tensor:
        """Targets as tensors, classes numbered from 0."""
        if self.places:
            return torch.tensor([self.places[_plain(v)] for v in _listed(targets)])
        found = torch.as_tensor(np.asarray(targets) if not isinstance(targets, Tensor) else targets)
        return found.long() if isinstance(self.task, Classify) else found


def read_targets(
    where: Mapping[str, Any], kind: Any, reads: Reads, names: Sequence[str] = (), file: str = "project.py"
) -> Read:
    """Decide how targets are read.

    Args:
        where: name of a data set ("train", ...) -> its targets, one an example: a tensor, an array or a list.
        kind: one of `KINDS`, or a Task, which is then used as it is.
        reads: which of a batch the model reads.
        names: of the classes, in the order of the model's outputs, where the user gave them.
        file: named in messages.

    Raises:
        InputError: if the targets are not of that kind; names the data set, what they are and what would mend it.
    """
    if not isinstance(kind, str):
        return Read(kind)
    if kind not in KINDS:
        raise InputError(f"task in {file} must be one of {', '.join(KINDS)}, or a Task; got {kind!r}.")
    if kind in ("classes", "binary") and all(_hashable(targets) for targets in where.values()):
        return _classes(where, kind, reads, tuple(names), file)
    shapes = {name: torch.as_tensor(np.asarray(_arrayed(t, name, file))) for name, t in where.items()}
    return {"classes": _refused, "binary": _refused, "multi-label": _several, "regression": _measured}[kind](
        shapes, reads, file
    )


def _classes(where: Mapping[str, Any], kind: str, reads: Reads, names: tuple[str, ...], file: str) -> Read:
    values = {name: [_plain(v) for v in _listed(targets)] for name, targets in where.items()}
    words = {name: {isinstance(v, str) for v in listed} for name, listed in values.items()}
    if len(set.union(*words.values())) > 1:
        kinds = {
            name: " and ".join("words" if w else "numbers" for w in sorted(found))
            for name, found in words.items()
        }
        raise InputError(
            f"labels in {file} must be all words or all numbers; got "
            f"{', '.join(f'{k} in {n}' for n, k in kinds.items())}."
        )
    worded = words["train"] == {True}
    if not worded:
        _refuse_unwhole(values, kind, file)
    seen = sorted(set(values["train"]))
    truths = any(isinstance(v, bool) for v in seen) and kind == "classes"
    renumbered = worded or seen[0] != 0 or truths
    order = list(names) if worded and names and set(seen) <= set(names) else seen
    unseen = sorted({v for listed in values.values() for v in listed} - set(order)) if renumbered else []
    if unseen:
        raise InputError(
            f"{len(unseen)} labels of heldout in {file} are not among those of train: {_few(unseen)}."
        )
    count = len(order) if renumbered else 1 + max(int(v) for listed in values.values() for v in listed)
    if kind == "binary" and count > 2:
        raise InputError(f'task = "binary" in {file} needs two labels; there are {count}: {_few(seen)}.')
    task = Binary(reads) if kind == "binary" else Classify(max(2, count), reads)
    if not renumbered:
        return Read(task)
    told = ", ".join(f"{value} is {at}" for at, value in enumerate(order[:5])) + " ..." * (len(order) > 5)
    kind_of = "words" if worded else "truth values" if truths else "not numbered from 0"
    note = f"labels are {kind_of}; as outputs of the model {told}."
    own = () if names else tuple(map(str, order))
    return Read(task, own, {value: at for at, value in enumerate(order)}, (note,))


def _refuse_unwhole(values: Mapping[str, Sequence[Any]], kind: str, file: str) -> None:
    for name, listed in values.items():
        fractions = [v for v in listed if isinstance(v, float) and (kind == "classes" or v not in (0.0, 1.0))]
        lowest = min(listed)
        if not fractions and (lowest >= 0 or set(listed) == {-1, 1}):
            continue
        cure = f'For measured values write task = "regression" in {file}, for one logit task = "binary"'
        if not fractions:
            cure = "-100 marks what has no label: drop it" if lowest == -100 else "Number the classes from 0"
        raise InputError(
            f"labels of {name} in {file} must be whole numbers from 0, or words, one an example; got "
            f"{fractions[0] if fractions else lowest!r}. {cure}; for another task give a Data with its own task."
        )


def _refused(shapes: Mapping[str, Tensor], reads: Reads, file: str) -> Read:
    name, found = next((n, t) for n, t in shapes.items() if t.ndim != 1)
    marks = found.ndim == 2 and not bool(((found != 0) & (found != 1)).any())
    cure = (
        "Are inputs and labels swapped? A pair is (inputs, labels)."
        if not marks
        else "For one-hot rows give labels.argmax(1)."
        if bool((found.sum(1) == 1).all())
        else f'For several labels an example write task = "multi-label" in {file}.'
    )
    raise InputError(
        f"labels of {name} in {file} must be whole numbers from 0, or words, one an example; got "
        f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}. {cure} For another task give a Data "
        "with its own task."
    )


def _several(shapes: Mapping[str, Tensor], reads: Reads, file: str) -> Read:
    for name, found in shapes.items():
        if found.ndim != 2 or found.shape[1] < 2 or bool(((found != 0) & (found != 1)).any()):
            raise InputError(
                f'task = "multi-label" in {file} needs labels [n, k], each 0 or 1; those of {name} are {found.dtype} '
                f"of shape {tuple(found.shape)}."
            )
    return Read(MultiLabel(_one_width(shapes, file), reads))


def _measured(shapes: Mapping[str, Tensor], reads: Reads, file: str) -> Read:
    for name, found in shapes.items():
        if found.ndim not in (1, 2) or not bool(found.double().isfinite().all()):
            raise InputError(
                f'task = "regression" in {file} needs finite targets [n] or [n, m]; those of {name} are {found.dtype} '
                f"of shape {tuple(found.shape)}."
            )
    _one_width({n: f if f.ndim == 2 else f[:, None] for n, f in shapes.items()}, file)
    scale = float(shapes["train"].double().std(0).mean()) if len(shapes["train"]) > 1 else 0.0
    if not scale > 0:
        raise InputError(
            f"all targets of train in {file} are the same, so nothing is to be learnt from them."
        )
    return Read(
        Regress(scale, reads),
        notes=(f"losses are squared errors over {scale:.3g} squared, the targets' spread.",),
    )


def _one_width(shapes: Mapping[str, Tensor], file: str) -> int:
    widths = {name: found.shape[1] for name, found in shapes.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"targets in {file} have different widths: {widths}.")
    return next(iter(widths.values()))


def _arrayed(targets: Any, name: str, file: str) -> Any:
    try:
        found = np.stack([np.asarray(v) for v in targets])
    except (ValueError, TypeError) as error:
        raise InputError(f"targets of {name} in {file} are not all of one shape ({error}).") from error
    if found.dtype.kind not in "biuf":
        raise InputError(f"targets of {name} in {file} are no numbers, but {found.dtype}.")
    return found


def _listed(targets: Any) -> list[Any]:
    return targets.tolist() if hasattr(targets, "tolist") else list(targets)


def _hashable(targets: Any) -> bool:
    """Whether every target is one number or word."""
    shape = getattr(targets, "shape", None)
    return len(shape) == 1 if shape is not None else all(np.ndim(v) == 0 for v in targets)


def _plain(value: Any) -> Any:
    """A word, or a number as Python has it."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, (str, int, float)):
        return value
    raise InputError(f"a label is a {type(value).__name__} ({str(value)[:40]}); give words or whole numbers.")


def _few(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + " ..." * (len(values) > 5)
