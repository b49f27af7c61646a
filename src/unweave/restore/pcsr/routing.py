"""Which pixels get the dear network: one knob, two clusters, or a share that is asked for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError


def by_knob(chance: Tensor, knob: float, costs: tuple[float, float]) -> Tensor:
    """Pixels for the heavy network: p_H / c_H^k > p_L / c_L^k, bool of the same shape.

    Args:
        chance: p_H of each pixel, in [0, 1].
        knob: k; 0 takes the likelier, below 0 more heavy ones, above 0 fewer.
        costs: of a pixel by the light and by the heavy network, in any unit.
    """
    return _odds(chance) > knob * _span(costs)


def knob_for(chance: Tensor, share: float, costs: tuple[float, float]) -> float:
    """The knob at which this share of the pixels is heavy, from calibration pictures; no search is needed.

    Raises:
        InputError: if the share is not in [0, 1], or both networks cost the same.
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of heavy pixels must lie in [0, 1]; got {share}.")
    span = _span(costs)
    if span <= 0:
        raise InputError(
            f"the heavy network must cost more than the light one; got {costs[1]} and {costs[0]}."
        )
    odds = _odds(chance).flatten().sort().values
    at = round((1 - share) * len(odds))
    if at == 0:
        return float(odds[0]) / span - 1
    return float(odds[at - 1]) / span


def by_clusters(chance: Tensor, rounds: int = 20) -> Tensor:
    """Two means over each picture's own p_H [n, h, w]: its upper cluster is heavy.

    The centres begin at a quarter and three quarters of the picture's range. Where a picture's p_H is one number there
    are no two clusters, and all of it is light.
    """
    low, high = chance.amin((1, 2), keepdim=True), chance.amax((1, 2), keepdim=True)
    x = (chance - low) / (high - low).clamp_min(1e-12)
    below, above = torch.full_like(low, 0.25), torch.full_like(low, 0.75)
    for _ in range(rounds):
        heavy = (x - above).abs() < (x - below).abs()
        up, down = heavy.sum((1, 2), keepdim=True), (~heavy).sum((1, 2), keepdim=True)
        above = torch.where(up > 0, (x * heavy).sum((1, 2), keepdim=True) / up.clamp_min(1), above)
        below = torch.where(down > 0, (x * ~heavy).sum((1, 2), keepdim=True) / down.clamp_min(1), below)
    heavy = (x - above).abs() < (x - below).abs()
    return heavy & (high > low)


def refined(made: Tensor, heavy: Tensor) -> Tensor:
    """Light pixels beside a heavy one become the mean of their 3x3 window, read from what was predicted.

    Args:
        made: pictures [n, c, h, w].
        heavy: bool [n, h, w].

    Returns:
        Pictures; the outermost pixels stay as they are.
    """
    near = F.max_pool2d(heavy[:, None].to(made.dtype), 3, 1, 1)[:, 0] > 0
    change = near & ~heavy
    inside = torch.zeros_like(change)
    inside[:, 1:-1, 1:-1] = True
    return torch.where((change & inside)[:, None], F.avg_pool2d(made, 3, 1, 1), made)


def _odds(chance: Tensor) -> Tensor:
    tiny = torch.finfo(chance.dtype).tiny
    return chance.clamp_min(tiny).log() - (1 - chance).clamp_min(tiny).log()


def _span(costs: tuple[float, float]) -> float:
    return math.log(costs[1]) - math.log(costs[0])
