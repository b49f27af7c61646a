"""Shock and heal: fade all that was learned by a measured dose, and teach the retained examples again in few steps.

Ours, for random deletions from networks that have their training set by heart. Such a network has no gradient left
on the retained examples, so training on leaves the memory of the others where it is; what takes it away is shrinkage.
With lambda the share of the old weights in a first blend and eta_t w the decay of step t,

    D = -ln lambda + sum_t eta_t w        exp(-D): share of the old weights that is left at the end

and a training on the retained examples, squeezed into a fraction of the recipe's, grows new ones meanwhile. The blend
with fresh weights is that of shrink and perturb (Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS
2020, arXiv 1910.08475), the optimiser that heals in few steps is Muon (`_muon`).

Decided here: a step's decay multiplies by exp(-eta_t w), of which 1 - eta_t w is the beginning, so that the dose is
exact, and comes after the step; it follows a warm-up and half a cosine whatever the recipe's schedule. Pruned models
are refused: revived whole and pruned again after three quarters of the steps, one of 90 % sparsity came no nearer to
retrained ones than a position of 0.71.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Generator
from torch.nn import Module
from torch.optim import Optimizer

from ..errors import InputError
from ..fit import steps_of
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child
from ..settings import Count, Positive, SomeShare, refuse_idle, settings
from ..types import Request
from ._heal import Trainer, begins_alike, fading
from ._muon import Muon
from ._topology_edit import placed
from ._train import check_request
from .suits import UNJUDGED, Unsuited

LEAST_STEPS = 10
"""Fewer do not heal any network."""


@settings
class ShockAndHeal:
    """Keep exp(-dose) of the old weights, and train on the retained examples for a fraction of the recipe.

    Approximate: no certificate, and a retained example that is not read again is forgotten along with the rest. Where
    3/16 of a training can be paid for, `ShortRetrain` is exact and as good.

    Attributes:
        recipe: how the model was made; it must draw its initial weights afresh each time.
        dose: D in nats. Too low leaves memory, too high leaves too little to heal from: raise it by 0.3 if the memory
            gauge stays under 0.9, lower it by 0.3 if held-out accuracy suffers by more than 2 points.
        blend: lambda, share of the old weights in the first blend with fresh ones; 1 blends nothing in.
        fraction: of the recipe's passes over the retained examples.
        optimizer: "muon", or the "recipe"'s own.
        lr: peak learning rate; None is 0.1 for Muon, else the recipe's.
        adam_lr: peak learning rate of Adam, which trains what is no matrix beside Muon.
        newton_schulz: iterations that make Muon's momentum orthogonal; 2 suffice, and are cheaper.
    """

    recipe: Trainer
    dose: Positive = 2.6
    blend: SomeShare = 0.3
    fraction: SomeShare = 1 / 8
    optimizer: Literal["muon", "recipe"] = "muon"
    lr: Positive | None = None
    adam_lr: Positive = 0.01
    newton_schulz: Count = 5

    paper: ClassVar[Paper] = Paper(
        "On Warm-Starting Neural Network Training (the blend with fresh weights; the method is ours)",
        "Ash, Adams", "NeurIPS", 2020, "1910.08475",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.dose < -log(self.blend):
            raise InputError(
                f"ShockAndHeal.dose is {self.dose:g}, but blend={self.blend:g} alone fades the weights by "
                f"{-log(self.blend):.3g}. Raise dose to that or more, or raise blend."
            )
        if self.optimizer == "recipe":
            refuse_idle(self, "adam_lr", "newton_schulz", when='with optimizer="recipe"')

    @classmethod
    def plain(cls, recipe: Trainer, dose: float = 1.5, fraction: float = 1 / 4) -> ShockAndHeal:
        """Without Muon and without a blend: the recipe's own optimiser, under decay in the first half of the steps.

        A dose of 1.5 suits networks without batch normalisation, 2 those with it.
        """
        return cls(recipe=recipe, dose=dose, blend=1.0, fraction=fraction, optimizer="recipe")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model`, shocked and healed; running statistics of batch normalisation follow by themselves.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model is pruned, or has no matrix or a frozen parameter, the recipe begins at the
                same weights each time or makes another network, or the fraction is too short a training.
            NonFiniteError: if training diverges.
        """
        check_request("ShockAndHeal", data, rng)
        self._require(model)
        edited = copied(model)
        steps = round(self.fraction * self.recipe.epochs * steps_of(edited, data.retain))
        if steps < LEAST_STEPS:
            raise InputError(
                f"ShockAndHeal would heal for {steps} steps, and needs {LEAST_STEPS} at the least. Raise fraction, or "
                "retrain: this training is cheap."
            )
        fresh = placed("ShockAndHeal", self.recipe.initial(rng), model)
        blend_(edited, fresh, self.blend)
        self.recipe.train_(
            edited,
            data.retain,
            epochs=self.fraction * self.recipe.epochs,
            lr=self.lr or (0.1 if self.optimizer == "muon" else self.recipe.lr),
            rng=child(rng),
            optimizer=self._muon,
            after_step=fading(self.dose + log(self.blend), steps, during=self._during),
        )
        return edited

    @property
    def _during(self) -> float:
        """Share of the steps under decay: SGD refills what it takes more slowly than Muon does."""
        return 1.0 if self.optimizer == "muon" else 0.5

    @property
    def _muon(self) -> Callable[..., Optimizer] | None:
        if self.optimizer == "recipe":
            return None
        return partial(Muon, adam_lr=self.adam_lr, newton_schulz=self.newton_schulz)

    def _require(self, model: Module) -> None:
        if Mask.of(model):
            raise InputError(
                "ShockAndHeal does not forget in pruned models: the shock leaves their mask's basin. Use ShortRetrain, "
                "or Unprune."
            )
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        if frozen:
            raise InputError(
                f"ShockAndHeal cannot fade what is frozen: {', '.join(frozen[:4])} would keep all that it learned. "
                "Unfreeze the model, or retrain."
            )
        if not any(p.ndim > 1 for p in model.parameters()):
            raise InputError("ShockAndHeal fades matrices, and this model has none.")
        if begins_alike(self.recipe):
            raise InputError(
                "ShockAndHeal: the recipe begins at the same weights each time (init_seed, or weights from a file). "
                "Models retrained from them share a basin that the shock leaves. Use ShortRetrain, which begins there."
            )


@torch.no_grad()
def blend_(model: Module, fresh: Module, share: float) -> None:
    """Every parameter becomes share * itself + (1 - share) * the fresh one; buffers stay."""
    for ours, theirs in zip(model.parameters(), fresh.parameters(), strict=True):
        ours.copy_(torch.lerp(theirs, ours, share))
