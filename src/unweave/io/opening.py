"""Training and held-out data of a project file, opened together: one task reads both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..types import Data
from .forms import Form, form_of
from .targets import Read, read_targets


@dataclass(frozen=True)
class Opened:
    """Data as methods and audits read them.

    Attributes:
        train: what the model was trained on.
        heldout: examples of the same kind that it was not trained on.
        class_names: of the labels, in the order of the model's outputs, where the data have them.
        columns: name -> one value a training example, to choose by.
        notes: what was decided, in sentences.
    """

    train: Data[Any]
    heldout: Data[Any]
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_data(path: Path, module: Any, class_names: Sequence[str] = ()) -> Opened:
    """Read `train` and `heldout` of a project's module, with its `label`, `inputs` and `task`.

    Raises:
        InputError: if one is in no form that can be read, or the two do not fit together; names which.
    """
    given = {"train": module.train, "heldout": module.heldout}
    label, inputs = _settings(module)
    known = [value for value in given.values() if isinstance(value, Data)]
    forms = {
        name: form_of(value, label=label, inputs=inputs, who=f"{name} in {path}")
        for name, value in given.items()
        if not isinstance(value, Data)
    }
    _require_alike(path, forms)
    read = Read(known[0].task) if known else _read(path, module, forms, class_names)
    opened = {name: forms[name].data(read) if name in forms else value for name, value in given.items()}
    for name, data in opened.items():
        data.require_examples(f"{name} in {path}")
        if known and name in forms:
            opened[name] = Data(data.examples, known[0].task, known[0].batch_size, known[0].collate)
    train = forms.get("train")
    names = read.names or (train.names if train is not None and len(train.names) else ())
    return Opened(
        opened["train"], opened["heldout"], tuple(names), {} if train is None else train.columns,
        (*_notes(forms), *read.notes),
    )  # fmt: skip


def _notes(forms: Mapping[str, Form]) -> list[str]:
    """What was decided of each, once where it is the same of both."""
    told = [(name, note) for name, form in forms.items() for note in form.notes]
    seen = {note for name, note in told if name == "train"}
    return [note for name, note in told if name == "train" or note.replace("heldout", "train") not in seen]


def _settings(module: Any) -> tuple[str | None, Any]:
    """`label` and `inputs` where they are settings; variables of the file's own may have these names."""
    label, inputs = getattr(module, "label", None), getattr(module, "inputs", None)
    named = isinstance(inputs, (list, tuple)) and inputs and all(isinstance(part, str) for part in inputs)
    counted = isinstance(inputs, int) and not isinstance(inputs, bool)
    return label if isinstance(label, str) else None, inputs if named or counted else None


def _read(path: Path, module: Any, forms: Mapping[str, Form], class_names: Sequence[str]) -> Read:
    targets = {name: form.targets for name, form in forms.items()}
    for name, found in targets.items():
        if len(found) == 0:
            raise InputError(f"{name} in {path} holds no examples.")
    return read_targets(
        targets, getattr(module, "task", "classes"), forms["train"].reads, class_names, str(path)
    )


def _require_alike(path: Path, forms: Mapping[str, Form]) -> None:
    if len(forms) == 2 and forms["train"].reads != forms["heldout"].reads:
        shown = {name: "one input" if f.reads is None else f.reads for name, f in forms.items()}
        raise InputError(f"train and heldout in {path} do not give a model the same: {shown}.")
