"""Causal language models of transformers: batches of token ids, the loss of each sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..types import Batch, Data

IGNORED = -100
"""Label of a token that counts nowhere, as in transformers."""


@dataclass(frozen=True)
class CausalLM:
    """Each token is predicted from those before it; an example's loss is the mean over its counted tokens.

    A batch is a tensor of ids [n, t], a tuple that begins with one, or a dictionary with `input_ids` and, if wanted,
    `attention_mask` and `labels` (-100 counts nowhere; padding never counts), as transformers' causal models read
    them. A token right after padding counts nowhere either: there is nothing to predict it from. A model returns
    logits [n, t, vocabulary], or an object with `.logits`.
    """

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of each sequence's counted tokens in nats, float32 or wider, [n].

        Raises:
            InputError: if a sequence has no counted token.
        """
        each, counted = self.token_losses(model, batch)
        tokens = counted.sum(1)
        if not bool((tokens > 0).all()):
            raise InputError(
                "CausalLM: a sequence has no token to predict: all its labels are -100, or it has one token."
            )
        return (each * counted).sum(1) / tokens

    def token_losses(self, model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of every token after the first, [n, t - 1], and which of them count (bool)."""
        logits, labels = self.outputs(model, batch)[:, :-1], self.labels(batch)[:, 1:]
        labels = labels.to(logits.device)
        each = F.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
        return each, self.counted(batch).to(logits.device)

    @property
    def ability(self) -> tuple[str, str]:
        """Perplexity is how well a model continues texts; lower is better."""
        return "perplexity", ""

    def measure(self, model: Module, data: Data[CausalLM]) -> float:
        """Perplexity: exp of the mean cross-entropy over every counted token of the data, each weighing the same."""
        from . import evaluating

        total, tokens = 0.0, 0
        with evaluating(model):
            for batch in data.batches():
                each, counted = self.token_losses(model, batch)
                total += float((each.double() * counted).sum())
                tokens += int(counted.sum())
        if not tokens:
            raise InputError("perplexity needs a token to predict; the data have none.")
        return math.exp(min(total / tokens, 700.0))

    def counted(self, batch: Batch) -> Tensor:
        """Which tokens after the first count, bool [n, t - 1]."""
        counted = self.labels(batch)[:, 1:] != IGNORED
        if isinstance(batch, Mapping) and "attention_mask" in batch:
            counted &= batch["attention_mask"][:, :-1].to(counted.device) != 0
        return counted

    def present(self, batch: Batch) -> Tensor:
        """Which positions hold a token of the text and not padding, bool [n, t]."""
        if isinstance(batch, Mapping) and "attention_mask" in batch:
            return torch.as_tensor(batch["attention_mask"] != 0)
        return torch.ones_like(self.ids(batch), dtype=torch.bool)

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """Logits, float32 or wider, [n, t, vocabulary]."""
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        inputs = {"input_ids": self.ids(batch).to(device)}
        if isinstance(batch, Mapping) and "attention_mask" in batch:
            inputs["attention_mask"] = batch["attention_mask"].to(device)
        out = model(**inputs)
        logits: Tensor = out.logits if hasattr(out, "logits") else out
        if logits.ndim != 3:
            raise InputError(
                f"the model's output has shape {tuple(logits.shape)}; a causal language model must return "
                "[n, t, vocabulary]."
            )
        return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()

    def ids(self, batch: Batch) -> Tensor:
        """Token ids, int64 [n, t]."""
        ids: Tensor = (
            batch["input_ids"]
            if isinstance(batch, Mapping)
            else batch
            if isinstance(batch, Tensor)
            else batch[0]
        )
        if ids.ndim != 2:
            raise InputError(f"CausalLM reads token ids [n, t]; got shape {tuple(ids.shape)}.")
        return ids.long()

    def labels(self, batch: Batch) -> Tensor:
        """What is to be predicted at each position, int64 [n, t]; -100 where nothing is."""
        labels = batch["labels"] if isinstance(batch, Mapping) and "labels" in batch else self.ids(batch)
        if isinstance(batch, Mapping) and "attention_mask" in batch:
            labels = labels.masked_fill(batch["attention_mask"] == 0, IGNORED)
        return labels.long()


def windows(ids: Tensor, length: int, *, batch_size: int = 32) -> Data[CausalLM]:
    """A long text's ids [n], cut into windows of `length` tokens; what is left over at the end is dropped.

    Raises:
        InputError: if `length` is below 2 or there is not one window.

    Example:
        >>> data = windows(torch.arange(10), 4)
        >>> len(data), next(data.batches())[0].tolist()
        (2, [[0, 1, 2, 3], [4, 5, 6, 7]])
    """
    if length < 2 or len(ids) < length:
        raise InputError(f"windows needs 2 <= length <= {len(ids)}, the number of tokens; got {length}.")
    count = len(ids) // length
    return Data(TensorDataset(ids[: count * length].view(count, length)), CausalLM(), batch_size)
