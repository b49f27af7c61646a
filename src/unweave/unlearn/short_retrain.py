"""Training by the recipe for a while, from where a model stands or from its start: the exact rivals of any edit.

Short retraining is retraining (`Retrain`) with a schedule squeezed into a fraction of the passes and, for dense models,
an optimiser that needs fewer steps. Muon and the decay are those of `ShockAndHeal`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit import steps_of
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, SomeShare, Whole, refuse_idle, settings
from ..types import Data, Request
from ._heal import Trainer, begins_alike, fading
from ._muon import Muon
from ._topology_edit import Origin, Rule, initial_like, placed
from ._train import check_request
from .suits import UNJUDGED, Unsuited
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
    unsuited: ClassVar[Unsuited] = {
        "class": "stops half way (position 0.49 to 0.52)",
        "random": "leaves the memory of single examples where it is (position 0.01 to 0.10)",
        "small": UNJUDGED,
    }

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` trained on.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            NonFiniteError: if training diverges.
        """
        check_request("Continue", data, rng)
        edited = copied(model)
        self.recipe.train_(edited, data.retain, epochs=self.epochs, lr=self.lr, rng=rng, hold=Mask.of(model))
        return edited


@settings
class ShortRetrain:
    """Retrain on the retained examples for a fraction of the recipe, from its initial weights.

    Exact: no weight of the given model is read, so nothing of the deleted examples, nor of what had been learned of the
    others, can be left. What it may lack is the rest of a training: judge it on held-out examples. A pruned model is
    retrained dense, pruned by the same rule to as many weights, and trained on under the mask; it must begin at
    the same weights as the model did, for the masks to be comparable.

    Attributes:
        recipe: how the model was made. Initial weights are the recipe's own where it fixes them, else fresh ones.
        fraction: of the recipe's passes over the retained examples; its schedule is squeezed into them.
        epochs: passes, in place of `fraction`.
        of: epochs over which the schedule falls, if more than `epochs` are run; None squeezes it.
        optimizer: "muon", which heals a network in few steps, or the "recipe"'s own. None is Muon where the recipe
            draws fresh weights, and the recipe's own where it fixes them, so that retrained models share a basin.
        lr: peak learning rate; None is 0.1 for Muon, else the recipe's.
        decay: with Muon, by how many nats the matrices fade during the training (sum of learning rate times weight
            decay).
        adam_lr: with Muon, peak learning rate of Adam, which trains what is no matrix.
        newton_schulz: iterations that make Muon's momentum orthogonal.
        recover_epochs: of a pruned model, passes under the new mask, the recipe's own way.
        recover_lr: peak learning rate of these.
    """

    recipe: Trainer
    fraction: SomeShare = 3 / 16
    epochs: Count | None = None
    of: Count | None = None
    optimizer: Literal["muon", "recipe"] | None = None
    lr: Positive | None = None
    decay: NonNegative = 1.4
    adam_lr: Positive = 0.01
    newton_schulz: Count = 5
    recover_epochs: Whole = 2
    recover_lr: Positive = 0.05

    paper: ClassVar[Paper] = PAPER
    unsuited: ClassVar[Unsuited] = {}

    def __post_init__(self) -> None:
        if self.epochs is not None:
            refuse_idle(self, "fraction", when="beside epochs")
        if self.of is not None and self.epochs is None:
            raise InputError(
                "ShortRetrain.of needs epochs: it is how many epochs their schedule would take in full."
            )
        if self.of is not None and self.epochs is not None and self.of < self.epochs:
            raise InputError(
                f"ShortRetrain.of must be at least epochs; got {self.of} of {self.epochs}. "
                "It is how many epochs the schedule would take in full."
            )
        if self.optimizer == "recipe":
            refuse_idle(self, *_MUON, when='with optimizer="recipe"')
        if self.recover_epochs == 0:
            refuse_idle(self, "recover_lr", when="with recover_epochs=0")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a new model. Of `model` only shapes, types, modes and frozen parameters are taken over.

        Of a pruned one also how many weights live where.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the recipe makes another network, or the model is pruned and the recipe draws other initial
                weights each time.
            NonFiniteError: if training diverges.
        """
        check_request("ShortRetrain", data, rng)
        if not Mask.of(model):
            refuse_idle(self, "recover_epochs", "recover_lr", when="for a dense model")
            edited = placed("ShortRetrain", self.recipe.initial(rng), model)
            self._train_(edited, data.retain, rng)
            return edited
        rule = Rule.read("ShortRetrain", model, data.retain, self.recipe)
        edited = initial_like("ShortRetrain", self.recipe, model)
        self._train_(edited, data.retain, rng)
        kept = rule.select(rule.scores(edited, data.retain, rng), edited, data.retain)
        kept.apply_(edited)
        if self.recover_epochs:
            self.recipe.train_(
                edited, data.retain, epochs=self.recover_epochs, lr=self.recover_lr, rng=rng, hold=kept
            )
        return edited

    def _train_(self, model: Module, retain: Data[Any], rng: Generator) -> None:
        epochs = self.epochs or self.fraction * self.recipe.epochs
        muon = self.optimizer == "muon" or (self.optimizer is None and not begins_alike(self.recipe))
        if not muon:
            refuse_idle(
                self, *_MUON, when='where the recipe fixes the initial weights, unless optimizer is "muon"'
            )
            self.recipe.train_(
                model, retain, epochs=epochs, lr=self.lr or self.recipe.lr, rng=rng, of=self.of
            )
            return
        steps = max(1, round(epochs * steps_of(model, retain)))
        self.recipe.train_(
            model, retain, epochs=epochs, lr=self.lr or 0.1, rng=rng, of=self.of,
            optimizer=partial(Muon, adam_lr=self.adam_lr, newton_schulz=self.newton_schulz),
            after_step=fading(self.decay, steps) if self.decay else None,
        )  # fmt: skip


_MUON = ("decay", "adam_lr", "newton_schulz")
