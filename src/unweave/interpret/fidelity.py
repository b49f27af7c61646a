"""How faithful a dictionary is: what it leaves unexplained, what the model loses by it, what its latents can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..tasks import CausalLM, Padded, evaluating
from ..types import Batch, Data
from .activations import Label, read_gradient, read_layer
from .autoencoder import SparseAutoencoder
from .layers import once, rows, through

Codes = Callable[[Tensor, Tensor], Tensor]
"""(activations [m, d], gradients [m, d]) -> codes [m, n]."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a dictionary keeps of a layer.

    Attributes:
        fvu: share of the activations' variance that is left unexplained.
        l0: mean number of active latents.
        dead: share of latents that were never active on these data.
        loss: of the model as it is, nats an example.
        loss_kept: of the model that reads the dictionary's version of the layer.
        loss_zero: of the model with the layer at zero.
        kl: KL(model || model with the dictionary) of its answers, nats an answer.
        density: share of vectors on which each latent is active, [n].
    """

    fvu: float
    l0: float
    dead: float
    loss: float
    loss_kept: float
    loss_zero: float
    kl: float
    density: Tensor

    @property
    def increase(self) -> float:
        """What reading the dictionary's version costs, nats."""
        return self.loss_kept - self.loss

    @property
    def recovered(self) -> float | None:
        """Share of what the layer is worth that the dictionary keeps; None where a zero layer costs nothing."""
        worth = self.loss_zero - self.loss
        return None if worth <= 0 else (self.loss_zero - self.loss_kept) / worth


def fidelity(
    sae: SparseAutoencoder,
    model: Module,
    data: Data[Any],
    layer: str,
    *,
    codes: Codes | None = None,
    label: Label = "argmax",
) -> Fidelity:
    """Put the dictionary in the place of a layer, and compare.

    Args:
        sae: of that layer.
        model: left unchanged; read in eval mode.
        data: held-out examples.
        layer: name in `named_modules`.
        codes: chooses codes by gradients too, as `GSAE.encode` does; `sae.encode` unless given.
        label: whose loss those gradients are of. With "true" codes know of the answer, and the loss flatters them.

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if there is no such layer, its width is not the dictionary's, or activations do not vary.
    """
    data.require_examples("fidelity")
    sums = _Sums(sae.latents)
    for batch in data.batches():
        kept = _kept(sae, model, batch, data.task, layer, codes, label, sums)
        clean, loss = _answers(model, batch, data.task, layer, None)
        changed, loss_kept = _answers(model, batch, data.task, layer, kept)
        _, loss_zero = _answers(model, batch, data.task, layer, torch.zeros_like(kept))
        sums.losses += torch.tensor([loss.sum(), loss_kept.sum(), loss_zero.sum()], dtype=torch.float64)
        sums.examples += len(loss)
        p = clean.double().log_softmax(-1)
        sums.kl += float((p.exp() * (p - changed.double().log_softmax(-1))).sum())
        sums.answers += len(clean)
    return sums.fidelity()


class _Sums:
    def __init__(self, latents: int) -> None:
        self.vectors = self.examples = self.answers = 0
        self.left = self.kl = 0.0
        self.square = 0.0
        self.mean: Tensor | None = None
        self.active = torch.zeros(latents, dtype=torch.float64)
        self.losses = torch.zeros(3, dtype=torch.float64)

    def add(self, x: Tensor, hat: Tensor, codes: Tensor) -> None:
        """Batches' variances are put together by the parallel rule of Chan et al., for sums of squares cancel."""
        x, n = x.double().cpu(), len(x)
        self.left += float((x - hat.double().cpu()).square().sum())
        self.active += (codes > 0).double().sum(0).cpu()
        mean, before = x.mean(0), self.vectors
        between = (
            0.0 if self.mean is None else float((mean - self.mean).square().sum()) * before * n / (before + n)
        )
        self.square += float((x - mean).square().sum()) + between
        self.mean = mean if self.mean is None else self.mean + (mean - self.mean) * n / (before + n)
        self.vectors += n

    def fidelity(self) -> Fidelity:
        if self.square == 0:
            raise InputError("fidelity: the activations do not vary, so nothing can be explained of them.")
        loss, kept, zero = (self.losses / self.examples).tolist()
        density = self.active / self.vectors
        return Fidelity(
            fvu=self.left / self.square,
            l0=float(density.sum()),
            dead=float((density == 0).double().mean()),
            loss=loss,
            loss_kept=kept,
            loss_zero=zero,
            kl=self.kl / self.answers,
            density=density,
        )


