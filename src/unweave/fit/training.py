"""A training as it stands: one object with all that must survive a kill, and the step's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError, IntegrityError, NonFiniteError
from ..io.memory import own_pages
from ..io.nested import load_nested, save_nested
from ..io.told import tell
from ..masks.layers import BATCH_NORMS, running_norms
from ..masks.mask import Mask
from ..settings import Positive, settings
from ..types import Batch
from .keeper import Keeper, Snapshot, global_norm
from .passes import Passes, again, lone_frozen
from .precision import Wide
from .processes import Processes

_IDLE = (
    "fit_: the objective depends on no parameter that the optimizer moves, so nothing would be trained. Is it "
    "detached, or is every parameter frozen?"
)

Objective = Callable[[Module, Batch], Tensor]
"""(model, batch) -> scalar to minimise."""


class Batches(Protocol):
    """What `fit_` reads: a `Data`, or anything with its length, batch size and batches."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...  # noqa: D105
    def batches(  # noqa: D102
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[Batch]: ...


@settings
class Loop:
    """How `fit_` goes through the data.

    Attributes:
        clip: largest global gradient norm; None leaves gradients as they are.
        norms: "frozen" leaves the running statistics of batch normalisation as they are and uses them.
        ordered: read the data in order instead of shuffling.
        schedule: stepped once after every optimiser step.
        label: shown beside the progress bar; "" shows none.
    """

    clip: Positive | None = None
    norms: Literal["train", "frozen"] = "train"
    ordered: bool = False
    schedule: LRScheduler | None = None
    label: str = ""


@dataclass
class Step:
    """What `after_step` sees, and may change: set `hold` to a new mask, or `stop` to end the training.

    To let dead weights live again, add them to `hold`; the optimiser's state at them is as it was left.

    Attributes:
        model: being trained.
        optimizer: that trains it.
        index: steps done so far, counting this one, over all epochs.
        epoch: of this step, from 0.
        loss: the objective's value at this step (the last call of the closure).
        last_of_epoch: whether this step ends its epoch.
        hold: the mask held now.
        gradients: computes the objective's gradient on this step's batch at the weights as they are now, dead
            positions included, by parameter name: one more forward and backward pass, the same on every process.
            Running statistics of batch normalisation stay as they are.
        stop: set to True to end after this step.
    """

    model: Module
    optimizer: Optimizer
    index: int
    epoch: int
    loss: float
    last_of_epoch: bool
    hold: Mask | None
    gradients: Callable[[], dict[str, Tensor]] = field(repr=False)
    stop: bool = False


def joins_last(model: Module, loop: Loop) -> bool:
    """Whether a last batch of one example joins the batch before: batch normalisation has no spread to divide by."""
    return loop.norms == "train" and any(isinstance(m, BATCH_NORMS) for m in model.modules())


def steps_of(model: Module, data: Batches, loop: Loop | None = None) -> int:
    """Steps that `fit_` takes in one epoch."""
    steps, rest = divmod(len(data), data.batch_size)
    joined = rest == 1 and steps > 0 and joins_last(model, loop or Loop())
    return steps + (rest > 0) - joined


@dataclass
class Training:
    """One training. What `state` returns survives a kill; the rest is made anew from the arguments.

    Attributes:
        model: trained in place.
        data: read in batches.
        objective: minimised.
        optimizer: steps.
        loop: how the data are gone through.
        epochs: passes over the data.
        seed: of batch order and all draws.
        hold: mask held now.
        wide: half-precision tensors, held in float32 meanwhile.
        step: steps done.
        calls: closure calls.
        losses: objective at each step.
        stopped: whether `after_step` ended it.
        pulled: whether a gradient ever reached a trained parameter.
        lean: keep no second copy of the weights for a step that goes wrong, for nobody uses them then.
    """

    model: Module
    data: Batches
    objective: Objective
    optimizer: Optimizer
    loop: Loop
    epochs: int
    seed: int
    hold: Mask | None
    keeper: Keeper
    wide: Wide
    step: int = 0
    calls: int = 0
    loss: float = math.nan
    losses: list[float] = field(default_factory=list)
    stopped: bool = False
    pulled: bool = False
    lean: bool = False

    def __post_init__(self) -> None:
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.keeper.restore_()
        self.parts = Processes.start(self.model, self.optimizer)
        self.join = joins_last(self.model, self.loop)
        self.per_epoch = steps_of(self.model, self.data, self.loop)
        self.order = Generator().manual_seed(self.seed)
        self.order_state = self.order.get_state()
        self.passes = Passes()
        self.batch: Batch = None
        self.share = 1.0
        self.moved = False
        self.saved = monotonic()
        self.model.train()
        alone = len(self.data) == 1 and joins_last(self.model, self.loop)
        if alone:
            tell(
                "the whole set to train on is one example: batch normalisation is frozen, for one has no spread."
            )
        if alone or self.loop.norms == "frozen":
            for module in running_norms(self.model):
                module.eval()
        singly = self.data.batch_size == 1  # the statistics would stay those of the beginning: refused
        self.norms = [
            m for m in self.model.modules() if isinstance(m, BATCH_NORMS) and m.training and not singly
        ]
        self.good = Snapshot([*([] if self.lean else self.trained), *self.model.buffers()])

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.per_epoch

    @property
    def epoch(self) -> int:
        """Of the next step, from 0."""
        return self.step // self.per_epoch

    def batches(self) -> Iterator[None]:
        """Set `batch` to what is left of the epoch, one after the other."""
        self.order_state = self.order.get_state()
        first = self.step - self.epoch * self.per_epoch
        rng, parts = None if self.loop.ordered else self.order, self.parts
        read = self.data.batches(rng, start=first, part=(parts.rank, parts.count), join=self.join)
        for at, batch in enumerate(read, first):
            last = at + 1 == self.per_epoch
            size = len(self.data) - at * self.data.batch_size if last else self.data.batch_size
            self.batch, self.share = batch, parts.share(size)
            yield

    def step_(self) -> None:
        """One optimiser step on `batch`; where something is not finite, the weights stay those before it, unless lean.

        A lean training's stay, too, where the loss or a gradient of the first pass is not finite.
        """
        self.good.take()
        self.passes.begin()
        self.moved = False
        try:
            with nullcontext() if self.optimizer.state else own_pages():
                self.optimizer.step(self.closure)  # type: ignore[arg-type]
            self.keeper.restore_()
            if not math.isfinite(global_norm([p.detach() for p in self.trained])) or self.wide.overflows():
                raise self._not_finite("a weight became infinite or NaN")
        except NonFiniteError:
            # a two-pass step may have moved the weights already, a forward pass the running statistics
            self.good.put_back_()
            raise
        if self.loop.schedule is not None:
            self.loop.schedule.step()
        self.step += 1
        self.losses.append(self.loss)

    def closure(self) -> Tensor:
        """The objective on `batch`; with gradients, where they are enabled: torch's own contract."""
        self.calls += 1
        if torch.is_grad_enabled():
            self.optimizer.zero_grad(set_to_none=True)
        with again(self.model) if self.passes.later() else nullcontext():
            loss = self._loss()
        # over all processes, so that all of them stop together
        value = self.parts.mean(float(loss.detach()), self.share)
        if not math.isfinite(value):
            raise self._not_finite(f"the loss became {value}")
        if loss.requires_grad:
            self.parts.backward(loss, self.share)
            self._tame_gradients_()
        elif torch.is_grad_enabled() and not self.pulled:
            raise InputError(_IDLE)
        self.loss, self.moved = value, True  # as far as can be known from now on
        return loss if loss.requires_grad or self.parts.count == 1 else torch.full_like(loss, value)

    def _loss(self) -> Tensor:
        try:
            with lone_frozen(self.norms):
                return self.objective(self.parts.model, self.batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                "a batch of one example cannot be trained under batch normalisation, which divides by its spread. "
                "Freeze the norms (norms='frozen'), or give a larger batch_size or request."
            ) from error

    def gradients(self) -> dict[str, Tensor]:
        """See `Step.gradients`."""
        statistics = [(b, b.detach().clone()) for b in self.model.buffers()]
        with torch.enable_grad(), lone_frozen(self.norms):
            self.optimizer.zero_grad(set_to_none=True)
            self.parts.backward(self.objective(self.parts.model, self.batch), self.share)
        named = self.model.named_parameters()
        found = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in statistics:
            buffer.copy_(value)
        return found

    def tell_(self, after_step: Callable[[Step], None] | None) -> None:
        """Show the step to `after_step`, and do what it asks for."""
        if after_step is None:
            return
        epoch, last = divmod(self.step, self.per_epoch)
        seen = Step(
            self.model,
            self.optimizer,
            self.step,
            epoch - (last == 0),
            self.loss,
            last == 0,
            self.hold,
            self.gradients,
        )
        after_step(seen)
        self.stopped = seen.stop
        if seen.hold is not self.hold:
            self.hold = seen.hold
            self.keeper.hold_(seen.hold)
            self.keeper.restore_()

    def keep_(self, path: Path | None, every: float) -> None:
        """Write the state to `path`, if the last time is `every` seconds ago or longer; one process does."""
        if path is not None and self.parts.rank == 0 and monotonic() - self.saved >= every:
            save_nested(self.state(), path)
            self.saved = monotonic()

    def state(self) -> dict[str, Any]:
        """All that must survive a kill."""
        schedule, begins = self.loop.schedule, self.step % self.per_epoch == 0
        return {
            "seed": self.seed,
            "work": [len(self.data), self.data.batch_size, self.epochs],
            "step": self.step,
            "calls": self.calls,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "stopped": self.stopped,
            "pulled": self.pulled,
            "order": self.order.get_state() if begins else self.order_state,
            "draws": torch.get_rng_state(),
            "cuda": [s.cpu() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
            "hold": None if self.hold is None else dict(self.hold.keep),
            "frozen": self.keeper.values(),
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if schedule is None else schedule.state_dict(),
        }

    def resume_(self, path: Path) -> None:
        """Go on from the state in `path`.

        Raises:
            IntegrityError: if it is damaged or no such state.
            InputError: if it belongs to another training.
        """
        state = load_nested(path)
        try:
            self._restore_(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise IntegrityError(
                f"{path} is not the state of this training ({' '.join(str(error).split())[:200]}). "
                "Remove it to start afresh."
            ) from error

    def _restore_(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed or state["work"] != [len(self.data), self.data.batch_size, self.epochs]:
            raise InputError(
                "the checkpoint belongs to a training with another seed, order of work, number of examples, "
                "batch size or number of epochs. Remove it to start afresh."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.loop.schedule is not None:
            self.loop.schedule.load_state_dict(state["schedule"])
        self.step, self.calls, self.losses = state["step"], state["calls"], state["losses"].tolist()
        self.stopped, self.pulled = state["stopped"], state["pulled"]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["draws"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if state["hold"] is not None:
            self.hold = Mask(state["hold"])
            self.keeper.hold_(self.hold)
        self.keeper.resume_(state["frozen"])
        self.good.take()

    def _tame_gradients_(self) -> None:
        self.keeper.mask_gradients_()
        gradients = [p.grad for p in self.trained if p.grad is not None]
        if not gradients and not self.pulled:
            raise InputError(_IDLE)
        self.pulled = True
        norm, clip = global_norm(gradients), self.loop.clip
        if not math.isfinite(norm):
            raise self._not_finite(f"a gradient became {norm}")
        if clip is not None and norm > clip:
            torch._foreach_mul_(gradients, clip / norm)

    def _not_finite(self, what: str) -> NonFiniteError:
        lost = self.lean and self.moved
        kept = (
            "those before it are in the last checkpoint alone" if lost else "the weights before it were kept"
        )
        return NonFiniteError(f"{what} at step {self.step + 1}; {kept}. Lower lr.")
