"""Retrain: build the model again without the forget set. Exact by construction, and the oracle for the rest.

Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, arXiv 1912.03817, section 3: a model has unlearned if
it is distributed as one that was trained without the data, which this one is. One retrained model is one draw
from that distribution: take several, and their spread is the noise floor of every comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.recipe import Supervised
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import settings
from ..types import Recipe, Request
from ._train import check_request
from .suits import Unsuited


@settings
class Retrain:
    """Train afresh on the retain set, the way the model was made.

    Attributes:
        recipe: how the model was made: network, training and pruning. Which weights of a pruned model are
            zero is the recipe's affair, not the given model's.
    """

    recipe: Recipe

    paper: ClassVar[Paper] = Paper(
        "Machine Unlearning", "Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie, Papernot",
        "IEEE S&P", 2021, "1912.03817",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {}

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a model built on the retain set alone.

        Args:
            model: its device, type, modes and frozen parameters are taken over; no other weight of it is.
            data: the forget set is not read, but must not be empty.
            rng: a seed other than the original's gives an independent draw.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the recipe makes another network, or a dense one for a pruned model, or trains what
                the model has frozen.
        """
        check_request("Retrain", data, rng)
        recipe = self.recipe
        sparse = bool(Mask.of(model))
        if isinstance(recipe, Supervised):
            _require(not sparse or recipe.prune is not None, _DENSE)
            recipe = replace(recipe, network=partial(_network, recipe.network, model))
        made = recipe.build(data.retain, rng=rng)
        _require(not sparse or bool(Mask.of(made)), _DENSE)
        return _dressed(made, model)


_DENSE = "Retrain was given a pruned model, and its recipe makes a dense one. Give the recipe `prune`."
_OTHER = "Retrain's recipe makes another network than the model: their parameters have different names."
_MOVED = "Retrain's recipe trained a parameter that the model has frozen: {}. Freeze it in the recipe, too."


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _network(network: Callable[[], Module], model: Module) -> Module:
    made = network()
    fresh = dict(made.named_parameters())
    _require(fresh.keys() == dict(model.named_parameters()).keys(), _OTHER)
    for name, given in model.named_parameters():
        if not given.requires_grad:
            fresh[name].requires_grad_(False).copy_(given)
    return made


def _dressed(made: Module, model: Module) -> Module:
    first = next(model.parameters(), None)
    if first is not None:
        made = made.to(first.device, first.dtype)
    fresh = dict(made.named_parameters())
    _require(fresh.keys() == dict(model.named_parameters()).keys(), _OTHER)
    for name, given in model.named_parameters():
        _require(given.requires_grad or torch.equal(given, fresh[name]), _MOVED.format(name))
        fresh[name].requires_grad_(given.requires_grad)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in made.named_modules():
        module.training = modes.get(name, model.training)
    return made
