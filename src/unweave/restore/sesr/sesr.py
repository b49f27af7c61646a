"""SESR: super-resolution by a chain of narrow convolutions, each trained as a wide linear stack.

Bhardwaj, Milosavljevic, O'Neil et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution", MLSys 2022,
arXiv 2103.09404. A 5x5 convolution, m of 3x3 with an activation each, a skip over all of them, a 5x5 one to s^2
channels a colour, the input added to every one of them, pixels shuffled:

    y = shuffle(conv5(f_m + f_0) + x),   f_0 = conv5(x - 1/2),   f_j = act(conv3(f_{j-1}))

Every convolution is a product of a wide kernel and a 1x1 mix, with the identity at the centre of the 3x3 ones
(`collapse.expand_`); the product is made at every step, so that training costs little more than a plain network's.
The input that is added is not shifted; the answer is clipped to [0, 1] in eval mode only, where no gradient is lost.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Conv2d, Module
from torch.nn.init import xavier_uniform_
from torch.nn.utils import parametrize
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, Positive, Whole, checked, settings
from ...tasks import Restoring, requires
from ...types import Data
from .._checks import require_pairs, require_pictures, require_scale
from .collapse import collapse_, expand_


@settings
class SESR:
    """Train a super-resolution network whose convolutions are wide in training and narrow when used.

    Attributes:
        scale: of the sides.
        blocks: m, convolutions of 3x3: 3, 5, 7 or 11 in the paper.
        features: f, channels between them; 16, and 32 for the paper's XL.
        width: p, channels inside a stack in training; 0 trains the plain network.
        channels: 1 for luma, 3 for RGB.
        skip: identity inside the stacks of the 3x3 convolutions.
        activation: "relu" is for integer arithmetic.
        lr: of Adam (AMSGrad), constant.
        epochs: passes over the pairs.
    """

    scale: Literal[2, 4] = 2
    blocks: Count = 5
    features: Count = 16
    width: Whole = 256
    channels: Literal[1, 3] = 1
    skip: bool = True
    activation: Literal["prelu", "relu"] = "prelu"
    lr: Positive = 2e-4
    epochs: Count = 300

    paper: ClassVar[Paper] = Paper(
        "Collapsible Linear Blocks for Super-Efficient Super Resolution",
        "Bhardwaj, Milosavljevic, O'Neil et al.", "MLSys", 2022, "2103.09404",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.width and self.width < max(self.features, self.scale**2 * self.channels):
            raise InputError(
                f"SESR.width must be 0 or at least every convolution's outputs, "
                f"{max(self.features, self.scale**2 * self.channels)} here; got {self.width}."
            )

    def initial(self, rng: Generator) -> SESRNet:
        """The network before training."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return SESRNet(
                scale=self.scale, blocks=self.blocks, features=self.features, width=self.width,
                channels=self.channels, skip=self.skip, activation=self.activation,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator, start: SESRNet | None = None) -> SESRNet:
        """Train on pairs of small pictures [n, channels, h, w] and large ones, values in [0, 1].

        Args:
            data: the pairs.
            rng: governs the run.
            start: a network of another scale whose other layers this one begins with (x4 from x2, as the paper does).

        Returns:
            The network in eval mode, still expanded; `collapsed()` is what to deploy.

        Raises:
            InputError: if the pairs are not of this scale and these channels.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "SESR")
        first = require_pairs(data, "SESR", rng)
        require_pictures(data.task.degraded(first), "SESR", channels=self.channels)
        require_scale(data.task.degraded(first), data.task.clean(first), self.scale, "SESR")
        net = self.initial(rng)
        if start is not None:
            warm_start_(net, start)
        fit_(
            net.train(), data, lambda m, b: data.task.losses(m, b).mean(),
            Adam(net.parameters(), lr=self.lr, amsgrad=True), epochs=self.epochs, rng=rng, loop=Loop(label="SESR"),
        )  # fmt: skip
        return net.eval()


class SESRNet(Module):
    """The network: pictures [n, channels, h, w] -> [n, channels, s h, s w].

    Args:
        scale: s, 2 or 4.
        blocks: 3x3 convolutions.
        features: channels between them.
        width: channels inside a stack; 0 makes plain convolutions.
        channels: of the pictures.
        skip: identity inside the stacks.
        activation: "prelu" (one slope a channel) or "relu".
    """

    method: ClassVar[str] = "sesr"
    reads: ClassVar[str] = "picture"

    @checked
    def __init__(
        self,
        *,
        scale: Literal[2, 4] = 2,
        blocks: Count = 5,
        features: Count = 16,
        width: Whole = 256,
        channels: Count = 1,
        skip: bool = True,
        activation: Literal["prelu", "relu"] = "prelu",
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "scale": scale, "blocks": blocks, "features": features, "width": width, "channels": channels,
            "skip": skip, "activation": activation,
        }  # fmt: skip
        self.scale, self.channels = scale, channels
        act = (lambda: nn.PReLU(features)) if activation == "prelu" else nn.ReLU
        self.head = Conv2d(channels, features, 5, padding=2)
        self.body = nn.Sequential(
            *(nn.Sequential(Conv2d(features, features, 3, padding=1), act()) for _ in range(blocks))
        )
        self.tail = Conv2d(features, scale**2 * channels, 5, padding=2)
        if width:
            for part, inner in ((self.head, False), (self.body, skip), (self.tail, False)):
                expand_(part, width, skip=inner)
            for conv in _expanded(self):
                kernel, mix = (getattr(conv.parametrizations.weight, f"original{i}") for i in (0, 1))
                xavier_uniform_(kernel), xavier_uniform_(mix)
        for name, bias in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """The large pictures; clipped to [0, 1] in eval mode.

        Raises:
            InputError: if the pictures have other channels.
        """
        require_pictures(x, "SESR", channels=self.channels, finite=False)
        first = self.head(x - 0.5)
        detail: Tensor = self.tail(self.body(first) + first)
        large = detail + x.repeat_interleave(self.scale**2, 1)
        for _ in range(self.scale.bit_length() - 1):
            large = F.pixel_shuffle(large, 2)
        return large if self.training else large.clamp(0, 1)

    def restore(self, x: Tensor) -> Tensor:
        """The large pictures, in eval mode and without gradients.

        Raises:
            InputError: if the pictures have other channels, or hold NaN.
        """
        require_pictures(x, "SESR", channels=self.channels)
        with torch.no_grad():
            return self.eval()(x)  # type: ignore[no-any-return]

    def collapsed(self) -> SESRNet:
        """A copy with plain convolutions that computes the same; checked on noise before it is handed out.

        Raises:
            InputError: if the copy differs by more than 1e-5 of the answer's size: weights too large for their dtype.
        """
        plain = SESRNet(**{**self.made, "width": 0}).to(next(self.parameters()))
        narrow = copy.deepcopy(self)
        collapse_(narrow)
        plain.load_state_dict(narrow.state_dict())
        plain.train(self.training)
        probe = torch.rand(1, self.channels, 12, 12, generator=Generator().manual_seed(0))
        probe = probe.to(next(self.parameters()))
        with torch.no_grad():
            wide, thin = self(probe), plain(probe)
        apart = float((wide - thin).abs().max() / wide.abs().max().clamp_min(1e-12))
        if not apart < 1e-5 and probe.dtype in (torch.float32, torch.float64):
            raise InputError(
                f"SESR: the collapsed network differs by {apart:.1e}; its weights are too large."
            )
        return plain


def warm_start_(net: SESRNet, source: SESRNet) -> tuple[str, ...]:
    """Copy every tensor but the last convolution's from a network of another scale, in place.

    Returns:
        Names of the tensors that were copied.

    Raises:
        InputError: if the two have other blocks, features, width or activation.
    """
    theirs, ours = source.state_dict(), net.state_dict()
    names = tuple(n for n in ours if not n.startswith("tail."))
    unfit = [n for n in names if n not in theirs or theirs[n].shape != ours[n].shape]
    if unfit:
        raise InputError(
            f"SESR: the network to begin with has another make, {source.made}; {unfit[0]} does not fit."
        )
    with torch.no_grad():
        for name in names:
            ours[name].copy_(theirs[name])
    return names


def _expanded(net: Module) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, Conv2d) and parametrize.is_parametrized(m, "weight")]
