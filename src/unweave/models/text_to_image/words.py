"""Prompts as tokens: padded to what an encoder reads, and where a phrase stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError


def padded(
    tokenizer: Any, prompts: Sequence[str], written: Sequence[str], limit: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of prompts, padded to `limit` tokens, both int64 [n, tokens].

    Raises:
        InputError: if a prompt is longer: its end would be lost unseen.
    """
    for prompt, ids in zip(prompts, tokenizer(list(written)).input_ids, strict=True):
        if len(ids) > limit:
            raise InputError(
                f"the prompt {prompt!r} has {len(ids)} tokens; the text encoder reads {limit}. Shorten it."
            )
    out = tokenizer(
        list(written), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    )
    return out.input_ids.to(device), out.attention_mask.to(device)


def places(inner: Sequence[int], whole: Sequence[int], phrase: str, prompt: str) -> list[int]:
    """Positions of the last occurrence of some tokens among others.

    Raises:
        InputError: if they do not occur; names the phrase and the prompt.
    """
    for start in range(len(whole) - len(inner), -1, -1):
        if inner and list(whole[start : start + len(inner)]) == list(inner):
            return list(range(start, start + len(inner)))
    raise InputError(f"{phrase!r} does not occur in the prompt {prompt!r}.")
