"""What every restorer asks of its input, said in one voice."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..random import require_generator
from ..tasks import Restoring
from ..types import Batch, Data


def require_pairs(data: Data[Restoring], who: str, rng: Generator) -> Batch:
    """The first batch of pairs; refuses data that are none.

    Raises:
        InputError: if there are no examples, or a value is not finite.
    """
    require_generator(rng)
    data.require_examples(who)
    batch = next(data.batches())
    for part, told in ((data.task.degraded(batch), "degraded"), (data.task.clean(batch), "clean")):
        if not torch.isfinite(part).all():
            raise InputError(
                f"{who}: the {told} examples hold NaN or infinity. Mask or fill such values first."
            )
    return batch


def require_scale(degraded: Tensor, clean: Tensor, scale: int, who: str) -> None:
    """Refuse pairs whose sides are not in the ratio of the scale."""
    wanted = tuple(side * scale for side in degraded.shape[-2:])
    if tuple(clean.shape[-2:]) != wanted:
        raise InputError(
            f"{who} has scale {scale}, so {tuple(degraded.shape[-2:])} must become {wanted}; the clean pictures are "
            f"{tuple(clean.shape[-2:])}. Are the two swapped, or is the scale another?"
        )


def require_pictures(
    x: Tensor, who: str, *, channels: int | None = None, least: int = 1, finite: bool = True
) -> None:
    """Refuse what is no finite batch of pictures [n, channels, h, w] with sides of at least `least`.

    Raises:
        InputError: naming `who`, what was given and what is expected.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        shape = (
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
        )
        raise InputError(f"{who} reads floating-point pictures [n, channels, height, width]; got {shape}.")
    if channels is not None and x.shape[1] != channels:
        hint = " Give its luma (Y) alone, or a model for RGB." if (channels, x.shape[1]) == (1, 3) else ""
        raise InputError(f"{who} reads {channels} channel{'s' * (channels != 1)}; got {x.shape[1]}.{hint}")
    if min(x.shape[2:]) < least:
        raise InputError(f"{who} needs sides of at least {least} pixels; got {tuple(x.shape[2:])}.")
    if finite and not torch.isfinite(x).all():
        raise InputError(f"{who}: the input holds NaN or infinity. Mask or fill such values first.")


def require_unit(x: Tensor, who: str, slack: float = 1e-3) -> None:
    """Refuse values outside [0, 1].

    Raises:
        InputError: with the range that was given.
    """
    low, high = float(x.min()), float(x.max())
    if low < -slack or high > 1 + slack:
        raise InputError(
            f"{who} reads values in [0, 1]; got {low:.4g} to {high:.4g}. Divide by the largest possible value (255)."
        )


def weights_of(net: Module) -> int:
    """Parameters of a network."""
    return sum(p.numel() for p in net.parameters())
