"""The only loop that trains.

Everything that trains calls `fit_` with an objective: pruning, unlearning, oracles, shadow models. It keeps masks
exact, stops on NaN with the last good state in place, checkpoints, and resumes to the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Generator
from torch.nn import Module
from torch.optim import Optimizer

from ..errors import EmptyDataError, InputError
from ..io.memory import give_back
from ..masks.mask import Mask
from ..progress import progress
from ..random import draw_seed, global_seed
from .context import current_estimate, next_checkpoint, record, tell
from .keeper import Keeper
from .named import named_optimizer
from .passes import modes_kept
from .precision import Wide
from .training import Batches, Loop, Objective, Step, Training


@dataclass(frozen=True)
class Fit:
    """What a training did.

    Attributes:
        steps: optimiser steps.
        losses: objective at each step.
        calls: closure calls (1 a step for SGD, 2 for SAM).
        stopped: whether `after_step` ended it early.
        by: the optimiser in words, with what it wraps and its peak learning rate.
    """

    steps: int
    losses: list[float] = field(repr=False)
    calls: int
    stopped: bool = False
    by: str = ""


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
    after_step: Callable[[Step], None] | None = None,
    loop: Loop | None = None,
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
    Under batch normalisation in training a last batch of one example joins the batch before it, a set of one example
    freezes it, and wherever else one example comes alone it is normalised by the running statistics: it has no spread.
    The last two are told on the `unweave` logger; batches of one throughout are refused.

    Args:
        model: trained in place; its train/eval modes, `requires_grad` flags, dtype and device end as they began.
        data: read in shuffled batches, in a new order each epoch.
        objective: (model, batch) -> scalar to minimise.
        optimizer: over parameters of `model`.
        epochs: passes over `data`, at least 1.
        rng: governs batch order, dropout and whatever else draws from torch's global generator.
        hold: positions that are dead here are exactly +0.0 after every step, whatever momentum and weight decay do.
        only: just these positions may move; all others (of the parameters it names) keep their bits.
        after_step: called after every step with a `Step`; it may replace the mask or stop the training.
        loop: clipping, norms, order, schedule, label.
        checkpoint: file for resumable state; if it is there, training goes on from it, to the same bits. Inside
            `resumable(folder)` one is chosen by itself.
        checkpoint_seconds: least time between two writes of it; UNWEAVE_CHECKPOINT_SECONDS, where it is set and less.

    Returns:
        What was done, as a `Fit`.

    Raises:
        EmptyDataError: if `data` is empty.
        InputError: if nothing would be trained (no epoch, an optimiser without a parameter of the model, an objective
            that depends on none), or a mask does not fit the model.
        NonFiniteError: if the objective or a gradient is not finite; the weights stay those of the last good step. In a
            `resumable` block those of a step that itself overflowed are in the checkpoint alone.
    """
    _require_work(model, data, optimizer, epochs)
    loop, estimate = loop or Loop(), current_estimate.get()
    path = None if estimate is not None else checkpoint or next_checkpoint()
    optimizer.zero_grad(set_to_none=True)
    wide = Wide(model, (p for group in optimizer.param_groups for p in group["params"]))
    try:
        with modes_kept(model):
            keeper = Keeper(model, hold, only)
            training = Training(
                model,
                data,
                objective,
                optimizer,
                loop,
                epochs,
                seed=draw_seed(rng),
                hold=hold,
                keeper=keeper,
                wide=wide,
                lean=checkpoint is None and path is not None,
            )
            every = min(checkpoint_seconds, float(os.environ.get("UNWEAVE_CHECKPOINT_SECONDS", "inf")))
            with global_seed(training.seed), progress(loop.label, training.total) as bar:
                if path is not None and path.exists():
                    training.resume_(path)
                    bar.advance(training.step)
                while training.epoch < epochs and not training.stopped:
                    for _ in training.batches():
                        training.step_()
                        training.tell_(after_step)
                        tell(loop.label, training.step, training.loss)
                        bar.advance(note=f"loss {training.loss:.3f}")
                        if estimate is not None and estimate.enough(training.step, training.total):
                            training.stopped = True
                        training.keep_(path, every)
                        if training.stopped:
                            break
                if path is not None:
                    optimizer.zero_grad(set_to_none=True)  # what is written needs room
                    give_back()
                training.keep_(path, 0.0)
    finally:
        optimizer.zero_grad(set_to_none=True)
        wide.put_back_()
    done = Fit(training.step, training.losses, training.calls, training.stopped, named_optimizer(optimizer))
    record(done)
    return done


def _require_work(model: Module, data: Batches, optimizer: Optimizer, epochs: int) -> None:
    if len(data) == 0:
        raise EmptyDataError("fit_ was given no examples; a model cannot be trained on an empty data set.")
    if epochs < 1:
        raise InputError(
            f"fit_: epochs must be at least 1; got {epochs}. With none, nothing would be trained."
        )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "fit_: the optimizer holds no parameter of the model, so nothing would be trained. Make it from "
            "model.parameters() of the very model that is given."
        )
