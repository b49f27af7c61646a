"""A causal language model in a transformers folder and texts for it, as a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import InputError
from ..io.causal_lm import load_causal_lm, longest, require_causal_lm, save_causal_lm
from ..io.loading import read_tokenizer
from ..io.texts import Sequences, read_sequences
from ..masks.mask import Mask
from ..types import Data
from .subject import Subject

_SHARE = 5  # one sequence in so many is held out, where no file is


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Which texts a language model is shown, and how they are cut; see `unweave.io.texts` for the files.

    Attributes:
        calibration: texts to prune by, and to recover on: .txt (running text) or .jsonl (a text, or a prompt and an
            answer, a line).
        heldout: texts that perplexity is measured on; the last fifth of the calibration texts unless given, which
            pruning then does not see.
        length: tokens a window; the model's longest, at most 2,048, unless given.
        stride: tokens from one held-out window's beginning to the next's; `length` unless given. A shorter one gives
            each token more to be predicted from.
        batch: sequences a batch.
        instructions: prompts and answers (.jsonl) to recover on, of which those are chosen that best repair what
            pruning broke (PASER).
    """

    calibration: Path | None = None
    heldout: Path | None = None
    length: int | None = None
    stride: int | None = None
    batch: int = 8
    instructions: Path | None = None


def language_subject(
    folder: Path | str,
    texts: Path | str,
    *,
    heldout: Path | str | None = None,
    length: int | None = None,
    stride: int | None = None,
    batch: int = 8,
) -> Subject:
    """A causal language model's folder with its texts; see `Texts`.

    Args:
        folder: of transformers, with a tokenizer.
        texts: file of the training side: what pruning is calibrated with.
        heldout: file of texts that perplexity is measured on; the last fifth of `texts` unless given.
        length: tokens a window; the model's longest, at most 2,048, unless given.
        stride: tokens from one held-out window's beginning to the next's; `length` unless given.
        batch: sequences a batch.

    Raises:
        InputError: if the folder holds no causal language model, quantised weights or no tokenizer; or the texts cannot
            be read, or are too few.
    """
    place, file = Path(folder), Path(texts)
    require_causal_lm(place)
    tokenizer, tokens = read_tokenizer(place), length or longest(place)
    shown = read_sequences(file, tokenizer, tokens, batch_size=batch)
    if heldout is None:
        if stride is not None:
            raise InputError("stride is for held-out running text: name its file (heldout, --heldout).")
        train, kept, notes = _split(shown, file)
    else:
        judged = read_sequences(Path(heldout), tokenizer, tokens, stride=stride, batch_size=batch)
        train, kept = shown.data, judged.data
        notes = (*shown.notes, *(f"held out: {note}" for note in judged.notes))

    def save(
        model: Module, to: Path, mask: Mask | None, structure: Mapping[str, Any] | None = None, *,
        packed: bool = False,
    ) -> None:  # fmt: skip
        save_causal_lm(model, to, source=place, mask=mask, structure=structure, packed=packed)

    part = len(train)
    return Subject(
        name=f"{place} on {file.name}", train=train, heldout=kept, model=place, load=load_causal_lm, save=save,
        ids=shown.ids[:part] if len(set(shown.ids)) == len(shown.ids) else (),
        columns={name: values[:part] for name, values in shown.columns.items()}, notes=notes,
        files={"checkpoint": place, "texts": file, **({} if heldout is None else {"held-out texts": Path(heldout)})},
    )  # fmt: skip


def instructions_for(
    folder: Path | str, file: Path | str, *, length: int | None = None, batch: int = 8
) -> Data[Any]:
    """Prompts and answers (.jsonl) for a model's folder; the answers are what is trained on.

    Raises:
        InputError: if the file is none of prompts and answers, or the folder has no tokenizer.
    """
    if Path(file).suffix.lower() != ".jsonl":
        raise InputError(f"instructions are read from a .jsonl file of prompts and answers; got {file}.")
    place = Path(folder)
    return read_sequences(
        Path(file), read_tokenizer(place), length or longest(place), batch_size=batch, prompted=True
    ).data


def _split(shown: Sequences, file: Path) -> tuple[Data[Any], Data[Any], tuple[str, ...]]:
    n = len(shown.data)
    kept = max(1, n // _SHARE)
    if n < 2:
        raise InputError(
            f"{file} makes one sequence, so none is left to be held out. Give more text, a smaller length (--length), "
            "or held-out texts of their own (--heldout)."
        )
    note = f"The last {kept:,} of these {n:,} sequences are held out to measure perplexity."
    return shown.data.subset(range(n - kept)), shown.data.subset(range(n - kept, n)), (*shown.notes, note)
