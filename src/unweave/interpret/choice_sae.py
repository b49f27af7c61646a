"""Mutual Choice and Feature Choice: a budget of active latents a batch, free to go where it helps, or rationed.

Ayonrinde, "Adaptive Sparse Allocation with Mutual Choice and Feature Choice Sparse Autoencoders", arXiv 2411.02124. Of
b vectors x n latents the k b largest entries are kept (mutual; the same as BatchTopK, arXiv 2412.06410), or per latent
the m_j largest (feature), with m_j alike or after a Zipf law, which leaves no latent dead. `aux_zipf_loss` has latents
that are used less than that law expects predict what is left over.

Decisions. The law rho_r = a / (r + b)^s is fitted to logarithms over the first 90 % of ranks; "mutual, then feature"
goes over at 85 % of the steps. A latent takes part in the auxiliary loss with weight 1 - observed / expected density, 1
where it is dead. A batch too small to hear every latent (k b < n) is refused. Afterwards a vector is encoded alone, by
a threshold: the mean over batches of the smallest kept code, a latent's own after Feature Choice. It is taken of the
finished autoencoder; a mean that runs along with training, as published code has, lags behind and lets too few through.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, Inner, Positive, refuse_idle, settings
from ..types import Data
from .autoencoder import SparseAutoencoder
from .dictionary import Auxiliary, Dictionary, Ration

RATIONS: dict[str, Ration] = {
    "token": "token",
    "mutual": "batch",
    "feature-uniform": "feature",
    "feature-zipf": "zipf",
}


@settings
class ChoiceSAE:
    """Learn a layer's directions with a budget of active latents a batch instead of a vector.

    Attributes:
        latents: n, directions of the dictionary.
        k: active latents a vector, on average.
        allocation: "mutual": the largest of the whole batch; "feature-zipf": mutual, then each latent its ration after
            the Zipf law; "feature-uniform": each latent alike, from the beginning; "token": k a vector (TopK).
        switch_at: share of the steps after which "feature-zipf" rations.
        auxiliary: "under-used" (aux_zipf_loss), "dead" (AuxK) or "none".
        max_per_token: most latents of one vector, lest one take all.
        dead_after: vectors without a code after which a latent is dead; see `Dictionary`.
        lr: of Adam; 2e-4 / sqrt(n / 2^14), unless given.
        epochs: passes over the activations.
        batch_size: vectors a step, among which the budget is shared.
        buffer: vectors held in memory, in which they are mixed.
    """

    latents: Count = 1024
    k: Count = 32
    allocation: Literal["mutual", "feature-zipf", "feature-uniform", "token"] = "mutual"
    switch_at: Inner = 0.85
    auxiliary: Auxiliary = "under-used"
    max_per_token: Count | None = None
    dead_after: Count | None = None
    lr: Positive | None = None
    epochs: Count = 1
    batch_size: Count = 2048
    buffer: Count = 16384

    paper: ClassVar[Paper] = Paper(
        "Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders",
        "Ayonrinde", "arXiv", 2024, "2411.02124",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.allocation != "feature-zipf":
            refuse_idle(self, "switch_at", when=f"with allocation={self.allocation!r}")
        if self.allocation == "token":
            refuse_idle(self, "max_per_token", when="with allocation='token', which has k")
        self.dictionary()

    def dictionary(self) -> Dictionary:
        """These settings as those of any sparse autoencoder."""
        named = {name: getattr(self, name) for name in vars(self) if name != "allocation"}
        return Dictionary(ration=RATIONS[self.allocation], **named)

    def require(self, model: Module, data: Data[Any], layer: str) -> None:
        """Refuse, before anything is trained, what `learn` would refuse; see `Dictionary.require`."""
        self.dictionary().require(model, data, layer)

    def learn(self, model: Module, data: Data[Any], layer: str, *, rng: Generator) -> SparseAutoencoder:
        """Train one on a layer's activations, streamed from the model; see `Dictionary.learn`.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if there is no such layer, activations are fewer than latents or do not vary, or a batch is too
                small for a latent's ration.
            NonFiniteError: if training diverges.
        """
        return self.dictionary().learn(model, data, layer, rng=rng)
