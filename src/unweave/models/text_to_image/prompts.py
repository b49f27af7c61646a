"""Prompts as tokens, and encoded with vectors before them in the place of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .pipeline import TextToImage
from .text import Text


@dataclass(frozen=True)
class _Side:
    """What one text encoder reads.

    Attributes:
        ids: of the prompts, [n, length].
        mask: 1 where there is a token.
        at: position of the first token that is text.
        table: the encoder's token embeddings, [vocabulary, width].
        vocabulary: ids of tokens that are text, int64.
    """

    ids: Tensor
    mask: Tensor
    at: int
    table: Tensor
    vocabulary: Tensor

    @classmethod
    def of(cls, model: TextToImage, prompts: Sequence[str], i: int) -> _Side:
        """That of the i-th encoder."""
        ids, mask = model.tokens(prompts, i)
        tokenizer, encoder = model.tokenizers[i], model.encoders[i]
        bos = tokenizer.bos_token_id
        at = int(bos is not None and bool((ids[:, 0] == bos).all()))
        table: Tensor = encoder.get_input_embeddings().weight.detach().to(model.device)  # type: ignore[operator]
        known = torch.ones(min(len(tokenizer), len(table)), dtype=torch.bool)
        known[[k for k in tokenizer.all_special_ids if k < len(known)]] = False
        return cls(ids, mask, at, table, known.nonzero().flatten().to(table.device))

    def inserted(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of these prompts with tokens [n, k] at their beginning."""
        at, end = self.at, self.ids.shape[1] - ids.shape[1]
        own, mask = self.ids[rows], self.mask[rows]
        own = torch.cat([own[:, :at], ids, own[:, at:end]], 1)
        return own, torch.cat([mask[:, :at], torch.ones_like(ids), mask[:, at:end]], 1)

    def embedded(self, own: Tensor, vectors: Tensor) -> Tensor:
        """The embeddings of tokens `own` with vectors [n, k, width] where tokens were inserted."""
        around = self.table[own]
        return torch.cat([around[:, : self.at], vectors, around[:, self.at + vectors.shape[1] :]], 1)


class Prompts:
    """Prompts as tokens, and with vectors at their beginning.

    A vector of a pipeline with several text encoders is what each of them reads there, side by side.

    Attributes:
        table: the first encoder's token embeddings, [vocabulary, width].
        vocabulary: ids of its tokens that are text, int64.
        known: token embeddings that are text, of each encoder, [tokens, width].
    """

    def __init__(self, model: TextToImage, prompts: Sequence[str]) -> None:
        self._prompts = tuple(prompts)
        self._sides = [_Side.of(model, prompts, i) for i in range(len(model.encoders))]
        self.table, self.vocabulary = self._sides[0].table, self._sides[0].vocabulary
        self.known: list[Any] = [side.table[side.vocabulary] for side in self._sides]

    def require_room(self, k: int, who: str) -> None:
        """Raise unless k more tokens fit into every prompt, for every text encoder.

        Raises:
            InputError: naming the prompt that is too long.
        """
        for side in self._sides:
            limit = side.ids.shape[1]
            for prompt, length in zip(self._prompts, side.mask.sum(1).tolist(), strict=True):
                if length + k > limit:
                    raise InputError(
                        f"{who}: the prompt {prompt!r} has {length} tokens, and {k} more do not fit into the {limit} "
                        "that the text encoder reads. Shorten the templates or lower tokens."
                    )

    def inserted(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The first encoder's ids and mask, [n, length], of these prompts with tokens [n, k] at their beginning."""
        return self._sides[0].inserted(rows, ids)

    def encode(
        self, model: TextToImage, rows: Tensor, ids: Tensor | None = None, vectors: Tensor | None = None
    ) -> Text:
        """Encode these prompts, int64 [n], after vectors where tokens `ids` [n, k] would stand.

        Args:
            model: whose encoders read them.
            rows: of the prompts.
            ids: of the first encoder's tokens; each further one has its first token that is text in their place.
            vectors: [n, k, width], side by side for several encoders.
        """
        if ids is None or vectors is None:
            return model.encode_tokens(*((side.ids[rows], side.mask[rows]) for side in self._sides))
        parts = torch.split(vectors, [side.table.shape[1] for side in self._sides], -1)
        tokens, read = [], []
        for i, (side, part) in enumerate(zip(self._sides, parts, strict=True)):
            held = ids if i == 0 else side.vocabulary[:1].expand(ids.shape)
            tokens.append(side.inserted(rows, held))
            read.append(side.embedded(tokens[-1][0], part))
        return model.encode_tokens(*tokens, embeddings=read)
