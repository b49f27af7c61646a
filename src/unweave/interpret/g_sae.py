"""g-SAE: a sparse autoencoder that spends its active latents on directions the model's loss depends on.

Olmo, Wilson, Forsey, Hepner, Howe, Wingate, "Features that Make a Difference: Leveraging Gradients for Improved
Dictionary Learning", Findings of NAACL 2025, arXiv 2411.10397. TopK ranks latents by z + beta z |W_dec^T g| instead
of z, with g the gradient of the model's loss at the activation: to first order, how much each latent changes the loss.
The gradient decides who is kept; the value kept is z, and no gradient of ours goes through it.

Decisions. The paper's beta is not known to us: |W_dec^T g| is divided by its mean in the batch, so that beta = 1 weighs
both alike whatever the loss's scale, and the loss is summed over examples, so that the batch size does not matter.
Labels are the model's own likeliest answers by default: gradients of true labels tell codes part of the answer. Without
gradients the trained autoencoder encodes as any TopK does, which is what is saved.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, Positive, refuse_idle, settings
from ..types import Data
from .activations import Label
from .autoencoder import SparseAutoencoder
from .dictionary import Dictionary


@settings
class GSAE:
    """Learn directions of a layer that the model's loss depends on.

    Attributes:
        latents: n, directions of the dictionary.
        k: active latents a vector.
        score: "additive" ranks by z (1 + beta u), the paper's; "product" by z u alone.
        beta: weight of the gradient.
        label: whose loss: the model's "argmax" or "sampled" answer, or "true" labels.
        ration: "token" keeps k a vector, the paper's; "batch" k on average.
        lr: of Adam; 2e-4 / sqrt(n / 2^14), unless given.
        epochs: passes over the activations.
        batch_size: vectors a step.
        buffer: vectors held in memory, in which they are mixed.
    """

    latents: Count = 1024
    k: Count = 32
    score: Literal["additive", "product"] = "additive"
    beta: Positive = 1.0
    label: Label = "argmax"
    ration: Literal["token", "batch"] = "token"
    lr: Positive | None = None
    epochs: Count = 1
    batch_size: Count = 2048
    buffer: Count = 16384

    paper: ClassVar[Paper] = Paper(
        "Features that Make a Difference: Leveraging Gradients for Improved Dictionary Learning",
        "Olmo, Wilson, Forsey, Hepner, Howe, Wingate", "Findings of NAACL", 2025, "2411.10397",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.score == "product":
            refuse_idle(self, "beta", when="with score='product', where it would scale all alike")
        self.dictionary()

    def dictionary(self) -> Dictionary:
        """These settings as those of any sparse autoencoder."""
        return Dictionary(**{name: getattr(self, name) for name in vars(self)})

    def require(self, model: Module, data: Data[Any], layer: str) -> None:
        """Refuse, before anything is trained, what `learn` would refuse; see `Dictionary.require`."""
        self.dictionary().require(model, data, layer)

    def learn(self, model: Module, data: Data[Any], layer: str, *, rng: Generator) -> SparseAutoencoder:
        """Train one on a layer's activations and gradients, streamed from the model; see `Dictionary.learn`.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if there is no such layer, activations are fewer than latents or do not vary, or no gradient
                reaches the layer.
            NonFiniteError: if training diverges.
        """
        return self.dictionary().learn(model, data, layer, rng=rng)

    def encode(self, sae: SparseAutoencoder, x: Tensor, g: Tensor) -> Tensor:
        """Codes of activations [b, d] chosen by gradients [b, d], as in training, [b, n].

        Raises:
            InputError: if a shape does not fit.
        """
        return self.dictionary().select(sae, x, g)
