"""The model that is handed out: one predictor a living shard, their answers put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from ...errors import InputError
from ...types import Data
from .service import Deleted, Retrain, Service

Aggregate = Literal["mean", "vote"]


class Ensemble(Module):
    """Several predictors that answer as one.

    Args:
        members: return logits [n, ..., classes], or an object with `.logits`; at least one.
        aggregate: "mean" of the logits; or "vote": the logarithm of the share of members that rank a class first,
            where one voice more is the members' mean probability, which decides between equals.
        service: what they were made from; None where nothing can be deleted from them.

    Example:
        >>> both = Ensemble([torch.nn.Identity(), torch.nn.ReLU()], "mean")
        >>> both(torch.tensor([[-2.0, 4.0]]))
        tensor([[-1.,  4.]])
    """

    def __init__(
        self, members: Sequence[Module], aggregate: Aggregate = "mean", service: Service | None = None
    ) -> None:
        super().__init__()
        self.members = ModuleList(members)
        self.aggregate: Aggregate = aggregate
        self.service = service

    @classmethod
    def of(cls, service: Service, aggregate: Aggregate) -> Ensemble:
        """What serves now, in eval mode.

        Raises:
            RetrainingDue: if every shard is dead.
        """
        members = [service.model(shard, prefix) for shard, prefix in service.serving().items()]
        return cls(members, aggregate, service).eval()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits of all members, put together, [n, ..., classes]."""
        answers = torch.stack([_logits(member(*args, **kwargs)) for member in self.members])
        if self.aggregate == "mean" or len(self.members) == 1:
            return answers.mean(0)
        wide = answers.double()
        votes = torch.zeros_like(wide).scatter_(-1, wide.argmax(-1, keepdim=True), 1.0).sum(0)
        shares = (votes + wide.softmax(-1).mean(0)) / (len(answers) + 1)
        return shares.clamp(min=1e-300).log().to(answers.dtype)

    def forget(
        self,
        ids: Iterable[Any],
        data: Data[Any] | None = None,
        *,
        retrain: Retrain = "none",
        data_ids: Sequence[Any] | None = None,
    ) -> tuple[Ensemble, Deleted]:
        """Delete examples: what saw them is dropped, and the longest prefix that never did serves.

        Args:
            ids: the data set's own.
            data: what the model was trained on, for `retrain`.
            retrain: "none" trains nothing; "dead" trains the orders that are dead again on what is left; "all" every
                stage that was dropped.
            data_ids: of the examples of `data`; its own unless given.

        Returns:
            What serves now, and what was done. This model stays as it is: it holds the data still.

        Raises:
            InputError: if an id was never in the data, or there is no data to retrain on.
            RetrainingDue: if every shard is dead and nothing was retrained.
        """
        service, done = deleted(self.service, ids, data, retrain=retrain, data_ids=data_ids)
        return Ensemble.of(service, self.aggregate), done


def deleted(
    service: Service | None,
    ids: Iterable[Any],
    data: Data[Any] | None,
    *,
    retrain: Retrain,
    data_ids: Sequence[Any] | None = None,
    **how: Any,
) -> tuple[Service, Deleted]:
    """`Service.without`, and the training that was asked for; see `Ensemble.forget`."""
    if service is None:
        raise InputError("this ensemble was made of bare models; nothing is known of their data.")
    left, done = service.without(ids)
    if retrain != "none":
        if data is None:
            raise InputError(f"retrain={retrain!r} needs the data that the model was trained on.")
        left, trained = left.retrained(data, retrain, ids=data_ids, **how)
        served = tuple((before, len(left.served(k))) for k, (before, _) in enumerate(done.served))
        done = replace(done, trained=trained, served=served)
    return left, done


def _logits(out: Any) -> Tensor:
    logits: Tensor = out.logits if hasattr(out, "logits") else out
    return logits
