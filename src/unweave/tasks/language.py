"""Causal language models of transformers: batches of token ids, the loss of each sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence
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

    def log_probabilities(self, model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed log-probability of each sequence's counted tokens in nats, [n], and how many they are, [n]."""
        each, counted = self.token_losses(model, batch)
        return -(each * counted).sum(1), counted.sum(1)

    def alternative(self, batch: Batch) -> Batch:
        """The same prompts with another answer each: what a dictionary holds as `alternative`, a batch itself.

        Raises:
            InputError: if the batch has none.
        """
        if isinstance(batch, Mapping) and "alternative" in batch:
            return batch["alternative"]
        raise InputError(
            "CausalLM: a text has no `alternative`, another answer to its prompt that is to take the first one's place "
            "(a refusal, say). Give one with each text to forget: texts(..., alternatives=...)."
        )

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


@dataclass(frozen=True)
class Text:
    """A text as token ids, and where what is to be predicted begins.

    Attributes:
        ids: prompt and answer, with all special tokens.
        prompt: tokens at the beginning that count nowhere; 0 for a plain text.
    """

    ids: Sequence[int]
    prompt: int = 0

    def __post_init__(self) -> None:
        if not max(1, self.prompt) < len(self.ids):
            raise InputError(
                f"a text of {len(self.ids)} tokens, {self.prompt} of them its prompt, has nothing to predict: its "
                "answer must have one token, and stand after another."
            )

    @property
    def example(self) -> dict[str, Any]:
        """As `CausalLM` reads it."""
        ids = torch.as_tensor(self.ids)
        return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(len(ids)) < self.prompt, IGNORED)}


def texts(
    given: Sequence[Text], *, alternatives: Sequence[Text] | None = None, batch_size: int = 8
) -> Data[CausalLM]:
    """Texts of different lengths, filled up at the end in each batch.

    Args:
        given: n texts.
        alternatives: another answer to each one's prompt, in the same order.
        batch_size: texts a batch.

    Raises:
        InputError: if there are not as many alternatives as texts.

    Example:
        >>> data = texts([Text([5, 6, 7], prompt=2), Text([5, 8], prompt=1)])
        >>> next(data.batches())["labels"].tolist()
        [[-100, -100, 7], [-100, 8, -100]]
    """
    examples = [one.example for one in given]
    if alternatives is not None:
        if len(alternatives) != len(given):
            raise InputError(
                f"texts got {len(given)} texts and {len(alternatives)} alternatives; give one each."
            )
        examples = [
            {**e, "alternative": other.example} for e, other in zip(examples, alternatives, strict=True)
        ]
    return Data(examples, CausalLM(), batch_size, collate=filled)  # type: ignore[arg-type]


_FILLERS = {"input_ids": 0, "labels": IGNORED}


def filled(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One batch of examples with `input_ids` and `labels` [t], and perhaps an `alternative` of the same kind."""
    batch: dict[str, Any] = {
        name: pad_sequence([e[name] for e in examples], batch_first=True, padding_value=fill)
        for name, fill in _FILLERS.items()
    }
    lengths = torch.tensor([len(e["input_ids"]) for e in examples])
    batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "alternative" in examples[0]:
        batch["alternative"] = filled([e["alternative"] for e in examples])
    return batch


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
