"""Training on by the recipe, from where a model stands or from its start: the rivals of un-pruning."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, Positive, Whole, refuse_idle, settings
from ..types import Request
from ._topology_edit import Origin, Rule, initial_like
from ._train import check_request
from .unprune import PAPER


@settings
class Continue:
    """Train on the retained examples the recipe's own way, from where the model is.

    The unlearner to put into `Unprune` and `FixedMask` when nothing more than the recipe is wanted. Zeros
    are held.

    Attributes:
        recipe: whose training is continued.
        epochs: passes over the retained examples.
        lr: peak learning rate, with the recipe's schedule from its start.
    """

    recipe: Origin
    epochs: Count = 2
    lr: Positive = 0.1

    paper: ClassVar[Paper] = PAPER

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` trained on.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            NonFiniteError: if training diverges.
        """
        check_request("Continue", data, rng)
        edited = deepcopy(model)
        self.recipe.train_(edited, data.retain, epochs=self.epochs, lr=self.lr, rng=rng, hold=Mask.of(model))
        return edited


@settings
class ShortRetrain:
    """Retrain from the initial weights for a few epochs, prune by the same rule, train on under the mask.

    Mask and weights owe nothing to the deleted examples, nor to all that the model had learned of the others.

    Attributes:
        recipe: how the model was made; its `initial` must give the weights that training began from, for the
            masks to be comparable.
        epochs: passes over the retained examples before pruning.
        lr: their peak learning rate.
        of: epochs over which their schedule falls, if more than are run; None squeezes it into `epochs`.
        recover_epochs: passes under the new mask.
        recover_lr: peak learning rate of these.
    """

    recipe: Origin
    epochs: Count = 6
    lr: Positive = 0.1
    of: Count | None = None
    recover_epochs: Whole = 2
    recover_lr: Positive = 0.05

    paper: ClassVar[Paper] = PAPER

    def __post_init__(self) -> None:
        if self.of is not None and self.of < self.epochs:
            raise InputError(
                f"ShortRetrain.of must be at least epochs; got {self.of} of {self.epochs}. "
                "It is how many epochs the schedule would take in full."
            )
        if self.recover_epochs == 0:
            refuse_idle(self, "recover_lr", when="with recover_epochs=0")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a new model with as many zeros as `model`, of which only the mask is read.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model is dense or the recipe cannot give its initial weights.
        """
        check_request("ShortRetrain", data, rng)
        rule = Rule.read("ShortRetrain", model, data.retain, self.recipe)
        edited = initial_like("ShortRetrain", self.recipe, model)
        self.recipe.train_(edited, data.retain, epochs=self.epochs, lr=self.lr, rng=rng, of=self.of)
        kept = rule.select(rule.scores(edited, data.retain, rng), edited, data.retain)
        kept.apply_(edited)
        if self.recover_epochs:
            self.recipe.train_(
                edited, data.retain, epochs=self.recover_epochs, lr=self.recover_lr, rng=rng, hold=kept
            )
        return edited
