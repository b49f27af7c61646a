"""Networks that read comments as word numbers, [n, t], or [n, s, w] by sentences; 0 is padding. Out come [n, 2]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .words import PADDING

HIDDEN, FILTERS, WIDTHS = 50, 100, (3, 4, 5)
CAPSULES, CAPSULE, ROUTINGS = 10, 16, 3


class Words(Module):
    """Vectors of words, zero for padding.

    Args:
        vectors: first values [vocabulary, width].
        tune: whether they learn.
        dropout: share of their entries dropped in training.
    """

    def __init__(self, vectors: Tensor, tune: bool, dropout: float) -> None:
        super().__init__()
        rows, width = vectors.shape
        self.table = nn.Embedding(rows, width, padding_idx=PADDING)
        self.table.weight.data.copy_(vectors)
        self.table.weight.requires_grad_(tune)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """[..., t] -> [..., t, width]."""
        found: Tensor = self.dropout(self.table(ids))
        return found


class CNN(Module):
    """Filters over 3, 4 and 5 words, the largest answer of each, a linear layer."""

    def __init__(self, vectors: Tensor, *, tune: bool = True, dropout: float = 0.3) -> None:
        super().__init__()
        self.words = Words(vectors, tune, dropout)
        self.filters = nn.ModuleList(nn.Conv1d(vectors.shape[1], FILTERS, w) for w in WIDTHS)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(FILTERS * len(WIDTHS), 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, 2]."""
        x, lengths = self.words(ids).transpose(1, 2), (ids != PADDING).sum(1)
        most = []
        for filter_, width in zip(self.filters, WIDTHS, strict=True):
            answers = filter_(x).relu()
            inside = torch.arange(answers.shape[2], device=ids.device) <= (
                lengths[:, None] - width
            ).clamp_min(0)
            most.append(answers.masked_fill(~inside[:, None], 0).amax(2))
        logits: Tensor = self.head(self.dropout(torch.cat(most, 1)))
        return logits


class Recurrent(Module):
    """A recurrent layer in both directions: at each step [n, t, 2 hidden], and at both ends [n, 2 hidden].

    Args:
        width: of what it reads.
        kind: "lstm" or "gru".
    """

    def __init__(self, width: int, kind: Literal["lstm", "gru"] = "gru") -> None:
        super().__init__()
        make = nn.LSTM if kind == "lstm" else nn.GRU
        self.layer = make(width, HIDDEN, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of [n, t, width], where `mask` [n, t] tells what is no padding; a row of padding alone counts as one step."""
        lengths = mask.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        steps, last = self.layer(packed)
        last = last[0] if isinstance(last, tuple) else last
        filled, _ = pad_packed_sequence(steps, batch_first=True, total_length=x.shape[1])
        return filled, last.transpose(0, 1).flatten(1)


class Attention(Module):
    """Weighs steps: u = tanh(W h + b), a = softmax(u v) over what is no padding, and sums them up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project, self.context = nn.Linear(width, width), nn.Linear(width, 1, bias=False)

    def forward(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The sum [n, width] and the weights [n, t], 0 at padding."""
        told = self.context(self.project(h).tanh())[..., 0].masked_fill(~mask, -1e9)
        weights = told.softmax(1) * mask
        return (weights[..., None] * h).sum(1), weights


class Capsules(Module):
    """Dynamic routing of steps to capsules, whose lengths stay below 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.votes = nn.Parameter(torch.randn(CAPSULES, width, CAPSULE) * width**-0.5)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Capsules side by side [n, 10 * 16] of steps [n, t, width]."""
        u = torch.einsum("ntw,jwd->ntjd", h, self.votes) * mask[..., None, None]
        b = torch.zeros(u.shape[:3], dtype=u.dtype, device=u.device)
        v = squashed((b.softmax(2)[..., None] * u).sum(1))
        for _ in range(ROUTINGS - 1):
            b = b + torch.einsum("ntjd,njd->ntj", u, v)
            v = squashed((b.softmax(2)[..., None] * u).sum(1))
        return v.flatten(1)


class RNN(Module):
    """Words, a recurrent layer, a pooling of its steps, a linear layer.

    Args:
        vectors: of the words.
        kind: "lstm" or "gru".
        pool: "ends" of both directions, "attention", or "capsules" over steps that attention has weighed.
        tune: whether word vectors learn.
        dropout: share dropped.
    """

    def __init__(
        self,
        vectors: Tensor,
        *,
        kind: Literal["lstm", "gru"] = "gru",
        pool: Literal["ends", "attention", "capsules"] = "ends",
        tune: bool = True,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.words, self.steps = Words(vectors, tune, dropout), Recurrent(vectors.shape[1], kind)
        self.attention = None if pool == "ends" else Attention(2 * HIDDEN)
        self.capsules = Capsules(2 * HIDDEN) if pool == "capsules" else None
        width = CAPSULES * CAPSULE if pool == "capsules" else 2 * HIDDEN
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, 2]."""
        return self.read(ids)[0]

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the weight of each word [n, t] where there is attention."""
        mask = ids != PADDING
        h, pooled = self.steps(self.words(ids), mask)
        weights = None
        if self.attention is not None:
            pooled, weights = self.attention(h, mask)
        if self.capsules is not None and weights is not None:
            share = weights * mask.sum(
                1, keepdim=True
            )  # 1 on average, so that routing sees steps of their own size
            pooled = self.capsules(h * share[..., None], mask)
        return self.head(self.dropout(pooled)), weights


class HAN(Module):
    """Hierarchical attention: words to sentences, sentences to the comment."""

    def __init__(self, vectors: Tensor, *, tune: bool = True, dropout: float = 0.3) -> None:
        super().__init__()
        self.words = Words(vectors, tune, dropout)
        self.of_words, self.word_attention = Recurrent(vectors.shape[1]), Attention(2 * HIDDEN)
        self.of_sentences, self.sentence_attention = Recurrent(2 * HIDDEN), Attention(2 * HIDDEN)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(2 * HIDDEN, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, 2]."""
        return self.read(ids)[0]

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the weight of each word in the comment, [n, s, w]: its own in its sentence times that one's."""
        n, s, w = ids.shape
        mask = ids != PADDING
        h, _ = self.of_words(self.words(ids).flatten(0, 1), mask.flatten(0, 1))
        sentence, inner = self.word_attention(h, mask.flatten(0, 1))
        told = mask.any(2)
        h, _ = self.of_sentences(sentence.view(n, s, -1), told)
        comment, outer = self.sentence_attention(h, told)
        return self.head(self.dropout(comment)), outer[..., None] * inner.view(n, s, w)


def squashed(s: Tensor) -> Tensor:
    """|s|^2 / (1 + |s|^2) s / |s| along the last dimension; 0 at 0."""
    size = s.square().sum(-1, keepdim=True)
    return size / (1 + size) * s / (size + 1e-9).sqrt()
