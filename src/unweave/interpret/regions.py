"""An image cut into regions: a grid, superpixels, patches grouped by a saliency map, or masks of one's own.

Superpixels are SLIC (Achanta et al., TPAMI 2012), written here in a few lines: scikit-image is no dependency, and what
is asked of them is only that they are connected, cover the image and follow edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from ..io.told import tell

MANY = 200
"""Regions past which a greedy search is told to be slow: its cost grows with their square."""


def grid(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Rectangles of near-equal size, numbered row by row, int64 [height, width].

    Raises:
        InputError: if there are more rows or columns than pixels.
    """
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise InputError(
            f"a grid of {rows} x {columns} regions does not fit an image of {height} x {width} pixels. Ask for fewer."
        )
    down, across = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return down[:, None] * columns + across[None]


def squares(height: int, width: int, pieces: int) -> Tensor:
    """The grid of about `pieces` regions whose cells are nearest to squares, int64 [height, width].

    Raises:
        InputError: if there are more pieces than pixels.
    """
    if pieces > height * width:
        raise InputError(
            f"{pieces} regions were asked of an image of {height} x {width} pixels. Ask for at most {height * width}."
        )
    rows = min(height, max(1, round((pieces * height / width) ** 0.5)))
    return grid(height, width, rows, min(width, max(1, round(pieces / rows))))


def superpixels(image: Tensor, pieces: int, *, compactness: float = 0.3, rounds: int = 10) -> Tensor:
    """About `pieces` connected regions that follow edges, int64 [height, width], numbered from 0.

    k-means over colour and place, each centre within its neighbourhood, then what is not connected joins the
    neighbour that it touches most.

    Args:
        image: [c, height, width], any range; colours are scaled by their own spread.
        pieces: centres to begin with.
        compactness: weight of place against colour.
        rounds: of k-means.

    Raises:
        InputError: if there are more pieces than pixels.
    """
    height, width = image.shape[1:]
    begin = squares(height, width, pieces).numpy()
    colour = image.double().cpu().numpy().reshape(len(image), -1).T
    colour = (colour - colour.mean(0)) / max(colour.std(), 1e-12)
    down, across = (a.ravel() for a in np.mgrid[:height, :width])
    step = (height * width / (begin.max() + 1)) ** 0.5
    points = np.concatenate([colour, compactness * 4 / step * np.stack([down, across], 1)], 1)
    labels = begin.ravel().copy()
    place = np.stack([down, across], 1).astype(float)
    for _ in range(rounds):
        found = np.unique(labels)
        centres = np.stack([points[labels == j].mean(0) for j in found])
        middles = np.stack([place[labels == j].mean(0) for j in found])
        best, labels = np.full(len(points), np.inf), np.zeros(len(points), int)
        for j, (centre, middle) in enumerate(zip(centres, middles, strict=True)):
            near = (np.abs(place - middle) <= 2 * step).all(1)
            far = ((points[near] - centre) ** 2).sum(1)
            closer = far < best[near]
            at = near.nonzero()[0][closer]
            best[at], labels[at] = far[closer], j
    return torch.from_numpy(_connected(labels.reshape(height, width), int(step * step / 4)))


def _connected(labels: np.ndarray, least: int) -> np.ndarray:
    """Every connected part of a region its own, parts below `least` pixels joined to their largest neighbour."""
    parts = np.zeros_like(labels)
    count = 0
    for j in np.unique(labels):
        found, n = ndimage.label(labels == j)
        parts[found > 0] = found[found > 0] + count
        count += n
    sizes = np.bincount(parts.ravel())
    for j in np.argsort(sizes, kind="stable"):
        here = parts == j
        if 0 < here.sum() < least:
            touching = parts[ndimage.binary_dilation(here) & ~here]
            if len(touching):
                parts[here] = np.bincount(touching).argmax()
    return np.unique(parts, return_inverse=True)[1].reshape(labels.shape).astype(np.int64)


def by_prior(saliency: Tensor, *, side: int = 10, together: int = 4) -> Tensor:
    """Patches of a grid, sorted by a saliency map and taken together in that order, int64 [height, width].

    The paper's main division: 10 x 10 patches, four of them a region. The last region may hold fewer.

    Args:
        saliency: [height, width].
        side: patches along each side.
        together: patches a region.

    Raises:
        InputError: if the grid has more patches along a side than there are pixels, or `together` is below 1.
    """
    if together < 1:
        raise InputError(f"by_prior: together must be at least 1; got {together}.")
    patches = grid(saliency.shape[0], saliency.shape[1], side, side)
    sums = torch.zeros(side * side, dtype=torch.float64).index_add_(
        0, patches.flatten(), saliency.double().flatten().cpu()
    )
    means = sums / patches.flatten().bincount(minlength=side * side)
    rank = torch.empty(side * side, dtype=torch.long)
    rank[means.argsort(descending=True, stable=True)] = torch.arange(side * side)
    return rank[patches] // together


def of_masks(masks: Sequence[Tensor] | Tensor, height: int, width: int) -> Tensor:
    """Masks of one's own, bool [m, height, width], as regions; pixels that none covers are one region more.

    Raises:
        InputError: if a mask has another size or no pixel, or two overlap.
    """
    if len(masks) == 0:
        raise InputError("regions: no mask was given. Give at least one, bool [height, width].")
    labels = torch.full((height, width), -1)
    for i, mask in enumerate(masks):
        if tuple(mask.shape) != (height, width):
            raise InputError(
                f"mask {i} has shape {tuple(mask.shape)}; the image has {height} x {width} pixels. Give bool masks of "
                "its size."
            )
        chosen = mask.bool()
        if not bool(chosen.any()):
            raise InputError(f"mask {i} covers no pixel. Leave it out.")
        if bool((labels[chosen] >= 0).any()):
            other = int(labels[chosen].max())
            raise InputError(f"masks {other} and {i} overlap. Each pixel belongs to one region.")
        labels[chosen] = i
    labels[labels < 0] = len(masks)
    return labels


def checked(labels: Tensor, height: int, width: int) -> int:
    """Number of regions of a map of labels, which must be 0 to m - 1, each with a pixel.

    Raises:
        InputError: if the map has another size or other labels.
    """
    if tuple(labels.shape) != (height, width) or labels.is_floating_point():
        raise InputError(
            f"regions are whole numbers [{height}, {width}], the image's size; got "
            f"{labels.dtype} {tuple(labels.shape)}."
        )
    m = int(labels.max()) + 1
    if int(labels.min()) < 0 or int((labels.flatten().bincount(minlength=m) > 0).sum()) < m:
        raise InputError(
            f"regions must be numbered 0 to {m - 1} without a gap; got {torch.unique(labels).tolist()[:8]}."
        )
    if m > MANY:
        tell(f"{m} regions take {m * (m + 1)} forward passes; below {MANY} a search is a matter of minutes.")
    return m


def filled(image: Tensor, fill: str) -> Tensor:
    """What stands where an image is hidden, [c, h, w]: "black" (0), its "mean" colour, or itself in a "blur"."""
    if fill == "black":
        return torch.zeros_like(image)
    if fill == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    sigma = max(image.shape[1:]) / 10
    reach = max(1, round(2 * sigma))
    bell = torch.exp(-(torch.arange(-reach, reach + 1).to(image) ** 2) / (2 * sigma**2))
    bell = bell / bell.sum()
    pad = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(pad, bell[None, None, None]), bell[None, None, :, None])[:, 0]
