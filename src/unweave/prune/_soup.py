"""Averaging equally sparse networks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..masks.mask import Mask
from ..tasks import evaluating
from ..types import Data


def average(models: Sequence[Module], weights: Sequence[float]) -> Module:
    """The weighted mean of equally sparse networks: sum_i a_i theta_i, in a copy of the first.

    Args:
        models: of one architecture and with the same zeros.
        weights: a_i, as many, with sum 1; a model of weight 0 plays no part.

    Raises:
        InputError: if numbers, names, shapes or zeros do not agree: the average would be denser than its parts.
    """
    if len(models) != len(weights) or not models or abs(sum(weights) - 1) > 1e-6:
        raise InputError(
            f"average needs one weight a model with sum 1; got {len(models)} and {list(weights)}."
        )
    states, masks = [m.state_dict() for m in models], [Mask.of(m) for m in models]
    for state, mask in zip(states[1:], masks[1:], strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[0].items()}:
            raise InputError("average: the models differ in their tensors' names or shapes.")
        if mask.iou(masks[0]) < 0.99:  # a living weight may be zero by chance in a short floating type
            raise InputError(
                "average: the models were pruned differently, so their average would be denser than each. "
                "Retrain copies of one pruned model."
            )
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            total = sum(a * s[name].double() for a, s in zip(weights, states, strict=True) if a)
            mean[name] = torch.as_tensor(total).to(first.dtype)
        else:
            mean[name] = first
    soup = deepcopy(models[0])
    soup.load_state_dict(mean)
    return soup


def recalibrate_(model: Module, data: Data[Any], *, share: float = 1.0) -> Module:
    """Estimate the running statistics of batch normalisation anew, in place, as plain means over batches.

    Args:
        model: its other layers run in eval mode.
        data: read in order.
        share: of its batches to read, in (0, 1].
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
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
