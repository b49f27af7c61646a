"""The four figures of the unlearning literature, and the average gap to a retrained model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from unweave import Data, Request
from unweave.tasks import predict, read_labels


def figures(model: Module, request: Request[Any]) -> dict[str, float]:
    """UA, RA, TA and MIA-efficacy, each in percent.

    UA is the error on the forget set, RA and TA are accuracies on the retain and the held-out set, and
    MIA is the share of the forget set that a confidence attack calls non-member. Classes that the retain
    set lacks are left out of the held-out set: a model that forgot them should not know them there either.
    """
    retained = read_labels(request.retain).unique()
    known = torch.isin(read_labels(request.heldout), retained)
    parts = request.forget, request.retain, request.heldout.subset(known.nonzero().flatten())
    forget_p, retain_p, heldout_p = (_logits(model, part) for part in parts)
    threshold = _threshold(members=_confidence(*retain_p), others=_confidence(*heldout_p))
    return {
        "UA": 100 - _accuracy(*forget_p),
        "RA": _accuracy(*retain_p),
        "TA": _accuracy(*heldout_p),
        "MIA": 100 * float((_confidence(*forget_p) < threshold).double().mean()),
    }


def gap(model: Module, oracle: Module, request: Request[Any]) -> float:
    """Mean distance to the oracle over UA, RA, TA and MIA-efficacy, in percentage points."""
    ours, theirs = figures(model, request), figures(oracle, request)
    return sum(abs(ours[name] - theirs[name]) for name in theirs) / len(theirs)


def _logits(model: Module, data: Data[Any]) -> tuple[Tensor, Tensor]:
    return predict(model, data).double(), read_labels(data)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * float((logits.argmax(1) == labels).double().mean())


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the true class's probability: finer than the probability where that rounds to one."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return own - others


def _threshold(members: Tensor, others: Tensor) -> float:
    """The cut with the best balanced accuracy, whatever the two set sizes; members lie at or above it."""
    cuts = torch.cat([members, others]).sort().values
    m, o = members.sort().values, others.sort().values
    kept = 1 - torch.searchsorted(m, cuts).double() / len(m)
    refused = torch.searchsorted(o, cuts).double() / len(o)
    return float(cuts[(kept + refused).argmax()])
