"""The only loop that trains.

Everything that trains calls `fit_` with an objective: pruning, unlearning, oracles, shadow models. It keeps masks
exact, stops on NaN with the last good state in place, checkpoints, and resumes to the same bits.
"""

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

from ._passes import Passes, again
from ._precision import Wide
from .distributed import Processes
from .errors import EmptyDataError, InputError, IntegrityError, NonFiniteError
from .fit_context import Estimate, current_estimate, estimating, next_checkpoint, record, recording, resumable
from .io.nested import load_nested, save_nested
from .layers import NORMS
from .mask import Mask
from .progress import progress
from .random import draw_seed, global_seed
from .types import Batch

__all__ = ["Batches", "Estimate", "Fit", "Objective", "Step", "estimating", "fit_", "recording", "resumable"]

Objective = Callable[[Module, Batch], Tensor]
"""(model, batch) -> scalar to minimise."""


class Batches(Protocol):
    """What `fit_` reads: a `Data`, or anything with its length, batch size and batches."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...  # noqa: D105
    def batches(  # noqa: D102
        self, rng: Generator | None = None, *, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]: ...


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


@dataclass(frozen=True)
class Fit:
    """What a training did.

    Attributes:
        steps: optimiser steps.
        losses: objective at each step.
        calls: closure calls (1 a step for SGD, 2 for SAM).
        stopped: whether `after_step` ended it early.
    """

    steps: int
    losses: list[float] = field(repr=False)
    calls: int
    stopped: bool = False


def fit_(
    model: Module,
    data: Batches,
    objective: Objective,
    optimizer: Optimizer,
    *,
    epochs: int,
    rng: Generator,
    hold: Mask | None = None,
    only: Mask | None = None,
    schedule: LRScheduler | None = None,
    after_step: Callable[[Step], None] | None = None,
    clip: float | None = None,
    norms: Literal["train", "frozen"] = "train",
    ordered: bool = False,
    label: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
) -> Fit:
    """Train `model` in place.

    The optimiser always gets a closure, torch's own contract: it computes the objective and runs backward exactly
    when gradients are enabled, so that SGD calls it once, SAM twice, and a zero-order step calls it under
    `no_grad` for forward passes only, whose loss is the whole batch's over all processes. Further calls within one
    step see the same batch with the same random draws (dropout, augmentation) as the first, and leave the running
    statistics of batch normalisation alone.

    Parameters in half precision are trained in float32, which takes memory for such a copy, and end in their own dtype.

    Args:
        model: trained in place; its train/eval modes, `requires_grad` flags, dtype and device end as they began.
        data: read in shuffled batches, in a new order each epoch.
        objective: (model, batch) -> scalar to minimise.
        optimizer: over parameters of `model`.
        epochs: passes over `data`.
        rng: governs batch order, dropout and whatever else draws from torch's global generator.
        hold: positions that are dead here are exactly +0.0 after every step, whatever momentum and weight decay do.
        only: just these positions may move; all others (of the parameters it names) keep their bits.
        schedule: stepped once after every optimiser step.
        after_step: called after every step with a `Step`; it may replace the mask or stop the training.
        clip: largest global gradient norm; None leaves gradients as they are.
        norms: "frozen" leaves the running statistics of batch normalisation as they are and uses them.
        ordered: read the data in order instead of shuffling.
        label: shown beside the progress bar; "" shows none.
        checkpoint: file for resumable state; if it is there, training goes on from it, to the same bits. Inside
            `resumable(folder)` one is chosen by itself.
        checkpoint_seconds: least time between two writes of it.

    Returns:
        What was done, as a `Fit`.

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if a mask does not fit the model.
        NonFiniteError: if the objective or a gradient is not finite; the weights stay those of the last good step.
    """
    if len(data) == 0:
        raise EmptyDataError("fit_ was given no examples; a model cannot be trained on an empty data set.")
    estimate = current_estimate.get()
    checkpoint = None if estimate is not None else checkpoint or next_checkpoint()
    modes = {module: module.training for module in model.modules()}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    wide = Wide(model, trained)

    def closure() -> Tensor:
        run.calls += 1
        if torch.is_grad_enabled():
            optimizer.zero_grad(set_to_none=True)
        with again(model) if passes.later() else nullcontext():
            loss = objective(parts.model, batch)
        value = parts.mean(
            float(loss.detach()), share
        )  # over all processes, so that all of them stop together
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the loss became {value} at step {run.step + 1}; the weights before it were kept. Lower lr."
            )
        if loss.requires_grad:
            parts.backward(loss, share)
            keeper.mask_gradients_()
            norm = _norm([p.grad for p in trained if p.grad is not None])
            if not math.isfinite(norm):
                raise NonFiniteError(
                    f"a gradient became {norm} at step {run.step + 1}; the weights before it were kept. Lower lr."
                )
            if clip is not None and norm > clip:
                torch._foreach_mul_([p.grad for p in trained if p.grad is not None], clip / norm)
        run.loss = value
        return loss if loss.requires_grad or parts.count == 1 else torch.full_like(loss, value)

    def gradients() -> dict[str, Tensor]:
        statistics = [(b, b.detach().clone()) for b in model.buffers()]
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            parts.backward(objective(parts.model, batch), share)
        found = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.zero_grad(set_to_none=True)
        for buffer, value in statistics:
            buffer.copy_(value)
        return found

    try:
        keeper = _Keeper(model, hold, only)
        keeper.restore_()
        run = _Run(rng_seed=draw_seed(rng), work=[len(data), data.batch_size, epochs], hold=hold)
        parts = Processes.start(model, optimizer)
        per_epoch = math.ceil(len(data) / data.batch_size)
        order = torch.Generator().manual_seed(run.rng_seed)
        passes = Passes()
        last_save = monotonic()
        model.train()
        if norms == "frozen":
            for module in model.modules():
                if isinstance(module, NORMS):
                    module.eval()
        with global_seed(run.rng_seed), progress(label, epochs * per_epoch) as bar:
            if checkpoint is not None and checkpoint.exists():
                state = load_nested(checkpoint)
                try:
                    run.restore_(state, model, optimizer, schedule, order, keeper)
                except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
                    raise IntegrityError(
                        f"{checkpoint} is not the state of this training ({' '.join(str(error).split())[:200]}). "
                        "Remove it to start afresh."
                    ) from error
                bar.advance(run.step)
            good = _Snapshot([*trained, *model.buffers()])
            for epoch in range(run.step // per_epoch, epochs):
                if run.stopped:
                    break
                run.order_state = order.get_state()
                first = run.step - epoch * per_epoch
                for at, batch in enumerate(  # noqa: B007 - the closure reads `batch`
                    data.batches(None if ordered else order, start=first, part=(parts.rank, parts.count)),
                    first,
                ):
                    share = parts.share(min(data.batch_size, len(data) - at * data.batch_size))
                    good.take()
                    passes.begin()
                    try:
                        optimizer.step(closure)  # type: ignore[arg-type]
                        keeper.restore_()
                        if not math.isfinite(_norm([p.detach() for p in trained])) or wide.overflows():
                            raise NonFiniteError(
                                f"a weight became infinite or NaN at step {run.step + 1}; "
                                "those before it were kept. Lower lr."
                            )
                    except NonFiniteError:
                        # a two-pass step may have moved the weights already, a forward pass the running statistics
                        good.put_back_()
                        raise
                    if schedule is not None:
                        schedule.step()
                    run.step += 1
                    run.losses.append(run.loss)
                    if after_step is not None:
                        seen = Step(
                            model,
                            optimizer,
                            run.step,
                            epoch,
                            run.loss,
                            at + 1 == per_epoch,
                            run.hold,
                            gradients,
                        )
                        after_step(seen)
                        run.stopped = seen.stop
                        if seen.hold is not run.hold:
                            run.hold = seen.hold
                            keeper = _Keeper(model, seen.hold, only, keeper)
                            keeper.restore_()
                    bar.advance(note=f"loss {run.loss:.3f}")
                    if estimate is not None and estimate.enough(run.step, epochs * per_epoch):
                        run.stopped = True
                    if (
                        checkpoint is not None
                        and parts.rank == 0
                        and monotonic() - last_save > checkpoint_seconds
                    ):
                        run.save(checkpoint, model, optimizer, schedule, keeper, order, per_epoch)
                        last_save = monotonic()
                    if run.stopped:
                        break
            if checkpoint is not None and parts.rank == 0:
                run.save(checkpoint, model, optimizer, schedule, keeper, order, per_epoch)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for module, mode in modes.items():
            module.training = mode
        wide.put_back_()
    done = Fit(run.step, run.losses, run.calls, run.stopped)
    record(done)
    return done


class _Snapshot:
    """The last good values of parameters and buffers, in memory of its own."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._copies = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def take(self) -> None:
        if self._tensors:
            torch._foreach_copy_(self._copies, self._tensors)

    @torch.no_grad()
    def put_back_(self) -> None:
        if self._tensors:
            torch._foreach_copy_(self._tensors, self._copies)


