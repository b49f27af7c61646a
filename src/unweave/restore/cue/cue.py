"""CUE: brighten dark pictures by an unfolded Retinex model whose priors were learnt beforehand.

Zheng, Zhou, Dong et al., "Empowering Low-Light Image Enhancer through Customized Learnable Priors", ICCV 2023,
arXiv 2309.01958. With x = R L + N, light, reflectance and noise are updated in turn (`enhancer`), each a gradient step
on |x - R L - N|^2 and a small network; the light's network reads the features of an autoencoder that has learnt to fill
masked windows of smooth light (`illumination`). A second one, which draws gradients (`gradients`), judges the result.
The same networks take the bright picture apart, L_G R_G, and what is compared (weights in brackets):

    L1(L R + N, x), L1(L_G R_G, clean), L1(L+ R+, clean), MSE(L+, L_G), L1(R+, R_G) [1];  MSE(|dL+|^2, |dL_G|^2) [5]
    L1(R, R_G) [0.009];  |dL| / max(|dx|, 0.01) [0.001];  (a + b) e^{-10 (a + b)} of gradients of two lights [0.2]
    L1(tokens of L+ R+, tokens of clean) [0.001]

The authors' step of 1e-3 hardly moves anything; the learned terms do the work. Their gradient prior hides different
random patches of the two pictures it compares; here nothing is hidden. Gradients are scaled a picture, not a batch. The
inner layers of the brightening networks and of both priors are a reconstruction from their description.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...paper import Paper
from ...random import draw_seed, global_seed, require_generator
from ...settings import Count, Inner, NonNegative, Positive, settings
from ...tasks import Restoring, requires
from ...types import Batch, Data
from .._checks import require_pairs, require_pictures, require_unit
from .enhancer import CUENet, Parts
from .gradients import GradientPrior


@settings
class CUE:
    """Train two priors on bright pictures, then a network that brightens dark ones.

    Attributes:
        stages: of the unfolding, the first of which is where it begins.
        width: channels of the two networks that brighten.
        hidden: channels of the small networks in each update.
        prior: channels of the illumination prior's first level.
        illumination: use the illumination prior; else a small network as for the reflectance.
        gradients: weight of the gradient prior's comparison; 0 trains without that prior.
        patch: of the gradient prior; sides of the pictures must be multiples of it.
        tokens: width of the gradient prior, a multiple of 4.
        depth: of its encoder and decoder.
        window: side of the windows that are masked in training the illumination prior.
        hide: share of windows and patches that are masked.
        step: of the gradient steps.
        ratio: what the light is asked to be raised by.
        lr: of Adam, for the illumination prior and the network; five times that for the gradient prior.
        prior_epochs: passes over the bright pictures for each prior.
        epochs: passes over the pairs.
    """

    stages: Count = 3
    width: Count = 8
    hidden: Count = 32
    prior: Count = 6
    illumination: bool = True
    gradients: NonNegative = 0.001
    patch: Count = 16
    tokens: Count = 256
    depth: Count = 4
    window: Count = 20
    hide: Inner = 0.5
    step: Positive = 1e-3
    ratio: Positive = 5.0
    lr: Positive = 1e-4
    prior_epochs: Count = 100
    epochs: Count = 100

    paper: ClassVar[Paper] = Paper(
        "Empowering Low-Light Image Enhancer through Customized Learnable Priors",
        "Zheng, Zhou, Dong et al.", "ICCV", 2023, "2309.01958",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.tokens % 16:
            raise InputError(
                f"CUE.tokens must be a multiple of 16 (4 heads, 4 kinds of places); got {self.tokens}."
            )

    def initial(self, rng: Generator) -> CUENet:
        """The network before training, its prior untrained."""
        require_generator(rng)
        with global_seed(draw_seed(rng)):
            return CUENet(
                stages=self.stages, width=self.width, hidden=self.hidden, prior=self.prior,
                illumination=self.illumination, step=self.step, ratio=self.ratio,
            )  # fmt: skip

    def build(self, data: Data[Restoring], *, rng: Generator) -> CUENet:
        """Train on pairs of dark and bright pictures [n, 3, h, w] in [0, 1].

        Raises:
            InputError: if they are no such pictures, or their sides no multiples of the patch.
            NonFiniteError: if training diverges.
        """
        requires(data.task, Restoring, "CUE")
        first = require_pairs(data, "CUE", rng)
        dark, bright = data.task.degraded(first), data.task.clean(first)
        for part in (dark, bright):
            require_pictures(part, "CUE", channels=3)
            require_unit(part, "CUE")
        if dark.shape != bright.shape or (
            self.gradients and any(side % self.patch for side in dark.shape[2:])
        ):
            raise InputError(
                f"CUE needs dark and bright pictures of one size, sides multiples of {self.patch}; got "
                f"{tuple(dark.shape[2:])} and {tuple(bright.shape[2:])}."
            )
        net = self.initial(rng)
        if net.prior is not None:
            self._prior(net.prior, data, self.window, self.lr, rng, "CUE, illumination prior")
        judge = None
        if self.gradients:
            with global_seed(draw_seed(rng)):
                judge = GradientPrior(self.patch, self.tokens, self.depth)
            self._prior(judge, data, None, 5 * self.lr, rng, "CUE, gradient prior")
            judge.eval().requires_grad_(False)

        def loss(m: Module, batch: Batch) -> Tensor:
            like = next(m.parameters())
            return retinex_loss(
                m, data.task.degraded(batch).to(like), data.task.clean(batch).to(like), judge, self.gradients
            )

        fit_(
            net.train(), data, loss, Adam(net.parameters(), lr=self.lr), epochs=self.epochs, rng=rng,
            loop=Loop(label="CUE"),
        )  # fmt: skip
        return net.eval()

    def _prior(
        self, prior: Module, data: Data[Restoring], window: int | None, lr: float, rng: Generator, label: str
    ) -> None:
        def loss(m: Module, batch: Batch) -> Tensor:
            bright = data.task.clean(batch).to(next(m.parameters()))
            if window is None:
                return m.loss(bright, self.hide)  # type: ignore[operator, no-any-return]
            return m.loss(bright.amax(1, keepdim=True), window, self.hide)  # type: ignore[operator, no-any-return]

        adam = Adam(prior.parameters(), lr=lr)
        fit_(prior.train(), data, loss, adam, epochs=self.prior_epochs, rng=rng, loop=Loop(label=label))


def retinex_loss(
    net: Module, dark: Tensor, bright: Tensor, judge: GradientPrior | None, weight: float
) -> Tensor:
    """All that is compared; see the module's head."""
    low: Parts = net.parts(dark)  # type: ignore[operator]
    high: Parts = net.parts(bright)  # type: ignore[operator]
    made = low.picture
    total: Tensor = (
        _l1(low.light * low.reflectance + low.noise, dark)
        + _l1(high.light * high.reflectance, bright)
        + 0.009 * _l1(low.reflectance, high.reflectance)
        + 0.001 * (smoothness(low.light, dark) + smoothness(high.light, bright))
        + 0.2 * (consistency(low.light, high.light) + consistency(low.bright_light, high.light))
        + _l1(made, bright)
        + (low.bright_light - high.light).square().mean()
        + _l1(low.bright_reflectance, high.reflectance)
        + 5
        * sum(
            (a**2 - b**2).square().mean()
            for a, b in zip(*map(slopes, (low.bright_light, high.light)), strict=True)
        )
    )
    if judge is not None:
        total = total + weight * _l1(judge.tokens(made), judge.tokens(bright))
    return total


def smoothness(light: Tensor, picture: Tensor) -> Tensor:
    """|dL| / max(|dI|, 0.01) of scaled gradients, the picture in grey: light may change where the picture does."""
    grey = picture.mean(1, keepdim=True)
    parts = zip(slopes(light), slopes(grey), strict=True)
    return sum((_scaled(a) / _scaled(b).clamp_min(0.01)).mean() for a, b in parts)  # type: ignore[return-value]


def consistency(a: Tensor, b: Tensor) -> Tensor:
    """(a + b) e^{-10 (a + b)} of scaled gradients: small where both are flat or both change."""
    sums = (_scaled(x) + _scaled(y) for x, y in zip(slopes(a), slopes(b), strict=True))
    return sum((s * (-10 * s).exp()).mean() for s in sums)  # type: ignore[return-value]


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute differences of neighbours, down and across."""
    return (x[:, :, 1:] - x[:, :, :-1]).abs(), (x[..., 1:] - x[..., :-1]).abs()


def _scaled(x: Tensor) -> Tensor:
    """From 0 to 1 a picture; 0 where it is constant."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-4)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()
