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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import ModuleList
from torch.nn.utils import clip_grad_value_
from torch.optim import Adam

from ..errors import InputError, require
from ..models.text_to_image import Text, TextToImage, training_only
from ..paper import Paper
from ._distil import clean, generated, guided_noise, level, matching
from ._precision import narrowed, widened
from ._train import noise_like, pick, require_settings, train_, weights_of
from .concepts import Concepts


@dataclass(frozen=True, kw_only=True)
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
    distil: int = 10_000
    steps: int = 1000
    fake_steps: int = 1
    alpha: float = 1.0
    forget: float = 1.0
    fake_forget: float = 1.0
    guidance: float = 1.0
    fake_guidance: float = 1.0
    start: float = 2.5
    low: float = 0.14
    high: float = 13.1
    batch_size: int = 8
    lr: float = 1e-6
    fake_lr: float = 3e-6
    clip: float = 1.0

    paper: ClassVar[Paper] = Paper(
        "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models",
        "Chen, Zhang, Zhou", "ICLR", 2025, "2409.11219",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("preserve", "guide")

    def __post_init__(self) -> None:
        require_settings(
            self,
            least={"distil": 0, "fake_steps": 1},
            positive=(
                "lr", "fake_lr", "alpha", "forget", "fake_forget", "guidance", "fake_guidance", "low", "clip",
            ),
        )  # fmt: skip
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
        data.require_seen(model, "SFD")
        given, model = model, widened(model)
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
        t0, low, high = (level(model, ratio) for ratio in (self.start, self.low, self.high))
        with torch.no_grad():
            kept = model.encode([p for c in data.preserve for p in data.prompts(c)])
            asked = model.encode([p for c in data.erase for p in data.prompts(c)])
            guides = model.encode([p for c in data.erase for p in data.guide_prompts(c)])
            null = model.encode([""])
        if torch.allclose(asked.hidden, guides.hidden, rtol=0, atol=1e-9):
            raise InputError(
                "SFD: every guide is encoded just as its concept, so nothing would be forgotten."
            )
        theta, psi = model.editable(), model.editable()
        both = _Pair([theta.denoiser, psi.denoiser])
        networks = _Pair([model.denoiser, *both])
        own, fake = (list(weights_of(net, "all").values()) for net in (theta, psi))

        def drawn(text: Text) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """x_0, x_t, t and the noise in x_t."""
            z = noise_like(model.alphas_cumprod.new_empty(self.batch_size, *model.shape)).to(
                model.device, model.dtype
            )
            x0 = generated(theta, z, t0, text)
            t, noise = low + pick(self.batch_size, high - low + 1), noise_like(z)
            return x0, model.add_noise(x0, noise, t), t, noise

        def fake_error(text: Text) -> Tensor:
            with torch.no_grad():
                _, x, t, noise = drawn(text)
            found = guided_noise(psi, x, t, text, null, self.fake_guidance)
            return (found - noise).square().flatten(1).sum(1).mean()

        def mismatch(goal: Text, text: Text) -> Tensor:
            x0, x, t, _ = drawn(text)
            real = clean(model, x, t, guided_noise(model, x, t, goal, null, self.guidance))
            false = clean(model, x, t, guided_noise(psi, x, t, text, null, self.fake_guidance))
            return matching(x0, real, false, self.alpha).mean()

        def train(rounds: int, forgetting: bool) -> None:
            def loss(step: int) -> Tensor:
                generator = (step + 1) % (self.fake_steps + 1) == 0
                weight = self.forget if generator else self.fake_forget
                with training_only(networks, own if generator else fake):
                    text = kept[pick(self.batch_size, len(kept))]
                    total = mismatch(text, text) if generator else fake_error(text)
                    if forgetting:
                        rows = pick(self.batch_size, len(asked))
                        goal, text = guides[rows], asked[rows]
                        total = total + weight * (mismatch(goal, text) if generator else fake_error(text))
                return total

            groups = [{"params": own, "lr": self.lr}, {"params": fake, "lr": self.fake_lr}]
            train_(
                both, loss, [*own, *fake], _Clipped(groups, clip=self.clip),
                steps=rounds * (self.fake_steps + 1), rng=rng, label="SFD" if forgetting else "distil", numbered=True,
            )  # fmt: skip

        if self.distil:
            train(self.distil, forgetting=False)
        train(self.steps, forgetting=True)
        return _started_at(narrowed(theta, given), t0), narrowed(psi, given)


def draws_in_one_step(pipeline: TextToImage) -> bool:
    """Whether the pipeline is a generator that `SFD` made, to be drawn from in one step without guidance."""
    known = pipeline.scheduler.config
    return known.get("timestep_spacing") == "trailing" and known.get("trained_betas") is not None


def one_step(pipeline: TextToImage, prompts: Sequence[str], *, rng: Generator) -> Tensor:
    """Draw with a generator that `SFD` made: one image a prompt, [n, channels, height, width], about -1 to 1.

    Raises:
        InputError: if the pipeline is no such generator.
    """
    if not draws_in_one_step(pipeline):
        raise InputError(
            "one_step draws with a generator made by SFD(keep='generator'); this pipeline is none."
        )
    return pipeline.sample(prompts, steps=1, guidance=1, rng=rng)


def _started_at(model: TextToImage, t0: int) -> TextToImage:
    """The same with a schedule that ends at t0, where any of diffusers' samplers then begins."""
    a = model.alphas_cumprod[: t0 + 1]
    betas = 1 - a / torch.cat([a.new_ones(1), a[:-1]])
    ddim: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
    model.scheduler = ddim(
        num_train_timesteps=t0 + 1, trained_betas=betas.tolist(), timestep_spacing="trailing", steps_offset=1,
        set_alpha_to_one=True, clip_sample=False,
        prediction_type=model.scheduler.config.get("prediction_type", "epsilon"),
    )  # fmt: skip
    model.alphas_cumprod = a.clone()
    if model.index:
        model.index = {**model.index, "scheduler": ["diffusers", "DDIMScheduler"]}
    return model


class _Pair(ModuleList):
    """Networks that stay in eval mode."""

    def train(self, mode: bool = True) -> _Pair:
        super().train(False)
        return self


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
