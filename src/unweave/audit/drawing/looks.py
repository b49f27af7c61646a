"""How pictures look, without Inception's weights: saturation, contrast, brightness, and distances between sets.

Distances between sets are taken in the features of a named judge; a figure of one judge says nothing beside a figure of
another. Where the user has Inception's features, the same functions give FID and its precision and recall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .figures import frechet

Figures = dict[str, float]
"""Name of a figure -> its value."""


def saturation(images: Tensor) -> Tensor:
    """How strong the colours are, in 0 to 1, one an image: the mean S of HSV; for one channel, see `clipped`.

    Args:
        images: [n, 3, h, w] between -1 and 1; what lies outside is cut off, as a screen does.

    Raises:
        InputError: if they are not of three channels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"saturation is of pictures in colour, [n, 3, height, width]; got {tuple(images.shape)}. Use clipped for "
            "pictures of one channel."
        )
    shown = (images.double().clamp(-1, 1) + 1) / 2
    most, least = shown.amax(1), shown.amin(1)
    s = torch.where(most > 0, (most - least) / torch.where(most > 0, most, 1.0), 0.0)
    return s.mean((1, 2))


def clipped(images: Tensor, beyond: float = 1.05) -> Tensor:
    """Share of an image's values that lie past the range a screen shows, one an image: |x| > `beyond`."""
    return (images.abs() > beyond).double().flatten(1).mean(1)


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of an image's values, one an image."""
    return images.double().flatten(1).std(1, correction=0)


def brightness(images: Tensor) -> Tensor:
    """Mean of an image's values, -1 black to 1 white, one an image."""
    return images.double().flatten(1).mean(1)


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Distance W1 between two samples of one number, of any sizes: how far brightnesses must be moved.

    Raises:
        InputError: if one is empty.
    """
    if not len(a) or not len(b):
        raise InputError("wasserstein needs at least one number on each side.")
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a.double().cpu().numpy(), b.double().cpu().numpy()))


def recall(made: Tensor, real: Tensor, k: int = 3) -> float:
    """Share of real features that lie within reach of a made one: how much of the variety is covered.

    Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019: a made
    image reaches as far as its k-th nearest made neighbour. `recall(real, made)` is the precision.

    Args:
        made: features [n, width].
        real: features [m, width].
        k: neighbour that sets the reach; itself does not count.

    Raises:
        InputError: if there are not more than k made ones, no real one, or widths differ.
    """
    if len(made) <= k or not len(real) or made.shape[1:] != real.shape[1:]:
        raise InputError(
            f"recall with k={k} needs more than {k} made and at least one real image in the same features; got "
            f"{tuple(made.shape)} and {tuple(real.shape)}."
        )
    made, real = made.double(), real.double()
    reach = torch.cdist(made, made).kthvalue(k + 1, dim=1).values
    return float((torch.cdist(real, made) <= reach).any(1).double().mean())


def looks(images: Tensor) -> Figures:
    """Figures of pictures alone, means over them; saturation of those in colour."""
    found = {
        "brightness": float(brightness(images).mean()),
        "contrast": float(contrast(images).mean()),
        "values past the range": 100 * float(clipped(images).mean()),
    }
    if images.ndim == 4 and images.shape[1] == 3:
        found["saturation"] = float(saturation(images).mean())
    return found


def beside_real(
    images: Tensor,
    real: Tensor,
    features: Callable[[Tensor], Tensor] | None = None,
    named: str = "",
    k: int = 3,
) -> Figures:
    """Figures of pictures beside real ones: brightness, and, in a judge's features, distance, precision, recall.

    Args:
        images: [n, c, h, w].
        real: [m, c, h, w].
        features: [n, ...] -> [n, width], of a judge; None leaves its figures out.
        named: the judge's name, which the figures bear.
        k: see `recall`.
    """
    found = {"distance of brightness (W1)": wasserstein(brightness(images), brightness(real))}
    if features is None:
        return found
    made, true = features(images), features(real)
    by: Any = f" ({named or 'judge'} features)"
    return found | {
        f"Fréchet distance{by}": frechet(made, true),
        f"recall{by}": recall(made, true, k),
        f"precision{by}": recall(true, made, k),
    }
