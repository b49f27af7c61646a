"""ESSAformer: super-resolution of hyperspectral cubes by attention over all pixels, at linear cost.

Zhang, Zhang, Zhang et al., "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution", ICCV 2023,
arXiv 2307.14010. Tokens are pixels, X [N, C]; with Q, K, V linear in X, centred over channels,

    phi(Q) = Q^2 / (sum_c Q^2 + 1e-7);   phi(Q) to length 1 a token, phi(K) to length 1 a channel over all tokens
    O = V + phi(Q) (phi(K)^T V) / sqrt(N)

in N C^2 steps. phi(Q) phi(K)^T is the diagonal part of the squared correlation of two spectra; `kernel="scc2"` takes
all of it, with C^2 features, as a reference. The residual V is inside, so that no skip is added around the attention.
One up-sampling, one down-sampling and two attention blocks are used again and again (authors' code):

    u_0 = A_up(U x);   d_r = A_down(D u_{r-1} + d_{r-1}),   u_r = A_up(U d_r + u_{r-1});   d_0 = x
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError
from ..fit import Loop, fit_
from ..paper import Paper
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, Part, Positive, Range, Whole, checked, settings
from ..tasks import Restoring, requires
from ..types import Data
from ._checks import require_pairs, require_pictures, require_scale
from ._tiles import tiled

Kernel = Literal["square", "scc2", "elu", "softmax", "none"]
Scale = Annotated[int, Range(at_least=2, at_most=8, why="It is 2, 3, 4 or 8: powers of two, or 3.")]


@settings
class ESSAformer:
    """Train a network that makes cubes of any number of bands larger.

    Attributes:
        scale: of the sides: 2, 3, 4 or 8.
        bands: of the cubes.
        dim: channels inside; a multiple of 4, or of 9 for scale 3.
        kernel: feature map of the attention: "square" is the authors' code; "scc2" all of the squared correlation
            (dim^2 features: small dims only); "elu" and "softmax" are baselines; "none" leaves the values alone.
        rounds: of down and up after the first up.
        dropout: of whole channels.
        bicubic: add the bicubic enlargement to the answer (ours: trains faster); the authors' code does not.
        lr: of Adam.
        epochs: passes over the pairs.
    """

    scale: Scale = 4
    bands: Count = 128
    dim: Count = 256
    kernel: Kernel = "square"
    rounds: Whole = 2
    dropout: Part = 0.2
    bicubic: bool = False
    lr: Positive = 1e-4
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution",
        "Zhang, Zhang, Zhang et al.", "ICCV", 2023, "2307.14010",
    )  # fmt: skip

    def __post_init__(self) -> None:
        _require_dim(self.scale, self.dim)

    def initial(self, rng: Generator, tokens: int = 0) -> ESSAformerNet:
        """The network before training; `tokens` is how many pixels of a large cube it will be trained on."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return ESSAformerNet(
                scale=self.scale, bands=self.bands, dim=self.dim, kernel=self.kernel, rounds=self.rounds,
                dropout=self.dropout, bicubic=self.bicubic, tokens=tokens,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> ESSAformerNet:
        """Train on pairs of small cubes [n, bands, h, w] and large ones, reflectance in [0, 1].

        Raises:
            InputError: if the pairs have other bands or another scale, or hold NaN.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "ESSAformer")
        first = require_pairs(data, "ESSAformer", rng)
        degraded, clean = data.task.degraded(first), data.task.clean(first)
        require_pictures(degraded, "ESSAformer", channels=self.bands)
        require_scale(degraded, clean, self.scale, "ESSAformer")
        net = self.initial(rng, clean.shape[2] * clean.shape[3])
        fit_(
            net.train(), data, lambda m, b: data.task.losses(m, b).mean(), Adam(net.parameters(), lr=self.lr),
            epochs=self.epochs, rng=rng, loop=Loop(label="ESSAformer"),
        )  # fmt: skip
        return net.eval()


class ESSAformerNet(Module):
    """The network: cubes [n, bands, h, w] -> [n, bands, s h, s w].

    Args:
        scale: s.
        bands: of the cubes.
        dim: channels inside.
        kernel: see `ESSAformer`.
        rounds: see `ESSAformer`.
        dropout: of whole channels, in training.
        bicubic: add the enlarged input.
        tokens: pixels of a large cube in training; 0 where that is not known.
    """

    method: ClassVar[str] = "essaformer"
    reads: ClassVar[str] = "cube"

    @checked
    def __init__(
        self,
        *,
        scale: Scale = 4,
        bands: Count = 128,
        dim: Count = 256,
        kernel: Kernel = "square",
        rounds: Whole = 2,
        dropout: Part = 0.2,
        bicubic: bool = False,
        tokens: Whole = 0,
    ) -> None:
        super().__init__()
        _require_dim(scale, dim)
        self.made: dict[str, Any] = {
            "scale": scale, "bands": bands, "dim": dim, "kernel": kernel, "rounds": rounds, "dropout": dropout,
            "bicubic": bicubic, "tokens": tokens,
        }  # fmt: skip
        self.scale, self.bands, self.rounds, self.bicubic, self.tokens = scale, bands, rounds, bicubic, tokens
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        self.head = nn.Conv2d(bands, dim, 3, padding=1)
        self.up = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(dim, f * f * dim, 3, padding=1), nn.PixelShuffle(f)) for f in steps)
        )
        self.down = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(dim, dim // f**2, 3, padding=1), nn.PixelUnshuffle(f)) for f in steps)
        )
        self.attend_up, self.attend_down = (Block(dim, kernel, dropout) for _ in range(2))
        self.tail = nn.Conv2d(dim, bands, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The large cubes.

        Raises:
            InputError: if the cubes have other bands.
        """
        require_pictures(x, "ESSAformer", channels=self.bands, finite=False)
        low = self.head(x)
        high = self.attend_up(self.up(low))
        for _ in range(self.rounds):
            low = self.attend_down(self.down(high) + low)
            high = self.attend_up(self.up(low) + high)
        made: Tensor = self.tail(high)
        if self.bicubic:
            made = made + F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return made

    def restore(self, x: Tensor, *, tile: int | None = None) -> Tensor:
        """The large cubes, in eval mode and without gradients.

        Args:
            x: [n, bands, h, w], reflectance in [0, 1].
            tile: side of tiles of the small cube, a quarter of which overlaps; whole unless given.

        Raises:
            InputError: if the cubes have other bands, or hold NaN (pixels without data: fill them first).
        """
        require_pictures(x, "ESSAformer", channels=self.bands)
        seen = min(tile or x.shape[2], x.shape[2]) * min(tile or x.shape[3], x.shape[3]) * self.scale**2
        if self.tokens and seen > 4 * self.tokens and self.made["kernel"] not in ("none", "softmax"):
            warnings.warn(
                f"ESSAformer was trained on {self.tokens} pixels at once and reads {seen}: its attention is scaled by "
                f"their number. Give tile={max(4, int((self.tokens**0.5) / self.scale))}, say.",
                stacklevel=2,
            )
        with torch.no_grad():
            self.eval()
            return self(x) if tile is None else tiled(self, x, tile, tile // 4, self.scale)


class Block(Module):
    """Attention over all pixels, then two 1x1 and a 3x3 convolution of both, added to the input."""

    def __init__(self, dim: int, kernel: Kernel, dropout: float) -> None:
        super().__init__()
        self.kernel: Kernel = kernel
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.drop = nn.Dropout2d(dropout)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1), nn.LeakyReLU(0.2), nn.Dropout2d(dropout),
            nn.Conv2d(dim, dim, 3, padding=1), nn.LeakyReLU(0.2), nn.Dropout2d(dropout), nn.Conv2d(dim, dim, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[n, dim, h, w] of the same shape."""
        n, dim, high, wide = x.shape
        q, k, v = self.qkv(self.norm(x.flatten(2).transpose(1, 2))).chunk(3, -1)
        seen = self.out(attention(q, k, v, self.kernel)).transpose(1, 2).reshape(n, dim, high, wide)
        mixed: Tensor = self.mix(torch.cat([self.drop(seen), x], 1))
        return x + mixed


def attention(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel = "square") -> Tensor:
    """Values, and what the spectra that correlate with each bring along; in float32 or wider.

    Args:
        q: queries [n, N, C].
        k: keys [n, N, C].
        v: values [n, N, C].
        kernel: see `ESSAformer`.

    Returns:
        [n, N, C], in the dtype of v.
    """
    if kernel == "none":
        return v
    wide = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(v.device.type, enabled=False):
        a, b, values = q.to(wide), k.to(wide), v.to(wide)
        if kernel == "softmax":
            found = F.scaled_dot_product_attention(a, b, values)
        elif kernel == "elu":
            a, b = F.elu(a) + 1, F.elu(b) + 1
            found = a @ (b.transpose(1, 2) @ values) / (a @ b.sum(1).unsqueeze(2))
        else:
            a, b = (_features(x - x.mean(-1, keepdim=True), kernel) for x in (a, b))
            a, b = F.normalize(a, dim=2), F.normalize(b, dim=1)
            found = a @ (b.transpose(1, 2) @ values) / a.shape[1] ** 0.5
        return (values + found).to(v.dtype)


def _features(centred: Tensor, kernel: Kernel) -> Tensor:
    squared = centred.square().sum(-1, keepdim=True) + 1e-7
    if kernel == "square":
        return centred.square() / squared
    return (centred.unsqueeze(-1) * centred.unsqueeze(-2)).flatten(2) / squared


def _require_dim(scale: int, dim: int) -> None:
    if scale not in (2, 3, 4, 8):
        raise InputError(f"ESSAformer.scale must be 2, 3, 4 or 8; got {scale}.")
    part = 9 if scale == 3 else 4
    if dim % part:
        raise InputError(f"ESSAformer.dim must be a multiple of {part} for scale {scale}; got {dim}.")
