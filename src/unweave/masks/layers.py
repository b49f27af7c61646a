"""Kinds of layers by torch's public classes, which is how the rest of the package asks for them."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

from ..errors import InputError

M = TypeVar("M", bound=nn.Module)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Normalisation over the examples of a batch."""

RUNNING_NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Layers that may keep running statistics."""

NORMS = (*RUNNING_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers that normalise."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose weight is [in, out, ...]."""

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
"""Convolutions of both kinds."""


def running_norms(model: nn.Module) -> list[nn.Module]:
    """The layers of `model` that normalise by statistics which they may keep."""
    return [module for module in model.modules() if isinstance(module, RUNNING_NORMS)]


def copied(model: M) -> M:
    """A deep copy of a model.

    Raises:
        InputError: if it cannot be copied, as with hooks that compute a weight before each call.
    """
    try:
        return deepcopy(model)
    except RuntimeError as error:
        raise InputError(
            f"this {type(model).__name__} cannot be copied ({' '.join(str(error).split())[:150]}). If a weight is "
            "computed before each call, as by torch.nn.utils.weight_norm, remove that (remove_weight_norm) or use "
            "torch.nn.utils.parametrizations instead."
        ) from error
