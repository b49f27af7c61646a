"""Texts with labels (csv, jsonl) for a text classifier in a transformers folder: local files only."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..errors import InputError
from ..tasks.classify import Classify
from ..types import Data
from .loading import config_of, quiet, read_tokenizer
from .padding import Padded

TEXTS = "AutoModelForSequenceClassification"
"""The class of transformers that reads such a model."""
ENDINGS = (".csv", ".jsonl")
_HELDOUT = ("test", "validation")
_TEXT, _PAIR, _LABEL, _SPLIT, _ID = "text", "text_pair", "label", "split", "id"

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Labelled texts, read for a model.

    Attributes:
        train: batches {"input_ids" [n, t], "attention_mask" [n, t], "labels" [n]}, and what else the tokenizer gives.
        heldout: the same, of texts that are not in `train`.
        class_names: of the labels, in the model's order.
        columns: further columns, name -> one value a training text.
        ids: of the training texts: the column "id"; () are positions.
        files: name -> file that was read.
        notes: what was decided, in sentences.
    """

    train: Data[Classify]
    heldout: Data[Classify]
    class_names: tuple[str, ...]
    columns: Mapping[str, Sequence[str]]
    ids: Sequence[str]
    files: Mapping[str, Path]
    notes: tuple[str, ...]


class TextExamples(Dataset[dict[str, Any]]):
    """Tokenized texts.

    Attributes:
        rows: what the tokenizer made of each text, with its label.
        texts: as they were read.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> None:
        self.rows, self.texts = list(rows), list(texts)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return dict(self.rows[at])


def is_text_data(spec: str) -> bool:
    """Whether `--data` names texts: a .csv or .jsonl file, or a folder with one for training."""
    place = Path(spec)
    return place.suffix.lower() in ENDINGS or any((place / f"train{ending}").is_file() for ending in ENDINGS)


def load_texts(spec: str, folder: Path, *, batch_size: int = 32) -> Texts:
    """Read texts with the tokenizer of a transformers folder.

    A row has the columns `text` and `label`, and may have `text_pair`, `id`, `split` and others to choose by. One file
    must say in `split` which rows are "train" and which "test" (or "validation"); a folder has a file for each.

    Args:
        spec: a .csv or .jsonl file, or a folder with train.csv and test.csv (or validation.csv; or .jsonl).
        folder: of the model.
        batch_size: texts a batch, filled up to the longest of it.

    Raises:
        InputError: if the file, its texts or its labels cannot be used with the model; says which and how to mend it.
        MissingExtraError: if transformers is absent or does not import.
    """
    files, notes = _files(Path(spec))
    rows = {name: _read(file) for name, file in files.items()}
    if len(rows) == 1:
        rows = _split(next(iter(files.values())), next(iter(rows.values())))
    config, tokenizer = config_of(Path(folder)), tokenizer_of(Path(folder))
    names, place = _classes(rows, config, Path(folder))
    most = _longest(tokenizer, config)
    made: dict[str, Data[Classify]] = {}
    for name, found in rows.items():
        labels = [place[row[_LABEL]] for row in found]
        tokens, cut = _tokenized(tokenizer, found, most)
        notes += (
            [f"{cut} of {len(found)} texts of {name} are longer than {most} tokens and were cut."]
            if cut
            else []
        )
        examples = TextExamples(
            [{**t, "labels": y} for t, y in zip(tokens, labels, strict=True)], [row[_TEXT] for row in found]
        )
        made[name] = Data(examples, Classify(len(names)), batch_size, Padded(int(tokenizer.pad_token_id)))
    train = rows["train"]
    others = [c for c in train[0] if c not in (_TEXT, _PAIR, _SPLIT)]
    return Texts(
        train=made["train"], heldout=made["heldout"], class_names=names,
        columns={c: [row[c] for row in train] for c in others},
        ids=[row[_ID] for row in train] if _ID in train[0] else (), files=files, notes=tuple(notes),
    )  # fmt: skip


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a transformers folder.

    Raises:
        InputError: if it has none, or one that cannot fill up a batch.
    """
    found = read_tokenizer(folder)
    if found.pad_token_id is None:
        raise InputError(
            f"the tokenizer of {folder} has no padding token, so texts of different lengths make no batch. Set one "
            "(tokenizer.pad_token = tokenizer.eos_token, model.config.pad_token_id) and save both again."
        )
    return found


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Names of the tokenizer's files in a folder, to be copied beside an edited model."""
    known = {"tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"}
    known |= {"chat_template.jinja", *read_tokenizer(folder).vocab_files_names.values()}
    return tuple(sorted(name for name in known if (folder / name).is_file()))


def _files(place: Path) -> tuple[dict[str, Path], list[str]]:
    if place.suffix.lower() in ENDINGS and not place.is_dir():
        if not place.is_file():
            raise InputError(f"there is no file {place}.")
        return {"texts": place}, []
    ending = next((e for e in ENDINGS if (place / f"train{e}").is_file()), "")
    heldout = [f for name in _HELDOUT if (f := place / f"{name}{ending}").is_file()]
    if not heldout:
        raise InputError(
            f"{place} has train{ending} and no {' or '.join(f'{n}{ending}' for n in _HELDOUT)}: nothing is held out to "
            "judge with. Add one, of texts that the model never saw."
        )
    left = [f.name for f in heldout[1:]]
    notes = [f"of {place}, {heldout[0].name} is held out; {', '.join(left)} is not read."] if left else []
    return {"train": place / f"train{ending}", "heldout": heldout[0]}, notes


