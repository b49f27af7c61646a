"""SFD: distil a pipeline into a generator of one step, which draws something else where a concept is asked for.

Chen, Zhang, Zhou, "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion
Models", ICLR 2025, arXiv 2409.11219; its loss is that of Zhou et al., "Score identity Distillation", ICML 2024,
arXiv 2404.04057. The original phi is frozen; a fake score psi and the generator theta begin as copies of it. With z
noise, x_0 = (z - b eps_theta(z, t0, c)) / a what the generator draws, x_t its noised copy, f the prediction of x_0
under a prompt, kept prompts c, a concept's prompt c_f and its guide's c_o:

    psi:    |e - eps_psi(x_t, c)|^2 + lambda_psi |e - eps_psi(x_t, c_f)|^2
    theta:  L(c, c) + lambda_theta L(c_o, c_f),   x_0 and x_t of the second drawn for c_f
            L(p, q) = sum (f_phi(p) - f_psi(q)) [(f_phi(p) - x_0) - alpha (f_phi(p) - f_psi(q))] / w

in turn, w = mean |f_phi(p) - x_0| without its gradient. The gradient passes through x_0, and through x_t into both
networks. No images are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn.utils import clip_grad_value_
from torch.optim import Adam

from ..errors import InputError
from ..models.text_to_image import Guidance, Text, TextToImage, noise_like, pick, train_steps_, training_only
from ..models.text_to_image.one_step import Still, draws_in_one_step, level, require_added_noise, started_at
from ..paper import Paper
from ..settings import Count, Positive, Whole, settings
from ._train import editing
from .concepts import Concepts, earlier


@settings
class SFD:
    """Distil the pipeline into a one-step generator for the preserved prompts, with concepts turned into their guides.

    The result draws in one step without guidance (`one_step`, or diffusers with num_inference_steps=1 and
    guidance_scale=1) and only what it was distilled for; in more steps, or with guidance, it draws no better. It
    starts from plain noise z, as diffusers does, where the paper's starts from b z, at most a tenth less. Noise levels
    are given as b / a, noise over signal, so that they hold for any schedule. No mean of the weights is kept.

    Attributes:
        keep: "generator" returns theta, which draws in one step; "steps" returns psi, which has learnt the generator's
            images and draws in many, like the original (ours; the paper does not measure it).
        distil: rounds of plain distillation before forgetting begins.
        steps: rounds of distillation with forgetting.
        fake_steps: of psi, before each step of the generator.
        alpha: of the loss; the paper takes 1.2 for small images, 1.0 for Stable Diffusion.
        forget: weight of the concepts in the generator's loss (lambda_theta); the paper takes 0.01 for small images.
        fake_forget: the same in psi's loss (lambda_psi).
        guidance: scale of the original's classifier-free guidance; the paper takes 4.5 for Stable Diffusion.
        fake_guidance: that of psi, while it is trained and while it trains the generator; 4.5 there too.
        start: noise level that the generator starts from.
        low: lowest noise level at which images are compared.
        high: highest one.
        batch_size: images of each kind a step.
        lr: of the generator's Adam.
        fake_lr: of psi's.
        clip: largest entry of a gradient.
    """

    keep: Literal["generator", "steps"] = "generator"
    distil: Whole = 10_000
    steps: Count = 1000
    fake_steps: Count = 1
    alpha: Positive = 1.0
    forget: Positive = 1.0
    fake_forget: Positive = 1.0
    guidance: Guidance = 1.0
    fake_guidance: Guidance = 1.0
    start: Positive = 2.5
    low: Positive = 0.14
    high: Positive = 13.1
    batch_size: Count = 8
    lr: Positive = 1e-6
    fake_lr: Positive = 3e-6
    clip: Positive = 1.0

    paper: ClassVar[Paper] = Paper(
        "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models",
        "Chen, Zhang, Zhou", "ICLR", 2025, "2409.11219",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.low < self.start < self.high:
            raise InputError(
                f"SFD.start must lie between low and high; got {self.low}, {self.start} and {self.high}."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """The generator (or psi), as a pipeline.

        Raises:
            InputError: see `pair`.
            NonFiniteError: if training diverges.
        """
        generator, psi = self.pair(model, data, rng=rng)
        return generator if self.keep == "generator" else psi

    def pair(self, model: TextToImage, data: Concepts, *, rng: Generator) -> tuple[TextToImage, TextToImage]:
        """The generator and psi, each as a pipeline.

        Raises:
            InputError: if the tokenizer cannot see a concept, none is preserved, a guide is encoded just as its
                concept, the pipeline is a generator of one step already, or its noise does not reach the
                level to start from.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, copies=2, who="SFD", rng=rng) as (original, theta, psi):
            self.require_erasable(original, data)
            t0, low, high = (level(original, ratio, "SFD") for ratio in (self.start, self.low, self.high))
            gone = [data, *earlier(original, data)]
            prompts = (
                data.prompts(*data.preserve), [p for asked in gone for p in asked.prompts(*asked.erase)],
                [p for asked in gone for p in asked.guide_prompts(*asked.erase)], [""],
            )  # fmt: skip
            with torch.no_grad():
                kept, asked, guides, null = (original.encode(p) for p in prompts)
            if torch.allclose(asked.hidden, guides.hidden, rtol=0, atol=1e-9):
                raise InputError(
                    "SFD: every guide is encoded just as its concept, so nothing would be forgotten."
                )
            losses = _Losses(
                how=self, original=original, theta=theta, psi=psi, t0=t0, levels=(low, high),
                kept=kept, asked=asked, guides=guides, null=null,
            )  # fmt: skip
            if self.distil:
                losses.train_(self.distil, forgetting=False, rng=rng)
            losses.train_(self.steps, forgetting=True, rng=rng)
        return started_at(theta, t0), psi

    def require_erasable(self, model: TextToImage, data: Concepts) -> None:
        """Raise if this pipeline cannot be distilled, before anything long begins.

        Raises:
            InputError: see `pair`.
        """
        require_added_noise(model, "SFD")
        if draws_in_one_step(model):
            raise InputError(
                "SFD: this pipeline is a generator of one step already, with no noise levels left to distil from. "
                "Erase all concepts at once from the original."
            )
        if not data.preserve:
            raise InputError(
                "SFD distils the preserved prompts and no others, and none is preserved. Name what the generator is "
                "to draw (--preserve)."
            )


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """What the generator and the fake score minimise in turn.

    Attributes:
        how: the settings.
        original: phi.
        theta: the generator.
        psi: the fake score.
        t0: step that the generator starts from.
        levels: lowest and highest step at which images are compared.
        kept: prompts to distil.
        asked: prompts of the concepts.
        guides: those of their guides, beside them.
        null: the empty prompt.
    """

    how: SFD
    original: TextToImage
    theta: TextToImage
    psi: TextToImage
    t0: int
    levels: tuple[int, int]
    kept: Text
    asked: Text
    guides: Text
    null: Text

    def train_(self, rounds: int, *, forgetting: bool, rng: Generator) -> None:
        """Train psi, `fake_steps` times a round, and then theta."""
        own, fake = (list(net.weights("all").values()) for net in (self.theta, self.psi))
        both = Still([self.theta.denoiser, self.psi.denoiser])
        networks = Still([self.original.denoiser, *both])
        turns = self.how.fake_steps + 1

        def loss(step: int) -> Tensor:
            of_theta = (step + 1) % turns == 0
            with training_only(networks, own if of_theta else fake):
                return self.loss(of_theta, forgetting)

        groups = [{"params": own, "lr": self.how.lr}, {"params": fake, "lr": self.how.fake_lr}]
        train_steps_(
            both, loss, [*own, *fake], _Clipped(groups, clip=self.how.clip),
            steps=rounds * turns, rng=rng, label="SFD" if forgetting else "distil",
        )  # fmt: skip

    def loss(self, of_theta: bool, forgetting: bool) -> Tensor:
        """Theta's or psi's, on kept prompts and, where it is to forget, on the concepts'."""
        text = self.kept[pick(self.how.batch_size, len(self.kept))]
        total = self.mismatch(text, text) if of_theta else self.fake_error(text)
        if not forgetting:
            return total
        rows = pick(self.how.batch_size, len(self.asked))
        goal, text = self.guides[rows], self.asked[rows]
        if of_theta:
            return total + self.how.forget * self.mismatch(goal, text)
        return total + self.how.fake_forget * self.fake_error(text)

    def fake_error(self, text: Text) -> Tensor:
        """Psi's: the noise in what theta draws for these prompts."""
        with torch.no_grad():
            _, x, t, noise = self._drawn(text)
        found = self.psi.guided_noise_prediction(x, t, text, self.null, self.how.fake_guidance)
        return (found - noise).square().flatten(1).sum(1).mean()

    def mismatch(self, goal: Text, text: Text) -> Tensor:
        """Theta's: what it draws for `text`, seen by psi under the same and by phi under `goal`."""
        x0, x, t, _ = self._drawn(text)
        real, fake = (
            model.without_noise(x, model.guided_noise_prediction(x, t, told, self.null, scale), t)
            for model, told, scale in (
                (self.original, goal, self.how.guidance),
                (self.psi, text, self.how.fake_guidance),
            )
        )
        return matching(x0, real, fake, self.how.alpha).mean()

    def _drawn(self, text: Text) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_0, x_t, t and the noise in x_t."""
        model, (low, high) = self.original, self.levels
        z = noise_like(model.alphas_cumprod.new_empty(len(text), *model.shape)).to(model.device, model.dtype)
        x0 = self.theta.clean_prediction(z, self.t0, text)
        t, noise = low + pick(len(text), high - low + 1), noise_like(z)
        return x0, model.add_noise(x0, noise, t), t, noise


def matching(x0: Tensor, real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """The generator's loss L of each image, [n].

    Args:
        x0: drawn by the generator, [n, c, h, w].
        real: the original's prediction of x0 from its noised copy.
        fake: psi's.
        alpha: see `SFD`.
    """
    gap = real - fake
    weight = (real - x0).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    return (gap * ((real - x0) - alpha * gap)).flatten(1).sum(1) / weight


class _Clipped(Adam):
    """Adam without momentum, on gradients whose entries are clipped."""

    def __init__(self, groups: list[dict[str, Any]], *, clip: float) -> None:
        super().__init__(groups, betas=(0.0, 0.999))
        self._clip = clip

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        clip_grad_value_([p for group in self.param_groups for p in group["params"]], self._clip)
        super().step()
        return loss
