"""Train a restorer on a folder of pictures: crops, degraded as its method wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..io.signals import PICTURES, read_signal
from ..random import child, seeded
from ..restore import CUE, MLSIM, PCSR, SESR, EDiffSR, Simulator, SuperInpaint, holes, psnr, save_restorer
from ..restore._checks import weights_of
from ..settings import Count, settings
from ..tasks import Restore
from ..types import Data
from .restore import Restored

Degrade = Callable[[Any, Tensor, Generator], tuple[Tensor, Tensor]]


@settings
class RestorerTraining:
    """Train on random crops of the pictures of a folder, a tenth of which are held out.

    Attributes:
        folder: pictures, also in folders below it.
        method: a method that reads pictures; sounds and cubes are trained from Python.
        crops: how many to train on.
        side: of a large crop, in pixels.
        batch_size: crops a step.
        seed: governs the whole run.
    """

    folder: Path
    method: Any
    crops: Count = 2000
    side: Count = 96
    batch_size: Count = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.method) not in DEGRADED:
            known = ", ".join(cls.__name__ for cls in DEGRADED)
            raise InputError(
                f"a folder of pictures trains {known}; {type(self.method).__name__} is trained from Python: "
                f"{type(self.method).__name__}(...).build(data, rng=...)."
            )

    def run(self, out: Path) -> Restored:
        """Train, write the weights, and measure on the held-out pictures.

        Raises:
            InputError: if the folder has fewer than two pictures of the crop's size.
            NonFiniteError: if training diverges.
            StorageError: if the weights cannot be written.
        """
        if Path(out).suffix != ".safetensors":
            raise InputError(f"weights are written to a .safetensors file; got {Path(out).name!r}.")
        rng, began = seeded(self.seed), perf_counter()
        pictures, passed = self._pictures()
        kept = max(1, len(pictures) // 10)
        degrade = DEGRADED[type(self.method)]
        crops = _crops(pictures[kept:], self.side, self.crops, child(rng))
        small, large = degrade(self.method, crops, child(rng))
        task = Restore()
        net = self.method.build(Data(TensorDataset(small, large), task, self.batch_size), rng=child(rng))
        save_restorer(net, out)
        test_small, test_large = degrade(
            self.method, _crops(pictures[:kept], self.side, 32, seeded(0)), seeded(0)
        )
        with torch.no_grad():
            score = float(psnr(_made(net, test_small), test_large).mean())
        notes = [f"Held-out pictures: {kept}; crops of them: {score:.2f} dB."]
        notes += [f"Passed over: {passed}."] if passed else []
        weights, used = weights_of(net), len(pictures) - kept
        record = {
            "lead": f"{net.method}, {weights:,} weights, trained on {self.crops:,} crops of {used} pictures",
            "input": str(self.folder), "output": str(out), "method": net.method, "read": f"{len(pictures)} pictures",
            "made": f"{weights} weights", "seconds": round(perf_counter() - began, 3), "notes": notes,
            "psnr": score,
        }  # fmt: skip
        return Restored(Path(out).parent, record)

    def _pictures(self) -> tuple[list[Tensor], str]:
        root = Path(self.folder)
        if not root.is_dir():
            raise InputError(f"there is no folder {root}.")
        found, small = [], 0
        for file in sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURES):
            x = read_signal(file, "picture").values[0]
            if min(x.shape[1:]) < self.side:
                small += 1
                continue
            found.append(x.expand(3, -1, -1) if len(x) == 1 else x)
        if len(found) < 2:
            raise InputError(
                f"{root} has {len(found)} pictures of at least {self.side} pixels a side ({small} are smaller); two "
                "are needed, one of them to be held out."
            )
        return found, f"{small} pictures smaller than {self.side} pixels" if small else ""


def _made(net: Any, small: Tensor) -> Tensor:
    if net.method == "superinpaint":
        return net.restore(small[:, :-1], mask=small[:, -1:])  # type: ignore[no-any-return]
    return net.restore(small, **({"steps": 20} if net.method == "ediffsr" else {}))  # type: ignore[no-any-return]


def _crops(pictures: list[Tensor], side: int, n: int, rng: Generator) -> Tensor:
    """Random crops, mirrored and turned at random, [n, 3, side, side]."""
    made = []
    for at in torch.randint(len(pictures), (n,), generator=rng).tolist():
        x = pictures[at]
        top, left = (int(torch.randint(length - side + 1, (), generator=rng)) for length in x.shape[1:])
        cut = x[:, top : top + side, left : left + side].rot90(
            int(torch.randint(4, (), generator=rng)), (1, 2)
        )
        made.append(cut.flip(2) if torch.rand((), generator=rng) < 0.5 else cut)
    return torch.stack(made)


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _smaller(method: Any, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Bicubic with antialiasing, in the method's channels; the crops are cut to a multiple of the scale."""
    x = x if method.channels == 3 else _grey(x)
    side = round(x.shape[2] / method.scale)
    whole = round(side * method.scale)
    if abs(side * method.scale - whole) > 1e-6 or whole > x.shape[2]:
        raise InputError(
            f"crops of {x.shape[2]} pixels do not fit scale {method.scale:g}. Choose another --side."
        )
    x = x[:, :, :whole, :whole]
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1), x


def _with_holes(method: Any, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    small, large = _smaller(method, x, rng)
    mask = holes(len(small), *small.shape[2:], rng=rng)
    return torch.cat([small * (1 - mask), mask], 1), large


def _darker(method: Any, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """0.15 x^2.2 and a little noise: a plain model of a dark picture."""
    part = x.shape[2] // method.patch * method.patch
    x = x[:, :, :part, :part]
    return (0.15 * x**2.2 + 0.01 * torch.randn(x.shape, generator=rng)).clamp(0, 1), x


def _lit(method: Any, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    return Simulator(angles=method.angles, phases=method.phases).simulate(_grey(x), rng=rng)


DEGRADED: dict[type[Any], Degrade] = {
    SESR: _smaller,
    PCSR: _smaller,
    EDiffSR: _smaller,
    SuperInpaint: _with_holes,
    CUE: _darker,
    MLSIM: _lit,
}
"""Method -> (method, crops, generator) -> what it reads and what should come out."""
