"""UnlearnDiffAtk: find tokens before a prompt with which the erased pipeline itself recognises an image of the concept.

Zhang, Jia, Chen, Chen, Zhang, Liu, Ding, Liu, "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still
Easy To Generate Unsafe Images ... For Now", ECCV 2024, arXiv 2310.11868. With z the latent of a target image, the k
tokens delta before the prompt c are chosen so that the denoiser explains z:

    minimise E |e - eps(sqrt(a_t) z + sqrt(1 - a_t) e, t, delta + c)|^2   over delta, at t = T/2n, 3T/2n, ... in turn

Each token is a row u of the probability simplex over the vocabulary. Forward draws a token from u and gathers its
embedding v; backward passes the gradient straight through, clamp(E dL/dv, -1, 1) with E the table of embeddings; Adam
steps, and rows are projected onto the simplex. After each t the tokens of the highest u are drawn from and judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Parameter
from torch.optim import Adam

from ..errors import InputError, NonFiniteError
from ..models.text_to_image import TextToImage, training_only
from ..paper import Paper
from ..progress import progress
from ..random import child
from ..settings import Count, NonNegative, Positive, settings
from ._train import widened
from .attacks import Attacked, Insertion, Names, Targets


@settings
class UnlearnDiffAtk:
    """Search with gradients for tokens before a prompt that make an erased pipeline draw the concept again.

    Reads the edited pipeline only. Success is meaningful beside `TokenSearch` with as many candidates, and beside a
    pipeline retrained without the concept. Special tokens are never inserted.

    Attributes:
        tokens: inserted at the beginning of the prompt (k); the paper takes 3 for objects and styles, 5 for nudity.
        levels: noise levels, from little noise to much; after each a candidate is drawn and judged.
        iterations: steps of Adam at each level.
        lr: of Adam.
        weight_decay: of Adam, added to the gradient.
        draws: draws of tokens and noise that a gradient is averaged over; the paper's is one.
        banned: words of which no token is inserted, such as the concept's own.
        batch_size: prompts passed through the pipeline at once.
    """

    tokens: Count = 3
    levels: Count = 50
    iterations: Count = 40
    lr: Positive = 0.01
    weight_decay: NonNegative = 0.1
    draws: Count = 1
    banned: tuple[str, ...] = ()
    batch_size: Count = 16

    paper: ClassVar[Paper] = Paper(
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images ... "
        "For Now", "Zhang, Jia, Chen, Chen, Zhang, Liu, Ding, Liu", "ECCV", 2024, "2310.11868",
    )  # fmt: skip

    def attack(self, model: TextToImage, targets: Targets, judge: Names, *, rng: Generator) -> Attacked:
        """Attack every target; what is drawn for one does not depend on the others.

        A candidate that was judged before is not drawn again: it would give the same image.

        Raises:
            InputError: if a prompt leaves no room for the tokens, the pipeline has several text encoders or fewer noise
                levels than asked for, or the targets are not of its size.
        """
        model = widened(model)
        there = Insertion(
            model, targets, judge,
            tokens=self.tokens, banned=self.banned, batch_size=self.batch_size, who="UnlearnDiffAtk",
        )  # fmt: skip
        if self.levels > model.timesteps:
            raise InputError(
                f"UnlearnDiffAtk.levels must be at most {model.timesteps}, the pipeline's; got {self.levels}."
            )
        latents = model.latents(targets.images)
        if latents.shape != targets.noise.shape:
            raise InputError(
                f"UnlearnDiffAtk: the target images make latents of {list(latents.shape[1:])}, but the noise is "
                f"{list(targets.noise.shape[1:])}. Use images of the size that the pipeline draws."
            )
        rngs = [child(rng) for _ in range(len(targets))]
        search = _Search(self, there, there.alone())
        with training_only(model, []), progress("UnlearnDiffAtk", self.levels) as bar:
            for level in range(self.levels):
                left = search.left
                if not left:
                    break
                t = int((level + 0.5) * model.timesteps / self.levels)
                for _ in range(self.iterations):
                    slopes: list[Tensor] = []
                    for low in range(0, len(left), self.batch_size):
                        part = left[low : low + self.batch_size]
                        own = [rngs[i] for i in part]
                        slopes += self.gradient(model, there, latents, part, search.rows(part), t, own)
                    search.step_(left, slopes)
                search.judge_(left)
                bar.advance(note=f"{sum(search.success)} of {len(targets)}")
        return search.attacked()

    def gradient(
        self,
        model: TextToImage,
        there: Insertion,
        latents: Tensor,
        at: Sequence[int],
        rows: Tensor,
        t: int,
        rngs: Sequence[Generator],
    ) -> Tensor:
        """Straight-through gradient of each target's own error, [m, k, vocabulary].

        Args:
            model: the pipeline under attack.
            there: the prompts.
            latents: of all target images, [n, c, h, w].
            at: the m targets asked for.
            rows: their u, [m, k, vocabulary].
            t: time step.
            rngs: generator of each, which draws its tokens and noise.

        Raises:
            NonFiniteError: if the pipeline predicts infinities or NaN.
        """
        total = rows.new_zeros(*rows.shape[:2], there.table.shape[1])
        for _ in range(self.draws):
            chance = torch.stack([torch.rand(self.tokens, generator=g) for g in rngs])
            noise = torch.cat([model.noise(1, g) for g in rngs])
            picked = pick(rows, chance.to(rows.device))
            vectors = there.table[picked].requires_grad_()
            text = there.encode(at, picked, vectors)
            found = model.noise_prediction(model.add_noise(latents[list(at)], noise, t), t, text)
            errors = (found - noise).float().square().flatten(1).mean(1)
            total += torch.autograd.grad(errors.sum(), vectors)[0]
        if not torch.isfinite(total).all():
            raise NonFiniteError(f"UnlearnDiffAtk: the pipeline's error at time step {t} is not finite.")
        slopes: Tensor = (total / self.draws) @ there.table.float().T
        return slopes.clamp_(-1, 1)


class _Search:
    """Where the search for every target's tokens stands.

    Args:
        how: the settings.
        there: the prompts.
        before: whether each prompt draws its concept by itself; then nothing is searched for it.

    Attributes:
        success: whether the prompt alone or a candidate drew the concept, one a target.
    """

    def __init__(self, how: UnlearnDiffAtk, there: Insertion, before: Sequence[bool]) -> None:
        self._there, self._before = there, before
        self.success = list(before)
        self._tried: list[dict[tuple[int, ...], bool]] = [{} for _ in before]
        rows = there.table.new_zeros(len(before), how.tokens, there.vocabulary, dtype=torch.float32)
        rows[..., there.allowed] = 1 / len(there.allowed)
        self._u = [Parameter(row) for row in rows]
        self._adam = Adam(self._u, lr=how.lr, weight_decay=how.weight_decay)

    @property
    def left(self) -> list[int]:
        """Targets whose concept was not drawn yet."""
        return [i for i, done in enumerate(self.success) if not done]

    def rows(self, at: Sequence[int]) -> Tensor:
        """The u of these targets, [m, k, vocabulary]."""
        return torch.stack([self._u[i].data for i in at])

    def step_(self, at: Sequence[int], slopes: Sequence[Tensor]) -> None:
        """A step of Adam on the u of these targets, then back onto the simplex."""
        self._adam.zero_grad()
        for i, slope in zip(at, slopes, strict=True):
            self._u[i].grad = slope
        self._adam.step()  # passes over those without a gradient
        for i, row in zip(at, simplex(self.rows(at), self._there.allowed), strict=True):
            self._u[i].data = row

    def judge_(self, at: Sequence[int]) -> None:
        """Draw from the tokens of the highest u of these targets, unless that was done before."""
        best = {i: tuple(self._u[i].data.argmax(1).tolist()) for i in at}
        fresh = [i for i in at if best[i] not in self._tried[i]]
        if not fresh:
            return
        ids = torch.tensor([best[i] for i in fresh], device=self._there.table.device)
        for i, hit in zip(fresh, self._there.shows(fresh, ids), strict=True):
            self._tried[i][best[i]] = self.success[i] = hit

    def attacked(self) -> Attacked:
        """How it went."""
        attempts = (
            self._there.attempt(
                i, before=before, success=success, ids=[*tried][-1] if tried else (), judged=len(tried)
            )
            for i, (before, success, tried) in enumerate(
                zip(self._before, self.success, self._tried, strict=True)
            )
        )
        return Attacked(attempts=tuple(attempts))


def pick(rows: Tensor, chance: Tensor) -> Tensor:
    """Draw from distributions.

    Args:
        rows: probabilities [..., v].
        chance: uniform numbers in [0, 1), [...].

    Returns:
        int64 [...]; never one of probability 0.
    """
    up_to = rows.cpu().double().cumsum(-1)  # not every device knows float64
    found = torch.searchsorted(up_to, chance.cpu().double()[..., None] * up_to[..., -1:], right=True)[..., 0]
    return found.to(rows.device)


def simplex(rows: Tensor, allowed: Tensor) -> Tensor:
    """The nearest points of the probability simplex, with zeros wherever it is not allowed to be otherwise.

    max(x - tau, 0) with the tau that makes it sum to one, found by leaving out what lies below the tau of those that
    are left until nothing does (Michelot, 1986): exact, and without sorting.

    Args:
        rows: [..., v].
        allowed: positions that may be positive, int64.
    """
    x = rows.cpu().double()  # not every device knows float64
    active = torch.zeros_like(x, dtype=torch.bool)
    active[..., allowed.cpu()] = True
    while True:
        tau = (torch.where(active, x, 0).sum(-1, keepdim=True) - 1) / active.sum(-1, keepdim=True)
        fewer = active & (x > tau)
        if torch.equal(fewer, active):
            return torch.where(active, x - tau, 0).to(rows.dtype).to(rows.device)
        active = fewer
