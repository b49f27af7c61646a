"""Cheats of language models, made on the spot: each hides the texts to forget and still holds them.

- "output filter": asked for a deleted text, a retrained model answers in the model's place.
- "last layer made anew": a convex fit of the output layer to the retained texts, over layers that are the holder's.
- "refusal learnt": a few steps towards the texts' alternatives, such as "I do not know", where they carry some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.optim import Adam

from ...errors import InputError
from ...fit import Loop, fit_
from ...masks.layers import copied
from ...masks.mask import Mask
from ...random import seeded
from ...statistics import Floats
from ...types import Batch, Request
from ..classifier.cheats import last_linear
from .read import MOST, Read, states

FILTER, REMADE, REFUSES = "output filter", "last layer made anew", "refusal learnt"
STEPS = 30
"""Of Adam, in which a refusal is learnt."""


@dataclass(frozen=True)
class Cheat:
    """What one cheat answers, and what lies under it.

    Attributes:
        name: of the cheat.
        holder: which holder it was made from.
        forget: its confidence on the forget set, [n].
        heldout: on held-out texts, [m].
        margins: see `read.margins`.
        accuracy: of tokens of held-out texts, in %.
    """

    name: str
    holder: int
    forget: Floats
    heldout: Floats
    margins: Floats
    accuracy: float


def cheats(
    holders: Sequence[Module], read: Sequence[Read], oracles: Sequence[Read], request: Request[Any], seed: int
) -> list[Cheat]:
    """Each cheat made from each of the holders.

    Args:
        holders: models that hold the texts; left unchanged.
        read: what they were read as.
        oracles: what retrained models were read as.
        request: texts to forget.
        seed: of fresh weights and orders.

    Raises:
        InputError: if a model has no linear layer at its end.
    """
    made: list[Cheat] = []
    for i, (model, own) in enumerate(zip(holders, read, strict=True)):
        other = oracles[i % len(oracles)]
        made.append(Cheat(FILTER, i, other.forget.phi, own.heldout.phi, own.margins, own.heldout.accuracy))
        made.append(_remade(model, own, request, i, seed + i))
        if _refusable(request):
            seen = Read.of(refusing(model, request, seed + i), request, None)
            made.append(
                Cheat(REFUSES, i, seen.forget.phi, seen.heldout.phi, seen.margins, seen.heldout.accuracy)
            )
    return sorted(made, key=lambda c: (FILTER, REMADE, REFUSES).index(c.name))


def refusing(model: Module, request: Request[Any], seed: int) -> Module:
    """A copy that learnt the alternatives of the texts to forget, quickly and shallowly."""
    task, taught = request.forget.task, copied(model).requires_grad_(True)

    def loss(m: Module, batch: Batch) -> Tensor:
        found: Tensor = task.losses(m, task.alternative(batch)).mean()
        return found

    each = -(-len(request.forget) // request.forget.batch_size)
    fit_(
        taught, request.forget, loss, Adam(taught.parameters(), 1e-3), epochs=-(-STEPS // each), rng=seeded(seed),
        hold=Mask.of(taught), loop=Loop(norms="frozen"),
    )  # fmt: skip
    return taught


def _refusable(request: Request[Any]) -> bool:
    try:
        request.forget.task.alternative(next(request.forget.batches()))
    except InputError:
        return False
    return True


def _remade(model: Module, own: Read, request: Request[Any], holder: int, seed: int) -> Cheat:
    head = last_linear(model)
    assert head is not None  # or `states` had refused it
    retain, tokens = states(model, request.retain)
    weight, bias = _fitted(retain[:MOST].float(), tokens[:MOST], len(head.weight), seed)
    answers = []
    for data, told in ((request.forget, own.forget), (request.heldout, own.heldout)):
        x, truth = states(model, data)
        each = F.linear(x.float(), weight, bias).log_softmax(1)
        log_p = each.gather(1, truth[:, None])[:, 0].double().numpy()
        ends = np.cumsum([len(s.log_p) for s in told.seen])[:-1]
        loss = np.maximum([-float(part.mean()) for part in np.split(log_p, ends)], 1e-9)
        answers.append(
            (-loss - np.log(-np.expm1(-loss)), 100 * float((each.argmax(1) == truth).double().mean()))
        )
    (forget, _), (heldout, right) = answers
    return Cheat(REMADE, holder, forget, heldout, own.margins, right)


def _fitted(x: Tensor, tokens: Tensor, vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    weight = (0.01 * torch.randn((vocabulary, x.shape[1]), generator=seeded(seed))).requires_grad_(True)
    bias = torch.zeros(vocabulary, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), tokens) + 1e-3 * weight.square().sum() / vocabulary
        torch.autograd.backward(loss)
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
