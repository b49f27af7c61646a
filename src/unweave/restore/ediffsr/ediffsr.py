"""EDiffSR: diffusion that begins at the enlarged picture instead of at noise, for pictures from above.

Xiao, Yuan, Jiang et al., "EDiffSR: An Efficient Diffusion Probabilistic Model for Remote Sensing Image
Super-Resolution", IEEE TGRS 2024, arXiv 2310.19288. A light gated U predicts the noise e of the mean-reverting
diffusion (`scheduler`); it is trained on the mean of the reverse step, not on the noise:

    L = mean |m(x_t, e) - x*(x_t, x_0)|,   t uniform in 1..T

which weighs the steps as the sampler does. The paper's condition block and the authors' code differ in where it stands
(`prior`). Where both are silent (the linear and the constant schedule), this is a reconstruction.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...errors import InputError
from ...fit import Loop, Step, fit_, steps_of
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, Inner, Part, Positive, Range, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._checks import require_pairs, require_pictures, require_scale, require_unit
from .network import EDiffSRNet, Prior


@settings
class EDiffSR:
    """Train a super-resolution network that draws plausible detail; its samples are not measurements.

    Attributes:
        scale: of the sides.
        channels: of the pictures.
        width: channels of the first level.
        encoder: blocks of each level, going down; sides are padded to multiples of two to the number of levels.
        middle: blocks at the bottom.
        decoder: blocks of each level, going up.
        prior: where the channel-attention block stands: "joint" as in the code, "condition" as in the paper, "none".
        steps: T of the diffusion.
        spread: lambda, the noise at its end, for pictures in [0, 1].
        delta: share of the clean picture left at its end.
        kind: of the schedule.
        lr: of AdamW, falling to 1e-7 by a cosine.
        average: decay of the mean of the weights, taken every tenth step, which is handed out; 0 hands out the last.
        epochs: passes over the pairs.
    """

    scale: Count = 4
    channels: Count = 3
    width: Count = 64
    encoder: tuple[Count, ...] = (14, 1, 1, 1)
    middle: Count = 1
    decoder: tuple[Count, ...] = (1, 1, 1, 1)
    prior: Prior = "joint"
    steps: Count = 100
    spread: Annotated[float, Range(above=0, at_most=1)] = 50 / 255
    delta: Inner = 0.005
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    lr: Positive = 4e-5
    average: Part = 0.995
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "EDiffSR: An Efficient Diffusion Probabilistic Model for Remote Sensing Image Super-Resolution",
        "Xiao, Yuan, Jiang et al.", "IEEE TGRS", 2024, "2310.19288",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.encoder) != len(self.decoder) or not self.encoder:
            raise InputError(
                f"EDiffSR.encoder and decoder need as many levels, at least one; got {self.encoder} and {self.decoder}."
            )

    def initial(self, rng: Generator) -> EDiffSRNet:
        """The network before training."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return EDiffSRNet(
                scale=self.scale, channels=self.channels, width=self.width, encoder=self.encoder, middle=self.middle,
                decoder=self.decoder, prior=self.prior, steps=self.steps, spread=self.spread, delta=self.delta,
                kind=self.kind,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> EDiffSRNet:
        """Train on pairs of small pictures [n, channels, h, w] and large ones, values in [0, 1].

        The mean of the weights begins anew where a stopped training goes on.

        Raises:
            InputError: if the pairs have other channels or another scale, lie outside [0, 1] or are below 16 pixels.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "EDiffSR")
        first = require_pairs(data, "EDiffSR", rng)
        small, large = data.task.degraded(first), data.task.clean(first)
        require_pictures(small, "EDiffSR", channels=self.channels)
        require_pictures(large, "EDiffSR", channels=self.channels, least=16)
        require_scale(small, large, self.scale, "EDiffSR")
        for part in (small, large):
            require_unit(part, "EDiffSR")
        net = self.initial(rng)
        averaged: dict[str, Tensor] = {}

        def keep(step: Step) -> None:
            if not self.average or step.index % 10:
                return
            for name, value in net.state_dict().items():
                if name not in averaged:
                    averaged[name] = value.clone()
                else:
                    averaged[name].lerp_(value, 1 - self.average)

        adam = AdamW(net.parameters(), lr=self.lr, betas=(0.9, 0.99))
        schedule = CosineAnnealingLR(adam, self.epochs * steps_of(net, data), eta_min=min(1e-7, self.lr))
        fit_(
            net.train(), data, lambda m, b: step_loss(m, data.task, b), adam, epochs=self.epochs, rng=rng,
            after_step=keep, loop=Loop(label="EDiffSR", schedule=schedule),
        )  # fmt: skip
        if averaged:
            net.load_state_dict(averaged)
        return net.eval()


def step_loss(net: Module, task: Restoring, batch: Batch) -> Tensor:
    """Mean absolute difference of the Euler step's mean and the best one, at a random step of each picture."""
    like = next(net.parameters())
    clean = task.clean(batch).to(like)
    sampler = net.schedule.sampler()  # type: ignore[operator, union-attr]
    sampler.set_mean(net.mean_of(task.degraded(batch).to(like)))  # type: ignore[operator]
    t = torch.randint(1, sampler.schedule.steps + 1, (len(clean),))
    x = sampler.add_noise(clean, torch.randn(clean.shape).to(like), t)
    noise = net(x, sampler.mean, t.to(like.device))
    apart: Tensor = sampler.euler(noise, x, t) - sampler.best(x, clean, t)
    return apart.abs().mean()
