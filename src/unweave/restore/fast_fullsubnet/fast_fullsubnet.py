"""Fast FullSubNet: a causal denoiser of speech that listens to bands at half the frame rate.

Hao, Li, "Fast FullSubNet: Accelerate Full-band and Sub-band Fusion Model for Single-channel Speech Enhancement", 2022,
arXiv 2212.09019; sizes as in the authors' code. A full-band LSTM reads mel magnitudes; one LSTM, shared by all mel
bands, reads a band with its neighbours and the full-band answer, every s frames their mean; a third makes of both the
complex mask of the linear spectrum, trained on the compressed ideal one:

    m = conj(noisy) clean / |noisy|^2,   target K (1 - e^{-C m}) / (1 + e^{-C m}),   K = 10, C = 0.1

Block j of the sub-bands ends at frame j s and serves the frames from there on, so that nothing is heard early; the
network looks `ahead` frames ahead, openly. The authors divide by the whole clip's mean; the default here is the mean so
far, which makes the network causal (and equal to `Stream`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, Positive, Whole, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._checks import require_pairs
from .masks import compressed, ratio_mask
from .network import FastFullSubNetNet


@settings
class FastFullSubNet:
    """Train a causal speech denoiser on pairs of noisy and clean sounds.

    Attributes:
        rate: of the sounds, in Hz.
        window: samples of the spectrum's window; half of it is the hop.
        mels: mel bands.
        full: hidden sizes of the two full-band layers.
        sub: hidden size of both sub-band layers.
        merge: hidden size of both layers that make the mask.
        neighbours: mel bands on either side that a sub-band reads.
        every: s, frames of one sub-band step: 1 is dear, more is cheaper.
        ahead: frames it looks ahead, of half a window each.
        norm: "cumulative" is causal; "offline" divides by the whole clip's mean, as the authors train.
        lr: of Adam.
        clip: largest norm of a gradient.
        epochs: passes over the pairs.
    """

    rate: Count = 16000
    window: Count = 512
    mels: Count = 64
    full: tuple[Count, Count] = (384, 257)
    sub: Count = 384
    merge: Count = 512
    neighbours: Whole = 5
    every: Count = 2
    ahead: Whole = 2
    norm: Literal["cumulative", "offline"] = "cumulative"
    lr: Positive = 1e-3
    clip: Positive = 10.0
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "Fast FullSubNet: Accelerate Full-band and Sub-band Fusion Model for Single-channel Speech Enhancement",
        "Hao, Li", "arXiv", 2022, "2212.09019",
    )  # fmt: skip

    def initial(self, rng: Generator) -> FastFullSubNetNet:
        """The network before training.

        Raises:
            InputError: if the mel bands, window and neighbours do not fit together.
        """
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return FastFullSubNetNet(
                rate=self.rate, window=self.window, mels=self.mels, full=self.full, sub=self.sub, merge=self.merge,
                neighbours=self.neighbours, every=self.every, ahead=self.ahead, norm=self.norm,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> FastFullSubNetNet:
        """Train on pairs of noisy and clean sounds [n, samples], mono, at `rate`.

        Raises:
            InputError: if they are no such sounds, or shorter than a window.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "FastFullSubNet")
        first = require_pairs(data, "FastFullSubNet", rng)
        noisy, clean = data.task.degraded(first), data.task.clean(first)
        if noisy.ndim != 2 or noisy.shape != clean.shape or noisy.shape[1] < self.window:
            raise InputError(
                f"FastFullSubNet trains on mono sounds [n, samples] of at least {self.window} samples, noisy and clean "
                f"of one length; got {tuple(noisy.shape)} and {tuple(clean.shape)}."
            )
        net = self.initial(rng)

        def loss(m: Module, batch: Batch) -> Tensor:
            like = next(m.parameters())
            return mask_loss(m, data.task.degraded(batch).to(like), data.task.clean(batch).to(like))

        fit_(
            net.train(), data, loss, Adam(net.parameters(), lr=self.lr), epochs=self.epochs, rng=rng,
            loop=Loop(label="FastFullSubNet", clip=self.clip),
        )  # fmt: skip
        return net.eval()


def mask_loss(net: Module, noisy: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error between the compressed mask and the ideal one, of sounds [n, samples]."""
    heard: Tensor = net.spectrum(noisy)  # type: ignore[operator]
    wanted = compressed(ratio_mask(heard, net.spectrum(clean)))  # type: ignore[operator]
    made: Tensor = net(heard.abs())
    return (made - wanted).square().mean()
