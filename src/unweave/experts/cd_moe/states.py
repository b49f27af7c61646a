"""Hidden states of a model on calibration texts, and how far two of them lie apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...models.moe import MoE, Routed, present_rows, watching
from ...types import Data

Metric = Literal["js", "l2", "cosine"]
_EPS = 1e-10  # inside the logarithms
_CHUNK = 4096  # tokens compared at once


@dataclass(frozen=True)
class Seen:
    """One block on the calibration texts, padding left out.

    Attributes:
        routed: what the router chose.
        output: the block's answer [tokens, H].
        layer: output of the decoder layer that it is a part of [tokens, H].
        share: weight of each token in a mean over texts of means over tokens [tokens]; sums to 1.
    """

    routed: Routed
    output: Tensor
    layer: Tensor
    share: Tensor


class _EnoughError(Exception):
    """The layer that was asked for has answered."""


def capture(model: Module, data: Data[Any], moe: MoE) -> Seen:
    """Run the model on the texts, no further than one decoder layer, and keep what its block read and answered."""
    parts: list[tuple[Routed, Tensor, Tensor]] = []
    shares: list[Tensor] = []
    seen: dict[str, Any] = {}

    def after(_: Module, __: Any, output: Any) -> None:
        seen["layer"] = _rows(output)
        raise _EnoughError

    hooks = [
        moe.block.register_forward_hook(lambda _, __, out: seen.update(output=_rows(out))),
        model.get_submodule(moe.layer).register_forward_hook(after),
    ]
    try:
        for batch in data.batches():
            present = present_rows(data.task, batch)
            with watching([moe], lambda _, routed: seen.update(routed=routed), present):
                try:
                    data.task.outputs(model, batch)
                except _EnoughError:
                    pass
            kept = None if present is None else present.flatten().to(seen["output"].device)
            rows = [t if kept is None else t[kept] for t in (seen["output"], seen["layer"])]
            parts.append((seen["routed"], rows[0], rows[1]))
            shares.append(_shares(data, batch, present, len(rows[0])))
    finally:
        for hook in hooks:
            hook.remove()
    routed, outputs, layers = zip(*parts, strict=True)
    logits = None if routed[0].logits is None else torch.cat([r.logits for r in routed])
    hidden, index, weights = (
        torch.cat([getattr(r, n) for r in routed]) for n in ("hidden", "index", "weights")
    )
    whole = Routed(hidden, index, weights, logits)
    return Seen(whole, torch.cat(outputs), torch.cat(layers), _to_one(torch.cat(shares)))


def final_states(model: Module, data: Data[Any]) -> tuple[Tensor, Tensor]:
    """The model's last hidden states, after its last norm [tokens, H], and each token's share as in `Seen`."""
    rows: list[Tensor] = []
    shares: list[Tensor] = []
    with _last(model) as seen:
        for batch in data.batches():
            data.task.outputs(model, batch)
            present = present_rows(data.task, batch)
            kept = None if present is None else present.flatten().to(seen[0].device)
            rows.append(seen[0] if kept is None else seen[0][kept])
            shares.append(_shares(data, batch, present, len(rows[-1])))
    return torch.cat(rows), _to_one(torch.cat(shares))


def last_norm(model: Module, data: Data[Any]) -> Module:
    """The module whose answer is the model's last hidden state: its final norm."""
    answers: list[tuple[Module, int]] = []
    told: list[int] = []
    inner = backbone(model)
    children = [c for c in inner.children()]
    hooks = [
        c.register_forward_hook(
            lambda m, _, out: answers.append((m, id(out[0] if isinstance(out, tuple) else out)))
        )
        for c in children
    ]
    hooks.append(inner.register_forward_hook(lambda _, __, out: told.append(id(out[0]))))
    try:
        data.task.outputs(model, next(iter(data.batches())))
    finally:
        for hook in hooks:
            hook.remove()
    for module, answer in answers:
        if answer == told[-1]:
            return module
    return torch.nn.Identity()


def backbone(model: Module) -> Module:
    """The part of a transformers model that answers with hidden states.

    Raises:
        InputError: if it has none.
    """
    inner = getattr(model, "base_model", None)
    if not isinstance(inner, Module) or inner is model:
        raise InputError(
            f"a {type(model).__name__} has no backbone that answers with hidden states (base_model). "
            "Give a causal language model of transformers."
        )
    return inner


def distance(a: Tensor, b: Tensor, share: Tensor, metric: Metric = "js") -> float:
    """Weighted mean over tokens of how far hidden states lie apart; both [tokens, H], compared in float32 or wider.

    "js" is the Jensen-Shannon divergence of their softmaxes over the hidden dimension, in nats; "l2" the squared
    Euclidean distance over the squared size of `a`; "cosine" one minus the cosine.
    """
    total = torch.zeros((), dtype=torch.float64)
    for low in range(0, len(a), _CHUNK):
        part = slice(low, low + _CHUNK)
        wide = torch.promote_types(a.dtype, torch.float32)
        each = _EACH[metric](a[part].to(wide), b[part].to(wide))
        total += (each.double() * share[part].to(each.device)).sum().cpu()
    return float(total)


def _js(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.softmax(-1), b.softmax(-1)
    middle = ((p + q) / 2 + _EPS).log()
    return 0.5 * (p * ((p + _EPS).log() - middle) + q * ((q + _EPS).log() - middle)).sum(-1)


def _l2(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1) / a.square().sum(-1).clamp(min=_EPS)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)


_EACH = {"js": _js, "l2": _l2, "cosine": _cosine}


def _rows(output: Any) -> Tensor:
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor.detach().reshape(-1, tensor.shape[-1])


@contextmanager
def _last(model: Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = [torch.empty(0)]

    def keep(_: Module, __: Any, out: Any) -> None:
        seen[0] = _rows(out[0])

    hook = backbone(model).register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _shares(data: Data[Any], batch: Any, present: Tensor | None, tokens: int) -> Tensor:
    """1 over the tokens of its text, for each token that is there, float64."""
    if present is None:
        n = len(data.task.ids(batch))
        return torch.full((tokens,), n / tokens, dtype=torch.float64)
    lengths = present.sum(1)
    return (1 / lengths.double()).repeat_interleave(lengths.long()).cpu()


def _to_one(shares: Tensor) -> Tensor:
    return shares / shares.sum()
