"""Activations of a layer as data: streamed from the model in bounded memory, with their loss gradients if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..random import draw_seed, seeded
from ..settings import Count, check
from ..tasks import CausalLM, Padded, evaluating
from ..types import Batch, Data
from .layers import find_layer, gradient_of, once, rows, through

Label = Literal["true", "argmax", "sampled"]
"""Whose loss the gradient is of: the data's labels, the model's likeliest answer, or one drawn from its answers."""
Vectors = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What `fit_` reads: batches (x [b, d],), or (x, g) with gradients, of every vector that the layer gives.

    The model is run anew at each pass, a few batches ahead: `buffer` vectors are held, mixed, and half of them given
    out before more are read. Padding is left out where the task knows of it. A pass gives the same vectors each time;
    only their order is drawn.

    Attributes:
        model: read in eval mode, left unchanged.
        data: what it reads; its task opens the batches.
        layer: name in `named_modules`.
        label: of which loss the gradients are; None gives no gradients.
        batch_size: vectors a batch.
        buffer: vectors held at once, beside those of the batch just read; at least two batches.
        seed: of sampled labels.

    Raises:
        InputError: if there is no such layer or no example, or the buffer is below two batches.
    """

    model: Module
    data: Data[Any]
    layer: str
    label: Label | None = None
    batch_size: Count = 2048
    buffer: Count = 16384
    seed: int = 0
    sizes: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        find_layer(self.model, self.layer)
        self.data.require_examples("reading activations")
        check(Activations, {"label": self.label, "batch_size": self.batch_size, "buffer": self.buffer})
        if self.buffer < 2 * self.batch_size:
            raise InputError(
                f"Activations.buffer must hold at least two batches, {2 * self.batch_size} vectors; got {self.buffer}."
            )
        self.sizes[:] = self._count()

    def _count(self) -> list[int]:
        """(vectors in all, width): from the first batch's shape, and from which positions are padding."""
        batches = self.data.batches()
        first = self._read(next(batches))[0]
        if not isinstance(self.data.task, Padded):
            lone = len(self._read(next(self.data.subset([0]).batches()))[0])
            return [lone * len(self.data), first.shape[1]]
        return [len(first) + sum(int(self.data.task.present(b).sum()) for b in batches), first.shape[1]]

    def __len__(self) -> int:
        return self.sizes[0]

    @property
    def width(self) -> int:
        """Of a vector."""
        return self.sizes[1]

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[Vectors]:
        """Yield batches, mixed if `rng` is given; see `Data.batches`. The model is run for skipped ones too."""
        mix = None if rng is None else seeded(draw_seed(rng))
        for at, batch in enumerate(self._mixed(mix)):
            if at >= start:
                yield _part(batch, part)

    def _mixed(self, mix: Generator | None) -> Iterator[Vectors]:
        held: list[Vectors] = []
        count, size = 0, self.batch_size
        for batch in self.data.batches(mix):
            held.append(self._read(batch))
            count += len(held[-1][0])
            if count >= self.buffer or (mix is None and count >= size):
                pool = _shuffled(held, mix)
                keep = 0 if mix is None else self.buffer // 2
                whole = (count - min(keep, count)) // size * size
                for low in range(0, whole, size):
                    yield tuple(t[low : low + size] for t in pool)
                held, count = [tuple(t[whole:].clone() for t in pool)], count - whole
        if count:
            pool = _shuffled(held, mix)
            for low in range(0, count, size):
                yield tuple(t[low : low + size] for t in pool)

    def gathered(self, most: int | None = None) -> Vectors:
        """The first `most` vectors (all, unless told) in order, with their gradients if asked for, in memory."""
        found, count = [], 0
        for batch in self.data.batches():
            found.append(self._read(batch))
            count += len(found[-1][0])
            if most is not None and count >= most:
                break
        return tuple(t[:most] for t in map(torch.cat, zip(*found, strict=True)))

    def _read(self, batch: Batch) -> Vectors:
        task = self.data.task
        present = task.present(batch) if isinstance(task, Padded) else None
        if self.label is None:
            return (rows(read_layer(self.model, batch, task, self.layer), present),)
        x, g = read_gradient(self.model, batch, task, self.layer, self.label, self.seed)
        return rows(x, present), rows(g, present)


def read_layer(model: Module, batch: Batch, task: Any, layer: str) -> Tensor:
    """A layer's output on one batch, detached, in eval mode, vectors last, [n, ..., d].

    Raises:
        InputError: if there is no such layer, it is called other than once, or a value is not finite.
    """
    held: list[Tensor] = []
    with evaluating(model), through(model, layer, lambda x: held.append(x.detach())) as calls:
        task.outputs(model, batch)
    once(calls, layer)
    return _finite(held[0], layer)


def read_gradient(
    model: Module, batch: Batch, task: Any, layer: str, label: Label, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A layer's output on one batch and the gradient there of the summed loss, each [n, ..., d].

    Args:
        model: left unchanged.
        batch: opened by `task`.
        task: a `CausalLM`, or one whose outputs are logits [n, classes].
        layer: name of the layer.
        label: "true" takes the data's labels, so that codes chosen by the gradient know a little of the answer;
            "argmax" and "sampled" take the model's own.
        seed: of drawn labels.

    Raises:
        InputError: as `gradient_of` does, or if an activation is not finite.
    """

    def loss() -> Tensor:
        if label == "true":
            if isinstance(task, CausalLM):
                each, counted = task.token_losses(model, batch)
                return (each * counted).sum()
            total: Tensor = task.losses(model, batch).sum()
            return total
        logits = task.outputs(model, batch)
        if isinstance(task, CausalLM):
            logits = logits[:, :-1][task.counted(batch).to(logits.device)]
        flat = logits.flatten(0, -2)
        return F.cross_entropy(flat, _own(flat.detach(), label, seed), reduction="sum")

    with evaluating(model):
        x, g = gradient_of(model, layer, loss)
    return _finite(x, layer), g


def _own(logits: Tensor, label: Label, seed: int) -> Tensor:
    if label == "argmax":
        return logits.argmax(-1)
    drawn = torch.multinomial(logits.softmax(-1).cpu().double(), 1, generator=seeded(seed))[:, 0]
    return drawn.to(logits.device)


def _finite(x: Tensor, layer: str) -> Tensor:
    if not bool(x.isfinite().all()):
        raise InputError(f"an activation of the layer {layer!r} is not finite; is the model?")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _shuffled(held: list[Vectors], mix: Generator | None) -> Vectors:
    joined = tuple(torch.cat(parts) for parts in zip(*held, strict=True))
    if mix is None:
        return joined
    order = torch.randperm(len(joined[0]), generator=mix).to(joined[0].device)
    return tuple(t[order] for t in joined)


def _part(batch: Vectors, part: tuple[int, int]) -> Vectors:
    if part[1] == 1:
        return batch
    mine = torch.arange(len(batch[0])).tensor_split(part[1])[part[0]]
    mine = mine if len(mine) else torch.arange(1)
    return tuple(t[mine.to(t.device)] for t in batch)
