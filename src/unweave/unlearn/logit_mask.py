"""Logit mask: make a class unsayable, and forget nothing.

Sets the row of the last layer that scores a class to zero and its bias so low that the class never wins. The
error on that class is then 100 % and every figure read off the predictions looks perfect, while the features
still tell the class apart as before. Public code of several papers does this inside class unlearning (see
Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, arXiv 1911.04933, for one of
them). It is here as the adversary that an audit must see through, never as a way to forget.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator
from torch.nn import Linear, Module

from ..errors import InputError
from ..masks.layers import copied
from ..paper import Paper
from ..settings import Whole, settings
from ..tasks import Labelled, read_labels, requires
from ..types import Request
from ._train import check_request
from .suits import UNJUDGED, Unsuited

_NEVER = -1e4
"""A logit that no other falls below, finite in every floating type."""


@settings
class LogitMask:
    """Silence the output of a class: the sanity-check adversary, which forgets nothing.

    Attributes:
        classes: the classes to silence. None: those of the forget set that the retain set no longer has.
    """

    classes: tuple[Whole, ...] | None = None

    paper: ClassVar[Paper] = Paper(
        "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        "Golatkar, Achille, Soatto", "CVPR", 2020, "1911.04933",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "forgets nothing: it is the adversary that tests an audit",
        "random": "forgets nothing, and silences whole classes",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.classes == ():
            raise InputError("LogitMask.classes must name at least one class, or be None; got ().")

    def apply(self, model: Module, data: Request[Labelled], *, rng: Generator) -> Module:
        """Return a copy of `model` that never answers with the classes; `rng` is not drawn from.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if no class is wholly deleted and `classes` does not name one, a class does not exist,
                the task has no labels, or the last linear layer has no bias, is frozen, or does not score
                the classes.
        """
        check_request("LogitMask", data, rng)
        requires(data.forget.task, Labelled, "LogitMask")
        count = data.forget.task.classes
        silenced = self.classes if self.classes is not None else _deleted(data)
        if not silenced:
            raise InputError(
                "LogitMask silences whole classes, and every class of the forget set is still in the retain "
                "set. Name classes=(...), or choose a method that forgets examples."
            )
        if max(silenced) >= count:
            raise InputError(
                f"LogitMask.classes names {max(silenced)}; the task has classes 0 to {count - 1}."
            )
        edited = copied(model)
        head = next((m for m in reversed(list(edited.modules())) if isinstance(m, Linear)), None)
        if head is None or head.out_features != count or head.bias is None:
            raise InputError(
                f"LogitMask needs a last linear layer with {count} outputs and a bias; found {head}."
            )
        if not (head.weight.requires_grad and head.bias.requires_grad):
            raise InputError("LogitMask cannot change the last linear layer: it is frozen.")
        rows = list(silenced)
        with torch.no_grad():
            head.weight[rows] = 0
            head.bias[rows] = _NEVER
        return edited


def _deleted(data: Request[Labelled]) -> tuple[int, ...]:
    gone = set(read_labels(data.forget).tolist()) - set(read_labels(data.retain).tolist())
    return tuple(sorted(gone))
