"""Super-resolution networks small enough to be sent beside a video, each from the paper of its name.

All map pictures [n, 3, h, w] from 0 to 1 to [n, 3, scale h, scale w]. Another network joins by one line:
`BACKBONES["name"] = builder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, Module, Parameter, PixelShuffle, ReLU, Sequential, init
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from ...errors import InputError
from ...settings import Count, Whole, settings
from ..sesr import SESRNet


class Bicubic(Module):
    """Bicubic interpolation as one fixed convolution of 5 x 5: exactly `interpolate(..., mode="bicubic")`.

    For whole scales up to 4 every output pixel reads at most five rows and columns, so that all scale^2 of them are
    output channels of one convolution. It runs in every runtime, and has no weights to send.

    Args:
        scale: 2, 3 or 4.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        peak = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        peak[0, 0, 4, 4] = 1.0
        answer = F.interpolate(peak, scale_factor=scale, mode="bicubic")[0, 0]
        # output pixel (4 + i) scale + a reads input pixel 4 with the weight that pixel 4 scale + a has for 4 - i
        rows = answer.view(9, scale, 9, scale)[2:7, :, 2:7].flip(0, 2).permute(1, 3, 0, 2)
        self.register_buffer("kernel", rows.reshape(scale**2, 1, 5, 5).float(), persistent=False)
        self.scale, self.kernel = scale, self.kernel

    kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge [n, channels, h, w]."""
        n, c, h, w = x.shape
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate").reshape(n * c, 1, h + 4, w + 4)
        out = F.pixel_shuffle(F.conv2d(padded, self.kernel.to(x.dtype)), self.scale)
        return out.reshape(n, c, h * self.scale, w * self.scale)


class _Plus(Module):
    """A network beside bicubic interpolation, whose last convolution begins at zero: it begins as the interpolation."""

    def __init__(self, net: Module, scale: int) -> None:
        super().__init__()
        self.net, self.skip = net, Bicubic(scale)
        last = [m for m in net.modules() if isinstance(m, Conv2d)][-1]
        init.zeros_(last.weight)
        if last.bias is not None:
            init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) + self.skip(x)
        return out


class _Residual(Module):
    """x + scale * body(x)."""

    def __init__(self, body: Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class _WDSR(Module):
    """WDSR-A with one skip of 5 x 5 from the input; weight norm on every convolution until it is folded."""

    def __init__(self, scale: int, blocks: int, width: int, expansion: int = 4) -> None:
        super().__init__()

        def conv(into: int, out: int, side: int, gain: float) -> Module:
            layer = Conv2d(into, out, side, padding=side // 2)
            init.zeros_(layer.bias)  # type: ignore[arg-type]
            normed: Module = weight_norm(layer)
            gains = normed.get_parameter("parametrizations.weight.original0")
            gains.data.fill_(gain)
            return normed

        def block() -> Module:
            wide = width * expansion
            return _Residual(
                Sequential(conv(width, wide, 3, 2.0), ReLU(), conv(wide, width, 3, blocks**-0.5))
            )

        out = 3 * scale**2
        self.body = Sequential(
            conv(3, width, 3, 1.0), *(block() for _ in range(blocks)), conv(width, out, 3, 1.0)
        )
        self.skip, self.shuffle = conv(3, out, 5, 1.0), PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - 0.5
        out: Tensor = self.shuffle(self.body(centred) + self.skip(centred)) + 0.5
        return out


def _espcn(scale: int, blocks: int, width: int) -> Module:
    last = max(1, width // 2)
    widths = [width] * blocks + [last]
    layers: list[Module] = []
    for into, out in zip([3, *widths], widths, strict=False):
        layers += [Conv2d(into, out, 3, padding=1), ReLU()]
    net = Sequential(*layers, Conv2d(last, 3 * scale**2, 3, padding=1), PixelShuffle(scale))
    convs = [m for m in net if isinstance(m, Conv2d)]
    for i, layer in enumerate(convs):
        init.orthogonal_(layer.weight, init.calculate_gain("relu") if i + 1 < len(convs) else 1.0)
        init.zeros_(layer.bias)  # type: ignore[arg-type]
    return net


def _srcnn(scale: int, blocks: int, width: int) -> Module:
    half = max(1, width // 2)
    middle = [layer for _ in range(blocks - 1) for layer in (Conv2d(half, half, 5, padding=2), ReLU())]
    return Sequential(
        Bicubic(scale), Conv2d(3, width, 9, padding=4), ReLU(), Conv2d(width, half, 5, padding=2), ReLU(), *middle,
        Conv2d(half, 3, 5, padding=2),
    )  # fmt: skip


def _vdsr(scale: int, blocks: int, width: int) -> Module:
    inner = [layer for _ in range(blocks - 2) for layer in (Conv2d(width, width, 3, padding=1), ReLU())]
    body = Sequential(Conv2d(3, width, 3, padding=1), ReLU(), *inner, Conv2d(width, 3, 3, padding=1))
    for layer in body:
        if isinstance(layer, Conv2d):
            init.kaiming_normal_(layer.weight)
            init.zeros_(layer.bias)  # type: ignore[arg-type]
    return Sequential(Bicubic(scale), _Residual(body))


def _edsr(scale: int, blocks: int, width: int) -> Module:
    def block() -> Module:
        return _Residual(
            Sequential(Conv2d(width, width, 3, padding=1), ReLU(), Conv2d(width, width, 3, padding=1))
        )

    steps = {2: [2], 3: [3], 4: [2, 2]}[scale]
    ups = [m for s in steps for m in (Conv2d(width, width * s**2, 3, padding=1), PixelShuffle(s))]
    body = _Residual(Sequential(*(block() for _ in range(blocks)), Conv2d(width, width, 3, padding=1)))
    return Sequential(Conv2d(3, width, 3, padding=1), body, *ups, Conv2d(width, 3, 3, padding=1))


class Modulated(Module):
    """A convolution followed by z = x + gamma (a x + b): a and b one number a channel, gamma beginning at 0.

    Args:
        conv: what it follows.
        stretches: of time, each with numbers of its own.

    Attributes:
        at: the stretch of each picture of the next batch; the first for all unless set.
    """

    OWN = (".a", ".b", ".gamma")

    def __init__(self, conv: Module, channels: int, stretches: int) -> None:
        super().__init__()
        self.conv = conv
        self.a = Parameter(torch.ones(stretches, channels))
        self.b = Parameter(torch.zeros(stretches, channels))
        self.gamma = Parameter(torch.zeros(stretches))
        self.at: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Modulate."""
        out: Tensor = self.conv(x)
        a, b, gamma = self.a[:1], self.b[:1], self.gamma[:1]
        if self.at is not None:
            a, b, gamma = self.a[self.at], self.b[self.at], self.gamma[self.at]
        return out + gamma.view(-1, 1, 1, 1) * (a[..., None, None] * out + b[..., None, None])


