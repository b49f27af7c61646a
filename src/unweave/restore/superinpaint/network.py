"""The network of SuperInpaint: what is known of a small picture with holes, asked at any place."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...settings import Count, Whole, checked
from .._checks import require_pictures, require_unit

_TINY = 1e-6


class SuperInpaintNet(Module):
    """Pictures with their masks [n, channels + 1, h, w] -> completed pictures of any larger size.

    Args:
        channels: of the pictures.
        features: channels inside.
        blocks: residual blocks of the encoder.
        hidden: width of the decoder.
        layers: hidden layers of it.
        pool: side of the cells that keys and values of the attention are means of; 1 keeps every pixel.
        detail: add what an adaptive high-pass filter lets through.
        attend: let every pixel borrow from known ones.
        weigh: weigh the four neighbours of a place by a learned map.
        combine: "ensemble" asks the decoder for each neighbour and takes a weighted mean; "concat" once for all four.
        scale: of the sides in training; the default of `restore`.
    """

    method: ClassVar[str] = "superinpaint"
    reads: ClassVar[str] = "picture"

    @checked
    def __init__(
        self,
        *,
        channels: Count = 3,
        features: Count = 64,
        blocks: Whole = 16,
        hidden: Count = 256,
        layers: Count = 4,
        pool: Count = 4,
        detail: bool = True,
        attend: bool = True,
        weigh: bool = True,
        combine: Literal["ensemble", "concat"] = "ensemble",
        scale: float = 2.0,
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "channels": channels, "features": features, "blocks": blocks, "hidden": hidden, "layers": layers,
            "pool": pool, "detail": detail, "attend": attend, "weigh": weigh, "combine": combine, "scale": scale,
        }  # fmt: skip
        self.channels, self.pool, self.combine, self.scale = channels, pool, combine, scale
        self.head = nn.Conv2d(channels + 1, features, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features, features, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.filter = nn.Conv2d(features, 9, 3, padding=1) if detail else None
        self.qkv = nn.Conv2d(features, 3 * features, 1) if attend else None
        width = features * (2 if attend else 1)
        self.map = nn.Conv2d(width + 1, 1, 3, padding=1) if weigh else None
        cell = width + (1 if weigh else 0) + 2
        into = (4 if combine == "concat" else 1) * cell + 2
        mlp: list[Module] = []
        for _ in range(layers):
            mlp += [nn.Linear(into, hidden), nn.ReLU()]
            into = hidden
        self.decoder = nn.Sequential(*mlp, nn.Linear(into, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Everything at the scale of training."""
        size = self.size_of(x, self.scale)
        made: Tensor = self.at(x, size).transpose(1, 2).reshape(len(x), self.channels, *size)
        return made

    def at(self, x: Tensor, size: tuple[int, int], places: Tensor | None = None) -> Tensor:
        """Colours [n, q, channels] at pixels of a large picture.

        Args:
            x: [n, channels + 1, h, w], the last channel the mask, 1 in a hole; what is under it is not read.
            size: H and W of the large picture.
            places: positions [q] in it, flattened; all unless given.
        """
        require_pictures(x, "SuperInpaint", channels=self.channels + 1, finite=False)
        cells, weights = self.cells(x)
        places = torch.arange(size[0] * size[1], device=x.device) if places is None else places
        high, wide = x.shape[2:]
        pixel = torch.tensor([high / size[0], wide / size[1]], dtype=x.dtype, device=x.device)
        place = torch.stack([places // size[1], places % size[1]], 1).to(x.dtype).add(0.5) * pixel - 0.5
        corner = place.floor()
        most = torch.tensor([high - 1, wide - 1], device=x.device)
        near, areas, maps = [], [], []
        for dy in (0, 1):
            for dx in (0, 1):
                other = corner + torch.tensor([dy, dx], dtype=x.dtype, device=x.device)
                at = torch.minimum(other.long().clamp_min(0), most)
                offset = 2 * (place - at)
                told = cells[:, :, at[:, 0], at[:, 1]].transpose(1, 2)
                near.append(torch.cat([told, offset.expand(len(x), -1, -1)], 2))
                areas.append((1 - (place - other).abs()).prod(1))  # of the rectangle opposite the neighbour
                maps.append(weights[:, 0, at[:, 0], at[:, 1]])
        size_told = (2 * pixel).expand(len(x), len(places), 2)
        if self.combine == "concat":
            made: Tensor = self.decoder(torch.cat([*near, size_told], 2))
            return made
        colours = torch.stack([self.decoder(torch.cat([one, size_told], 2)) for one in near], 2)
        share = torch.stack(maps, 2) * torch.stack(areas, 1)
        share = (share + _TINY) / (share + _TINY).sum(2, keepdim=True)
        return (share[..., None] * colours).sum(2)

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of each small pixel [n, width, h, w], and how much it counts [n, 1, h, w]."""
        mask = x[:, -1:]
        y = self.head(torch.cat([x[:, :-1] * (1 - mask), mask], 1))
        for block in self.body:
            y = y + block(y)
        plain = y
        if self.filter is not None:
            y = y + (y - smoothed(y, self.filter(y).softmax(1)))
        if self.qkv is not None:
            y = torch.cat([y, self._borrowed(plain, mask)], 1)
        if self.map is None:
            return y, torch.ones_like(mask)
        weights = torch.sigmoid(self.map(torch.cat([y, mask], 1)))
        return torch.cat([y, weights], 1), weights

    def restore(
        self,
        x: Tensor,
        *,
        mask: Tensor,
        scale: float | None = None,
        known: Literal["made", "bicubic"] = "made",
    ) -> Tensor:
        """The completed large pictures, in eval mode and without gradients.

        Args:
            x: small pictures [n, channels, h, w] in [0, 1].
            mask: [n, 1, h, w], 1 in a hole.
            scale: of the sides, any real number of at least 1; that of training unless given.
            known: "bicubic" takes known places from the enlarged picture instead of the network.

        Raises:
            InputError: if the mask is not of zeros and ones, has another size, covers all of a picture or more than
                nine tenths of all (inverted?), or the pictures are no such ones.
        """
        require_pictures(x, "SuperInpaint", channels=self.channels)
        require_unit(x, "SuperInpaint")
        require_mask(mask, x)
        size = self.size_of(x, self.scale if scale is None else scale)
        with torch.no_grad():
            self.eval()
            both = torch.cat([x * (1 - mask), mask.to(x)], 1)
            parts = torch.split(torch.arange(size[0] * size[1], device=x.device), 65536)
            flat = torch.cat([self.at(both, size, part) for part in parts], 1)
            made = flat.transpose(1, 2).reshape(len(x), self.channels, *size).clamp(0, 1)
        if known == "made":
            return made
        hole = F.interpolate(mask.to(x), size, mode="bilinear", align_corners=False) > 0
        large = F.interpolate(x, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return torch.where(hole, made, large)

    def size_of(self, x: Tensor, scale: float) -> tuple[int, int]:
        """Height and width at a scale, rounded."""
        if not (math.isfinite(scale) and scale >= 1):
            raise InputError(
                f"SuperInpaint makes pictures larger: the scale must be at least 1; got {scale}."
            )
        return round(x.shape[2] * scale), round(x.shape[3] * scale)

    def _borrowed(self, y: Tensor, mask: Tensor) -> Tensor:
        """What each pixel takes from known ones: attention whose keys count by how much of their cell is known."""
        assert self.qkv is not None
        q, k, v = self.qkv(y).chunk(3, 1)
        keep = 1 - mask
        share = F.avg_pool2d(keep, self.pool, ceil_mode=True, count_include_pad=False)
        k, v = (F.avg_pool2d(z * keep, self.pool, ceil_mode=True, count_include_pad=False) for z in (k, v))
        k, v = k / share.clamp_min(_TINY), v / share.clamp_min(_TINY)
        bias = (share + _TINY).log().flatten(2)  # [n, 1, cells]
        seen = F.scaled_dot_product_attention(
            q.flatten(2).transpose(1, 2),
            k.flatten(2).transpose(1, 2),
            v.flatten(2).transpose(1, 2),
            attn_mask=bias,
        )
        return seen.transpose(1, 2).reshape(y.shape)


def smoothed(x: Tensor, weights: Tensor) -> Tensor:
    """Each pixel's own 3x3 mean of features [n, c, h, w], by weights [n, 9, h, w] in rows; borders are repeated."""
    n, c, high, wide = x.shape
    near = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).view(n, c, 9, high, wide)
    return (near * weights[:, None]).sum(2)


def require_mask(mask: Tensor, x: Tensor) -> None:
    """Refuse what is no mask of holes of these pictures."""
    if not isinstance(mask, Tensor) or mask.shape != (len(x), 1, *x.shape[2:]):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"SuperInpaint needs a mask {(len(x), 1, *x.shape[2:])}; got {shape}.")
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError(
            "SuperInpaint needs a mask of zeros and ones, 1 in a hole. Compare yours with a threshold."
        )
    whole = mask.flatten(1).mean(1, dtype=torch.float32)
    if bool((whole == 1).any()):
        raise InputError("SuperInpaint: a picture is masked as a whole; nothing of it is known.")
    if float(whole.mean()) > 0.9:
        raise InputError(
            f"SuperInpaint: the mask covers {100 * float(whole.mean()):.0f} % of the pictures. Is it inverted? A hole "
            "is 1."
        )
