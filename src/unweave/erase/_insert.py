"""Insert tokens before prompts and see whether the pipeline then draws the concept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage
from ._encoder import Prompts
from .attacks import Attempt, Names, Targets, seen


class Insertion:
    """Prompts with room for k tokens at their beginning.

    Attributes:
        table: the encoder's token embeddings, [vocabulary, width].
        allowed: ids that may be inserted, int64, in order: text of the tokenizer's own, without banned words.
        vocabulary: rows of the embedding table.
    """

    def __init__(
        self,
        model: TextToImage,
        targets: Targets,
        judge: Names,
        *,
        tokens: int,
        banned: Sequence[str],
        batch_size: int,
        who: str,
    ) -> None:
        if len(model.tokenizers) != 1:
            raise InputError(
                f"{who}: pipelines with two text encoders (SDXL) cannot be attacked yet: one string must be found that "
                "both tokenizers read. Attack a pipeline with one text encoder."
            )
        if tuple(targets.noise.shape[1:]) != model.shape:
            raise InputError(
                f"{who}: the targets' noise is {list(targets.noise.shape[1:])}, the pipeline's {list(model.shape)}. "
                "Draw the targets with the pipeline that this one was edited from."
            )
        self._model, self._targets, self._judge = model, targets, judge
        self._batch = batch_size
        self._prompts = Prompts(model, targets.prompts)
        self._prompts.require_room(tokens, who)
        self.table = self._prompts.table
        self.vocabulary = len(self.table)
        self.allowed = _allowed(model, banned, who).to(self.table.device)

    def ids(self, rows: Sequence[int], inserted: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask, [m, length], of these targets' prompts with their tokens [m, k] at the beginning."""
        return self._prompts.inserted(torch.as_tensor(list(rows)), inserted)

    def encode(self, rows: Sequence[int], inserted: Tensor, vectors: Tensor) -> Text:
        """The same encoded, with `vectors` [m, k, width] in place of the inserted tokens' embeddings."""
        return self._prompts.encode(self._model, torch.as_tensor(list(rows)), inserted, vectors)

    @torch.no_grad()
    def alone(self) -> list[bool]:
        """Whether each prompt draws its concept by itself."""
        rows = range(len(self._targets))
        return self._drawn(rows, self._model.encode(self._targets.prompts), self._targets.noise)

    @torch.no_grad()
    def shows(self, rows: Sequence[int], inserted: Tensor, noise: Tensor | None = None) -> list[bool]:
        """Whether these prompts draw their concepts with the tokens [m, k], from their own noise or another."""
        step = self._batch
        text = Text.cat([
            self._model.encode_tokens(self.ids(rows[i : i + step], inserted[i : i + step]))
            for i in range(0, len(rows), step)
        ])  # fmt: skip
        return self._drawn(rows, text, self._targets.noise[list(rows)] if noise is None else noise)

    def _drawn(self, rows: Sequence[int], text: Text, noise: Tensor) -> list[bool]:
        images = self._model.sample(
            text,
            steps=self._targets.steps,
            guidance=self._targets.guidance,
            noise=noise,
            batch_size=self._batch,
        )
        return seen(self._judge, images, [self._targets.concepts[i] for i in rows])

    def attempt(self, row: int, *, before: bool, success: bool, ids: Sequence[int], judged: int) -> Attempt:
        """The record of one target."""
        return Attempt(
            prompt=self._targets.prompts[row],
            concept=self._targets.concepts[row],
            before=before,
            success=success,
            ids=tuple(ids),
            text=self._text(ids),
            judged=judged,
        )

    def _text(self, ids: Sequence[int]) -> str:
        written = str(self._model.tokenizers[0].decode(list(ids))) if len(ids) else ""
        return " ".join(written.replace("</w>", " ").split())  # CLIP's mark of a word's end


def _allowed(model: TextToImage, banned: Sequence[str], who: str) -> Tensor:
    tokenizer = model.tokenizers[0]
    rows = len(model.text_encoder.get_input_embeddings().weight)  # type: ignore[operator]
    kept = torch.ones(rows, dtype=torch.bool)
    kept[len(tokenizer) :] = False
    kept[[i for i in tokenizer.all_special_ids if i < rows]] = False
    if banned:
        written = [str(t).lower() for t in tokenizer.convert_ids_to_tokens(range(min(rows, len(tokenizer))))]
        for word in banned:
            plain = "".join(word.lower().split())
            if not plain:
                raise InputError(f"{who}.banned holds an empty word: {tuple(banned)}.")
            kept[tokenizer(word, add_special_tokens=False).input_ids] = False
            kept[[i for i, token in enumerate(written) if plain in token]] = False
    if not kept.any():
        raise InputError(f"{who}: no token is left to insert. Ban fewer words.")
    return kept.nonzero().flatten()
