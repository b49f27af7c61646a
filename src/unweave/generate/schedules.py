"""Signal and noise at a step, read from a scheduler of diffusers by what it has; others are refused."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import InputError
from .guidance import Predicts, Step


def predicts(scheduler: Any) -> Predicts:
    """What a denoiser predicts that was trained for this scheduler.

    A scheduler with `alphas_cumprod` adds noise and says in its settings what is predicted; one with `sigmas` and
    `scale_noise` mixes (flow matching).

    Raises:
        InputError: if it is neither, or predicts something else.
    """
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        said = scheduler.config.get("prediction_type", "epsilon")
        if said in get_args(Predicts) and said != "flow":
            return said  # type: ignore[no-any-return]
        raise InputError(
            f"the scheduler {type(scheduler).__name__} predicts {said!r}; read are epsilon, v_prediction and sample."
        )
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "scale_noise"):
        return "flow"
    raise InputError(
        f"the scheduler {type(scheduler).__name__} has neither alphas_cumprod (added noise) nor sigmas with "
        "scale_noise "
        "(flow matching): what its denoiser predicts is not known here. Use DDIM, Euler, DPM-Solver or a "
        "flow-matching one."
    )


def step_at(scheduler: Any, x: Tensor, t: Tensor | float) -> Step:
    """The step that a sampler is at, from what its denoiser reads.

    Schedulers that count in sigmas (Euler, DPM-Solver) scale what the denoiser reads to a x_0 + b e with
    a^2 + b^2 = 1, so that b / a is their sigma; the others look the level up at an integer time.

    Args:
        scheduler: with its time steps set.
        x: what the denoiser reads, [n, ...].
        t: its time, one for all.

    Raises:
        InputError: if the scheduler is not known, the times of a batch differ, or the scheduler is not at that time.
    """
    kind, times = predicts(scheduler), torch.as_tensor(t).flatten().double().cpu()
    if len(times) != 1 and not bool((times == times[0]).all()):
        raise InputError("guidance reads one time step for a whole batch; the batch's differ.")
    known = getattr(scheduler, "timesteps", None)
    steps = torch.as_tensor(() if known is None else known).double().cpu()
    at = (steps == times[0]).nonzero().flatten().tolist()
    if not at:
        raise InputError(
            f"the denoiser was asked at time {float(times[0]):g}, which is none of the {len(steps)} of its "
            f"{type(scheduler).__name__}: is it another scheduler than the pipeline's, or not set?"
        )
    sigmas = getattr(scheduler, "sigmas", None)
    if kind == "flow":
        sigma = float(sigmas[at[0]])  # type: ignore[index]
        return Step(x, 1 - sigma, sigma, kind, at[0], len(steps))
    if sigmas is not None and len(sigmas) >= len(steps):
        sigma = float(sigmas[at[0]])
        signal = (1 + sigma * sigma) ** -0.5
        return Step(x, signal, sigma * signal, kind, at[0], len(steps))
    share = float(scheduler.alphas_cumprod[int(times[0])].double())
    return Step(x, share**0.5, (1 - share) ** 0.5, kind, at[0], len(steps))


class Clock:
    """Tells when a sampler has begun anew: a rule's memory serves one generation.

    A new one begins at the first step, where time goes back, where a step comes twice that the schedule has once, and
    where the batch has another shape.
    """

    def __init__(self) -> None:
        self._last: tuple[int, torch.Size] | None = None

    def begins(self, step: Step, repeated: bool = False) -> bool:
        """Whether this step begins a generation; `repeated` if the schedule names its time more than once."""
        last, self._last = self._last, (step.index, step.x.shape)
        if last is None or last[1] != step.x.shape:
            return True
        return step.index < last[0] or (step.index == last[0] and not repeated)


def repeats(scheduler: Any, t: Tensor | float) -> bool:
    """Whether the schedule names this time more than once, as second-order samplers do."""
    time = float(torch.as_tensor(t).flatten()[0])
    return int((torch.as_tensor(scheduler.timesteps).double() == time).sum()) > 1
