"""Soft filter pruning: zero the weakest filters after each epoch, but let them grow back in the next.

He, Kang, Dong, Fu, Yang, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI
2018, arXiv 1808.06866, algorithm 1: filters are ranked by their l2 norm within each layer, at one rate for
all layers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Generator
from torch.nn import Module
from torch.optim import SGD

from ..errors import InputError
from ..fit import Loop, Step, fit_
from ..fit.recipe import mean_loss
from ..masks.budgets import Uniform
from ..masks.layers import copied
from ..masks.mask import Mask
from ..masks.patterns import Channel
from ..masks.scope import ROWS, Scope
from ..masks.select import select
from ..masks.silence import silence
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, Range, settings
from ..types import Data
from .magnitude import Magnitude


@settings
class SoftFilter:
    """Train with SGD; at the end of each epoch zero the filters of smallest norm; they go on training.

    The cut after the last epoch is the final one. It also zeroes the dead filters' bias and batch
    normalisation, which the paper leaves for the removal that follows: only then is a dead channel silent,
    and `shrink` exact.

    Attributes:
        rate: share of each layer's filters that are zeroed (P_i); the paper takes 0.1 to 0.4.
        epochs: passes over the data.
        lr: learning rate, constant.
        momentum: of SGD; it is not reset by a cut, and helps zeroed filters to grow back.
        weight_decay: of SGD.
        scope: which layers' filters are pruned; leaves out the last layer, whose outputs are the classes.
    """

    rate: Annotated[float, Range(at_least=0, below=1, why="It is the share of filters zeroed.")] = 0.3
    epochs: Count = 20
    lr: Positive = 0.02
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    scope: Scope = Scope(last=False)

    paper: ClassVar[Paper] = Paper(
        "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
        "He, Kang, Dong, Fu, Yang", "IJCAI",
        2018, "1808.06866",
    )  # fmt: skip

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A trained copy of `model` with dead filters; its own zeros stay.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if a layer would lose all its filters, or no filter would be cut anywhere.
        """
        data.require_examples("SoftFilter")
        pruned = copied(model)
        self.scope.layers(pruned, ROWS)  # refuses what has no filters as its first dimension
        if self.rate > 0 and self._weak(pruned, data).density() == 1:
            raise InputError(
                f"SoftFilter.rate {self.rate} cuts no filter: every layer is too narrow. Raise it."
            )

        def cut(step: Step) -> None:
            if step.last_of_epoch:
                self._weak(step.model, data).apply_(step.model)

        trained = [p for p in pruned.parameters() if p.requires_grad]
        optimizer = SGD(trained, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        fit_(
            pruned, data, mean_loss(data), optimizer,
            epochs=self.epochs, rng=rng, hold=Mask.of(model), after_step=cut, loop=Loop(label="prune filters softly"),
        )  # fmt: skip
        silence(pruned, self._weak(pruned, data), data).apply_(pruned)
        return pruned

    def _weak(self, model: Module, data: Data[Any]) -> Mask:
        return select(Magnitude(scope=self.scope).score(model, data), Channel(), Uniform(self.rate))
