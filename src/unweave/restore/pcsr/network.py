"""The network of PCSR: one backbone, a light and a heavy up-sampler, and a classifier, asked pixel by pixel."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...settings import Count, checked
from .._checks import require_pictures
from .routing import by_clusters, by_knob, refined

Sizes = tuple[Count, ...] | list[Count]


class PCSRNet(Module):
    """Pictures [n, channels, h, w] -> [n, channels, s h, s w], for any real scale.

    Args:
        backbone: "convs" is a chain of 3x3 convolutions; "fsrcnn" is FSRCNN without its last layer.
        width: channels of its features.
        depth: convolutions of 3x3.
        heavy: hidden sizes of the heavy up-sampler.
        light: hidden sizes of the light one.
        classifier: hidden sizes of the classifier; none is linear.
        channels: of the pictures.
        scale: that it was trained at; the default of `restore`.
    """

    method: ClassVar[str] = "pcsr"
    reads: ClassVar[str] = "picture"

    @checked
    def __init__(
        self,
        *,
        backbone: Literal["convs", "fsrcnn"] = "fsrcnn",
        width: Count = 48,
        depth: Count = 4,
        heavy: Sizes = (58, 58, 58, 58),
        light: Sizes = (10, 10, 10),
        classifier: Sizes = (),
        channels: Count = 3,
        scale: float = 4.0,
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "backbone": backbone, "width": width, "depth": depth, "heavy": list(heavy), "light": list(light),
            "classifier": list(classifier), "channels": channels, "scale": scale,
        }  # fmt: skip
        self.channels, self.scale = channels, float(scale)
        inner = width if backbone == "convs" else 12
        body = [m for _ in range(depth) for m in (nn.Conv2d(inner, inner, 3, padding=1), nn.PReLU(inner))]
        if backbone == "convs":
            first: list[Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
            self.features = nn.Sequential(*first, *body)
        else:
            first = [
                nn.Conv2d(channels, width, 5, padding=2),
                nn.PReLU(width),
                nn.Conv2d(width, 12, 1),
                nn.PReLU(12),
            ]
            self.features = nn.Sequential(*first, *body, nn.Conv2d(12, width, 1), nn.PReLU(width))
        self.heavy = _mlp(width + 4, heavy, channels)
        self.light = _mlp(width + 4, light, channels)
        self.classifier = _mlp(width + 4, classifier, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The heavy up-sampler everywhere, at the scale of training: the network without its router."""
        size = self.size_of(x, self.scale)
        query, base = self.queries(x, size)
        return _pictures(self.heavy(query) + base, size)

    def queries(self, x: Tensor, size: tuple[int, int], at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the up-samplers read and what is added to their answer.

        Args:
            x: pictures [n, c, h, w].
            size: H and W of the large ones.
            at: positions [q] in the flattened large pictures; all unless given.

        Returns:
            [n, q, width + 4]: the nearest cell's features, the offset to it and the size of a large pixel, both in
            cells; and the bilinear picture [n, q, c].
        """
        require_pictures(x, "PCSR", channels=self.channels, finite=False)
        high, wide = x.shape[2:]
        at = torch.arange(size[0] * size[1], device=x.device) if at is None else at
        y, z = at // size[1], at % size[1]
        cell = torch.tensor([high / size[0], wide / size[1]], dtype=x.dtype, device=x.device)
        place = torch.stack([y, z], 1).to(x.dtype).add(0.5) * cell  # in small pixels, from the corner
        most = torch.tensor([high - 1, wide - 1], device=x.device)
        nearest = torch.minimum(place.floor().long(), most)
        offset = 2 * (place - nearest - 0.5)  # (x - x_cell) (h, w) with coordinates in [-1, 1]
        found = self.features(x)[:, :, nearest[:, 0], nearest[:, 1]].transpose(1, 2)
        told = torch.cat([offset, (2 * cell).expand_as(offset)], 1).expand(len(x), -1, -1)
        grid = (2 * place / torch.tensor([high, wide], dtype=x.dtype, device=x.device) - 1).flip(1)
        base = F.grid_sample(
            x, grid.expand(len(x), 1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        return torch.cat([found, told], 2), base[:, :, 0].transpose(1, 2)

    def chances(self, x: Tensor, scale: float | None = None) -> Tensor:
        """p_H of every large pixel, [n, H, W]."""
        size = self.size_of(x, scale or self.scale)
        chance: Tensor = self.classifier(self.queries(x, size)[0]).softmax(-1)[..., 1]
        return chance.view(len(x), *size)

    def soft(self, query: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Both up-samplers mixed by the classifier's chances, and p_H: what is trained."""
        chance = self.classifier(query).softmax(-1)[..., 1:]
        made = (1 - chance) * self.light(query) + chance * self.heavy(query) + base
        return made, chance[..., 0]

    def render(self, x: Tensor, heavy: Tensor, most: int = 300_000) -> Tensor:
        """The large pictures, each up-sampler run on its own pixels only.

        Args:
            x: pictures [n, c, h, w].
            heavy: bool [n, H, W], which pixels get the heavy one.
            most: pixels at once.
        """
        size = (heavy.shape[1], heavy.shape[2])
        query, base = self.queries(x, size)
        flat, made, which = query.flatten(0, 1), base.flatten(0, 1).clone(), heavy.flatten()
        for net, chosen in ((self.heavy, which), (self.light, ~which)):
            for at in torch.split(chosen.nonzero().flatten(), most):
                made[at] += net(flat[at])
        return _pictures(made.view_as(base), size)

    def costs(self, scale: float | None = None) -> tuple[float, float]:
        """Multiplications and additions of one large pixel by backbone and light, or backbone and heavy up-sampler."""
        convs = [m for m in self.features.modules() if isinstance(m, nn.Conv2d)]
        shared = sum(m.weight.numel() for m in convs) / (scale or self.scale) ** 2
        light, heavy = (
            sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Linear))
            for net in (self.light, self.heavy)
        )
        return shared + light, shared + heavy

    def restore(
        self,
        x: Tensor,
        *,
        scale: float | None = None,
        knob: float = 0.0,
        adaptive: bool = False,
        refine: bool = True,
    ) -> Tensor:
        """The large pictures, in eval mode and without gradients.

        Args:
            x: [n, channels, h, w] in [0, 1].
            scale: of the sides, any real number of at least 1; that of training unless given.
            knob: k; below 0 more pixels get the heavy network, above 0 fewer.
            adaptive: two clusters of each picture's own chances instead of the knob.
            refine: smooth light pixels beside heavy ones.

        Raises:
            InputError: if the pictures have other channels or hold NaN, a scale is below 1, or both a knob and
                `adaptive` are given.
        """
        require_pictures(x, "PCSR", channels=self.channels)
        if adaptive and knob:
            raise InputError("PCSR: the knob would do nothing beside adaptive. Give one of them.")
        with torch.no_grad():
            chance = self.eval().chances(x, scale)
            heavy = by_clusters(chance) if adaptive else by_knob(chance, knob, self.costs(scale))
            made = self.render(x, heavy)
            return (refined(made, heavy) if refine else made).clamp(0, 1)

    def size_of(self, x: Tensor, scale: float) -> tuple[int, int]:
        """Height and width at a scale, rounded."""
        if not (math.isfinite(scale) and scale >= 1):
            raise InputError(f"PCSR makes pictures larger: the scale must be at least 1; got {scale}.")
        return round(x.shape[2] * scale), round(x.shape[3] * scale)


def _mlp(into: int, hidden: Sizes, out: int) -> nn.Sequential:
    layers: list[Module] = []
    for size in hidden:
        layers += [nn.Linear(into, size), nn.ReLU()]
        into = size
    return nn.Sequential(*layers, nn.Linear(into, out))


def _pictures(flat: Tensor, size: tuple[int, int]) -> Tensor:
    return flat.transpose(1, 2).reshape(len(flat), -1, *size)
