"""An optimiser in words: what it is, what it wraps, and how large its steps are at most."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer

_SHOWN = ("rho", "momentum", "weight_decay")


def named_optimizer(optimizer: Optimizer) -> str:
    """As "SAM (rho 0.05) around AdamW (weight_decay 0.01), peak learning rate 0.003".

    The learning rate is the one that a schedule, if there is one, was given to begin with.
    """
    inner: Any = getattr(optimizer, "base", None)
    names = [_with_settings(optimizer, inner)]
    names += [_with_settings(inner, None)] if isinstance(inner, Optimizer) else []
    rates = {f"{group.get('initial_lr', group['lr']):g}" for group in optimizer.param_groups if "lr" in group}
    rate = f", peak learning rate {' and '.join(sorted(rates))}" if rates else ""
    return " around ".join(names) + rate


def _with_settings(optimizer: Optimizer, inner: Optimizer | None) -> str:
    """The class with those of its own settings that are numbers above nothing and not its base's."""
    own = inspect.signature(type(optimizer)).parameters
    group = optimizer.param_groups[0] if optimizer.param_groups else {}
    held = {name: group.get(name, 0) for name in _SHOWN if inner is None or name in own}
    told = [f"{n} {v:g}" for n, v in held.items() if isinstance(v, (int, float)) and v and (n in own)]
    return type(optimizer).__name__ + (f" ({', '.join(told)})" if told else "")


def trained_by(recipe: Any) -> str:
    """The optimiser that a recipe trains with, in words, with its passes; "" where the recipe does not show it."""
    make, lr = getattr(recipe, "stepper", None), getattr(recipe, "lr", None)
    if make is None or lr is None:
        return ""
    epochs = getattr(recipe, "epochs", None)
    words = named_optimizer(make([torch.nn.Parameter(torch.zeros(2, 2))], lr=lr))
    return f"{words}, {epochs} epochs" if epochs else words