class _Keeper:
    """Undoes, after each step, whatever the optimiser did outside the masks."""

    def __init__(
        self, model: Module, hold: Mask | None, only: Mask | None, former: _Keeper | None = None
    ) -> None:
        self.dead = [(p, ~alive) for _, p, alive in hold.match(model)] if hold else []
        self.frozen: list[tuple[Tensor, Tensor, Tensor]]
        if former is not None:
            self.frozen = former.frozen
        else:
            self.frozen = (
                [(p, ~moves, p.detach().clone()) for _, p, moves in only.match(model)] if only else []
            )

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        for parameter, drop in [*self.dead, *((p, still) for p, still, _ in self.frozen)]:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(drop, 0)

    @torch.no_grad()
    def restore_(self) -> None:
        for parameter, still, value in self.frozen:
            parameter.copy_(torch.where(still, value, parameter))
        for parameter, drop in self.dead:
            parameter.masked_fill_(drop, 0)


@dataclass
class _Run:
    """All that must survive a kill, beside the model."""

    rng_seed: int
    work: list[int]
    hold: Mask | None
    step: int = 0
    calls: int = 0
    loss: float = math.nan
    losses: list[float] = field(default_factory=list)
    stopped: bool = False
    order_state: Tensor | None = None

    def save(
        self,
        path: Path,
        model: Module,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        keeper: _Keeper,
        order: Generator,
        per_epoch: int,
    ) -> None:
        save_nested(
            {
                "seed": self.rng_seed,
                "work": self.work,
                "step": self.step,
                "calls": self.calls,
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "stopped": self.stopped,
                "order": order.get_state() if self.step % per_epoch == 0 else self.order_state,
                "draws": torch.get_rng_state(),
                "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()]
                if torch.cuda.is_available()
                else [],
                "hold": None if self.hold is None else dict(self.hold.keep),
                "frozen": [value for _, _, value in keeper.frozen],
                "model": dict(model.state_dict()),
                "optimizer": optimizer.state_dict(),
                "schedule": None if schedule is None else schedule.state_dict(),
            },
            path,
        )

    def restore_(
        self,
        state: dict[str, Any],
        model: Module,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        order: Generator,
        keeper: _Keeper,
    ) -> None:
        if state["seed"] != self.rng_seed or state["work"] != self.work:
            raise InputError(
                "the checkpoint belongs to a training with another seed, order of work, number of examples, "
                "batch size or number of epochs. Remove it to start afresh."
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if schedule is not None:
            schedule.load_state_dict(state["schedule"])
        self.step, self.calls, self.stopped = state["step"], state["calls"], state["stopped"]
        self.losses = state["losses"].tolist()
        order.set_state(state["order"])
        torch.set_rng_state(state["draws"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if state["hold"] is not None:
            self.hold = Mask(state["hold"])
            keeper.dead = [(p, ~alive) for _, p, alive in self.hold.match(model)]
        keeper.frozen = [
            (p, still, value.to(p.device))
            for (p, still, _), value in zip(keeper.frozen, state["frozen"], strict=True)
        ]


def _norm(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    wide = [t.float() if t.dtype == torch.float16 else t for t in tensors]  # its squares would overflow
    return float(torch.stack([norm.float() for norm in torch._foreach_norm(wide)]).norm())
