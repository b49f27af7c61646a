"""ConceptPrune: zero the feed-forward weights that a concept's prompts excite more than others do.

Chavhan, Li, Hospedales, "ConceptPrune: Concept Editing in Diffusion Models via Skilled Neuron Pruning", 2024, arXiv
2405.19237. At each of the first tau steps of the sampler, with X the inputs of a feed-forward's second layer W:

    skilled = (|W_ij| ||X_j|| under concept prompts among the largest k of row i)
              and (|W_ij| ||X_j|| under concept prompts > under base prompts)

and the weights skilled at any of these steps, for any of the concepts, are zeroed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..masks.mask import Mask
from ..models.text_to_image import Guidance, TextToImage, watch_sampling
from ..paper import Paper
from ..settings import Count, Range, settings
from ._feed_forwards import say_passed_over
from .concepts import Concepts, remember_


@settings
class ConceptPrune:
    """Zero what concept prompts excite most in each row and more than base prompts do; nothing is trained.

    Norms are over all prompts of a kind together. Rows of X are not scaled to length 1 (the authors' code does). Where
    text and picture attend to each other (Stable Diffusion 3, Flux), the picture's feed-forwards are looked at; Flux's
    single blocks, which have none of its own, are passed over.

    Attributes:
        density: share of each row's weights that may be skilled at one step (k over its length); 0.01 to 0.02 in
            large pipelines.
        record: first steps of the sampler that are looked at (tau).
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        batch_size: prompts at once.
    """

    density: Annotated[float, Range(above=0, at_most=1, why="It is a share of each row.")] = 0.02
    record: Count = 10
    steps: Count = 50
    guidance: Guidance = 7.5
    batch_size: Count = 16

    paper: ClassVar[Paper] = Paper(
        "ConceptPrune: Concept Editing in Diffusion Models via Skilled Neuron Pruning", "Chavhan, Li, Hospedales",
        "ICLR", 2025, "2405.19237",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.record > self.steps:
            raise InputError(
                f"ConceptPrune.record must be at most steps = {self.steps}, the sampler's; got {self.record}."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline with the skilled weights of its denoiser at zero.

        Raises:
            InputError: if the tokenizer cannot see a concept, or no weight is skilled.
        """
        keep = self.find(model, data, rng=rng)
        edited = model.editable(only=keep.keep)
        keep.apply_(edited)
        remember_(edited, data, "ConceptPrune")
        return edited

    def find(self, model: TextToImage, data: Concepts, *, rng: Generator) -> Mask:
        """The weights that stay, by parameter name in the pipeline; the pipeline is left unchanged.

        Raises:
            InputError: see `apply`.
        """
        data.require_seen(model, "ConceptPrune")
        say_passed_over(model, "ConceptPrune")
        layers, noise = model.linears("ff_out"), model.noise(1, rng)
        skilled = {name: torch.zeros_like(w.weight, dtype=torch.bool) for name, w in layers.items()}
        for concept in data.erase:
            groups = (data.prompts(concept), data.base_prompts(concept))
            batches = [g[i : i + self.batch_size] for g in groups for i in range(0, len(g), self.batch_size)]
            concept_batches = -(-len(groups[0]) // self.batch_size)
            energy: dict[tuple[str, bool], Tensor] = {}

            def look(name: str, step: int, batch: int, x: Tensor, y: Tensor) -> None:
                key = (name, batch < concept_batches)  # noqa: B023 - used up before the next concept
                energy[key] = energy.get(key, 0) + x.square().sum((0, 1))  # noqa: B023
                if batch + 1 == len(batches):  # noqa: B023
                    on, off = (energy.pop((name, kind)).sqrt() for kind in (True, False))  # noqa: B023
                    skilled[name] |= skilled_weights(layers[name].weight.detach(), on, off, self.density)

            watch_sampling(
                model, batches, layers, look,
                noise=noise, steps=self.steps, stop=self.record, guidance=self.guidance,
            )  # fmt: skip
        if not any(bool(s.any()) for s in skilled.values()):
            raise InputError("ConceptPrune found no skilled weight, so nothing would change. Raise density.")
        return Mask({f"denoiser.{name}.weight": ~s for name, s in skilled.items()})


def skilled_weights(weight: Tensor, on: Tensor, off: Tensor, density: float) -> Tensor:
    """Weights that the concept excites most in their row and more than base prompts do, bool [out, in].

    Args:
        weight: [out, in].
        on: norm of each input under concept prompts, [in].
        off: the same under base prompts.
        density: share of each row, at least one weight.
    """
    k = max(1, int(density * weight.shape[1]))
    top = (weight.abs().to(on.dtype) * on).topk(k, 1).indices
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, top, True) & (on > off) & (weight != 0)
