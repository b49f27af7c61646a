"""Texts for a causal language model: a file of plain text cut into windows, or of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..tasks.language import IGNORED, CausalLM
from ..types import Data
from .loading import quiet, short
from .padding import Padded

ENDINGS = (".txt", ".jsonl")
_BLOCK = 1 << 20  # characters that are tokenized at once
_TEXT, _PROMPT, _ANSWER, _ID = "text", "prompt", "answer", "id"
ALTERNATIVE, PARAPHRASE = "alternative", "paraphrase"
_OWN = (_TEXT, _PROMPT, _ANSWER, _ID, ALTERNATIVE, PARAPHRASE)


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences of token ids, read from a file.

    Attributes:
        data: batches {"input_ids", "labels"} [n, t], with "attention_mask" where texts are filled up; labels are -100
            at padding, in prompts and, where windows overlap, at tokens that an earlier one predicts.
        tokens: how many tokens are predicted.
        ids: of the texts: the column "id" of a .jsonl file; () are positions. Of a text that was cut into several
            sequences they are ID/1, ID/2, ..., and "id" is a column too.
        columns: further columns of it, name -> one value a sequence.
        notes: what was read, and what was left out, in sentences.
    """

    data: Data[CausalLM]
    tokens: int
    ids: Sequence[str] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of one long text; each predicts the tokens that none before it has.

    Args:
        tokens: ids of the whole text, [n].
        length: tokens a window.
        stride: tokens from one window's beginning to the next's, at most `length`.
    """

    def __init__(self, tokens: Tensor, length: int, stride: int) -> None:
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        return max(0, 1 + (len(self.tokens) - self.length) // self.stride)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        if not 0 <= at < len(self):
            raise IndexError(at)
        begin = at * self.stride
        ids = self.tokens[begin : begin + self.length].long()
        labels = ids.clone()
        if at:
            labels[: self.length - self.stride] = IGNORED
        return {"input_ids": ids, "labels": labels}


def read_sequences(
    file: Path,
    tokenizer: Any,
    length: int,
    *,
    stride: int | None = None,
    batch_size: int = 8,
    prompted: bool = False,
    beside: str | None = None,
) -> Sequences:
    """Read texts with a model's tokenizer, a block or a line at a time.

    A .txt file is one text, cut into windows; the special token that the tokenizer puts before a text stands once,
    before the first, and what is left after the last window is left out. Of a .jsonl file each line is a sequence of
    its own: {"text": ...}, cut where it is longer than a window; or {"prompt": ..., "answer": ...}, of which only the
    answer and the token that ends it are predicted, and which is cut off where it is longer. Prompt and answer are put
    together by the tokenizer's chat template, and what it puts between them is part of the prompt; without one a
    newline stands between them, unless white space does.

    Args:
        file: ends in .txt or .jsonl, in UTF-8.
        tokenizer: of transformers.
        length: tokens a window, and of the longest sequence.
        stride: tokens from one window's beginning to the next's in running text; `length` unless given.
        batch_size: sequences a batch.
        prompted: whether each line must have a prompt and an answer.
        beside: where a string, what is needed to make a model forget is read too: an `alternative` to each answer,
            from the column of this name or, where a line has none, this string ("" for none); and, where all lines
            have the column `paraphrase`, the same in other words: another prompt, or of a plain text another text.

    Raises:
        InputError: if the file cannot be read, or does not hold one window, or one token to predict.
    """
    file, step = Path(file), length if stride is None else stride
    if length < 2 or not 1 <= step <= length:
        raise InputError(
            f"a window must have at least 2 tokens and begin 1 to {max(length, 1)} tokens after the one before; got "
            f"length {length} and stride {step}."
        )
    if file.suffix.lower() not in ENDINGS:
        raise InputError(f"texts are read from {' or '.join(ENDINGS)} files; got {file}.")
    if not file.is_file():
        raise InputError(f"there is no file {file}.")
    if file.suffix.lower() == ".txt":
        return _running(file, tokenizer, length, step, batch_size)
    if stride is not None:
        raise InputError(
            f"stride={stride} would do nothing: each line of {file} is a text of its own. Leave it out, or give a .txt."
        )
    return _lines(file, tokenizer, length, batch_size, prompted, beside)


def _running(file: Path, tokenizer: Any, length: int, stride: int, batch_size: int) -> Sequences:
    ids = _ids_of(file, tokenizer)
    windows = Windows(ids, length, stride)
    n = len(windows)
    if not n:
        raise InputError(
            f"{file} has {len(ids)} tokens; a window takes {length}. Give more text, or a smaller --length."
        )
    over = len(ids) - (n - 1) * stride - length
    tokens = length - 1 + (n - 1) * (min(stride, length - 1))
    note = (
        f"{file.name}: {n:,} windows of {length:,} tokens, one every {stride:,}; {tokens:,} tokens are predicted"
        + (f", {over:,} at the end are left out." if over else ".")
    )
    return Sequences(data=Data(windows, CausalLM(), batch_size), tokens=tokens, notes=(note,))


def _ids_of(file: Path, tokenizer: Any) -> Tensor:
    """Ids of the whole text, int32 [n]; no token spans the end of a block, which is that of a line."""
    parts = [torch.tensor(_opening(tokenizer), dtype=torch.int32)]
    some = False
    with quiet():
        for block in _blocks(file):
            some = some or bool(block.strip())
            found = tokenizer(block, add_special_tokens=False)["input_ids"]
            parts.append(torch.tensor(found, dtype=torch.int32))
    if not some:
        raise InputError(f"{file} holds no text.")
    return torch.cat(parts)


def _blocks(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            while lines := opened.readlines(_BLOCK):
                yield "".join(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the text in {file} ({short(error)}). Give UTF-8 text.") from error


def _opening(tokenizer: Any) -> list[int]:
    """The special token that the tokenizer puts before a text, if it does."""
    added = list(tokenizer("")["input_ids"])
    return added[:1] if added[:1] == [tokenizer.bos_token_id] else []


def _lines(
    file: Path, tokenizer: Any, length: int, batch_size: int, prompted: bool, beside: str | None
) -> Sequences:
    examples: list[dict[str, Any]] = []
    rows: list[Mapping[str, str]] = []
    ids_found: list[str] = []
    empty = cut = 0
    with quiet():
        for number, row in _rows(file):
            if prompted and _TEXT in row:
                raise InputError(
                    f'{file}, line {number}, must be {{"prompt": ..., "answer": ...}}; it has a text that is not split.'
                )
            ids, prompt = _encoded(tokenizer, row, f"{file}, line {number}")
            pieces = [ids[:length]] if prompt else [ids[i : i + length] for i in range(0, len(ids), length)]
            cut += len(ids) > length
            whole = [p for p in pieces if len(p) > max(1, prompt)]
            empty += not whole
            more = {} if beside is None else _beside(tokenizer, row, beside, length, f"{file}, line {number}")
            for k, piece in enumerate(whole):
                examples.append(_example(piece, prompt) | more)
                rows.append(row)
                ids_found.append(row.get(_ID, "") + (f"/{k + 1}" if len(pieces) > 1 else ""))
    if not examples:
        raise InputError(f"{file} holds no text with a token to predict in a window of {length} tokens.")
    named, pieces_of = all(_ID in row for row in rows), len(examples) > len({id(row) for row in rows})
    columns = [c for c in dict.fromkeys(c for row in rows for c in row) if c not in _OWN]
    columns += [_ID] if named and pieces_of else []
    lacking = [k for k in (ALTERNATIVE, PARAPHRASE) if not all(k in e for e in examples)]
    examples = [{k: v for k, v in e.items() if k not in lacking} for e in examples]
    notes = [
        f"{file.name}: {len(examples):,} sequences of at most {length:,} tokens; {_predicted(examples):,} tokens are "
        "predicted, padding left out."
    ]
    if cut:
        whole_ones = " All parts of one are chosen by --where id=ID." if named and pieces_of else ""
        notes.append(
            f"{cut:,} texts of {file.name} are longer than {length:,} tokens and were cut.{whole_ones}"
        )
    notes += [f"{empty:,} texts of {file.name} have no token to predict and are left out."] if empty else []
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return Sequences(
        data=Data(examples, CausalLM(), batch_size, Padded(int(filler))),  # type: ignore[arg-type]
        tokens=_predicted(examples),
        ids=ids_found if named else (),
        columns={c: [row.get(c, "") for row in rows] for c in columns},
        notes=tuple(notes),
    )


def _example(ids: Sequence[int], prompt: int) -> dict[str, Any]:
    found = torch.tensor(ids)
    return {"input_ids": found, "labels": found.masked_fill(torch.arange(len(found)) < prompt, IGNORED)}


def _beside(
    tokenizer: Any, row: Mapping[str, str], refusal: str, length: int, where: str
) -> dict[str, dict[str, Any]]:
    """What else is read of a line, cut as its text is: another answer to its prompt, and the same in other words."""
    others: dict[str, Mapping[str, str]] = {}
    other = row.get(ALTERNATIVE, refusal)
    if other and _PROMPT in row:
        others[ALTERNATIVE] = {_PROMPT: row[_PROMPT], _ANSWER: other}
    if row.get(PARAPHRASE):
        words = row[PARAPHRASE]
        others[PARAPHRASE] = {_TEXT: words} if _TEXT in row else {_PROMPT: words, _ANSWER: row[_ANSWER]}
    found = {}
    for name, told in others.items():
        ids, prompt = _encoded(tokenizer, told, f"{where}, {name}")
        if max(1, prompt) < len(ids[:length]):
            found[name] = _example(ids[:length], prompt)
    return found


def _predicted(examples: Sequence[Mapping[str, Any]]) -> int:
    return sum(int((e["labels"][1:] != IGNORED).sum()) for e in examples)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, 1):
                if line.strip():
                    yield number, _row(json.loads(line), f"{file}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the texts in {file} ({short(error)}). Give UTF-8 text.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}, line {number}, is no JSON ({short(error)}).") from error


def _row(found: Any, where: str) -> dict[str, str]:
    told = found if isinstance(found, dict) else {}
    wanted = (_TEXT,) if _TEXT in told else (_PROMPT, _ANSWER)
    if not all(isinstance(told.get(name), str) for name in wanted):
        has = ", ".join(map(str, told)) if told else f"a {type(found).__name__}"
        raise InputError(
            f'{where}, must be {{"text": ...}} or {{"prompt": ..., "answer": ...}}, with strings; it has {has}.'
        )
    return {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}


def _encoded(tokenizer: Any, row: Mapping[str, str], where: str) -> tuple[list[int], int]:
    """Ids of one line's text, and how many of them are its prompt."""
    if _TEXT in row:
        return list(tokenizer(row[_TEXT])["input_ids"]), 0
    prompt, answer = row[_PROMPT], row[_ANSWER]
    if getattr(tokenizer, "chat_template", None):
        asked = [{"role": "user", "content": prompt}]
        told = [*asked, {"role": "assistant", "content": answer}]
        given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(told, tokenize=False)
        if not whole.startswith(given):
            raise InputError(
                f"{where}: by the tokenizer's chat template the prompt does not begin the text, so the answer cannot "
                'be told from it. Put them together yourself, as {"text": ...}.'
            )
        said = answer if whole.find(answer, len(given)) >= 0 else answer.strip()
        at = whole.find(
            said, len(given)
        )  # a template may put more before the answer, such as an empty thought
        if at < 0:
            raise InputError(
                f"{where}: the tokenizer's chat template changes the answer, so where it begins cannot be told. Put "
                'prompt and answer together yourself, as {"text": ...}.'
            )
        ids, rest = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (whole[:at], whole[at:])
        )
        return [*ids, *rest], len(ids)
    between = "" if prompt[-1:].isspace() or answer[:1].isspace() or not prompt else "\n"
    before = _opening(tokenizer) + tokenizer(prompt + between, add_special_tokens=False)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [*before, *after, *end], len(before)
