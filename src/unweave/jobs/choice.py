"""Which method a request is served by where none is named: a rule that can be read, and says why and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from torch.nn import Module

from ..audit.classifier.scores import deleted_classes
from ..errors import InputError
from ..masks.mask import Mask
from ..random import seeded
from ..tasks import read_labels
from ..types import Edit, Request
from ..unlearn import L1Sparse, Retrain, SFRon, ShortRetrain
from ..unlearn.suits import SMALL, Kind, why_unsuited

LEAST_STEPS = 10
"""A short retraining of fewer steps teaches nothing; the whole of it is cheap then."""


@dataclass(frozen=True)
class Choice:
    """A method for a request.

    Attributes:
        name: as the command line knows it.
        edit: the method, with the settings that are meant.
        why: it and no other, in a sentence.
        cost: passes over the retained examples beside those of one retraining; None where that is not known.
    """

    name: str
    edit: Edit[Any]
    why: str
    cost: float | None

    def __str__(self) -> str:
        cost = "its cost is not known" if self.cost is None else f"about {self.cost:.2g} of one retraining"
        return f"{self.name}, {cost}: {self.why}"


def kind_of(request: Request[Any]) -> Kind:
    """What kind of request it is: whole classes and nothing else, few scattered examples, or many of them."""
    gone = set(deleted_classes(request))
    if gone and gone.issuperset(read_labels(request.forget).tolist()):
        return "class"
    return "small" if len(request.forget) < SMALL else "random"


def choose(kind: Kind, recipe: Any = None, *, pruned: bool = False, steps: int | None = None) -> Choice:
    """The method for a request.

    Exact methods come first, since the cheapest that was measured to forget is one of them: a retraining of 3/16 of
    the passes is placed as a whole one is, and so few passes are what an edit that is as good needs, too.

    Args:
        kind: of request.
        recipe: how the model was made; None where that is not known.
        pruned: whether the model is.
        steps: of one whole retraining, where known.

    Raises:
        InputError: if nothing can serve a request without a recipe.
    """
    if recipe is None:
        return _without_recipe(kind)
    whole = Retrain(recipe=recipe)
    if not all(hasattr(recipe, name) for name in ("initial", "train_", "epochs", "lr")):
        return Choice("retrain", whole, "the recipe can only build a model as a whole", 1.0)
    if pruned and getattr(recipe, "sparse", None) is not None:
        why = "the recipe trains sparsely from the first step on, which only a whole training repeats"
        return Choice("retrain", whole, why, 1.0)
    if pruned and not _starts_alike(recipe):
        why = "a pruned model whose recipe draws other initial weights each time, so that no mask can be compared"
        return Choice("retrain", whole, why, 1.0)
    chosen = _pruned(kind, recipe) if pruned else _dense(recipe)
    cost = chosen.cost or 0.0
    if cost >= 1 or (steps is not None and cost * steps < LEAST_STEPS):
        why = f"so short a training that {chosen.name} would save nothing, or teach nothing"
        return Choice("retrain", whole, why, 1.0)
    return chosen


def choose_for(request: Request[Any], recipe: Any, model: Module | None) -> Choice:
    """The method for this request; `model` is looked at for whether it is pruned, the recipe where it is None."""
    made_sparse = any(getattr(recipe, name, None) is not None for name in ("prune", "sparse"))
    pruned = made_sparse if model is None else bool(Mask.of(model))
    if model is not None and _of_another_shape(recipe, model):
        try:
            return choose(kind_of(request))
        except InputError as error:
            raise InputError(
                "the recipe makes another network than the model (was it shrunk?), so it cannot be trained anew as it "
                f"is; and {error} Or --method retrain, and shrink what comes of it."
            ) from error
    epochs = getattr(recipe, "epochs", None)
    steps = None if epochs is None else epochs * request.retain.steps
    return choose(kind_of(request), recipe, pruned=pruned, steps=steps)


def doubt(name: str, edit: Edit[Any], request: Request[Any]) -> str:
    """Why a method does not suit a request, as a sentence; "" if it does."""
    kind = kind_of(request)
    why = why_unsuited(edit, kind)
    return f"{name} does not suit {_WORDS[kind]}: it {why}." if why else ""


_WORDS: Mapping[Kind, str] = {
    "class": "whole classes",
    "random": "scattered examples",
    "small": f"less than {SMALL} scattered examples",
}


def _dense(recipe: Any) -> Choice:
    short = ShortRetrain(recipe=recipe)
    why = "exact, for it begins at initial weights and never reads the model's, and no edit as good is much cheaper"
    return Choice("short-retrain", short, why, short.fraction)


def _pruned(kind: Kind, recipe: Any) -> Choice:
    """For a pruned model whose initial weights are known: less than here was not enough on the embedded digits."""
    recover = getattr(recipe, "recover_epochs", 0)
    passes = recipe.epochs + recover
    share, words = (0.25, "a quarter") if kind == "class" else (0.75, "three quarters")
    edit = ShortRetrain(recipe=recipe, fraction=share, recover_epochs=ceil(share * recover))
    why = (
        "a pruned model: exact but for how many weights live, for it begins at the initial weights and chooses its "
        f"mask again; heals slowly, so {words} of a retraining"
    )
    return Choice("short-retrain", edit, why, (share * recipe.epochs + edit.recover_epochs) / passes)


def _without_recipe(kind: Kind) -> Choice:
    if kind == "class":
        return Choice("sfron", SFRon(), "the best on classes that needs no recipe", None)
    if kind == "small":
        raise InputError(
            f"nothing can serve a request of less than {SMALL} examples without a recipe: only exact methods, which "
            "train anew, could. Define `recipe`, or name a method."
        )
    why = "the nearest to forgetting scattered examples that needs no recipe, and it stops short of it"
    return Choice("l1-sparse", L1Sparse(lr=0.1), why, None)


def _of_another_shape(recipe: Any, model: Module) -> bool:
    """Whether a recipe's untrained network has other parameters than the model: structure was removed from it."""
    if not hasattr(recipe, "initial"):
        return False
    theirs, ours = (
        {name: p.shape for name, p in m.named_parameters()} for m in (recipe.initial(seeded(0)), model)
    )
    return theirs != ours


def _starts_alike(recipe: Any) -> bool:
    first, second = recipe.initial(seeded(0)), recipe.initial(seeded(1))
    return all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))
