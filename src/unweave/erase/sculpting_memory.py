"""Sculpting Memory: forget concepts one after another through a changing half of the cross-attention.

Li, Xiao, Ji, Deng, Hui, Guo, Ma, "Sculpting Memory: Multi-Concept Forgetting in Diffusion Models via Dynamic Mask and
Concept-Aware Optimization", ICCV 2025, arXiv 2504.09039. The guide of a concept c is its superclass s. In the round of
c, with x_t a noised image of c, x'_t one of s, and T the weights as the round began, which forgot the concepts before:

    loss = mean (eps(x_t, c) - sg eps(x_t, s))^2
           + align * mean (eps(x'_t, s) - noise)^2 + kd * mean (eps(x'_t, s) - T(x'_t, s))^2

It moves the weights with the largest |sum of gradients|, chosen in each matrix: first of the training loss on images of
c over the warm-up, then of the loss itself, where a share of the mask that falls as a cosine is exchanged.

The paper's text was not available here: masks and schedule follow the authors' code. That code computes the third term
and then overwrites it by the second; kd=0 is what it trains. Departures: moments of weights that leave the mask are
zeroed, so that off the mask every weight keeps its bits; the cycle of the learning rate ends with the round; the mean
that chooses a round's weights leaves the warm-up out; Adam's betas do not cycle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Parameter
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import Uniform
from ..masks.select import select
from ..models.text_to_image import Guidance, Text, TextToImage, Weights, pick, train_steps_
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, Range, Share, settings
from ._train import Drawn, Earlier, denoised, editing, gradient_sums
from .concepts import Concepts, mentions

_UNTIL = 0.8
"""Share of a round after which its mask stays."""


@settings
class SculptingMemory:
    """Turn each concept into its guide, in the order of the request, and distil from the model before each round.

    All images are drawn by the original pipeline: those of a guide with the concept as negative prompt. A round needs
    nothing of those after it: erasing the first concepts alone gives the same weights as stopping there.

    Attributes:
        density: share of every weight matrix that may move at a time (rho); biases move whole.
        exchange: share of the mask exchanged at first (zeta_0); 0 keeps the mask of the warm-up.
        update_every: steps between two exchanges, of which there are none in the last fifth of a round.
        align: weight of ordinary training on the guide's images.
        kd: weight of the distillation from the round's beginning; 0 is the authors' code as it runs.
        target: whose prediction under the guide's prompt the concept is to take: the "current" weights (the authors'
            code), the round's "teacher", or the "original" ones.
        train: which weights are candidates.
        steps: of a round, warm-up included.
        warmup: steps of a round that only sum up gradients for its first mask.
        epoch: steps over which the first term is averaged; a round ends with the weights of the lowest mean.
        batch_size: latents of each kind a step.
        lr: highest learning rate of Adam, reached after 30 % of a round's training.
        images: drawn of each concept, and as many of its guide.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them.
    """

    density: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of every weight matrix that may move.")
    ] = 0.5
    exchange: Share = 0.2
    update_every: Count = 100
    align: NonNegative = 0.25
    kd: NonNegative = 0.25
    target: Literal["current", "teacher", "original"] = "current"
    train: Weights = "cross"
    steps: Count = 500
    warmup: Count = 50
    epoch: Count = 50
    batch_size: Count = 2
    lr: Positive = 3e-6
    images: Count = 100
    sampler_steps: Count = 50
    guidance: Guidance = 7.5

    paper: ClassVar[Paper] = Paper(
        "Sculpting Memory: Multi-Concept Forgetting in Diffusion Models via Dynamic Mask and "
        "Concept-Aware Optimization",
        "Li, Xiao, Ji, Deng, Hui, Guo, Ma", "ICCV", 2025, "2504.09039",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise InputError(
                f"SculptingMemory.warmup must be below its steps; got {self.warmup} of {self.steps}. The warm-up moves "
                "nothing."
            )
        if self.exchange and not any(map(self._exchanges, range(self.warmup + 1, self.steps))):
            raise InputError(
                f"SculptingMemory.exchange would do nothing: every {self.update_every} steps there is no exchange "
                f"between the warm-up ({self.warmup}) and the last fifth of {self.steps} steps. Lower update_every, or "
                "set exchange=0."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that draws each guide where its concept is asked for.

        Raises:
            InputError: if the tokenizer cannot see a concept, a guide is empty or names its own concept, no weight is
                salient, or guidance is built into the pipeline's weights, which then reads no negative prompt.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, only=self.train, who="SculptingMemory", rng=rng) as (original, edited):
            self.require_erasable(original, data)
            for concept in data.erase:
                self._round_(edited, original, data.only(concept), data, rng)
        return edited

    def require_erasable(self, model: TextToImage, data: Concepts) -> None:
        """Raise if a guide is no superclass, or cannot be drawn without its concept, before anything long begins.

        Raises:
            InputError: see `apply`.
        """
        if model.distilled:
            raise InputError(
                "SculptingMemory draws every guide with its concept as negative prompt; guidance is built into this "
                "pipeline's weights, which read none. Use another eraser (UCE, ESD, Concept Ablation)."
            )
        for concept in data.erase:
            guide = data.guide_of(concept)
            if not guide.strip() or mentions(guide, concept):
                raise InputError(
                    f"SculptingMemory needs a superclass as the guide of {concept!r}, such as fish for tench; got "
                    f"{guide!r}. It must not be empty, nor name the concept itself."
                )

    def _round_(
        self, edited: TextToImage, original: TextToImage, data: Concepts, whole: Concepts, rng: Generator
    ) -> None:
        (concept,) = data.erase
        gone, wide = (
            Drawn.of(
                original, prompts, self.images, steps=self.sampler_steps, guidance=self.guidance,
                negative=negative, rng=rng, label=label,
            )
            for prompts, negative, label in (
                (data.prompts(concept), "", f"draw {concept}"),
                (data.guide_prompts(concept), concept, "draw its guide"),
            )
        )  # fmt: skip
        held = Earlier.of(original, whole, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
        weights = edited.weights(self.train)
        optimizer = Sculptor(weights, self._first_mask(edited, weights, gone, rng), lr=self.lr)
        teacher = edited.editable(only=weights)
        goals = {"current": edited, "teacher": teacher, "original": original}[self.target]
        forgetting: list[float] = []

        def loss(_: int) -> Tensor:
            t = pick(self.batch_size, original.timesteps)
            own = gone.noised(pick(self.batch_size, len(gone)), t)
            other = wide.noised(pick(self.batch_size, len(wide)), t)
            guides = wide.text[other.rows]
            with torch.no_grad():
                goal = goals(own.x, t, wide.text[own.rows])
                known = teacher(other.x, t, guides) if self.kd else None
            both = Text.cat([gone.text[own.rows], guides])
            taken, answer = edited(torch.cat([own.x, other.x]), torch.cat([t, t]), both).chunk(2)
            forget = F.mse_loss(taken, goal)
            forgetting[:] = [float(forget.detach())]
            total = forget + self.align * F.mse_loss(answer, other.truth)
            total = total if known is None else total + self.kd * F.mse_loss(answer, known)
            return total + held.loss(edited, self.batch_size)

        def after_step(step: Step) -> None:
            done = self.warmup + step.index
            optimizer.note_(forgetting[0], close=done % self.epoch == 0 or done == self.steps)
            if self.exchange and self._exchanges(done):
                optimizer.change_(self.exchanged(done))

        left = self.steps - self.warmup
        train_steps_(
            edited, loss, list(weights.values()), optimizer, steps=left, rng=rng, label=f"forget {concept}",
            schedule=OneCycleLR(optimizer, self.lr, total_steps=left, cycle_momentum=False), after_step=after_step,
        )  # fmt: skip
        optimizer.put_back_()

    def exchanged(self, step: int) -> float:
        """The share of the mask that is exchanged at a step of a round."""
        return self.exchange * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def _exchanges(self, step: int) -> bool:
        return step % self.update_every == 0 and step < _UNTIL * self.steps

    def _first_mask(
        self, edited: TextToImage, weights: Mapping[str, Parameter], gone: Drawn, rng: Generator
    ) -> Mapping[str, Tensor]:
        def error() -> Tensor:
            at, t = pick(self.batch_size, len(gone)), pick(self.batch_size, edited.timesteps)
            return denoised(edited, gone.noised(at, t), gone.text)

        sums = gradient_sums(
            edited, weights, (error() for _ in range(self.warmup)), who="SculptingMemory", rng=rng
        )
        size = {n: total.abs() * (weights[n] != 0) for n, total in sums.items() if total.ndim > 1}
        return select(size, budget=Uniform(1 - self.density)).keep


class Sculptor(Adam):
    """Adam on a share of every weight matrix that changes: it moves only the positions kept, and sums up all gradients.

    All it knows is in its state and its first parameter group, so that a resumed run comes to the same bits. Weights
    off the mask keep theirs: neither their gradient nor a moment of it ever reaches them.

    Args:
        weights: name -> parameter that it trains.
        keep: name -> positions that may move; parameters not named move whole.
        lr: of Adam.
    """

    def __init__(self, weights: Mapping[str, Parameter], keep: Mapping[str, Tensor], *, lr: float) -> None:
        super().__init__(list(weights.values()), lr=lr)
        for name, weight in weights.items():
            state = self.state[weight]
            state["step"] = torch.tensor(0.0)
            for part in ("exp_avg", "exp_avg_sq", "best"):
                state[part] = torch.zeros_like(weight)
            if name in keep:
                state["keep"] = keep[name].to(
                    weight.dtype
                )  # an optimiser's state is loaded in its weight's dtype
                state["sum"] = torch.zeros_like(weight)
        self.param_groups[0].update(total=0.0, count=0, lowest=math.inf)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """One step of Adam on the masked gradient; the whole gradient is added to the sums."""
        with torch.enable_grad():
            loss = closure()
        for weight, state in self._masked():
            if weight.grad is not None:
                state["sum"] += weight.grad
                weight.grad *= state["keep"]
        super().step()
        return loss

    @torch.no_grad()
    def change_(self, share: float) -> None:
        """Exchange this share of every mask, one position at least: smallest |sum| out, largest |sum| in.

        The sums start afresh. The moments of what goes out are zeroed, so that it stops at once.
        """
        for _, state in self._masked():
            keep, size = state["keep"].bool(), state["sum"].abs()
            living = int(keep.sum())
            n = min(max(1, int(share * living)), living, keep.numel() - living)
            out = size.masked_fill(~keep, math.inf).flatten().topk(n, largest=False).indices
            into = size.masked_fill(keep, -1).flatten().topk(n).indices
            state["keep"].view(-1)[out] = 0
            state["keep"].view(-1)[into] = 1
            for part in ("exp_avg", "exp_avg_sq"):
                state[part] *= state["keep"]
            state["sum"].zero_()

    @torch.no_grad()
    def note_(self, value: float, *, close: bool) -> None:
        """Add a value to the running mean; where that closes as the lowest so far, remember the weights."""
        group = self.param_groups[0]
        group["total"], group["count"] = group["total"] + value, group["count"] + 1
        if not close:
            return
        mean = group["total"] / group["count"]
        group["total"], group["count"] = 0.0, 0
        if mean < group["lowest"]:
            group["lowest"] = mean
            for weight in group["params"]:
                self.state[weight]["best"].copy_(weight)

    @torch.no_grad()
    def put_back_(self) -> None:
        """Give the weights the values remembered, if there are any."""
        group = self.param_groups[0]
        if group["lowest"] < math.inf:
            for weight in group["params"]:
                weight.copy_(self.state[weight]["best"])

    def _masked(self) -> list[tuple[Parameter, dict[str, Any]]]:
        pairs = [(weight, self.state[weight]) for weight in self.param_groups[0]["params"]]
        return [(weight, state) for weight, state in pairs if "keep" in state]
