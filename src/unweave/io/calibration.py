"""Texts of a jsonl file as sequences of token ids, by the tokenizer of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..tasks.language import CausalLM
from ..types import Data
from .loading import loading, quiet, transformers_class
from .padding import Padded


def read_texts(
    file: Path, folder: Path, *, column: str = "text", length: int = 256, batch_size: int = 8
) -> Data[Any]:
    """Tokenised texts, cut off at `length` tokens; texts of less than two tokens predict nothing and are left out.

    Args:
        file: JSON lines, each an object with `column`.
        folder: of the model, with its tokenizer.
        column: that holds the text.
        length: of a text in tokens.
        batch_size: texts a batch.

    Raises:
        InputError: if the file is none, a line is no such object, or no text has two tokens.
    """
    if not Path(file).is_file():
        raise InputError(f"{file} is no file of texts. Give JSON lines, each with {column!r}.")
    auto = transformers_class("AutoTokenizer")
    with loading(folder), quiet():
        tokenizer = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    items = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            ids = tokenizer(
                _text_of(line, f"{file}, line {number}", column), truncation=True, max_length=length
            )
            if len(ids["input_ids"]) > 1:
                items.append({"input_ids": torch.tensor(ids["input_ids"])})
    if not items:
        raise InputError(f"{file} holds no text of at least two tokens, from which nothing can be told.")
    return Data(items, CausalLM(), batch_size, Padded(tokenizer.pad_token_id or 0))  # type: ignore[arg-type]


def _text_of(line: str, where: str, column: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}).") from error
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        raise InputError(f'{where} has no text under {column!r}. Give {{"{column}": "..."}} on each line.')
    text: str = row[column]
    return text
