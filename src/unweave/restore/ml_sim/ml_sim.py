"""ML-SIM: structured-illumination microscopy, reconstructed by a network that has only seen simulated stacks.

Christensen, Ward, Lu et al., "ML-SIM: A deep neural network for reconstruction of structured illumination microscopy
images", arXiv 2003.11064; Biomed. Opt. Express 2021. A residual channel-attention network without its up-sampler reads
the raw frames of one field (three angles of three phases, say) and answers with one picture on the same grid; what it
learns from is `Simulator`. Every frame is scaled to [0, 1] by itself, as the authors do, or the stack as a whole, which
keeps true changes of brightness; the same choice holds in training and in use, so the network remembers it.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, Positive, checked, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._attention import ChannelAttention
from .._checks import require_pairs, require_pictures
from .._tiles import tiled


@settings
class MLSIM:
    """Train a network that makes one sharp picture of a raw stack of structured illumination.

    Attributes:
        angles: orientations of the fringes.
        phases: shifts of each; angles times phases are the frames.
        groups: residual groups, G.
        blocks: channel-attention blocks of each, R.
        features: channels, F.
        scaling: "frame" scales every frame to [0, 1] by itself, "stack" all frames together.
        lr: of Adam; halved every fifth of the epochs.
        epochs: passes over the pairs.
    """

    angles: Count = 3
    phases: Count = 3
    groups: Count = 3
    blocks: Count = 10
    features: Count = 48
    scaling: Literal["frame", "stack"] = "frame"
    lr: Positive = 1e-4
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "ML-SIM: A deep neural network for reconstruction of structured illumination microscopy images",
        "Christensen, Ward, Lu et al.", "Biomedical Optics Express", 2021, "2003.11064",
    )  # fmt: skip

    def initial(self, rng: Generator) -> MLSIMNet:
        """The network before training."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return MLSIMNet(
                angles=self.angles, phases=self.phases, groups=self.groups, blocks=self.blocks,
                features=self.features, scaling=self.scaling,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> MLSIMNet:
        """Train on pairs of raw stacks [n, frames, w, w] and pictures [n, 1, w, w], by mean squared error.

        `Simulator.simulate` makes such pairs of photographs.

        Raises:
            InputError: if a stack has other frames, or a picture another size.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "MLSIM")
        first = require_pairs(data, "MLSIM", rng)
        stack, picture = data.task.degraded(first), data.task.clean(first)
        net = self.initial(rng)
        net.require_stack(stack)
        if picture.shape != (len(stack), 1, *stack.shape[2:]):
            raise InputError(
                f"MLSIM makes a picture on the grid of its frames, {(len(stack), 1, *stack.shape[2:])}; the clean "
                f"ones are {tuple(picture.shape)}."
            )

        def loss(m: Module, batch: Batch) -> Tensor:
            made = data.task.outputs(m, batch)
            return (made - data.task.clean(batch).to(made)).square().mean()

        adam = Adam(net.parameters(), lr=self.lr)
        steps = max(1, data.steps * self.epochs // 5)
        schedule = torch.optim.lr_scheduler.StepLR(adam, steps, 0.5)
        fit_(
            net.train(), data, loss, adam, epochs=self.epochs, rng=rng, loop=Loop(label="MLSIM", schedule=schedule)
        )  # fmt: skip
        return net.eval()


class MLSIMNet(Module):
    """Raw stacks [n, angles phases, h, w], angle-major -> pictures [n, 1, h, w].

    Args:
        angles: orientations.
        phases: shifts of each.
        groups: residual groups.
        blocks: of each.
        features: channels.
        scaling: see `MLSIM`.
    """

    method: ClassVar[str] = "ml-sim"
    reads: ClassVar[str] = "stack"

    @checked
    def __init__(
        self,
        *,
        angles: Count = 3,
        phases: Count = 3,
        groups: Count = 3,
        blocks: Count = 10,
        features: Count = 48,
        scaling: Literal["frame", "stack"] = "frame",
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "angles": angles, "phases": phases, "groups": groups, "blocks": blocks, "features": features,
            "scaling": scaling,
        }  # fmt: skip
        self.frames, self.scaling = angles * phases, scaling
        self.angles, self.phases = angles, phases
        self.head = nn.Conv2d(self.frames, features, 3, padding=1)
        self.body = nn.Sequential(
            *(_Group(blocks, features) for _ in range(groups)), nn.Conv2d(features, features, 3, padding=1)
        )
        self.tail = nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, stack: Tensor) -> Tensor:
        """The pictures.

        Raises:
            InputError: if the stacks have other frames.
        """
        require_pictures(stack, "MLSIM", channels=self.frames, finite=False)
        first = self.head(self.ready(stack))
        made: Tensor = self.tail(self.body(first) + first)
        return made

    def ready(self, stack: Tensor) -> Tensor:
        """Frames scaled to [0, 1], each by itself or all together; constant ones become 0."""
        dims = (2, 3) if self.scaling == "frame" else (1, 2, 3)
        low, high = stack.amin(dims, keepdim=True), stack.amax(dims, keepdim=True)
        return (stack - low) / torch.where(high > low, high - low, 1.0)

    def restore(self, stack: Tensor, *, tile: int | None = None) -> Tensor:
        """The pictures, in eval mode and without gradients.

        Args:
            stack: [n, frames, h, w], angle-major.
            tile: side of tiles, an eighth of which overlaps; whole unless given.

        Raises:
            InputError: if the stacks have other frames or hold NaN.
        """
        self.require_stack(stack)
        quiet = [i for i in range(self.angles) if not fringes(stack, i, self.phases)]
        if quiet:
            warnings.warn(
                f"no fringes are found at the angles {', '.join(map(str, quiet))}: the frames of an angle differ by "
                "noise alone. Is the stack angle-major, and are these its angles and phases?",
                stacklevel=2,
            )
        with torch.no_grad():
            self.eval()
            return self(stack) if tile is None else tiled(self, stack, tile, tile // 8)

    def require_stack(self, stack: Tensor) -> None:
        """Refuse what is no finite stack of this many frames.

        Raises:
            InputError: naming angles, phases and frames.
        """
        if isinstance(stack, Tensor) and stack.ndim == 4 and stack.shape[1] != self.frames:
            raise InputError(
                f"MLSIM reads {self.angles} angles of {self.phases} phases, {self.frames} frames; got "
                f"{stack.shape[1]}."
            )
        require_pictures(stack, "MLSIM", channels=self.frames)


def fringes(stack: Tensor, angle: int, phases: int) -> bool:
    """Whether the frames of an angle differ by one clear wave: a peak in the spectrum of their differences.

    The peak must hold more than 20 times the mean power of the differences.
    """
    own = stack[:, angle * phases : (angle + 1) * phases].double()
    apart = own - own.mean(1, keepdim=True)
    power = torch.fft.fft2(apart).abs().square().mean((0, 1))
    power[0, 0] = 0
    mean = power.mean()
    return bool(mean > 0) and bool(power.max() > 20 * mean)


class _Group(Module):
    def __init__(self, blocks: int, features: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(_Block(features) for _ in range(blocks)), nn.Conv2d(features, features, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.inner(x)
        return x + added


class _Block(ChannelAttention):
    """Channel attention beside what came in."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
