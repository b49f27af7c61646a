"""What the erasers that train share: which weights, the loop, checks of settings, images drawn to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..fit import Fit, Loop, Step, fit_
from ..masks.mask import Mask
from ..models.text_to_image import TextToImage, training_only
from ..progress import progress
from ..types import Data

Weights = Literal["cross", "cross_kv", "not_cross", "all"]
"""Of the denoiser: its cross-attention, that one's keys and values, all but it, or everything."""


def weights_of(model: TextToImage, kind: Weights) -> dict[str, Parameter]:
    """The denoiser's parameters of a kind, by their names in the pipeline.

    Raises:
        InputError: if there is none, or layers are wrapped by LoRA or quantised.
    """
    linears = model.linears("cross_kv")
    named = dict(model.denoiser.named_parameters())
    if kind == "cross_kv":
        chosen = [n for n in named if n.rpartition(".")[0] in linears]
    else:
        chosen = [n for n in named if kind == "all" or (".attn2." in n) == (kind == "cross")]
    return {f"denoiser.{n}": named[n] for n in chosen}


def train_(
    model: Module,
    objective: Callable[..., Tensor],
    weights: Sequence[Parameter],
    optimizer: Optimizer,
    *,
    steps: int,
    rng: Generator,
    label: str,
    only: Mask | None = None,
    clip: float | None = None,
    schedule: LRScheduler | None = None,
    after_step: Callable[[Step], None] | None = None,
    numbered: bool = False,
) -> Fit:
    """Minimise an objective that draws its own examples from torch's global generator, which `fit_` seeds.

    Weights that were pruned before, exact zeros, stay so.

    Args:
        model: trained in place; every flag and mode ends as it began.
        objective: computes the loss of one step.
        weights: that may move.
        optimizer: over them.
        steps: of the optimiser.
        rng: governs the run.
        label: shown beside the progress bar.
        only: positions that may move; None for all.
        clip: largest global gradient norm.
        schedule: stepped after every step.
        after_step: see `fit_`.
        numbered: hand the step's number, from 0, to the objective.
    """
    data = Data(TensorDataset(torch.arange(steps)), _NothingToRead(), 1)
    with training_only(model, weights):
        return fit_(
            model, data, lambda _, batch: objective(int(batch[0])) if numbered else objective(), optimizer,
            epochs=1, rng=rng, hold=Mask.of(model), only=only, after_step=after_step,
            loop=Loop(clip=clip, schedule=schedule, ordered=True, label=label),
        )  # fmt: skip


def draw_latents(
    model: TextToImage,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    rng: Generator,
    negative: str = "",
    batch_size: int = 16,
    label: str = "",
) -> Tensor:
    """One latent a prompt [n, c, h, w], drawn by the pipeline itself: what erasers train on instead of photographs."""
    noise = model.noise(len(prompts), rng)
    drawn = []
    with progress(label, len(prompts)) as bar:
        for low in range(0, len(prompts), batch_size):
            part = slice(low, low + batch_size)
            drawn.append(
                model.sample(
                    prompts[part],
                    steps=steps,
                    guidance=guidance,
                    noise=noise[part],
                    negative=negative,
                    decode=False,
                )
            )
            bar.advance(len(drawn[-1]))
    return torch.cat(drawn)


def cycled(prompts: Sequence[str], n: int) -> list[str]:
    """As many prompts, each in its turn."""
    return [prompts[i % len(prompts)] for i in range(n)]


def pick(n: int, among: int) -> Tensor:
    """As many positions below `among` from torch's global generator, int64."""
    return torch.randint(among, (n,))


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise from torch's global CPU generator, the same whatever the device."""
    return torch.randn(x.shape).to(x.device, x.dtype)


def require_settings(
    method: Any, *, least: dict[str, int] | None = None, positive: Sequence[str] = ("lr",)
) -> None:
    """Raise InputError unless integer fields reach their least value and the others named are positive."""
    name = type(method).__name__
    for field, low in {"steps": 1, "batch_size": 1, **(least or {})}.items():
        if getattr(method, field) < low:
            raise InputError(f"{name}.{field} must be at least {low}; got {getattr(method, field)}.")
    for field in positive:
        if not getattr(method, field) > 0:
            raise InputError(f"{name}.{field} must be positive; got {getattr(method, field)}.")


class _NothingToRead:
    """The task of data that only counts steps."""

    def losses(self, model: Module, batch: Any) -> Tensor:
        raise NotImplementedError

    outputs = losses
