"""Kinds of layers by torch's public classes, which is how the rest of the package asks for them."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

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


def require_plain(model: nn.Module) -> None:
    """Refuse a model that holds computed tensors where parameters should be: it can neither be copied nor edited.

    Raises:
        InputError: if a hook computes a weight before each call (weight_norm and spectral_norm of old, the masks of
            torch.nn.utils.prune), or a module keeps a tensor with the graph it came from.
    """
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if not isinstance(value, Tensor):
                continue
            at = f"{prefix}.{name}" if prefix else name
            parts = [
                part for part, _ in module.named_parameters(recurse=False) if part.startswith(f"{name}_")
            ]
            if parts:
                raise InputError(
                    f"{at} of this {type(model).__name__} is no parameter: a hook computes it before each call from "
                    f"{', '.join(parts)}, so it cannot be copied or edited. Take the hook off (remove_weight_norm, "
                    "remove_spectral_norm, prune.remove of torch.nn.utils), or use torch.nn.utils.parametrizations, "
                    "which does the same."
                )
            if value.grad_fn is not None:
                raise InputError(
                    f"{at} of this {type(model).__name__} is a tensor with the graph that it was computed by, so the "
                    "model cannot be copied. Keep it detached, or compute it in forward."
                )


def copied(model: M) -> M:
    """A deep copy of a model.

    Raises:
        InputError: if it cannot be copied, as with hooks that compute a weight before each call.
    """
    require_plain(model)
    try:
        return deepcopy(model)
    except RuntimeError as error:
        raise InputError(
            f"this {type(model).__name__} cannot be copied ({' '.join(str(error).split())[:150]}). Keep no tensors "
            "with their graphs in it, beside its parameters."
        ) from error


def is_weight(module: nn.Module, own: str) -> bool:
    """Whether a module's parameter of this name is the matrix weight of a layer of a known kind."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return own.startswith("weight")
    if isinstance(module, nn.MultiheadAttention):
        return own.endswith("proj_weight")
    if isinstance(module, (nn.Linear, nn.Bilinear, *CONVS)) or is_conv1d(module):
        return own == "weight"
    return own in experts_of(module)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' transposed linear layer."""
    return isinstance(module, conv1d())


def conv1d() -> tuple[type[nn.Module], ...]:
    """Transformers' linear layer with a weight [in, out], which GPT-2 has; () where transformers is not loaded."""
    found = getattr(sys.modules.get("transformers"), "Conv1D", None)
    return (found,) if isinstance(found, type) else ()


def experts_of(module: nn.Module) -> set[str]:
    """Names of fused experts' weights: two or more parameters [experts, ., .] of one module."""
    stacks = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim == 3 and p.shape[0] > 1}
    return set(stacks) if len(stacks) > 1 and len({p.shape[0] for p in stacks.values()}) == 1 else set()


def free(who: str, model: nn.Module) -> list[nn.Parameter]:
    """Those parameters that are not frozen.

    Raises:
        InputError: naming `who`, if all are frozen: training would change nothing.
    """
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise InputError(f"{who} can train nothing: every parameter is frozen.")
    return found
