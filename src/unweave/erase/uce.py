"""Unified concept editing: turn concepts into others by solving for the cross-attention's keys and values.

Gandikota, Orgad, Belinkov, Materzynska, Bau, "Unified Concept Editing in Diffusion Models", WACV 2024, arXiv
2308.14761. Every W of `attn2.to_k` and `attn2.to_v` becomes (eq. 7; c is an encoded token of a concept's prompt, g that
of the guide's prompt in its place, p one of a prompt to preserve)

    W* = [lambda W + s_e sum W g c^T + s_p sum W p p^T] [lambda I + s_e sum c c^T + s_p sum p p^T]^-1

which is W times one matrix for all layers, solved in float64. Prompts are the request's templates in full: tokens are
encoded in context, and an edit at the bare word does not carry over to short prompts. What was erased from the pipeline
before, as its record has it, is turned into its guides in the same equations: an edit that knew nothing of it would
bring it back.

The authors' lambda, 0.5, stands against one token a concept. Here it is per token of a prompt: with the 77 positions of
a whole prompt it weighs 77 times as much. Where nothing is to be preserved, the words nearest to each concept are:
without preserve terms its neighbours go with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage
from ..paper import Paper
from ..random import require_generator
from ..settings import NonNegative, Positive, Range, Whole, settings
from .concepts import Concepts, earlier, remember_
from .neighbours import nearest_words


@settings
class UCE:
    """Map the keys and values of concepts to those of their guides in closed form; keep those of preserved prompts.

    Attributes:
        erase_scale: weight of each token of an erased concept (s_e).
        preserve_scale: weight of each token to preserve (s_p).
        strength: pull to the old weights (lambda) for each token of a prompt that is edited.
        neighbours: where nothing is preserved, so many words nearest to each concept are; see `nearest_words`. They
            stand in the edited pipeline's record (`TextToImage.erased`). 0 leaves the rest to itself.
        tokens: positions edited, and preserved: "all" of a prompt, "concept" alone, or its "last" token (the authors'
            code).
    """

    erase_scale: Positive = 1.0
    preserve_scale: NonNegative = 1.0
    strength: Annotated[float, Range(above=0, why="Without it the equations have no solution.")] = 0.5
    tokens: Literal["all", "concept", "last"] = "all"
    neighbours: Whole = 10

    paper: ClassVar[Paper] = Paper(
        "Unified Concept Editing in Diffusion Models", "Gandikota, Orgad, Belinkov, Materzynska, Bau", "WACV", 2024,
        "2308.14761",
    )  # fmt: skip

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline with edited keys and values; `rng` is not drawn from.

        Raises:
            InputError: if the tokenizer cannot see a concept, or its guide is encoded just as it is.
        """
        require_generator(rng)
        data.require_seen(model, "UCE")
        model.cross_inputs(model.encode([""]))  # refuses a layout where nothing reads prompts alone
        kept = self.kept(model, data)
        change = self.change(model, replace(data, preserve=kept))
        edited = model.editable(only={f"denoiser.{name}.weight" for name in model.linears("cross_kv")})
        with torch.no_grad():
            for layer in edited.linears("cross_kv").values():
                weight = layer.weight.cpu().double()
                layer.weight.copy_(weight + weight @ change)
        remember_(edited, data, "UCE", neighbours=() if data.preserve else kept)
        return edited

    def kept(self, model: TextToImage, data: Concepts) -> tuple[str, ...]:
        """What is preserved: what the request names, or the concepts' neighbours."""
        if data.preserve or not self.preserve_scale:
            return data.preserve
        return nearest_words(model, data, self.neighbours)

    @torch.no_grad()
    def change(self, model: TextToImage, data: Concepts) -> Tensor:
        """The matrix D, float64 [width, width], with W* = W + W D, for a request as it stands: no neighbours are added.

        Raises:
            InputError: see `apply`.
        """
        requests = [data, *earlier(model, data)]
        pairs = [
            self._pairs(model, asked, concept, i)
            for asked in requests
            for concept in asked.erase
            for i in range(len(asked.templates))
        ]
        c, g = (torch.cat(side) for side in zip(*pairs, strict=True))
        if torch.allclose(c, g, rtol=0, atol=1e-9):
            raise InputError("UCE: every guide is encoded just as its concept, so nothing would change.")
        p = [
            self._kept(model, prompt, concept)
            for concept in data.preserve
            for prompt in data.prompts(concept)
        ]
        erased = self.erase_scale * c.T @ c
        moved = self.erase_scale * g.T @ c
        preserved = self.preserve_scale * sum((v.T @ v for v in p), torch.zeros_like(erased))
        tokens = len(c) / len(pairs)
        eye = self.strength * tokens * torch.eye(len(erased), dtype=erased.dtype, device=erased.device)
        # W* - W = W (moved - erased) (eye + erased + preserved)^-1: the difference loses no digits
        change: Tensor = torch.linalg.solve(eye + erased + preserved, (moved - erased).T).T
        return change

    def _pairs(self, model: TextToImage, data: Concepts, concept: str, i: int) -> tuple[Tensor, Tensor]:
        old, new = data.prompts(concept)[i], data.guide_prompts(concept)[i]
        encoded = model.encode([old]), model.encode([new])
        length = encoded[0].hidden.shape[1]
        where = model.positions(old, concept)
        start, extra = where[0], _count(model, new) - _count(model, old)
        width = len(where) + extra  # tokens of the guide
        at = self._edited(encoded[0], where)
        partner = [
            k if k < start else start + min(k - start, width - 1) if k in where else k + extra for k in at
        ]
        return (
            self._read(model, encoded[0], at),
            self._read(model, encoded[1], [min(max(k, 0), length - 1) for k in partner]),
        )

    def _kept(self, model: TextToImage, prompt: str, concept: str) -> Tensor:
        """What to preserve of a prompt: the same positions as are edited of one that is erased."""
        text = model.encode([prompt])
        return self._read(model, text, self._edited(text, model.positions(prompt, concept)))

    def _edited(self, text: Text, where: list[int]) -> list[int]:
        """Positions that count in one encoded prompt whose concept stands at `where`; never padding that is masked."""
        at = {"all": list(range(text.hidden.shape[1])), "concept": where, "last": where[-1:]}[self.tokens]
        return at if text.mask is None else [k for k in at if text.mask[0, k]]

    @staticmethod
    def _read(model: TextToImage, text: Text, at: list[int]) -> Tensor:
        return model.cross_inputs(text)[0][at].cpu().double()


def _count(model: TextToImage, prompt: str) -> int:
    return int(model.tokens([prompt])[1].sum())
