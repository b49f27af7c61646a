"""How a model was made, as data: the built-in recipe for supervised training, dense or pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from math import cos, pi
from typing import Any, ClassVar, Literal, Protocol

from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from ..masks.layers import require_plain
from ..masks.mask import Mask
from ..random import child, draw_seed, global_seed
from ..settings import Count, NonNegative, Part, Positive, Whole, settings
from ..types import Batch, Data, Edit
from .loop import fit_
from .training import Loop, Objective, Step, steps_of


class SparseTraining(Protocol):
    """Sparsity that changes while a network trains: RigL, SET, gradual pruning."""

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask | None, Callable[[Step], None]]:
        """What a training of `steps` steps starts from, and what to do after each of them.

        Args:
            model: about to be trained, in place; nothing is changed in it here.
            data: it will be trained on.
            steps: of the whole training.
            rng: the only source of randomness, here and in the function returned.

        Returns:
            The first mask to hold, and a function for `fit_(after_step=...)`. All that the function remembers
            follows from the mask and the step, or a resumed training could not come to the same bits.
        """
        ...


@settings
class Supervised:
    """Train a network; with `sparse`, under a changing mask; with `prune`, prune it after and train on.

    Attributes:
        network: makes an untrained network, drawing from torch's global generator.
        epochs: passes over the data.
        lr: peak learning rate.
        momentum: of SGD (Nesterov).
        weight_decay: of SGD.
        optimizer: makes another optimiser than SGD: called with (parameters, lr=...), as `partial(SAM, rho=0.05)`;
            give it its own momentum and weight decay: the recipe's are then refused.
        sparse: sparse training from the first step on.
        schedule: "cosine" warms up over the first twentieth of the steps, then falls to zero; or "constant".
        augment: inputs -> inputs, drawing from torch's global generator; the task must be `Perturbing`.
        prune: applied once after training.
        recover_epochs: further passes under the mask, at `recover_lr`.
        recover_lr: peak learning rate after pruning.
        init_seed: seed of the initial weights; None draws them from the run's generator. Masks of two models can be
            compared only if both began at the same weights.

    Raises:
        InputError: if a field would do nothing beside the others.
    """

    network: Callable[[], Module]
    epochs: Count = 30
    lr: Positive = 0.1
    momentum: Part = 0.9
    weight_decay: NonNegative = 5e-4
    optimizer: Callable[..., Optimizer] | None = None
    sparse: SparseTraining | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    augment: Callable[[Tensor], Tensor] | None = None
    prune: Edit[Data[Any]] | None = None
    recover_epochs: Whole = 0
    recover_lr: Positive = 0.02
    init_seed: int | None = None

    of_own_optimizer: ClassVar[tuple[str, ...]] = ("momentum", "weight_decay")

    def __post_init__(self) -> None:
        refuse_idle(self, self.of_own_optimizer)
        if isinstance(self.network, Module):
            raise InputError(
                f"Supervised.network must make a new network at each call; got a {type(self.network).__name__} itself, "
                "whose weights every training would share. Give its class, or a function: network=lambda: Net(...)."
            )

    @property
    def stepper(self) -> Callable[..., Optimizer]:
        """What makes the recipe's optimiser: called with (parameters, lr=...)."""
        return self.optimizer or partial(
            SGD, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )

    def initial(self, rng: Generator) -> Module:
        """The untrained network; the same one for every `rng` if `init_seed` is set.

        Raises:
            InputError: if a hook computes a weight of it; see `require_plain`.
        """
        drawn = draw_seed(rng)
        with global_seed(drawn if self.init_seed is None else self.init_seed):
            made = self.network()
        if not isinstance(made, Module):
            raise InputError(
                f"Supervised.network must make a torch.nn.Module; it made a {type(made).__name__}."
            )
        require_plain(made)
        return made

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Train on `data` from the initial weights."""
        data.require_examples("Supervised.build")
        model = self.initial(rng)
        self.train_(model, data, epochs=self.epochs, lr=self.lr, rng=rng, sparse=self.sparse)
        if self.prune is None:
            return model
        pruned = self.prune.apply(model, data, rng=child(rng))
        if self.recover_epochs:
            self.train_(
                pruned, data, epochs=self.recover_epochs, lr=self.recover_lr, rng=rng, hold=Mask.of(pruned)
            )
        return pruned

    def train_(
        self,
        model: Module,
        data: Data[Any],
        *,
        epochs: float,
        lr: float,
        rng: Generator,
        hold: Mask | None = None,
        of: int | None = None,
        sparse: SparseTraining | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        after_step: Callable[[Step], None] | None = None,
    ) -> None:
        """Train `model` in place the recipe's way, for this many epochs at this peak learning rate.

        Args:
            model: trained in place.
            data: trained on.
            epochs: passes over it; with a fraction the last one ends early, and one step is the least.
            lr: peak learning rate.
            rng: governs batch order and augmentation.
            hold: pruned positions, held at zero.
            of: epochs over which the schedule falls, if more than are run: the beginning of a longer training.
                None squeezes the whole schedule into `epochs`.
            sparse: starts a mask and changes it; `hold` must then be None.
            optimizer: called as the recipe's own, in its place.
            after_step: called after every step; see `fit_`.
        """
        stepper = (optimizer or self.stepper)(model.parameters(), lr=lr)
        each = steps_of(model, data)
        steps, whole = max(1, round(epochs * each)), max(epochs, of or epochs)
        schedule = (
            warm_cosine(stepper, max(1, round(whole * each)), warm=0.05 * epochs / whole)
            if self.schedule == "cosine"
            else None
        )
        told = [] if after_step is None else [after_step]
        if sparse is not None:
            if hold is not None:
                raise InputError("train_ got both `hold` and `sparse`; a sparse training holds its own mask.")
            hold, change = sparse.begin(model, data, steps=steps, rng=child(rng))
            told.append(change)
        if steps % each:
            told.append(_end_at(steps))
        fit_(
            model, data, self.objective(data), stepper, epochs=-(-steps // each), rng=rng, hold=hold,
            loop=Loop(schedule=schedule, label="train"), after_step=in_turn(*told) if told else None,
        )  # fmt: skip

    def objective(self, data: Data[Any]) -> Objective:
        """Mean training loss of a batch, augmented if the recipe augments."""
        task = data.task

        def mean_loss(model: Module, batch: Batch) -> Tensor:
            if self.augment is not None:
                batch = task.replace_inputs(batch, self.augment(task.inputs(batch)))
            loss: Tensor = task.losses(model, batch).mean()
            return loss

        return mean_loss


def refuse_idle(recipe: Any, of_own_optimizer: Sequence[str]) -> None:
    """Raise InputError if a field of a recipe would do nothing beside the others.

    Args:
        recipe: a dataclass with `optimizer`, `sparse`, `prune` and `recover_epochs`, as `Supervised`.
        of_own_optimizer: fields that its own optimiser takes; beside another they must be at their defaults.
    """
    who = type(recipe).__name__
    if recipe.sparse is not None and recipe.prune is not None:
        raise InputError(
            f"{who} got both a sparse training and a pruning method, as `sparse` and `prune`. Give one of them: what "
            "is sparse from the first step on is not pruned again."
        )
    if recipe.recover_epochs and recipe.prune is None:
        raise InputError(
            f"{who}.recover_epochs is {recipe.recover_epochs}, but nothing is pruned that could recover. Give `prune`, "
            "or leave recover_epochs 0."
        )
    own = {f.name: f.default for f in fields(recipe) if f.name in of_own_optimizer}
    given = [name for name, default in own.items() if getattr(recipe, name) != default]
    if recipe.optimizer is not None and given:
        raise InputError(
            f"{who} got an optimizer and {' and '.join(given)} of its own. Give these to the optimizer: "
            f"partial(..., {', '.join(f'{name}={getattr(recipe, name)!r}' for name in given)})."
        )


def _end_at(last: int) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        step.stop = step.stop or step.index >= last

    return tell


def in_turn(*told: Callable[[Step], None]) -> Callable[[Step], None]:
    """Several functions for `fit_(after_step=...)` as one."""

    def tell(step: Step) -> None:
        for one in told:
            one(step)

    return tell


def warm_cosine(optimizer: Optimizer, steps: int, warm: float = 0.05) -> LambdaLR:
    """Linear warm-up over the first `warm` share of `steps`, then half a cosine down to zero."""
    return LambdaLR(optimizer, warm_cosine_factor(steps, warm))


def warm_cosine_factor(steps: int, warm: float = 0.05) -> Callable[[int], float]:
    """Step, counted from 0, -> its share of the peak, in (0, 1] before the last of `steps`; see `warm_cosine`."""
    rise = max(1, round(warm * steps))

    def factor(step: int) -> float:
        return (
            (step + 1) / rise
            if step < rise
            else 0.5 * (1 + cos(pi * min(1.0, (step - rise) / max(1, steps - rise))))
        )

    return factor


def mean_loss(data: Data[Any]) -> Objective:
    """The plain objective: mean of the task's losses."""
    return lambda model, batch: data.task.losses(model, batch).mean()
