"""Encoded prompts, and text encoders that read vectors in the place of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Module

from ...errors import InputError


@dataclass(frozen=True)
class Text:
    """Encoded prompts, as the denoiser reads them.

    Attributes:
        hidden: one vector a token, [n, tokens, width].
        pooled: one vector a prompt, [n, width]; SDXL, Stable Diffusion 3 and Flux only.
        mask: 1 where there is a token, 0 at padding, [n, tokens]; PixArt only.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def each(self, change: Callable[[Tensor], Tensor]) -> Text:
        """The same with every tensor changed."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else change(v) for k, v in parts.items()}
        return Text(**changed)

    def __getitem__(self, at: Any) -> Text:
        """The prompts at these positions (a slice, a list, an index tensor)."""
        return self.each(lambda t: t[at])

    def expand(self, n: int) -> Text:
        """One prompt as n; n prompts as they are."""
        return self.each(lambda t: t.expand(n, *t.shape[1:]))

    def repeat(self, times: int) -> Text:
        """Every prompt this many times, side by side."""
        return self.each(lambda t: t.repeat_interleave(times, 0))

    def to(self, dtype: torch.dtype) -> Text:
        """Its vectors in this dtype; the mask stays as it is."""
        return self.each(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def detach(self) -> Text:
        """Without its graph."""
        return self.each(Tensor.detach)

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """Several, one after the other."""
        columns = {f.name: [getattr(t, f.name) for t in texts] for f in fields(Text)}
        joined: dict[str, Any] = {k: None if c[0] is None else torch.cat(c) for k, c in columns.items()}
        return Text(**joined)


@contextmanager
def embedded(encoder: Module, embeddings: Tensor | None) -> Iterator[None]:
    """Let a text encoder read these vectors [n, tokens, width] in place of its token embeddings, inside the block.

    Every table that holds the encoder's input embeddings is listened to: T5's stack reads a table of its own, tied to
    the shared one.

    Raises:
        InputError: at the end, if the encoder looked nothing up in such a table.
    """
    if embeddings is None:
        yield
        return
    weight = encoder.get_input_embeddings().weight  # type: ignore[operator]
    read: list[Module] = []

    def replace(table: Module, *_: Any) -> Tensor:
        read.append(table)
        return embeddings

    tables = {m for m in encoder.modules() if isinstance(m, Embedding) and m.weight is weight}
    hooks = [table.register_forward_hook(replace) for table in tables]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        raise InputError(
            f"{type(encoder).__name__} did not read its input embeddings, so no vectors can stand in their place. "
            "Use a pipeline whose text encoder ties them."
        )
