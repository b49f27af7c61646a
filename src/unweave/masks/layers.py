"""Kinds of layers by torch's public classes, which is how the rest of the package asks for them."""

from __future__ import annotations

from torch import nn

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
