"""Fine-tuning on what may stay, in whole or in the last layers: the baselines FT, CF-k and EU-k.

Minimises the mean training loss on the retain set R alone; forgetting is left to drift. With the last k
layers only it is CF-k ("catastrophically forget"), and with those layers re-initialised first EU-k
("exact-unlearn") of Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, "Towards Adversarial Evaluations for Inexact
Machine Unlearning", 2022, arXiv 2201.06640, section 4.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.recipe import mean_loss
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..random import draw_seed, global_seed
from ..settings import Count, NonNegative, Part, Positive, settings
from ..types import Request
from ._train import Trainee, check_request, learning, reinitialise_, sgd
from .suits import UNJUDGED, Unsuited


@settings
class FineTune:
    """Train on the retain set, and hope that the rest fades.

    A layer, for `last_layers`, is a module that owns a weight of two or more dimensions; the last k of them
    in the model's order of registration are trained, with every normalisation between and after them.

    Attributes:
        epochs: passes over the retain set.
        lr: learning rate of SGD; 1e-3 to 1e-1 in the literature.
        momentum: of SGD.
        weight_decay: of SGD.
        last_layers: k, how many layers to train, counted from the end; None trains all.
        reset: re-initialise those layers first; needs `last_layers`.
        norms: "train" lets the running statistics of batch normalisation follow the retain set (in every
            layer, also those that are not trained); "frozen" leaves them as they are.
    """

    epochs: Count = 10
    lr: Positive = 0.01
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    last_layers: Count | None = None
    reset: bool = False
    norms: Literal["train", "frozen"] = "train"

    paper: ClassVar[Paper] = Paper(
        "Towards Adversarial Evaluations for Inexact Machine Unlearning",
        "Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru", "arXiv", 2022, "2201.06640",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models (position 0.20 to 0.82)",
        "random": "leaves the memory of single examples where it is (position 0.00 to 0.20)",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.reset and self.last_layers is None:
            raise InputError(
                "FineTune.reset needs last_layers. To train every layer afresh is to retrain: use Retrain."
            )

    @classmethod
    def cf_k(cls, k: int, *, epochs: int = 10, lr: float = 0.01) -> FineTune:
        """CF-k: fine-tune the last k layers."""
        return cls(last_layers=k, epochs=epochs, lr=lr)

    @classmethod
    def eu_k(cls, k: int, *, epochs: int = 10, lr: float = 0.01) -> FineTune:
        """EU-k: re-initialise the last k layers, then train them."""
        return cls(last_layers=k, epochs=epochs, lr=lr, reset=True)

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return a copy of `model` trained on the retain set.

        Args:
            model: left unchanged.
            data: the forget set is not read, but must not be empty.
            rng: governs batch order and re-initialisation.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model has fewer layers than `last_layers`, all of them are frozen, one cannot
                be re-initialised, or `only` is given together with `reset`.
            NonFiniteError: if training diverges.
        """
        check_request("FineTune", data, rng)
        if only is not None and self.reset:
            raise InputError(
                "FineTune.reset re-initialises whole layers, so it cannot be confined to a mask."
            )
        edited = copied(model)
        tail = dict(edited.named_modules()) if self.last_layers is None else _tail(edited, self.last_layers)
        if self.reset:
            with global_seed(draw_seed(rng)):
                reinitialise_(tail.items(), "FineTune.reset", "Use fewer last_layers, or reset=False.")
        chosen = [p for module in tail.values() for p in module.parameters(recurse=False)]
        with learning(edited, chosen):
            student = Trainee.of("FineTune", edited, sgd(self), rng, only=only, hold=Mask.of(model))
            student.train_(
                data.retain, mean_loss(data.retain), epochs=self.epochs, norms=self.norms, label="fine-tune"
            )
        return edited


def _tail(model: Module, k: int) -> dict[str, Module]:
    """All modules from the k-th last one that owns a weight of two or more dimensions."""
    modules = list(model.named_modules())
    layers = [i for i, (_, m) in enumerate(modules) if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    if k > len(layers):
        raise InputError(f"FineTune.last_layers is {k}, but the model has {len(layers)} layers with weights.")
    return dict(modules[layers[-k] :])
