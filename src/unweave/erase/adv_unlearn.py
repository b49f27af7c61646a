"""AdvUnlearn: train the text encoder to forget a concept under the very tokens that would bring it back.

Zhang, Chen, Jia, Zhang, Fan, Liu, Hong, Ding, Liu, "Defensive Unlearning with Adversarial Training for Robust Concept
Erasure in Diffusion Models", NeurIPS 2024, arXiv 2405.15234. With o the original, frozen, c a concept's prompt, r a
prompt to keep, c' the prompt after k vectors in the place of tokens, and x_t latents that o drew up to step t:

    attack   c* = argmin over the k vectors of  mean (eps(x_t, c') - o(x_t, c))^2
    unlearn  L_u = mean (eps(x_t, c*) - [o(x_t, 0) - eta (o(x_t, c) - o(x_t, 0))])^2
    retain   L_r = mean (eps(x_t, r) - o(x_t, r))^2

The denoiser stays as it is: only what encodes the prompts moves, so that other pipelines can use the encoder too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import Adam

from ..errors import InputError
from ..models.text_to_image import (
    Guidance,
    Prompts,
    Text,
    TextToImage,
    encoder_weights,
    is_offloaded,
    noise_like,
    pick,
    train_steps_,
)
from ..paper import Paper
from ..progress import progress
from ..settings import Count, Positive, Whole, refuse_idle, settings
from ._soft import descend
from ._train import Earlier, editing
from .concepts import Concepts, mentions

Latents = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions of prompts, int64 [n] -> noisy latents [n, c, h, w] of theirs and their time steps, int64 [n]."""