def modulated_(net: Module, stretches: int) -> Module:
    """Put a modulation after every convolution but the first and the last, in place."""
    convs = [(p, name) for p in net.modules() for name, m in p.named_children() if isinstance(m, Conv2d)]
    for parent, name in convs[1:-1]:
        conv = getattr(parent, name)
        setattr(parent, name, Modulated(conv, conv.out_channels, stretches))
    return net


class _SRVC(Module):
    """SRVC: a small network predicts a 3 x 3 kernel and a bias for every block of 5 x 5 pixels; convolutions follow.

    Blocks are averaged before their kernels are predicted; frames are extended until blocks divide them.
    """

    SIDE = 5

    def __init__(self, scale: int, blocks: int, width: int) -> None:
        super().__init__()
        self.look = Conv2d(3, 8 * width, 3, padding=1)
        self.kernels, self.biases = Conv2d(8 * width, 27 * width, 1), Conv2d(8 * width, width, 1)
        middle = [
            layer for _ in range(blocks) for layer in (Conv2d(4 * width, 4 * width, 3, padding=1), ReLU())
        ]
        self.body = Sequential(
            ReLU(), Conv2d(width, 4 * width, 5, padding=2), ReLU(), *middle,
            Conv2d(4 * width, 3 * scale**2, 3, padding=1), PixelShuffle(scale),
        )  # fmt: skip
        self.skip = Bicubic(scale)
        init.zeros_(self.body[-2].weight)  # type: ignore[arg-type]
        init.zeros_(self.body[-2].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h, w, side = x.shape[2], x.shape[3], self.SIDE
        padded = F.pad(x, (0, -w % side, 0, -h % side), mode="replicate")
        seen = F.avg_pool2d(F.relu(self.look(padded)), side)
        n, _, rows, columns = seen.shape
        kernels = self.kernels(seen).view(n, -1, 27, rows * columns).permute(0, 3, 1, 2)
        columns_ = F.unfold(padded, 3, padding=1).view(n, 27, rows, side, columns, side)
        inside = columns_.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, 27, side**2)
        biases = self.biases(seen).flatten(2).transpose(1, 2)[..., None]
        out = (kernels @ inside + biases).view(n, rows, columns, -1, side, side)
        adapted = out.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, rows * side, columns * side)[..., :h, :w]
        restored: Tensor = self.body(adapted) + self.skip(x)
        return restored


