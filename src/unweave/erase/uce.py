"""Unified concept editing: turn concepts into others by solving for the cross-attention's keys and values.

Gandikota, Orgad, Belinkov, Materzynska, Bau, "Unified Concept Editing in Diffusion Models", WACV 2024, arXiv
2308.14761. Every W of `attn2.to_k` and `attn2.to_v` becomes (eq. 7; c is an encoded token of a concept's prompt, g that
of the guide's prompt in its place, p one of a prompt to preserve)

    W* = [lambda W + s_e sum W g c^T + s_p sum W p p^T] [lambda I + s_e sum c c^T + s_p sum p p^T]^-1

which is W times one matrix for all layers, solved in float64. Prompts are the request's templates in full: tokens are
encoded in context, and an edit at the bare word does not carry over to short prompts. What was erased from the pipeline
before, as its record has it, is turned into its guides in the same equations: an edit that knew nothing of it would
bring it back.

Where text and picture attend to each other (Stable Diffusion 3, Flux), no block's keys and values are functions of the
prompt alone: they read what earlier blocks made of the picture, too. All that a prompt says, though, goes through two
linear maps before the first block, whose inputs the text encoders wrote: of every token (`context_embedder`) and of the
pooled vector (`text_embedder.linear_1`). The same equations are solved for these two, each with its own c, g and p, as
the authors' code for Flux does; a concept that both map as they mapped its guide is drawn as the guide, whatever the
blocks do. Of the pooled vector each prompt has one, so that its lambda counts once; biases stay. Stable Diffusion 3's
tokens are CLIP's and then T5's: positions are paired within each. Padding is a token like any other.

The authors' lambda, 0.5, stands against one token a concept. Here it is per token of a prompt: with the 77 positions of
a whole prompt it weighs 77 times as much. Where nothing is to be preserved, the words nearest to each concept are:
without preserve terms its neighbours go with it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import Entrance, Layers, Text, TextToImage, entrances
from ..paper import Paper
from ..random import require_generator
from ..settings import NonNegative, Positive, Range, Whole, settings
from .concepts import Concepts, earlier, remember_
from .neighbours import nearest_words

_NOTHING = 1e-9
"""A change of the weights, as a share of theirs, that is rounding."""


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
        """A copy of the pipeline whose layers that read prompts alone are edited; `rng` is not drawn from.

        Raises:
            InputError: if the tokenizer cannot see a concept, or its guide is encoded just as it is.
        """
        require_generator(rng)
        data.require_seen(model, "UCE")
        kept = self.kept(model, data)
        changes = self.changes(model, replace(data, preserve=kept))
        names = {kind: list(model.linears(kind)) for kind in changes}
        edited = model.editable(only={f"denoiser.{name}.weight" for part in names.values() for name in part})
        with torch.no_grad():
            for kind, change in changes.items():
                for layer in edited.linears(kind).values():
                    weight = layer.weight.cpu().double()
                    layer.weight.copy_(weight + weight @ change)
        remember_(edited, data, "UCE", neighbours=() if data.preserve else kept)
        return edited

    def kept(self, model: TextToImage, data: Concepts) -> tuple[str, ...]:
        """What is preserved: what the request names, or the concepts' neighbours."""
        if data.preserve or not self.preserve_scale:
            return data.preserve
        return nearest_words(model, data, self.neighbours)

    def changes(self, model: TextToImage, data: Concepts) -> dict[Layers, Tensor]:
        """Kind of layers that read prompts alone -> their matrix D: see `change`.

        Raises:
            InputError: see `apply`.
        """
        found = {at.layers: self.change(model, data, at) for at in entrances(model)}
        if all(float(change.abs().max()) <= _NOTHING for change in found.values()):
            raise InputError("UCE: every guide is encoded just as its concept, so nothing would change.")
        return found

    @torch.no_grad()
    def change(self, model: TextToImage, data: Concepts, entrance: Entrance | None = None) -> Tensor:
        """The matrix D, float64 [width, width], with W* = W + W D, for a request as it stands: no neighbours are added.

        Args:
            model: left unchanged.
            data: the request.
            entrance: which layers' D; the first where prompts come in, unless given.
        """
        at = entrances(model)[0] if entrance is None else entrance
        erased, moved, preserved = (_Moments() for _ in range(3))
        tokens = prompts = 0
        for asked in (data, *earlier(model, data)):
            for concept, i in product(asked.erase, range(len(asked.templates))):
                c, g = self._pair(model, at, asked, concept, i)
                erased.add_(c, c)
                moved.add_(g, c)
                tokens, prompts = tokens + len(c), prompts + 1
        for concept in data.preserve:
            for prompt in data.prompts(concept):
                p = self._kept(model, at, prompt, concept)
                preserved.add_(p, p)
        # W* - W = W s_e (moved - erased) whole^-1: the difference loses no digits
        gap = (moved.total - erased.total).mul_(self.erase_scale)
        whole = erased.total.mul_(self.erase_scale)
        if data.preserve:
            whole.add_(preserved.total, alpha=self.preserve_scale)
        whole.diagonal().add_(self.strength * tokens / prompts)
        change: Tensor = torch.linalg.solve(whole, gap.T).T
        return change

    def _pair(
        self, model: TextToImage, at: Entrance, data: Concepts, concept: str, i: int
    ) -> tuple[Tensor, Tensor]:
        """What these layers read of a concept's i-th prompt, and of its guide's in the same places."""
        old, new = data.prompts(concept)[i], data.guide_prompts(concept)[i]
        texts = model.encode([old]), model.encode([new])
        c, g = (at.read(model, text)[0].cpu().double() for text in texts)
        if not at.spans:
            return c, g
        own, partner = list[int](), list[int]()
        for encoder, first, length in at.spans:
            where = model.positions(old, concept, encoder)
            extra = _count(model, new, encoder) - _count(model, old, encoder)
            start, width = where[0], len(where) + extra  # of the guide
            for k in self._edited(texts[0], where, length):
                beside = start + min(k - start, width - 1) if k in where else k if k < start else k + extra
                own.append(first + k)
                partner.append(first + min(max(beside, 0), length - 1))
        return c[own], g[partner]

    def _kept(self, model: TextToImage, at: Entrance, prompt: str, concept: str) -> Tensor:
        """What to preserve of a prompt: the same positions as are edited of one that is erased."""
        text = model.encode([prompt])
        read = at.read(model, text)[0].cpu().double()
        own = [
            first + k
            for encoder, first, length in at.spans
            for k in self._edited(text, model.positions(prompt, concept, encoder), length)
        ]
        return read[own] if at.spans else read

    def _edited(self, text: Text, where: list[int], length: int) -> list[int]:
        """Positions that count in one encoded prompt whose concept stands at `where`; never padding that is masked."""
        at = {"all": list(range(length)), "concept": where, "last": where[-1:]}[self.tokens]
        return at if text.mask is None else [k for k in at if text.mask[0, k]]


class _Moments:
    """Sum of a^T b over pairs of matrices, added in place: at the width of T5 each such matrix takes 128 MiB.

    Attributes:
        total: the sum; nothing before the first pair.
    """

    def __init__(self) -> None:
        self.total = torch.empty(0, dtype=torch.float64)

    def add_(self, a: Tensor, b: Tensor) -> None:
        """Add a pair [n, width] each."""
        self.total = self.total.addmm_(a.T, b) if self.total.numel() else a.T @ b


def _count(model: TextToImage, prompt: str, encoder: int) -> int:
    return int(model.tokens([prompt], encoder)[1].sum())
