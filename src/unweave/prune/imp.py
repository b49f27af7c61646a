"""Iterative magnitude pruning with rewinding: how winning tickets are found.

Frankle, Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv 1803.03635 (rewind to the initial weights),
and Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020,
arXiv 1912.05671 (rewind to early in training): train, remove a share of the smallest living weights over all
layers, put the rest back to where they were, repeat.
"""

from __future__ import annotations

from copy import deepcopy
from math import ceil, log
from typing import Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.recipe import Supervised
from ..masks.budgets import Global
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Unstructured, require_rising
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..settings import Inner, Whole, settings
from ..types import Data
from .magnitude import Magnitude


@settings
class IMP:
    """A recipe around a recipe: train and prune in rounds, then train once more under the mask.

    Buffers (running statistics) are rewound with the weights. With `rewind_epochs`, each round trains the
    remaining epochs with a learning-rate schedule of its own, where the paper would go on with the first one.

    Attributes:
        recipe: how the network is made and trained; its own `prune` and `sparse` must be None.
        sparsity: share of the weights in scope removed in the end.
        rate: share of the living weights removed a round; the rounds are made equal so as to end at
            `sparsity`.
        rewind_epochs: epochs after which the weights are remembered, to be rewound to; 0 is initialisation.
        restart: "rewind" goes back to the remembered weights; "reinit" draws fresh ones, the paper's control.
        pattern: which weights live or die together.
        scope: which weights are pruned.
    """

    recipe: Supervised
    sparsity: Inner = 0.9
    rate: Inner = 0.2
    rewind_epochs: Whole = 0
    restart: Literal["rewind", "reinit"] = "rewind"
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks",
        "Frankle, Carbin", "ICLR", 2019,
        "1803.03635",
    )  # fmt: skip

    def __post_init__(self) -> None:
        require_rising(self, "Prune or ProgressiveNM")
        if self.rewind_epochs >= self.recipe.epochs:
            raise InputError(
                f"IMP.rewind_epochs must be below {self.recipe.epochs}, the recipe's epochs; got {self.rewind_epochs}."
            )
        if self.recipe.prune is not None or self.recipe.sparse is not None:
            raise InputError("IMP.recipe already prunes (prune, sparse). Give IMP the dense recipe.")

    @property
    def rounds(self) -> int:
        """Rounds of training and cutting before the final training."""
        return ceil(log(1 - self.sparsity) / log(1 - self.rate) - 1e-9)

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Find the mask in rounds, then train under it.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if a layer would lose all its weights.
        """
        data.require_examples("IMP.build")
        remembered = self.recipe.initial(rng)
        if self.rewind_epochs:
            self._train_(remembered, data, self.rewind_epochs, rng, None)
        epochs = self.recipe.epochs - self.rewind_epochs
        mask: Mask | None = None
        for k in range(1, self.rounds + 1):
            model = deepcopy(remembered)
            self._train_(model, data, epochs, rng, mask)
            cut = select(
                Magnitude(scope=self.scope).score(model, data),
                self.pattern,
                Global(1 - (1 - self.sparsity) ** (k / self.rounds)),
            )
            mask = cut if mask is None else mask & cut
        assert mask is not None
        final = deepcopy(remembered) if self.restart == "rewind" else self.recipe.initial(rng)
        mask.apply_(final)
        self._train_(final, data, epochs, rng, mask)
        return final

    def _train_(self, model: Module, data: Data[Any], epochs: int, rng: Generator, hold: Mask | None) -> None:
        self.recipe.train_(model, data, epochs=epochs, lr=self.recipe.lr, rng=rng, hold=hold)