def _sesr(scale: int, blocks: int, width: int) -> Module:
    """SESR's plain convolutions, as they are used: its wide stacks would be multiplied out before anything is sent."""
    return SESRNet(scale=scale, blocks=blocks, features=width, width=0, channels=3)  # type: ignore[arg-type]


Builder = Callable[[int, int, int], Module]
BACKBONES: dict[str, tuple[Builder, int, int]] = {
    "wdsr": (_WDSR, 16, 32),
    "espcn": (_espcn, 2, 64),
    "srcnn": (_srcnn, 1, 64),
    "vdsr": (_vdsr, 20, 8),
    "edsr": (_edsr, 16, 64),
    "srvc": (_SRVC, 1, 32),
    "sesr": (_sesr, 5, 16),
}
"""Name -> (builder of scale, blocks and width; blocks and width of the papers on delivery)."""


@settings
class Backbone:
    """A network of a delivery, said so that a reader can make it again.

    Attributes:
        name: of `BACKBONES`.
        blocks: residual blocks, or layers; the published number unless given.
        width: channels; the published number unless given.
        modulated: stretches of time for which each convolution but the first and last has a gain and an offset a
            channel (CaFM); 0 for none. What is sent is of one stretch.
        residual: beside bicubic interpolation, with the last layer beginning at zero: short trainings begin where the
            interpolation is. For espcn and edsr; the others have a way past the network already.
    """

    name: str = "wdsr"
    blocks: Count | None = None
    width: Count | None = None
    residual: bool = False
    modulated: Whole = 0

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            near = get_close_matches(self.name, BACKBONES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Backbone.name must be one of {', '.join(BACKBONES)}; got {self.name!r}.{hint}")
        if self.residual and self.name in ("wdsr", "srcnn", "vdsr", "srvc", "sesr"):
            raise InputError(
                f"Backbone.residual=True would do nothing for {self.name}, which has its own way past."
            )
        if self.name == "vdsr" and self.blocks == 1:
            raise InputError("Backbone.blocks must be at least 2 for vdsr; got 1.")

    def build(self, scale: Literal[2, 3, 4]) -> Module:
        """A new network, drawn from torch's global generator.

        Raises:
            InputError: if the scale is not 2, 3 or 4.
        """
        if scale not in (2, 3, 4):
            raise InputError(f"a backbone's scale must be 2, 3 or 4; got {scale!r}.")
        if self.name == "sesr" and scale == 3:
            raise InputError("sesr enlarges by 2 or 4; got scale 3. Take another backbone.")
        builder, blocks, width = BACKBONES[self.name]
        net = builder(scale, self.blocks or blocks, self.width or width)
        net = modulated_(net, self.modulated) if self.modulated else net
        return _Plus(net, scale) if self.residual else net

    def plain(self) -> dict[str, Any]:
        """As plain JSON: Backbone(**plain) is the same."""
        return {
            "name": self.name, "blocks": self.blocks, "width": self.width, "residual": self.residual,
            "modulated": self.modulated,
        }  # fmt: skip


def folded(net: Module) -> Module:
    """The same network with weight norm multiplied out, in place: what is counted, sent and exported.

    Weights no longer depend on one another; the answers stay within rounding.
    """
    for module in net.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    return net


def macs(net: Module, height: int, width: int) -> int:
    """Multiplications and additions of one picture [1, 3, height, width], as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, height, width))
    flops: int = counter.get_total_flops()
    return math.ceil(flops / 2)