def _kept(
    sae: SparseAutoencoder,
    model: Module,
    batch: Batch,
    task: Any,
    layer: str,
    codes: Codes | None,
    label: Label,
    sums: _Sums,
) -> Tensor:
    """The dictionary's version of the layer on a batch; padding stays as it is."""
    present = task.present(batch) if isinstance(task, Padded) else None
    with torch.no_grad():
        if codes is None:
            x = read_layer(model, batch, task, layer)
            f = sae.encode(rows(x, present))
        else:
            x, g = read_gradient(model, batch, task, layer, label)
            f = codes(rows(x, present), rows(g, present))
        hat = sae.decode(f)
        sums.add(rows(x, present), hat, f)
        if present is None:
            return hat.view_as(x)
        out = x.clone()
        out[present.to(x.device)] = hat
        return out


def _answers(model: Module, batch: Batch, task: Any, layer: str, put: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits as rows [m, classes] and losses [n], with the layer's output replaced by `put`."""
    with (
        evaluating(model),
        through(model, layer, lambda x: None if put is None else put.to(x.dtype)) as calls,
    ):
        losses = task.losses(model, batch)
        once(calls, layer)
        calls.clear()
        logits = task.outputs(model, batch)
    return counted_logits(task, batch, logits), losses.detach().cpu()


def counted_logits(task: Any, batch: Batch, logits: Tensor) -> Tensor:
    """Logits as rows: of a causal model, those that predict a counted token."""
    if isinstance(task, CausalLM):
        return logits[:, :-1][task.counted(batch).to(logits.device)]
    return logits.flatten(0, -2)


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What adding a latent's direction does.

    Attributes:
        latents: which, [m].
        moved: mean absolute change of the model's log-probabilities for each, [m].
        kl: KL(model || steered model) for each, nats an answer, [m].
        size: length of what was added.
    """

    latents: Tensor
    moved: Tensor
    kl: Tensor
    size: float


def steering(
    sae: SparseAutoencoder,
    model: Module,
    data: Data[Any],
    layer: str,
    latents: Tensor,
    *,
    strength: float = 1.0,
) -> Steering:
    """Add each latent's direction to every vector of the layer, in contexts as they come, and see what changes.

    Args:
        sae: of that layer.
        model: left unchanged.
        data: contexts; one forward pass a latent and batch.
        layer: name in `named_modules`.
        latents: which, int64 [m].
        strength: length of what is added, as a share of the activations' mean norm.

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if a latent is none of the dictionary's, or the width is not the layer's.
    """
    data.require_examples("steering")
    if len(latents) == 0 or int(latents.min()) < 0 or int(latents.max()) >= sae.latents:
        raise InputError(
            f"steering: latents must be from 0 to {sae.latents - 1}; got {latents.tolist()[:5]}."
        )
    held = [read_layer(model, batch, data.task, layer) for batch in data.batches()]
    if held[0].shape[-1] != sae.width:
        sae.affinities(held[0])  # says what does not fit
    size = strength * float(torch.cat([x.flatten(0, -2).norm(dim=1) for x in held]).mean())
    moved, kl = torch.zeros(len(latents)), torch.zeros(len(latents))
    count = 0
    for batch, x in zip(data.batches(), held, strict=True):
        p = _answers(model, batch, data.task, layer, None)[0].double().log_softmax(-1)
        count += len(p)
        for i, j in enumerate(latents.tolist()):
            added = x + size * sae.W_dec[j].detach()
            q = _answers(model, batch, data.task, layer, added)[0].double().log_softmax(-1)
            moved[i] += float((p - q).abs().mean(-1).sum())
            kl[i] += float((p.exp() * (p - q)).sum())
    return Steering(latents=latents, moved=moved / count, kl=kl / count, size=size)
