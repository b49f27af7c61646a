"""Forget-It-All: erase several concepts at once by zeroing the few feed-forward weights that they alone excite.

Deng, Hui, Li et al., "Forget-It-All: Multi-Concept Machine Unlearning via Concept-Aware Neuron Masking", ICML 2026,
arXiv 2601.06163. For a layer W [out, in] with inputs X and outputs Y = X W^T, at each of the first T sampling steps:

    U[i,j] = |W[i,j]| ||X_j|| |cos(X_j, Y_i)|                                (eq. 1), one prompt at a time
    S = max(0, mean U over concept prompts - mean U over base prompts - their standard deviation)       (eq. 2)
    A = 1/2 mean_t S_t + 1/2 mean_t [S_t among the largest r1 of its layer]                              (eq. 3)
    Q = (A among the largest r2 of its row) and (A among the largest r2 of its layer)                (eq. 4-6)

and a weight is zeroed if some, but fewer than ceil(alpha C), of the C concepts select it (eq. 7-8).

Departures, all fields: the two halves of eq. 3 have unrelated units, so the first is divided by its layer's largest
value, as the authors' code does; only the guided half of each pass is looked at. With one concept no weight can be
shared, so eq. 8 is left out there: read literally it would zero nothing. A weight with A = 0 is never selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..masks.mask import Mask
from ..masks.threshold import kth_largest
from ..models.text_to_image import Guidance, TextToImage, watch_sampling
from ..paper import Paper
from ..settings import Count, NonNegative, SomeShare, refuse_idle, settings
from ._feed_forwards import say_passed_over
from .concepts import Concepts, remember_

Saliency = Literal["eq1", "wanda", "release"]
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """The weights that were found, and how many.

    Attributes:
        keep: False where a weight is to be zeroed, by parameter name in the pipeline.
        selected: concept -> weights it selects (Q).
        shared: weights selected by so many concepts that they are kept.
        pruned: weights to be zeroed.
        watched: weights of all layers looked at.
    """

    keep: Mask
    selected: Mapping[str, int]
    shared: int
    pruned: int
    watched: int


@settings
class FIA:
    """Zero the feed-forward weights that some of the concepts excite and most prompts do not; nothing is trained.

    Where text and picture attend to each other (Stable Diffusion 3, Flux), the picture's feed-forwards are looked at;
    Flux's single blocks, which have none of its own, are passed over. Memory does not grow with prompts, steps or
    concepts: 1.5 times the watched weights, and 3 times more if the prompts of one concept do not fit in one batch.

    Attributes:
        r1: share of a layer's weights counted as sensitive at one step (eq. 3).
        r2: share of a row's and of a layer's weights that a concept may select (eq. 4-5); 0.007 to 0.03 in large
            pipelines, about 0.2 in tiny ones. Raise it while a concept survives.
        hard: concepts that get `r2_hard` instead.
        r2_hard: their share.
        alpha: a weight selected by ceil(alpha C) or more of the C concepts is kept (eq. 7); 1 keeps what all select.
        union: zero whatever any concept selects, without eq. 7-8.
        record: steps looked at (T).
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        sigma: standard deviations of the base prompts subtracted in eq. 2.
        saliency: "eq1"; "wanda" leaves the cosine out; "release" is the authors' code: Wanda's of rows scaled to
            length 1.
        granularity: "both" as in eq. 6; "row" or "layer" is that half alone.
        layers: kind of linear layers: "ff_out" (the paper's), "ff_in", "cross", "cross_kv" or "self".
        normalise_strength: divide the first half of eq. 3 by its layer's largest value.
        both_halves: look at the pass without prompt too.
        batch_size: prompts at once.
    """

    r1: SomeShare = 0.05
    r2: SomeShare = 0.01
    hard: tuple[str, ...] = ()
    r2_hard: SomeShare = 0.03
    alpha: SomeShare = 0.6
    union: bool = False
    record: Count = 10
    steps: Count = 50
    guidance: Guidance = 7.5
    sigma: NonNegative = 1.0
    saliency: Saliency = "eq1"
    granularity: Literal["both", "row", "layer"] = "both"
    layers: Literal["ff_out", "ff_in", "cross", "cross_kv", "self"] = "ff_out"
    normalise_strength: bool = True
    both_halves: bool = False
    batch_size: Count = 16

    paper: ClassVar[Paper] = Paper(
        "Forget-It-All: Multi-Concept Machine Unlearning via Concept-Aware Neuron Masking", "Deng, Hui, Li et al.",
        "ICML", 2026, "2601.06163",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.record > self.steps:
            raise InputError(
                f"FIA.record must be at most steps = {self.steps}, the sampler's; got {self.record}."
            )
        if not self.hard:
            refuse_idle(self, "r2_hard", when="without hard")
        if self.union:
            refuse_idle(self, "alpha", when="with union")
        if self.guidance == 1:
            refuse_idle(self, "both_halves", when="with guidance=1, where no pass is without prompt")

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline with these weights of its denoiser at zero; the input can undo it.

        Raises:
            InputError: see `find`.
        """
        keep = self.find(model, data, rng=rng).keep
        edited = model.editable(only=keep.keep)
        keep.apply_(edited)
        remember_(edited, data, "FIA")
        return edited

    def find(self, model: TextToImage, data: Concepts, *, rng: Generator) -> Neurons:
        """Find the weights; the pipeline is left unchanged.

        Raises:
            InputError: if the tokenizer cannot see a concept, the rule of shared weights would keep every selected
                weight, or nothing would be zeroed.
        """
        data.require_seen(model, "FIA")
        if self.layers in ("ff_in", "ff_out"):
            say_passed_over(model, "FIA")
        stray = set(self.hard) - set(data.erase)
        if stray:
            raise InputError(f"FIA.hard names {', '.join(sorted(stray))}, which are not to be erased.")
        n = len(data.erase)
        many = ceil(self.alpha * n - 1e-9)
        literal = not self.union and n > 1
        if literal and many <= 1:
            raise InputError(
                f"FIA.alpha = {self.alpha} of {n} concepts keeps every weight that one of them selects, so nothing "
                f"would be zeroed. Raise alpha above {1 / n:.2f}, or set union."
            )
        layers, noise = model.linears(self.layers), model.noise(1, rng)
        votes = {
            name: torch.zeros(w.weight.shape, dtype=_counter(n), device=model.device)
            for name, w in layers.items()
        }
        selected = {}
        for concept in data.erase:
            r2, count = self.r2_hard if concept in self.hard else self.r2, 0
            scores = self.scores(model, data, concept, noise)
            for name in list(scores):
                chosen = spatial(scores.pop(name), r2, self.granularity)
                votes[name] += chosen
                count += int(chosen.sum())
            selected[concept] = count
        keep, shared, pruned = {}, 0, 0
        for name, vote in votes.items():
            common = vote >= many if literal else torch.zeros_like(vote, dtype=torch.bool)
            keep[f"denoiser.{name}.weight"] = (vote == 0) | common
            shared += int(common.sum())
            pruned += int(((vote > 0) & ~common).sum())
        if not pruned:
            raise InputError(
                f"FIA would zero no weight: {selected} were selected and {shared} of them kept as shared. Raise r2 or "
                "alpha, or lower sigma."
            )
        watched = sum(v.numel() for v in votes.values())
        return Neurons(keep=Mask(keep), selected=selected, shared=shared, pruned=pruned, watched=watched)

    def scores(self, model: TextToImage, data: Concepts, concept: str, noise: Tensor) -> dict[str, Tensor]:
        """Time-integrated sensitivity A of every watched weight to one concept (eq. 1-3), by layer.

        Args:
            model: left unchanged.
            data: gives the concept's prompts and those without it.
            concept: one of the erased.
            noise: starting noise of all prompts, [1, c, h, w].
        """
        layers = model.linears(self.layers)
        pairs = [(p, i < len(data.templates)) for i, p in
                 enumerate([*data.prompts(concept), *data.base_prompts(concept)])]  # fmt: skip
        parts = [pairs[low : low + self.batch_size] for low in range(0, len(pairs), self.batch_size)]
        strength = {
            n: torch.zeros_like(w.weight, dtype=torch.float32, requires_grad=False) for n, w in layers.items()
        }
        often = {n: torch.zeros_like(s, dtype=_counter(self.record)) for n, s in strength.items()}
        contrasts: dict[str, Contrast] = {}

        def look(name: str, step: int, batch: int, x: Tensor, y: Tensor) -> None:
            contrast = contrasts.setdefault(name, Contrast(self.saliency))
            contrast.add(x, y, torch.tensor([with_concept for _, with_concept in parts[batch]]))
            if batch + 1 < len(parts):
                return
            s = contrasts.pop(name).excess(self.sigma) * layers[name].weight.detach().abs().float()  # S
            tau = kth_largest([s], max(1, int(self.r1 * s.numel())))
            often[name] += s >= max(tau, torch.finfo(s.dtype).tiny)
            strength[name] += s

        watch_sampling(
            model, [[p for p, _ in part] for part in parts], layers, look, noise=noise, steps=self.steps,
            stop=self.record, guidance=self.guidance, both_halves=self.both_halves,
        )  # fmt: skip
        for name, s in strength.items():
            top = float(s.max()) if self.normalise_strength else float(self.record)
            s.mul_(0.5 / max(top, torch.finfo(s.dtype).tiny)).add_(often.pop(name), alpha=0.5 / self.record)
        return strength


def excitation(x: Tensor, y: Tensor, saliency: Saliency) -> Tensor:
    """Eq. 1 of FIA without its factor |W|, for each prompt.

    The column norms of X cancel: ||X_j|| |cos(X_j, Y_i)| = |<X_j, Y_i>| / ||Y_i||.

    Args:
        x: inputs [prompts, tokens, in].
        y: outputs without bias [prompts, tokens, out].
        saliency: "eq1"; "wanda" is ||X_j||; "release" is ||X_j|| after each row of X was scaled to length 1.

    Returns:
        [prompts, out, in], or [prompts, 1, in] for the last two.
    """
    if saliency == "eq1":
        unit: Tensor = y / (y.norm(dim=1, keepdim=True) + 1e-8)
        products: Tensor = torch.bmm(unit.transpose(1, 2), x)
        return products.abs_()
    if saliency == "release":
        x = x / (x.norm(dim=2, keepdim=True) + 1e-8)
    norms: Tensor = x.norm(dim=1)
    return norms[:, None]


class Contrast:
    """Means of the excitation over concept and base prompts and the spread over base prompts, batch by batch."""

    def __init__(self, saliency: Saliency) -> None:
        self._saliency = saliency
        self._with = self._without = 0
        self._sum: Tensor | None = None
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, x: Tensor, y: Tensor, concept: Tensor) -> None:
        """Take in prompts.

        Args:
            x: inputs [prompts, tokens, in].
            y: outputs without bias [prompts, tokens, out].
            concept: whether each prompt holds the concept, bool [prompts].
        """
        rows = y.shape[2] if self._saliency == "eq1" else 1
        if self._sum is None:
            shape = (rows, x.shape[2])
            self._sum, self._mean, self._squares = (x.new_zeros(shape) for _ in range(3))
        n, new = int(concept.sum()), int((~concept).sum())
        at, rest = concept.nonzero().flatten().to(x.device), (~concept).nonzero().flatten().to(x.device)
        height = max(1, _CHUNK // max(1, len(x) * x.shape[2])) if rows > 1 else y.shape[2]
        for low in range(0, y.shape[2], height):
            part = slice(low, low + height) if rows > 1 else slice(None)
            u = excitation(x, y[:, :, low : low + height], self._saliency)
            if n:
                self._sum[part] += u[at].sum(0)
            if new:
                self._merge_(u[rest], part, new)
        self._with, self._without = self._with + n, self._without + new

    def _merge_(self, u: Tensor, part: slice, new: int) -> None:
        assert self._mean is not None
        assert self._squares is not None
        mean = u.mean(0)
        spread = u.sub_(mean).square_().mean(0)  # torch.var_mean over the first dimension is ten times slower
        step = mean - self._mean[part]
        total = self._without + new
        self._squares[part] += new * spread + step.square() * (self._without * new / total)
        self._mean[part] += step * (new / total)

    def excess(self, sigma: float) -> Tensor:
        """max(0, mean over concept prompts - mean over base prompts - sigma standard deviations) (eq. 2)."""
        assert self._sum is not None
        assert self._mean is not None
        assert self._squares is not None
        spread = self._squares.div_(self._without).sqrt_()
        return self._sum.div_(self._with).sub_(self._mean).sub_(spread, alpha=sigma).clamp_(min=0)


def _counter(most: int) -> torch.dtype:
    return torch.uint8 if most < 256 else torch.int16


def spatial(a: Tensor, r2: float, granularity: Literal["both", "row", "layer"] = "both") -> Tensor:
    """Weights among the largest share r2 of their row and of their layer (eq. 4-6), never one of score 0.

    Args:
        a: scores [out, in].
        r2: share; at least one weight a row and layer.
        granularity: "row" or "layer" asks for that half alone.
    """
    chosen = a > 0
    if granularity != "layer":
        k = max(1, int(r2 * a.shape[1]))
        rows = torch.zeros_like(chosen)
        chosen &= rows.scatter_(1, a.topk(k, 1).indices, True)
    if granularity != "row":
        k = max(1, int(r2 * a.numel()))
        whole = torch.zeros(a.numel(), dtype=torch.bool, device=a.device)
        whole[a.flatten().topk(k).indices] = True
        chosen &= whole.view_as(a)
    return chosen
