"""SISA: shards that never see each other's data, each trained slice by slice, so that a deletion retrains little.

Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie, Papernot, "Machine Unlearning", IEEE Symposium
on Security and Privacy 2021, arXiv 1912.03817. Shard k's model is trained on slice 1, then on slices 1 and 2, and so
on, and is stored after each stage (section IV); to delete an example of slice s, go back to the model before s and
train the stages from s on again without it. Each stage takes 2 e / (R + 1) epochs, so that all R of them cost as much
as e epochs over the shard (section V).

Departures. An example's place follows from its own id alone, by a hash, so that a run that never had the deleted
examples puts all others alike; slices are therefore of nearly, not of exactly, equal size. Every stage draws from a
seed of its own, which follows from the shard and the slices it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..random import draw_seed, require_generator, seeded
from ..settings import Count, settings
from ..types import Data, Recipe
from .exact.ensemble import Aggregate, Ensemble
from .exact.service import Service, State, begun


@settings
class SISA:
    """Train an ensemble from which data can be deleted exactly, by going back to before it was seen.

    Attributes:
        recipe: how each shard's model is trained: a `Supervised` or another with `initial`, `train_`, `epochs` and
            `lr`; dense, for a mask is made of data as well.
        shards: S, models that never see each other's data.
        slices: R, stages of each.
        epochs: e, passes over a shard that all its stages together cost; the recipe's own unless given.
        aggregate: "mean" of the members' logits, or majority "vote".
        pretrained_on: where the recipe begins at pretrained weights: what these were made of, as your statement that
            none of it can be asked back.
    """

    recipe: Recipe
    shards: Count = 5
    slices: Count = 4
    epochs: Count | None = None
    aggregate: Aggregate = "mean"
    pretrained_on: str = ""

    paper: ClassVar[Paper] = Paper(
        "Machine Unlearning", "Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie, Papernot",
        "IEEE S&P", 2021, "1912.03817",
    )  # fmt: skip

    def __post_init__(self) -> None:
        lacking = [n for n in ("initial", "train_", "epochs", "lr") if not hasattr(self.recipe, n)]
        if lacking:
            raise InputError(
                f"SISA.recipe, a {type(self.recipe).__name__}, cannot be trained in stages: it has no "
                f"{', '.join(lacking)}. Use unweave.Supervised."
            )
        for name in ("prune", "sparse"):
            if getattr(self.recipe, name, None) is not None:
                raise InputError(
                    f"SISA.recipe prunes ({name}), which its stages would leave out. Give it the dense recipe: "
                    f"dataclasses.replace(recipe, {name}=None{', recover_epochs=0' * (name == 'prune')})."
                )
        base = getattr(self.recipe, "base", "")
        if base and not self.pretrained_on.strip():
            raise InputError(
                f"SISA.recipe begins at the weights in {base}, and nothing deletes from these. Say in pretrained_on "
                "what they were trained on, if none of it can be asked back."
            )
        if self.pretrained_on and not base:
            raise InputError(
                "SISA.pretrained_on was given, but the recipe begins at random weights. Leave it out."
            )

    @property
    def each(self) -> int:
        """Epochs of a stage: 2 e / (R + 1), at least 1."""
        recipe: Any = self.recipe
        return max(1, round(2 * (self.epochs or recipe.epochs) / (self.slices + 1)))

    def build(
        self,
        data: Data[Any],
        *,
        rng: Generator,
        ids: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Ensemble:
        """Train every stage of every shard.

        Args:
            data: to train on.
            rng: drawn from once; all seeds follow.
            ids: of the examples, to delete them by; those of the data unless given (see `unweave.types.Data`).
            groups: one value an example; examples of one group share a slice.

        Returns:
            The ensemble; its `forget(ids)` deletes.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if a shard's first slice has no example.
        """
        service = self.begin(data, rng=rng, ids=ids, groups=groups)
        return Ensemble.of(service.retrained(data, ids=ids)[0], self.aggregate)

    def begin(
        self,
        data: Data[Any],
        *,
        rng: Generator,
        ids: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Service:
        """All examples placed, and nothing trained yet; arguments as in `build`."""
        data.require_examples("SISA")
        require_generator(rng)
        orders = (tuple(range(self.slices)),)
        return begun(
            self.stages(), data, orders, shards=self.shards, seed=draw_seed(rng), ids=ids, groups=groups
        )

    def stages(self) -> FullModels:
        """How its stages are trained."""
        return FullModels(self)


@dataclass(frozen=True)
class FullModels:
    """Stages that train the whole model on from where the one before left it.

    Attributes:
        settings: with the recipe, and the epochs of each stage.
    """

    settings: SISA

    @property
    def recipe(self) -> Any:
        """How."""
        return self.settings.recipe

    def trained(self, before: Sequence[State], data: Data[Any], *, seed: int) -> State:
        """Train one stage; see `Stages`."""
        rng = seeded(seed)
        model = self.assembled(before[-1:]) if before else self.recipe.initial(rng)
        self.recipe.train_(model, data, epochs=self.settings.each, lr=self.recipe.lr, rng=rng)
        return {name: _plain(tensor) for name, tensor in _tensors(model).items()}

    def assembled(self, states: Sequence[State]) -> Module:
        """The model of the last of these stages."""
        model: Module = self.recipe.initial(seeded(0))
        if states:
            model.load_state_dict(dict(states[-1]))
        return model.eval()


def _tensors(model: Module) -> Mapping[str, Tensor]:
    return model.state_dict()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
