"""Pictures of the shared folder as tensors, crops of them, and the figures that several claims read."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from claims.data import shared
from unweave import Data, seeded
from unweave.tasks import Restore

TRAIN, TEST = ("bsd100", "kodak"), ("set5", "set14")
DATA = (
    "BSD100 (20) and Kodak (8 pictures) to train on, Set5 and Set14 (16 pictures) to test on, crops, bicubic"
)


@cache
def pictures(*folders: str) -> tuple[Tensor, ...]:
    """Every picture of these folders, RGB [3, h, w] in [0, 1]."""
    from PIL import Image

    files = [p for folder in folders for p in sorted(shared(f"sr_images/{folder}").glob("*.png"))]
    return tuple(
        torch.from_numpy(np.asarray(Image.open(p).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
        for p in files
    )


def crops(folders: tuple[str, ...], side: int, n: int, seed: int) -> Tensor:
    """n random crops [n, 3, side, side], flipped and turned at random."""
    rng, all_ = seeded(seed), pictures(*folders)
    found = []
    for i in torch.randint(len(all_), (n,), generator=rng).tolist():
        picture = all_[i]
        top = int(torch.randint(picture.shape[1] - side + 1, (), generator=rng))
        left = int(torch.randint(picture.shape[2] - side + 1, (), generator=rng))
        cut = picture[:, top : top + side, left : left + side]
        cut = cut.flip(2) if torch.rand((), generator=rng) < 0.5 else cut
        found.append(cut.rot90(int(torch.randint(4, (), generator=rng)), (1, 2)))
    return torch.stack(found)


def luma(x: Tensor) -> Tensor:
    """BT.601 luma of RGB [n, 3, h, w], full range."""
    return (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def small(x: Tensor, scale: int) -> Tensor:
    """Bicubic, with antialiasing."""
    return F.interpolate(
        x, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def large(x: Tensor, scale: int) -> Tensor:
    """Bicubic."""
    return F.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)


def pairs(degraded: Tensor, clean: Tensor, batch_size: int = 16, loss: str = "l1") -> Data[Restore]:
    """Data of pairs."""
    return Data(TensorDataset(degraded, clean), Restore(loss=loss), batch_size)  # type: ignore[arg-type]


def psnr(made: Tensor, clean: Tensor) -> float:
    """Mean over pictures, dB."""
    return float((-10 * (made - clean).double().square().flatten(1).mean(1).clamp_min(1e-10).log10()).mean())
