"""Kinds of layers, asked for by torch's public types."""

from __future__ import annotations

from torch.nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    Module,
    RMSNorm,
    SyncBatchNorm,
)

BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)
RUNNING_NORMS = (*BATCH_NORMS, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)
"""Layers that may keep running statistics."""
NORMS = (*RUNNING_NORMS, GroupNorm, LayerNorm, RMSNorm)


def running_norms(model: Module) -> list[Module]:
    """The layers of `model` that normalise by statistics which they may keep."""
    return [module for module in model.modules() if isinstance(module, RUNNING_NORMS)]
