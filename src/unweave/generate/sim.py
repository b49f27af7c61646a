"""SIM: distil a diffusion model into a generator of one step, by matching scores under a robust distance, without data.

Luo, Huang, Geng, Kolter, Qi, "One-Step Diffusion Distillation through Score Implicit Matching", NeurIPS 2024,
arXiv 2410.16794. The teacher q is frozen; the generator g and a net psi that learns the generator's own score begin as
copies of it. All read noisy pictures x = x_0 + sigma e and give the clean one, D(x, sigma). With x_0 = g(z) =
D_theta(sigma_0 z, sigma_0) and y = D_psi(x, sigma) - D_q(x, sigma):

    psi:    (1 / sigma^2 + 1 / s^2) |D_psi(x, sigma) - x_0|^2
    theta:  -w <d'(y), D_psi(x, sigma) - x_0>,   d(y) = sqrt(|y|^2 + c^2) - c,   d'(y) = y / sqrt(|y|^2 + c^2)

in turn, norms over all values of one picture. The second has the gradient of E d(y), as if psi moved with theta
(theorem 3.1), if it passes through x into both networks. The paper measures scores; here d is of clean predictions,
which are scores times sigma^2: the theorem holds for any multiple that depends on sigma alone, and nothing grows past
bounds where the noise ends. Where the paper's table says too little (rates, batch, noise levels) the habits of Zhou et
al., "Score identity Distillation" (ICML 2024), are taken; with the distance "squared" the loss is theirs at alpha = 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError
from ..fit import Step
from ..models.text_to_image import Guidance, Text, TextToImage, noise_like, pick, train_steps_, training_only
from ..models.text_to_image.one_step import Still, draws_in_one_step, level, started_at
from ..models.text_to_image.running_mean import RunningMean
from ..paper import Paper
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, Part, Positive, Whole, refuse_idle, settings

Distance = Literal["pseudo_huber", "squared", "smooth_l1"]
_LOOKS = 10
"""Batches over which the size of the gap y is measured, for c."""
_RHO = 7.0
"""Noise levels are even in sigma^(1 / rho), as EDM's grid is."""


