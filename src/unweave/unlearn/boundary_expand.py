"""Boundary expand: give the forgotten examples to a class that does not exist, then take that class away.

Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, arXiv 2303.11570, section 4.2.

The classifier's last linear layer gets one more row (the shadow class), F is learned as that class, and the
row is dropped again: the returned model has the shape of the original.

Departures: a public port leaves the row in the released model, which then calls forgotten examples by the
name of no class; here it is always dropped. Batch normalisation keeps its running statistics, since only F is
read.
"""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Linear, Module

from ..errors import InputError
from ..masks.layers import copied
from ..paper import Paper
from ..random import draw_seed, global_seed
from ..settings import Count, NonNegative, Part, Positive, settings
from ..tasks import Labelled, requires
from ..types import Batch, Request
from ._train import Trainee, check_request, sgd
from .boundary_shrink import PAPER
from .suits import UNJUDGED, Unsuited


@settings
class BoundaryExpand:
    """Learn the forget set as a shadow class, then drop that class.

    Attributes:
        epochs: passes over the forget set.
        lr: learning rate of SGD; search 1e-5..1e-2.
        momentum: of SGD.
        weight_decay: of SGD.
        layer: name of the linear layer that gives the logits; "" takes the last one of the model.
    """

    paper: ClassVar[Paper] = PAPER
    unsuited: ClassVar[Unsuited] = {
        "class": "takes part of the rest along (held-out accuracy fell by 3 to 7 points)",
        "random": "ruins the rest (held-out accuracy fell by 16 to 39 points)",
        "small": UNJUDGED,
    }

    epochs: Count = 10
    lr: Positive = 1e-3
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    layer: str = ""

    def apply(self, model: Module, data: Request[Labelled], *, rng: Generator) -> Module:
        """Return a copy of `model`, of its shape, from which `data.forget` was pulled out of every class.

        Raises:
            EmptyDataError: if the forget set is empty.
            InputError: if there is no linear layer with one output a class, the task has no labels, or its
                classes cannot be widened.
        """
        check_request("BoundaryExpand", data, rng, ["forget"])
        task, edited = data.forget.task, copied(model)
        requires(task, Labelled, "BoundaryExpand")
        name, narrow = classifier(edited, task.classes, self.layer)
        if not is_dataclass(task):
            raise InputError(
                f"BoundaryExpand needs a task that is a dataclass with a field `classes`; got {task!r}."
            )
        wider: Any = replace(task, classes=task.classes + 1)
        wide = widened(narrow, rng)
        edited.set_submodule(name, wide)

        def to_shadow(student: Module, batch: Batch) -> Tensor:
            shadow = torch.full_like(wider.labels(batch), task.classes)
            loss: Tensor = wider.losses(student, wider.relabel(batch, shadow)).mean()
            return loss

        student = Trainee.of("BoundaryExpand", edited, sgd(self), rng)
        student.train_(data.forget, to_shadow, epochs=self.epochs, norms="frozen", label="boundary expand")
        with torch.no_grad():
            narrow.weight.copy_(wide.weight[:-1])
            if narrow.bias is not None:
                narrow.bias.copy_(wide.bias[:-1])
        edited.set_submodule(name, narrow)
        return edited


def classifier(model: Module, classes: int, layer: str = "") -> tuple[str, Linear]:
    """Name and module of the linear layer that gives the logits.

    Raises:
        InputError: if `layer` names no linear layer, there is none, or it has not one output a class.
    """
    linears = {name: module for name, module in model.named_modules() if name and isinstance(module, Linear)}
    name = layer or next(reversed(linears), "")
    if name not in linears:
        raise InputError(
            f"BoundaryExpand found no Linear {layer!r}; the model has: {', '.join(linears) or 'none'}."
        )
    if linears[name].out_features != classes:
        raise InputError(
            f"BoundaryExpand adds a class to the last linear layer, but {name} has "
            f"{linears[name].out_features} outputs and there are {classes} classes. "
            f"Name the classifier with layer=...; found: {', '.join(linears)}."
        )
    return name, linears[name]


def widened(narrow: Linear, rng: Generator) -> Linear:
    """`narrow` with one more output row, initialised as torch initialises a new layer."""
    weight, bias = narrow.weight, narrow.bias
    with global_seed(draw_seed(rng)), torch.no_grad():
        wide = Linear(narrow.in_features, narrow.out_features + 1, bias is not None, dtype=weight.dtype)
        wide.to(weight.device).weight[:-1].copy_(weight)
        if bias is not None:
            wide.bias[:-1].copy_(bias)
            wide.bias.requires_grad_(bias.requires_grad)
    wide.weight.requires_grad_(weight.requires_grad)
    wide.training = narrow.training
    return wide
