"""Prompts as tokens, and encoded with vectors before them in the place of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError
from .pipeline import TextToImage
from .text import Text


class Prompts:
    """Prompts as tokens, for a pipeline of one text encoder.

    Attributes:
        table: the encoder's token embeddings, [vocabulary, width].
        vocabulary: ids of tokens that are text, int64.
    """

    def __init__(self, model: TextToImage, prompts: Sequence[str]) -> None:
        self._prompts = tuple(prompts)
        self._ids, self._mask = model.tokens(prompts)
        tokenizer = model.tokenizers[0]
        bos = tokenizer.bos_token_id
        self._at = int(bos is not None and bool((self._ids[:, 0] == bos).all()))
        self.table: Tensor = model.text_encoder.get_input_embeddings().weight.detach()  # type: ignore[operator]
        known = torch.ones(min(len(tokenizer), len(self.table)), dtype=torch.bool)
        known[[i for i in tokenizer.all_special_ids if i < len(known)]] = False
        self.vocabulary = known.nonzero().flatten().to(self.table.device)

    def require_room(self, k: int, who: str) -> None:
        """Raise unless k more tokens fit into every prompt.

        Raises:
            InputError: naming the prompt that is too long.
        """
        limit = self._ids.shape[1]
        for prompt, length in zip(self._prompts, self._mask.sum(1).tolist(), strict=True):
            if length + k > limit:
                raise InputError(
                    f"{who}: the prompt {prompt!r} has {length} tokens, and {k} more do not fit into the {limit} that "
                    "the text encoder reads. Shorten the templates or lower tokens."
                )

    def inserted(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask, [n, length], of these prompts, int64 [n], with tokens [n, k] at their beginning."""
        at, end = self._at, self._ids.shape[1] - ids.shape[1]
        own, mask = self._ids[rows], self._mask[rows]
        own = torch.cat([own[:, :at], ids, own[:, at:end]], 1)
        return own, torch.cat([mask[:, :at], torch.ones_like(ids), mask[:, at:end]], 1)

    def encode(
        self, model: TextToImage, rows: Tensor, ids: Tensor | None = None, vectors: Tensor | None = None
    ) -> Text:
        """Encode these prompts, int64 [n], after vectors [n, k, width] that stand where tokens `ids` [n, k] would."""
        if ids is None or vectors is None:
            return model.encode_tokens((self._ids[rows], self._mask[rows]))
        own, mask = self.inserted(rows, ids)
        at, around = self._at, self.table[own]
        read = torch.cat([around[:, :at], vectors, around[:, at + ids.shape[1] :]], 1)
        return model.encode_tokens((own, mask), embeddings=read)
