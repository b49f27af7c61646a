"""Batch normalisation measured again: pruning changes what a layer reads, so its running statistics no longer fit."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import BATCH_NORMS
from ..settings import SomeShare, checked
from ..tasks import evaluating
from ..types import Data


@checked
def recalibrate_(model: Module, data: Data[Any], *, share: SomeShare = 1.0) -> Module:
    """Estimate the running statistics of batch normalisation anew, in place, as plain means over batches.

    No weight moves, and no label is read. It takes one pass of inference, and repairs most of what one-shot pruning
    costs a network with batch normalisation; where little was lost it can cost a little.

    Args:
        model: its other layers run in eval mode; without batch normalisation it stays as it is.
        data: read in order.
        share: of its batches to read, in (0, 1].
    """
    norms = _norms(model)
    if not norms:
        return model
    momenta = [m.momentum for m in norms]
    with evaluating(model), torch.no_grad():
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
            m.train()
        for _, batch in zip(range(ceil(share * data.steps)), data.batches(), strict=False):
            data.task.outputs(model, batch)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return model


def require_statistics(model: Module) -> None:
    """Refuse a model without running statistics of batch normalisation.

    Raises:
        InputError: if it has none.
    """
    if not _norms(model):
        raise InputError(
            f"{type(model).__name__} has no batch normalisation with running statistics, so there is nothing to "
            "measure again. Leave recalibrate out."
        )


def has_statistics(model: Module) -> bool:
    """Whether a model has running statistics of batch normalisation."""
    return bool(_norms(model))


def _norms(model: Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