def _read(file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the texts in {file} ({error}). Give UTF-8 text.") from error
    rows = _jsonl(file, text) if file.suffix.lower() == ".jsonl" else _csv(file, text)
    if not rows:
        raise InputError(f"{file} holds no text.")
    absent = [c for c in (_TEXT, _LABEL) if c not in rows[0]]
    if absent:
        raise InputError(
            f"{file} has no column {' and '.join(absent)}; it has {', '.join(rows[0])}. A text classifier needs "
            "columns named text and label."
        )
    uneven = [i for i, row in enumerate(rows, 1) if row.keys() != rows[0].keys()]
    empty = [i for i, row in enumerate(rows, 1) if not row.get(_TEXT, "").strip() or not row.get(_LABEL, "")]
    for bad, what in ((uneven, "other columns than the first"), (empty, "no text or no label")):
        if bad:
            shown = ", ".join(map(str, bad[:5])) + " ..." * (len(bad) > 5)
            raise InputError(f"{len(bad)} rows of {file} have {what}: rows {shown}. Mend or drop them.")
    return rows


def _csv(file: Path, text: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}, is not readable as csv ({error}).") from error
    if not lines:
        return []
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        raise InputError(f"{file} has two columns of one name: {', '.join(header)}.")
    odd = next((i for i, line in enumerate(lines[1:], 1) if len(line) != len(header)), None)
    if odd is not None:
        raise InputError(
            f"row {odd} of {file} has {len(lines[odd])} cells, its header {len(header)}. Quote texts that hold commas."
        )
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _jsonl(file: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number}, is no JSON ({error}).") from error
        if not isinstance(found, dict):
            raise InputError(
                f'{file}, line {number}, must be an object such as {{"text": ..., "label": ...}}.'
            )
        rows.append(
            {
                str(k): v if isinstance(v, str) else "" if v is None else json.dumps(v)
                for k, v in found.items()
            }
        )
    return rows


def _split(file: Path, rows: list[Row]) -> dict[str, list[Row]]:
    if _SPLIT not in rows[0]:
        raise InputError(
            f"{file} does not say what is held out. Give it a column `split` with train and test, or a folder with "
            f"train{file.suffix} and test{file.suffix}."
        )
    counts = Counter(row[_SPLIT] for row in rows)
    heldout = [name for name in _HELDOUT if name in counts]
    if "train" not in counts or len(heldout) != 1 or len(counts) != 2:
        raise InputError(
            f"the column `split` of {file} must hold train and either test or validation; it holds "
            f"{', '.join(f'{v!r} ({n})' for v, n in counts.most_common(6))}."
        )
    return {
        "train": [row for row in rows if row[_SPLIT] == "train"],
        "heldout": [row for row in rows if row[_SPLIT] == heldout[0]],
    }


def _classes(
    rows: Mapping[str, list[Row]], config: Any, folder: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the model's classes in its order, and label as written -> its number."""
    count = int(config.num_labels)
    if count < 2 or config.problem_type in ("regression", "multi_label_classification"):
        what = f"problem_type {config.problem_type}" if config.problem_type else f"{count} output"
        raise InputError(
            f"{folder} is a model with {what}; this reads one of several classes a text. Write a project.py with "
            'task = "regression", "multi-label" or "binary".'
        )
    known = [str(config.id2label[at]) for at in range(count)]
    found = {row[_LABEL] for part in rows.values() for row in part}
    if found <= set(known):
        return tuple(known), {name: at for at, name in enumerate(known)}
    if found <= {str(at) for at in range(count)}:
        return tuple(known), {str(at): at for at in range(count)}
    if len(found) == count and known == [f"LABEL_{at}" for at in range(count)]:
        # the model has no names; Hugging Face numbers classes by name, in this order
        names = sorted(found)
        return tuple(names), {name: at for at, name in enumerate(names)}
    strange = sorted(found - set(known))
    raise InputError(
        f"the texts have labels that {folder} does not know: {', '.join(strange[:5])}. It knows "
        f"{', '.join(known[:10])} (id2label in its config.json), or their numbers from 0."
    )


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens of the longest text that the model reads."""
    limits = [int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", 0) or 10**9)]
    return min(limit for limit in limits if limit > 0)


def _tokenized(tokenizer: Any, rows: Sequence[Row], most: int) -> tuple[list[dict[str, list[int]]], int]:
    """Token ids and masks of each text, and how many were cut."""
    firsts = [row[_TEXT] for row in rows]
    seconds = [row[_PAIR] for row in rows] if _PAIR in rows[0] else None
    with quiet():
        whole = tokenizer(firsts, seconds, truncation=False)
        cut = tokenizer(firsts, seconds, truncation=True, max_length=most)
    shortened = sum(len(a) > len(b) for a, b in zip(whole["input_ids"], cut["input_ids"], strict=True))
    names = [name for name in cut if name in tokenizer.model_input_names]
    return [{name: cut[name][at] for name in names} for at in range(len(rows))], shortened
