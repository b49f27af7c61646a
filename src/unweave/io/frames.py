"""Tables with named columns as data: a pandas DataFrame, a dataset of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..tasks.batches import TARGETS, TEXT
from .forms import Form, Renumbered, Rows
from .padding import Padded

_ID = "id"


def of_frame(frame: Any, label: str | None, inputs: Any, who: str) -> Form:
    """A DataFrame: number and bool columns are what the model reads, as float32 [n, columns], in their order.

    A column "id" names the examples; without one, an index that is not 0, 1, 2, ... does. Every column can be
    chosen by.

    Raises:
        InputError: if the label is not named, or an input column is no number or has gaps.
    """
    columns = [str(c) for c in frame.columns]
    if len(set(columns)) < len(columns):
        raise InputError(f"{who} is a DataFrame with two columns of one name. Rename one.")
    if label is None:
        raise InputError(
            f'{who} is a DataFrame: name its label column, as label = "...". It has: {", ".join(columns[:20])}.'
        )
    wanted = _wanted(columns, label, inputs, who)
    if len(frame) == 0:
        raise InputError(f"{who} holds no examples.")
    by_name = dict(zip(columns, frame.columns, strict=True))
    words = [c for c in wanted if frame[by_name[c]].dtype.kind not in "biuf"]
    if words:
        raise InputError(
            f"{len(words)} columns of {who} are no numbers: {', '.join(words[:5])}. Encode them by categories that are "
            "fixed beforehand (as with pandas.Categorical(values, categories).codes), or name what the model reads: "
            'inputs = ["...", "..."].'
        )
    gaps = [c for c in (*wanted, label) if bool(frame[by_name[c]].isna().any())]
    if gaps:
        raise InputError(
            f"{len(gaps)} columns of {who} have missing values: {', '.join(gaps[:5])}. Fill or drop them."
        )
    x = torch.tensor(frame[[by_name[c] for c in wanted]].to_numpy(dtype="float32"))
    targets = frame[by_name[label]].tolist()
    ids = frame[by_name[_ID]].tolist() if _ID in columns else _index(frame)
    note = f"{who} is a DataFrame: the model reads {_few(wanted)} as numbers, in this order; the label is {label}."

    def made(numbers: Tensor | None) -> Dataset[Any]:
        return Rows(x, torch.as_tensor(targets) if numbers is None else numbers)

    return Form(
        given=frame, item=lambda i: (x[i], targets[i]), take=lambda positions: frame.iloc[list(positions)],
        targets=targets, reads=None, made=made, columns={c: frame[by_name[c]].tolist() for c in columns}, ids=ids,
        notes=(note,),
    )  # fmt: skip


def of_hub(data: Any, label: str | None, inputs: Any, who: str) -> Form:
    """A map-style dataset of Hugging Face, read as dictionaries of tensors; its own format is kept if it has one.

    Token ids (`input_ids`) of different lengths are filled up. A column "id" names the examples.

    Raises:
        InputError: if the label is not there, or a column that the model would read is text.
    """
    columns = [str(c) for c in data.column_names]
    at = label or next((c for c in TARGETS if c in columns), "")
    if at not in columns:
        raise InputError(
            f'{who} has no label column {at!r}. It has: {", ".join(columns)}. Name it: label = "...".'
        )
    if len(data) == 0:
        raise InputError(f"{who} holds no examples.")
    scalar = [c for c in columns if _is_scalar(data.features[c])]
    words = [c for c in scalar if data.features[c].dtype in ("string", "large_string")]
    shown = [c for c in columns if c not in (at, _ID) and c not in words]
    wanted = (
        _wanted([c for c in columns if c in shown or c == at or inputs is not None], at, inputs, who)
        if shown
        else []
    )
    if not wanted or set(wanted) & set(words):
        raise InputError(
            f"{who} holds text ({', '.join(words[:3]) or 'no column of numbers'}), which a model reads as token ids. "
            "Map it first: data.map(lambda x: tokenizer(x['text'], truncation=True)); or give the folder of a "
            "text model with --data texts.csv."
        )
    kept = data if data.format["type"] not in (None, "python") else data.with_format("torch")
    targets = (
        data.with_format(None)[at]
        if data.format["type"] != "custom"
        else [kept[i][at] for i in range(len(kept))]
    )
    names = tuple(getattr(data.features[at], "names", None) or ())
    left = [c for c in columns if c not in (*wanted, at, _ID)]
    note = f"of {who} the model reads {_few(wanted)}" + (f"; {_few(left)} are passed over." if left else ".")

    def made(numbers: Tensor | None) -> Dataset[Any]:
        return Renumbered(kept, numbers, at, wanted)

    text = TEXT in wanted
    return Form(
        given=data, item=lambda i: data[i], take=lambda positions: data.select(list(positions)),
        targets=list(targets), reads=None if text or len(wanted) == 1 else tuple(wanted), made=made,
        collate=Padded() if text else None,
        columns={c: list(data.with_format(None)[c]) for c in scalar}, names=names,
        ids=list(data.with_format(None)[_ID]) if _ID in columns else (), notes=(note,),
    )  # fmt: skip


def _wanted(columns: Sequence[str], label: str, inputs: Any, who: str) -> list[str]:
    if label not in columns:
        raise InputError(f"{who} has no label column {label!r}. It has: {', '.join(columns[:20])}.")
    if inputs is None:
        return [c for c in columns if c not in (label, _ID)]
    named = [inputs] if isinstance(inputs, str) else inputs
    if isinstance(named, int) or not all(isinstance(c, str) for c in named):
        raise InputError(f"inputs must be a list of columns of {who}; got {inputs!r}.")
    absent = [c for c in named if c not in columns]
    if absent or label in named or not named:
        what = (
            f"there is no {', '.join(absent)}"
            if absent
            else "the label is no input"
            if named
            else "it is empty"
        )
        raise InputError(f"inputs names columns of {who}, but {what}. There are: {', '.join(columns[:20])}.")
    return list(named)


def _index(frame: Any) -> list[Any]:
    index = frame.index.tolist()
    if index == list(range(len(index))):
        return []
    return index if len(set(index)) == len(index) else []


def _is_scalar(feature: Any) -> bool:
    return isinstance(getattr(feature, "dtype", None), str) and not hasattr(feature, "feature")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
