"""Token ids of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..tasks.batches import TEXT
from ..tasks.language import IGNORED

_FILLERS = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORED}


@dataclass(frozen=True)
class Padded:
    """Makes a batch of dictionaries with `input_ids`: every sequence is filled up to the longest, and masked there.

    Attributes:
        filler: token id of the padding.
    """

    filler: int = 0

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        """One dictionary of tensors [n, t], and [n] for what is one number an example; of dictionaries inside, too."""
        batch: dict[str, Any] = {}
        for name, given in items[0].items():
            if isinstance(given, Mapping):
                batch[name] = self([item[name] for item in items])
                continue
            value, column = torch.as_tensor(given), [torch.as_tensor(item[name]) for item in items]
            fill = self.filler if name == TEXT else _FILLERS.get(name)
            of_tokens = value.ndim == 1 and fill is not None
            batch[name] = _filled(column, fill or 0) if of_tokens else torch.stack(column)
        if "attention_mask" not in batch:
            lengths = torch.tensor([len(item[TEXT]) for item in items])
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return batch


def _filled(column: Sequence[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=fill)