@settings
class SIM:
    """Distil a pipeline, or any net that turns a noisy picture into a clean one, into a generator of one step.

    A pipeline draws afterwards in one step without guidance (`one_step`, or diffusers with num_inference_steps=1 and
    guidance_scale=1), and only what the prompts asked for. Three networks are held at once. The loss is no distance
    and may rise or fall below 0 while the pictures improve: judge them, not it.

    Attributes:
        distance: between scores: robust, of the whole picture ("pseudo_huber"), its square, or robust value by value
            ("smooth_l1").
        c: where a robust distance turns from square to straight, in units of a picture's norm (of a value for
            "smooth_l1"); None takes `kappa`.
        kappa: c as a share of the gap's median size over ten batches after `warm_up`.
        weight: w: 1 ("clean"), or 1 / mean |D_q - x_0| of each picture ("error").
        steps: of the generator.
        fake_steps: of psi, before each of the generator's.
        warm_up: steps of psi alone before the first.
        start: noise level sigma_0 that the generator starts from, as noise over signal.
        low: lowest noise level at which pictures are compared.
        high: highest one.
        data_std: s, standard deviation of the pictures' values.
        guidance: scale of the teacher's classifier-free guidance; pipelines only.
        batch_size: pictures a step.
        lr: of the generator's Adam, which has no momentum.
        fake_lr: of psi's.
        average: share of a running mean of the generator's weights that is kept at each of its steps; 0 takes the last
            weights.
    """

    distance: Distance = "pseudo_huber"
    c: Positive | None = None
    kappa: Positive = 0.1
    weight: Literal["clean", "error"] = "clean"
    steps: Count = 10_000
    fake_steps: Count = 1
    warm_up: Whole = 100
    start: Positive = 2.5
    low: Positive = 0.02
    high: Positive = 13.1
    data_std: Positive = 0.5
    guidance: Guidance = 1.0
    batch_size: Count = 64
    lr: Positive = 1e-5
    fake_lr: Positive = 1e-5
    average: Part = 0.0

    paper: ClassVar[Paper] = Paper(
        "One-Step Diffusion Distillation through Score Implicit Matching", "Luo, Huang, Geng, Kolter, Qi", "NeurIPS",
        2024, "2410.16794",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.low < self.start < self.high:
            raise InputError(
                f"SIM.start must lie between low and high, the levels that the teacher is asked at; got {self.low:g}, "
                f"{self.start:g} and {self.high:g}."
            )
        if self.distance == "squared":
            refuse_idle(self, "c", "kappa", when="with distance='squared'")
        elif self.c is not None:
            refuse_idle(self, "kappa", when="where c is given")
        elif not self.warm_up:
            raise InputError(
                "SIM.warm_up must be at least 1 unless c is given: psi begins as the teacher, so before it has learnt "
                "anything the gap that c is a share of is 0."
            )

    def apply(self, model: TextToImage, data: Sequence[str], *, rng: Generator) -> TextToImage:
        """The generator of one step, as a pipeline.

        Args:
            model: the teacher, left unchanged.
            data: prompts to draw.
            rng: governs the run.

        Raises:
            InputError: if there is no prompt, the pipeline is a generator of one step already, its noise does not reach
                the level to start from, or the denoiser holds adapters or quantised weights.
            NonFiniteError: if training diverges.
        """
        require_generator(rng)
        if not data:
            raise InputError("SIM needs at least one prompt to distil.")
        if draws_in_one_step(model):
            raise InputError(
                "SIM: this pipeline is a generator of one step already, with no noise levels left to distil from."
            )
        t0, low, high = (level(model, ratio, "SIM") for ratio in (self.start, self.low, self.high))
        theta, psi = model.editable(), model.editable()
        with torch.no_grad():
            text, null = model.encode(list(dict.fromkeys(data))), model.encode([""])
        sigmas = _sigmas(model)
        nets = [_Clean(m, null, g) for m, g in ((model, self.guidance), (theta, 1.0), (psi, 1.0))]
        # the noise is handed over as it is, as samplers do, where the level's own share of it would be b z
        begin = float(model.alphas_cumprod[t0]) ** -0.5
        losses = _Losses(
            how=self, teacher=nets[0], theta=nets[1], psi=nets[2], shape=model.shape, given=text, begin=begin,
            start=float(sigmas[t0]), levels=sigmas[low : high + 1], like=next(model.denoiser.parameters()),
        )  # fmt: skip
        losses.train_(model.denoiser, theta.denoiser, psi.denoiser, rng)
        return started_at(theta, t0)

    def distil(
        self, net: Module, shape: Sequence[int], *, rng: Generator, conditions: Tensor | None = None
    ) -> OneStep:
        """The generator of one step of any net of EDM's kind.

        Args:
            net: net(x, sigma) -> the clean picture, x [n, *shape] = clean + sigma noise, sigma [n]; with `conditions`,
                net(x, sigma, condition). In eval mode; left unchanged.
            shape: of one picture.
            rng: governs the run.
            conditions: what the net is told, [m, ...], one row drawn for each picture.

        Raises:
            InputError: if the net is in train mode, or answers in another shape than it reads, or guidance is
                asked for.
            NonFiniteError: if training diverges.
        """
        require_generator(rng)
        if self.guidance != 1:
            raise InputError(
                f"SIM.guidance={self.guidance:g} is of pipelines, which know a null prompt; guide inside the net."
            )
        self._require_denoiser(net, shape, conditions)
        theta, psi = copy.deepcopy(net), copy.deepcopy(net)
        losses = _Losses(
            how=self, teacher=_told(net), theta=_told(theta), psi=_told(psi), shape=tuple(shape), given=conditions,
            begin=self.start, start=self.start, levels=None, like=next(net.parameters()),
        )  # fmt: skip
        losses.train_(net, theta, psi, rng)
        return OneStep(theta, self.start).eval()

    def _require_denoiser(self, net: Module, shape: Sequence[int], conditions: Tensor | None) -> None:
        if net.training:
            raise InputError(
                "SIM: the teacher is in train mode, where it may draw at random. Call .eval() on it."
            )
        like = next(net.parameters())
        x = torch.zeros(2, *shape, dtype=like.dtype, device=like.device)
        told = None if conditions is None else conditions[:1].expand(2, *conditions.shape[1:])
        with torch.no_grad():
            out = _told(net)(x, x.new_full((2,), self.start), told)
        if out.shape != x.shape:
            raise InputError(
                f"SIM: the teacher answers {tuple(out.shape)} to pictures of shape {tuple(x.shape)}; it must give the "
                "clean picture."
            )


class OneStep(Module):
    """A generator that `SIM.distil` made: noise in, pictures out.

    Args:
        net: the distilled net.
        start: sigma_0.
    """

    def __init__(self, net: Module, start: float) -> None:
        super().__init__()
        self.net, self.start = net, start

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Pictures of standard normal noise, [n, ...]."""
        return _told(self.net)(self.start * noise, noise.new_full((len(noise),), self.start), condition)


def mismatch(
    x0: Tensor,
    real: Tensor,
    fake: Tensor,
    distance: Distance,
    c: float,
    weight: Literal["clean", "error"] = "clean",
) -> Tensor:
    """The generator's loss of each picture, [n]: its gradient is that of d(fake - real), psi moving along.

    Args:
        x0: drawn, [n, ...].
        real: the teacher's clean prediction from a noised copy of it.
        fake: psi's.
        distance: d.
        c: of a robust distance.
        weight: see `SIM`.
    """
    wide = torch.promote_types(x0.dtype, torch.float32)
    x0, real, fake = (v.to(wide).flatten(1) for v in (x0, real, fake))
    gap = fake - real
    if distance == "squared":
        slope = 2 * gap
    else:
        size = gap.square() if distance == "smooth_l1" else gap.square().sum(1, keepdim=True)
        slope = gap / (size + c * c).sqrt()
    loss = -(slope * (fake - x0)).sum(1)
    return loss if weight == "clean" else loss / (real - x0).detach().abs().mean(1).clamp(min=1e-5)


class _Net(Protocol):
    """Noisy pictures, their noise levels [n] and what each is told -> clean pictures."""

    def __call__(self, x: Tensor, sigma: Tensor, given: Any, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """What psi and the generator minimise in turn.

    Attributes:
        how: the settings.
        teacher: q.
        theta: the generator.
        psi: learns the generator's score.
        shape: of one picture.
        given: rows of what pictures are told, or None.
        begin: what the generator's noise is multiplied by.
        start: noise level that it is told.
        levels: to choose from; None for all between the settings' ends.
        like: gives dtype and device.
    """

    how: SIM
    teacher: _Net
    theta: _Net
    psi: _Net
    shape: tuple[int, ...]
    given: Tensor | Text | None
    begin: float
    start: float
    levels: Tensor | None
    like: Tensor

    def train_(self, teacher: Module, theta: Module, psi: Module, rng: Generator) -> None:
        own, fake = list(theta.parameters()), list(psi.parameters())
        networks, both = Still([teacher, theta, psi]), Still([theta, psi])
        turns, mean = self.how.fake_steps + 1, RunningMean(own, self.how.average)

        def run(objective: Callable[[int], Tensor], steps: int, label: str, after: Any = None) -> None:
            groups = [{"params": own, "lr": self.how.lr}, {"params": fake, "lr": self.how.fake_lr}]
            optimizer = Adam(groups, betas=(0.0, 0.999))
            train_steps_(
                both, objective, [*own, *fake], optimizer, steps=steps, rng=rng, label=label, after_step=after
            )

        def learn(_: int = 0) -> Tensor:
            with training_only(networks, fake):
                return self.fake_error()

        if self.how.warm_up:
            run(learn, self.how.warm_up, "SIM: psi")
        c = self.measured(rng)

        def turn(step: int) -> Tensor:
            if (step + 1) % turns:
                return learn()
            with training_only(networks, own):
                x0, real, fake, _ = self.seen()
                return mismatch(x0, real, fake, self.how.distance, c, self.how.weight).mean()

        def follow(step: Step) -> None:
            if step.index % turns == 0:
                mean.follow()

        run(turn, self.how.steps * turns, "SIM", follow if self.how.average else None)
        if self.how.average:
            mean.write_()

    def measured(self, rng: Generator) -> float:
        """C: as given, or a share of the gap's median size."""
        if self.how.c is not None or self.how.distance == "squared":
            return self.how.c or 0.0
        sizes = []
        with torch.no_grad(), global_seed(draw_seed(rng)):
            for _ in range(_LOOKS):
                _, real, fake, _ = self.seen()
                gap = (fake - real).double().flatten(1)
                sizes.append(gap.abs().flatten() if self.how.distance == "smooth_l1" else gap.norm(dim=1))
        size = float(torch.cat(sizes).median())
        if not size:
            raise InputError("SIM: psi has learnt nothing in warm_up, so c cannot be measured. Give c.")
        return self.how.kappa * size

    def drawn(self) -> tuple[Tensor, Tensor, Tensor, Any]:
        """x_0, its noised copy, the noise levels [n] and what each was told."""
        n = self.how.batch_size
        told = None if self.given is None else self.given[pick(n, len(self.given))]
        x0 = self.theta(self.begin * self._noise(), self.like.new_full((n,), self.start), told)
        sigma = self._sigmas(torch.rand(n)).to(self.like)
        return x0, x0 + sigma.view(-1, *[1] * len(self.shape)) * self._noise(), sigma, told

    def fake_error(self) -> Tensor:
        """Psi's: how far it is from the clean picture, weighted as EDM weights its own training."""
        with torch.no_grad():
            x0, x, sigma, told = self.drawn()
        error = (self.psi(x, sigma, told) - x0).float().square().flatten(1).mean(1)
        weight = 1 / sigma.float().square() + self.how.data_std**-2
        return (weight * error).mean()

    def seen(self) -> tuple[Tensor, Tensor, Tensor, Any]:
        """What theta draws, what the teacher and psi make of its noised copy, and what it was told."""
        x0, x, sigma, told = self.drawn()
        return x0, self.teacher(x, sigma, told), self.psi(x, sigma, told), told

    def _noise(self) -> Tensor:
        return noise_like(self.like.new_empty(self.how.batch_size, *self.shape))

    def _sigmas(self, u: Tensor) -> Tensor:
        low, high = self.how.low ** (1 / _RHO), self.how.high ** (1 / _RHO)
        wanted = (low + u.double() * (high - low)) ** _RHO
        return wanted if self.levels is None else self.levels[_nearest(self.levels, wanted)]


@dataclass(frozen=True)
class _Clean:
    """A pipeline as a net of EDM's kind; its noise levels are those of its own steps."""

    model: TextToImage
    null: Text
    guidance: float

    def __call__(self, x: Tensor, sigma: Tensor, given: Text, /) -> Tensor:
        t = _nearest(_sigmas(self.model), sigma.detach().cpu().double())
        signal = self.model.alphas_cumprod[t].sqrt().to(x).view(-1, 1, 1, 1)
        noise = self.model.guided_noise_prediction(signal * x, t, given, self.null, self.guidance)
        return self.model.without_noise(signal * x, noise, t)


def _sigmas(model: TextToImage) -> Tensor:
    """Noise over signal at each step, float64, rising."""
    return (1 / model.alphas_cumprod - 1).sqrt()


def _nearest(levels: Tensor, wanted: Tensor) -> Tensor:
    return (levels.log() - wanted.log()[:, None]).abs().argmin(1)


def _told(net: Module) -> _Net:
    def call(x: Tensor, sigma: Tensor, given: Any, /) -> Tensor:
        out: Tensor = net(x, sigma) if given is None else net(x, sigma, given)
        return out

    return call
