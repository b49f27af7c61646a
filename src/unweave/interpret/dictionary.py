"""Training a sparse autoencoder: a score says who matters, a ration who is kept, an auxiliary loss who is revived.

One recipe for TopK (Gao et al. 2024, arXiv 2406.04093), BatchTopK (Bussmann et al. 2024, arXiv 2412.06410; the same as
Mutual Choice), Feature Choice (arXiv 2411.02124), gradient-scored ones (arXiv 2411.10397) and Gated (arXiv 2404.16014).
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError
from ..fit import Batches, Loop, Step, fit_
from ..random import child, require_generator
from ..settings import Count, Inner, NonNegative, Positive, refuse_idle, settings
from ..types import Data
from .activations import Activations, Label, Vectors
from .autoencoder import Gate, SparseAutoencoder
from .learner import Learner, Rules

Score = Literal["activation", "additive", "product"]
Ration = Literal["token", "batch", "feature", "zipf", "gate"]
Auxiliary = Literal["none", "dead", "under-used"]
BEGIN = 4096
"""Vectors that the decoder's bias begins at the geometric median of."""


@settings
class Dictionary:
    """How a sparse autoencoder is trained: score x ration x auxiliary loss.

    Attributes:
        latents: n, directions of the dictionary.
        k: active latents a vector, on average where the ration is not a token's.
        score: what entries are ranked by: "activation" z; "additive" z (1 + beta u); "product" z u, with u the size of
            the loss's gradient along each latent's direction, over its mean in the batch. The value kept is z always.
        beta: weight of the gradient in the additive score; 0 is plain.
        label: whose loss the gradient is of; see `activations.Label`.
        ration: "token" keeps k a vector; "batch" k times the batch's vectors, wherever they are; "feature" the same
            number of vectors for every latent; "zipf" begins as "batch" and goes on with each latent's ration after
            the Zipf law of what was learnt; "gate" learns gates under an L1 penalty and has no k.
        switch_at: share of the steps after which "zipf" rations latents.
        l1: weight of the gates' penalty, the sum of open gates over the root of the activations' variance.
        auxiliary: "dead" has silent latents predict what is left over (AuxK), "under-used" those below their Zipf
            density, weighted by how far.
        coefficient: of the auxiliary loss.
        k_aux: latents that take part in it, a vector; half the width, unless given.
        dead_after: vectors without a code above zero after which a latent is dead; 10 million, or a tenth of the
            training's where that is less, unless given.
        window: vectors over which densities are averaged; a tenth of `dead_after`'s, unless given.
        max_per_token: most latents of one vector, where the ration is not a token's.
        lr: of Adam; 2e-4 / sqrt(n / 2^14), unless given.
        epochs: passes over the activations.
        batch_size: vectors a step.
        buffer: vectors held in memory, in which they are mixed.
    """

    latents: Count = 1024
    k: Count = 32
    score: Score = "activation"
    beta: NonNegative = 1.0
    label: Label = "argmax"
    ration: Ration = "token"
    switch_at: Inner = 0.85
    l1: Positive = 0.02
    auxiliary: Auxiliary = "dead"
    coefficient: Positive = 1 / 32
    k_aux: Count | None = None
    dead_after: Count | None = None
    window: Count | None = None
    max_per_token: Count | None = None
    lr: Positive | None = None
    epochs: Count = 1
    batch_size: Count = 2048
    buffer: Count = 16384

    def __post_init__(self) -> None:
        if self.ration != "gate" and self.k > self.latents:
            raise InputError(
                f"{type(self).__name__}.k must be at most the number of latents, {self.latents}; got {self.k}."
            )
        if self.score == "activation":
            refuse_idle(self, "label", "beta", when="with score='activation', which reads no gradient")
        if self.score == "product":
            refuse_idle(self, "beta", when="with score='product', where it would scale all alike")
        if self.auxiliary == "none":
            refuse_idle(self, "coefficient", "k_aux", when="with auxiliary='none'")
        if self.ration != "zipf":
            refuse_idle(self, "switch_at", when=f"with ration={self.ration!r}")
        if self.ration == "gate":
            refuse_idle(self, "k", "score", "max_per_token", when="with ration='gate', which has no k")
        else:
            refuse_idle(self, "l1", when=f"with ration={self.ration!r}: only gates are penalised")
        if self.ration == "token":
            refuse_idle(self, "max_per_token", when="with ration='token', which has k")

    @property
    def by_gradient(self) -> bool:
        """Whether it reads gradients."""
        return self.score != "activation"

    def activations(self, model: Module, data: Data[Any], layer: str) -> Activations:
        """The stream that `learn` trains on."""
        return Activations(
            model=model,
            data=data,
            layer=layer,
            label=self.label if self.by_gradient else None,
            batch_size=self.batch_size,
            buffer=self.buffer,
        )

    def learn(self, model: Module, data: Data[Any], layer: str, *, rng: Generator) -> SparseAutoencoder:
        """Train one on a layer's activations, streamed from the model.

        Args:
            model: left unchanged; frozen or not.
            data: what it reads.
            layer: name in `named_modules`.
            rng: draws the beginning and the order.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if there is no such layer, activations are fewer than latents or do not vary, a batch is too
                small for a feature's ration, or no gradient reaches the layer.
            NonFiniteError: if training diverges.
        """
        return self.fit(self.activations(model, data, layer), rng=rng)

    def require(self, model: Module, data: Data[Any], layer: str) -> None:
        """Refuse, before anything is trained, what `learn` would refuse.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: as `learn` does.
        """
        activations = self.activations(model, data, layer)
        self._check(activations, next(activations.batches()))

    def fit(self, activations: Batches, *, rng: Generator) -> SparseAutoencoder:
        """The same, of any batches (x [b, d],), or (x, g) where gradients are scored by.

        Raises:
            InputError: as `learn` does.
        """
        require_generator(rng)
        begin = next(activations.batches(child(rng)))
        self._check(activations, begin)
        lowest, total = activations.batch_size, len(activations) * self.epochs
        dead_after = self.dead_after or min(10_000_000, max(lowest, total // 10))
        rules = Rules(
            self,
            self.k_aux or max(1, begin[0].shape[1] // 2),
            dead_after,
            self.window or max(1, dead_after // 10),
            activations.batch_size,
        )
        learner = Learner(self._begin(begin[0], rng), rules).to(begin[0].device)
        optimizer = Adam(learner.parameters(), self.lr or 2e-4 / math.sqrt(self.latents / 2**14))
        steps = self.epochs * -(-len(activations) // activations.batch_size)
        switch = max(1, round(self.switch_at * steps)) if self.ration == "zipf" else steps + 1
        every, budget = max(1, min(RANKED_EVERY, steps // 10)), self.k * activations.batch_size

        def after(step: Step) -> None:
            learner.tidy_()
            rations = step.index >= switch and (step.index - switch) % every == 0
            expects = self.auxiliary == "under-used" and step.index % every == 0
            if rations or expects:
                learner.rank_(expect=expects, ration=budget if rations else None)

        if self.ration == "feature":
            learner.rank_(expect=False, ration=budget)
        fit_(
            learner,
            activations,
            lambda m, batch: m(*batch),
            optimizer,
            epochs=self.epochs,
            rng=rng,
            after_step=after,
            loop=Loop(label="sparse autoencoder"),
        )
        learner.release()
        if learner.sae.gate == "jumprelu":
            learner.calibrate_(islice(activations.batches(child(rng)), CALIBRATED))
        return learner.sae.requires_grad_(False).eval()

    def select(self, sae: SparseAutoencoder, x: Tensor, g: Tensor | None = None) -> Tensor:
        """Codes as training chooses them, [b, n]: by the batch's ration, and by gradients where they score.

        Args:
            sae: trained by these settings.
            x: activations [b, d].
            g: gradients there, [b, d].
        """
        rules = Rules(self, 1, 1, 1, len(x))
        if sae.latents < self.k:
            raise InputError(
                f"these settings keep {self.k} of {sae.latents} latents; k must be at most that."
            )
        z = sae.affinities(x).relu()
        return z * rules.kept(z, rules.scores(sae, z, g))

    def _begin(self, x: Tensor, rng: Generator) -> SparseAutoencoder:
        gate: Gate = "topk" if self.ration == "token" else "gated" if self.ration == "gate" else "jumprelu"
        sae = SparseAutoencoder(
            x.shape[1],
            self.latents,
            gate=gate,
            k=self.k if gate == "topk" else None,
            rng=rng,
        )
        with torch.no_grad():
            sae.b_dec.copy_(geometric_median(x[:BEGIN]))
        return sae

    def _check(self, activations: Batches, begin: Vectors) -> None:
        who, n = type(self).__name__, len(activations)
        if n < self.latents:
            raise InputError(
                f"{who}: {n} activations cannot train {self.latents} latents. Give more data, or latents={n} or "
                "fewer."
            )
        if self.by_gradient and len(begin) < 2:
            raise InputError(
                f"{who}: score={self.score!r} needs gradients: batches (x, g). Take Activations(label=...)."
            )
        if float((begin[0] - begin[0].mean(0)).square().sum()) == 0:
            raise InputError(
                f"{who}: the activations do not vary: every vector of the first batch is the same."
            )
        budget = self.k * min(activations.batch_size, n)
        if self.ration in ("feature", "zipf") and budget < self.latents:
            raise InputError(
                f"{who}: ration={self.ration!r} needs k x batch_size of at least the {self.latents} latents, so that "
                f"each is heard in every batch; got {self.k} x {min(activations.batch_size, n)}."
            )


CALIBRATED = 64
"""Batches, at most, that thresholds are set by once training is over."""
RANKED_EVERY = 200
"""Steps between two rankings of latents, or a tenth of the training where that is less: at each they would jitter."""


def geometric_median(x: Tensor, rounds: int = 30) -> Tensor:
    """The point with the least summed distance to rows [m, d], by Weiszfeld's iteration, [d]."""
    at = x.mean(0)
    for _ in range(rounds):
        weights = 1 / (x - at).norm(dim=1).clamp(min=1e-8)
        at = (weights[:, None] * x).sum(0) / weights.sum()
    return at