@settings
class AdvUnlearn:
    """Erase concepts from the text encoder, with adversarial vectors before the prompts; keep the preserved prompts.

    Token embeddings stay as they are. Time steps are the sampler's own. The vectors start at tokens drawn afresh for
    every step and have no bound; their gradients are not summed over attack steps, and the last ones are used.

    Attributes:
        attack: "pgd" takes `attack_steps` steps of Adam; "fast" a single step of the gradient's sign, as long as all
            those together could be; "none" leaves the attack out: ESD on the text encoder.
        tokens: vectors put before the prompt (k).
        attack_steps: each on fresh latents.
        attack_lr: of Adam on the vectors.
        warmup: steps before the attack begins.
        eta: strength of the negative guidance.
        mode: "reg" adds the retain loss to the unlearning loss; "iter" takes `retain_steps` steps on it after each.
        gamma: weight of the retain loss in mode "reg"; the paper takes 0.3 for nudity.
        retain_steps: on the retain loss alone, after each step of unlearning, in mode "iter".
        retain_batch: prompts to keep a step.
        blocks: how many of the encoder's blocks are trained, from its input on; 0 trains all, and its last norm.
        pool: noisy latents kept of each prompt and used again; 0 draws fresh ones, which takes most of the time.
        steps: of unlearning.
        batch_size: latents of the concepts a step.
        lr: of Adam on the encoder.
        sampler_steps: of the sampler that draws the latents.
        guidance: scale of classifier-free guidance while drawing them.
    """

    attack: Literal["pgd", "fast", "none"] = "pgd"
    tokens: Count = 1
    attack_steps: Count = 30
    attack_lr: Positive = 1e-3
    warmup: Whole = 200
    eta: Positive = 1.0
    mode: Literal["reg", "iter"] = "reg"
    gamma: Positive = 1.0
    retain_steps: Count = 1
    retain_batch: Count = 5
    blocks: Whole = 0
    pool: Whole = 0
    steps: Count = 1000
    batch_size: Count = 1
    lr: Positive = 1e-5
    sampler_steps: Count = 50
    guidance: Guidance = 3.0

    paper: ClassVar[Paper] = Paper(
        "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models",
        "Zhang, Chen, Jia, Zhang, Fan, Liu, Hong, Ding, Liu", "NeurIPS", 2024, "2405.15234",
    )  # fmt: skip

    def __post_init__(self) -> None:
        refuse_idle(self, "retain_steps" if self.mode == "reg" else "gamma", when=f"with mode={self.mode!r}")
        if self.attack == "none":
            refuse_idle(self, "tokens", "attack_steps", "attack_lr", "warmup", when="with attack='none'")
        elif self.warmup >= self.steps:
            raise InputError(
                f"AdvUnlearn.warmup must be below steps ({self.steps}), or the attack never begins; got {self.warmup}."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline whose text encoder no longer leads to the concepts.

        Raises:
            InputError: if the tokenizer cannot see a concept, a prompt leaves no room for the vectors, fewer prompts
                are preserved than a step reads, a preserved concept contains an erased one, the pipeline has several
                text encoders, or its encoder has fewer blocks than asked for or is wrapped by LoRA.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, "text_encoder", who="AdvUnlearn", rng=rng) as (original, edited):
            self.require_erasable(original, data)
            weights = encoder_weights(edited.text_encoder, self.blocks)
            gone, kept = data.prompts(*data.erase), data.prompts(*data.preserve)
            asked, retained = Prompts(original, gone), Prompts(original, kept)
            if self.attack != "none":
                asked.require_room(self.tokens, "AdvUnlearn")
            with torch.no_grad():
                before, kept_before, null = (original.encode(prompts) for prompts in (gone, kept, [""]))
            held = Earlier.of(original, data, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
            drawn, kept_drawn = (self.latents(original, text, rng) for text in (before, kept_before))
            cycle = 1 if self.mode == "reg" else 1 + self.retain_steps

            def unlearn(attacked: bool) -> Tensor:
                rows = pick(self.batch_size, len(before))
                put = (
                    self.soft_prompt(original, edited, asked, before, drawn, rows)
                    if attacked
                    else (None, None)
                )
                text = asked.encode(edited, rows, *put)
                x, t = drawn(rows)
                with torch.no_grad():
                    told, none = original(x, t, before[rows]), original(x, t, null)
                return F.mse_loss(edited(x, t, text), none - self.eta * (told - none))

            def retain() -> Tensor:
                rows = torch.randperm(len(kept_before))[: self.retain_batch]
                x, t = kept_drawn(rows)
                with torch.no_grad():
                    goal = original(x, t, kept_before[rows])
                return F.mse_loss(edited(x, t, retained.encode(edited, rows)), goal)

            def loss(step: int) -> Tensor:
                if step % cycle:
                    return retain()
                total = unlearn(self.attack != "none" and step // cycle >= self.warmup)
                total = total + held.loss(edited, self.batch_size)
                return total + self.gamma * retain() if self.mode == "reg" else total

            train_steps_(
                edited, loss, weights, Adam(weights, lr=self.lr),
                steps=self.steps * cycle, rng=rng, label="AdvUnlearn",
            )  # fmt: skip
        return edited

    def soft_prompt(
        self,
        model: TextToImage,
        edited: TextToImage,
        asked: Prompts,
        before: Text,
        latents: Latents,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Find vectors under which the edited pipeline predicts what the original does for the concept.

        Args:
            model: the original.
            edited: under attack.
            asked: prompts of the concepts.
            before: the same, encoded by the original.
            latents: draws latents of these prompts.
            rows: prompts to attack, int64 [n]; each has vectors of its own.

        Returns:
            The tokens they began as, int64 [n, k], and the vectors, [n, k, width], without a graph.
        """
        ids = asked.vocabulary[pick(len(rows) * self.tokens, len(asked.vocabulary))].view(len(rows), -1)

        def errors(vectors: Tensor) -> Tensor:
            x, t = latents(rows)
            with torch.no_grad():
                goal = model(x, t, before[rows])
            found = edited(x, t, asked.encode(edited, rows, ids, vectors))
            each: Tensor = (found - goal).square().flatten(1).mean(1)
            return each

        if self.attack == "pgd":
            begun = asked.table[ids]
            return ids, descend(
                begun, lambda vectors: [errors(vectors)], steps=self.attack_steps, lr=self.attack_lr
            )
        with torch.enable_grad():
            vectors = asked.table[ids].requires_grad_()
            (slope,) = torch.autograd.grad(errors(vectors).sum(), vectors)
        return ids, vectors.detach() - self.attack_lr * self.attack_steps * slope.sign()

    def latents(self, model: TextToImage, text: Text, rng: Generator) -> Latents:
        """Draws noisy latents of these encoded prompts by the original pipeline: fresh ones, or out of a pool."""
        times = torch.as_tensor(model.sampler(self.sampler_steps).timesteps).to(model.device)

        def sampled(rows: Tensor, stop: int, noise: Tensor) -> Tensor:
            return model.sample(
                text[rows], steps=self.sampler_steps, guidance=self.guidance, noise=noise, stop=stop
            )

        def fresh(rows: Tensor) -> tuple[Tensor, Tensor]:
            stop = int(pick(1, self.sampler_steps))
            noise = noise_like(model.alphas_cumprod.new_empty(len(rows), *model.shape))
            return sampled(rows, stop, noise), times[[stop]].expand(len(rows))

        if not self.pool:
            return fresh
        rows = torch.arange(len(text)).repeat_interleave(self.pool)
        stops = torch.randint(self.sampler_steps, (len(rows),), generator=rng)
        pool = model.noise(len(rows), rng)
        with progress("draw latents", len(rows)) as bar:
            for stop in sorted(set(stops.tolist())):
                at = stops == stop
                pool[at] = sampled(rows[at], stop, pool[at])
                bar.advance(int(at.sum()))

        def again(rows: Tensor) -> tuple[Tensor, Tensor]:
            at = rows * self.pool + pick(len(rows), self.pool)
            return pool[at], times[stops[at]]

        return again

    def require_erasable(self, model: TextToImage, data: Concepts) -> None:
        """Raise if this request cannot be trained on this pipeline, before anything long begins.

        Raises:
            InputError: see `apply`.
        """
        if len(model.tokenizers) != 1:
            raise InputError(
                "AdvUnlearn: pipelines with several text encoders (SDXL, Stable Diffusion 3, Flux) are not supported: "
                "each would have to be trained and attacked. Use a pipeline with one text encoder, or a method that "
                "edits the denoiser (UCE, ESD)."
            )
        if is_offloaded(model):
            raise InputError(
                "AdvUnlearn trains the text encoder, which --offload moves off the device between steps. Leave it out."
            )
        for old in data.erase:
            for name in data.preserve:
                if mentions(name, old):
                    raise InputError(
                        f"AdvUnlearn: the preserved {name!r} contains {old!r}, which is erased; training would pull "
                        "both ways. Leave it out."
                    )
        n = len(data.preserve) * len(data.templates)
        if n < self.retain_batch:
            raise InputError(
                f"AdvUnlearn.retain_batch is {self.retain_batch}, but there are {n} prompts to keep. Preserve more "
                "concepts (--preserve) or lower it: without them the encoder loses what is not erased too."
            )
