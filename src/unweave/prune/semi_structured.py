"""2:4 weights for a GPU's sparse tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from ..errors import InputError
from ..masks.layers import copied


def to_semi_structured(model: Module) -> Module:
    """A copy of a 2:4-pruned model whose linear layers run on sparse tensor cores.

    Linear layers of which at most two of every four neighbouring inputs live get torch's semi-structured weights;
    others stay as they are. Their shapes must suit the kernels (multiples of 32 rows and 64 columns in 16 bits).

    Args:
        model: on a CUDA device of compute capability 8.0 or more, in float16 or bfloat16.

    Raises:
        InputError: if the device, dtype or build of torch has no such kernels, or no layer is 2:4; names what was
            found.

    Example:
        >>> to_semi_structured(torch.nn.Linear(64, 64))
        Traceback (most recent call last):
        unweave.errors.InputError: 2:4 kernels need a CUDA GPU of compute capability 8.0 or more; the model is on cpu...
    """
    first = next(model.parameters(), None)
    if first is None:
        raise InputError("to_semi_structured: the model has no parameter. Give the pruned model.")
    if first.device.type != "cuda":
        raise InputError(
            f"2:4 kernels need a CUDA GPU of compute capability 8.0 or more; the model is on {first.device}. On other "
            "machines prune whole channels and shrink them: the model is then faster anywhere."
        )
    capability = torch.cuda.get_device_capability(first.device)
    if capability < (8, 0) or first.dtype not in (torch.float16, torch.bfloat16):
        raise InputError(
            "2:4 kernels need compute capability 8.0 or more and float16 or bfloat16 weights; found "
            f"{capability[0]}.{capability[1]} and {first.dtype}."
        )
    copy = copied(model)
    changed = 0
    for module in copy.modules():
        if isinstance(module, Linear) and is_two_of_four(module) and _fits(module):
            module.weight = Parameter(_compressed(module.weight.detach()), requires_grad=False)
            changed += 1
    if not changed:
        raise InputError(
            "no Linear layer is 2:4 sparse with a suitable shape (rows a multiple of 32, columns of 64). Prune with "
            "the pattern NM(2, 4) first."
        )
    return copy


def is_two_of_four(layer: Linear) -> bool:
    """Whether at most two of every four neighbouring inputs live in every row."""
    weight = layer.weight.detach()
    return weight.shape[1] % 4 == 0 and bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())


def _compressed(weight: Tensor) -> Tensor:
    from torch.sparse import to_sparse_semi_structured

    try:
        return to_sparse_semi_structured(weight)
    except (
        RuntimeError,
        NotImplementedError,
    ) as error:  # a build without the kernels, or a GPU they do not know
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"torch {torch.__version__} has no 2:4 kernels for a {weight.dtype} weight {tuple(weight.shape)} on "
            f"{weight.device}: {reason}. Install a build with cuSPARSELt, or prune whole channels and shrink them."
        ) from error


def _fits(layer: Linear) -> bool:
    return layer.out_features % 32 == 0 and layer.in_features % 64 == 0
