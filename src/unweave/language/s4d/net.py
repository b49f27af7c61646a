"""Networks of S4D layers: their optimiser's groups, another sampling rate, a form for export, a small classifier."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module, Parameter

from ...errors import InputError
from ...masks.layers import copied
from ...settings import Count, Part, checked
from .s4d import S4D, State


class S4DClassifier(Module):
    """Sequences [n, inputs, L] -> logits [n, classes]: residual S4D layers behind norms, and their mean over time.

    Args:
        inputs: numbers at each step.
        classes: to tell apart.
        width: channels of each layer.
        layers: how many.
        dropout: share dropped within and after each layer.
        settings: of every `S4D` layer.

    Raises:
        InputError: if a setting is out of its range.
    """

    @checked
    def __init__(
        self,
        inputs: Count,
        classes: Count,
        *,
        width: Count = 32,
        layers: Count = 2,
        dropout: Part = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.layers = nn.ModuleList(S4D(width, dropout=dropout, **settings) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(width, classes)

    def forward(self, u: Tensor) -> Tensor:
        """Logits [n, classes] of sequences [n, inputs, L]."""
        x = self.encoder(u.transpose(1, 2))
        for norm, layer in zip(self.norms, self._read(), strict=True):
            x = x + self.dropout(layer(norm(x).transpose(1, 2)).transpose(1, 2))
        logits: Tensor = self.decoder(x.mean(1))
        return logits

    def start(self, n: int) -> tuple[list[State], Tensor, int]:
        """What a stream of `n` sequences remembers before its first step."""
        states = [layer.start(n) for layer in self._read()]
        return states, torch.zeros(n, self.decoder.in_features).to(self.decoder.weight), 0

    def step(
        self, u: Tensor, memory: tuple[list[State], Tensor, int]
    ) -> tuple[Tensor, tuple[list[State], Tensor, int]]:
        """Logits after one more step [n, inputs] of a stream, those of all it has read, and what it remembers then."""
        states, total, read = memory
        x, after = self.encoder(u), []
        for norm, layer, state in zip(self.norms, self._read(), states, strict=True):
            y, state = layer.step(norm(x), state)
            x = x + self.dropout(y)
            after.append(state)
        total = total + x
        return self.decoder(total / (read + 1)), (after, total, read + 1)

    def _read(self) -> list[S4D]:
        return list(self.layers)  # type: ignore[arg-type]


def s4d_groups(
    model: Module, *, lr: float = 1e-2, weight_decay: float = 0.01, state_lr: float = 1e-3
) -> list[dict[str, Any]]:
    """Groups for an optimiser: poles, steps and B of every S4D layer slowly and without decay, the rest as usual.

    Decay on these pulls memories short, and the usual rate makes them unstable.

    Args:
        model: with S4D layers.
        lr: of everything else.
        weight_decay: of everything else.
        state_lr: of poles, steps and B; `lr` where that is smaller.

    Raises:
        InputError: if the model has no S4D layer.
    """
    own = [
        p
        for m in model.modules()
        if isinstance(m, S4D)
        for p in (m.a_real, m.a_imag, m.log_dt, m.b)
        if isinstance(p, Parameter)
    ]
    if not own:
        raise InputError(
            f"s4d_groups: {type(model).__name__} has no S4D layer. Give its parameters to the optimizer."
        )
    slow = {id(p) for p in own}
    rest = [p for p in model.parameters() if id(p) not in slow]
    groups = [{"params": rest, "lr": lr, "weight_decay": weight_decay}] if rest else []
    return [*groups, {"params": own, "lr": min(state_lr, lr), "weight_decay": 0.0}]


def at_rate(model: Module, rate: float) -> Module:
    """A copy of a model whose S4D layers take every time step `rate` times as long; 2 for half the sampling rate.

    Raises:
        InputError: if `rate` is not above 0, or the model has no S4D layer.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"at_rate: rate must be above 0; got {rate!r}.")
    made = copied(model)
    layers = [m for m in made.modules() if isinstance(m, S4D)]
    if not layers:
        raise InputError(f"at_rate: {type(model).__name__} has no S4D layer.")
    for layer in layers:
        layer.rate *= rate
    return made


class FixedS4D(Module):
    """An S4D layer for sequences of one length, in plain real operations: what ONNX and other formats can hold.

    Args:
        layer: at its present weights and rate.
        length: L.
    """

    kernels: Tensor

    def __init__(self, layer: S4D, length: int) -> None:
        super().__init__()
        with torch.no_grad():
            kernels = layer.kernel(length).to(layer.d.dtype)
            kernels[..., 0] += layer.d
        self.register_buffer("kernels", kernels.flip(-1)[:, :, None])
        self.dropout, self.mix = layer.dropout, layer.mix

    def forward(self, u: Tensor) -> Tensor:
        """Sequences [n, H, L] -> [n, H, L]."""
        length, width = self.kernels.shape[-1], u.shape[1]
        answers = [F.conv1d(F.pad(u, (length - 1, 0)), self.kernels[0], groups=width)]
        if len(self.kernels) == 2:
            back = F.conv1d(F.pad(u, (0, length - 1)), self.kernels[1].flip(-1), groups=width)
            answers.append(back)
        mixed: Tensor = F.glu(self.mix(self.dropout(F.gelu(torch.cat(answers, 1)))), 1)
        return mixed


def fixed(model: Module, length: int) -> Module:
    """A copy of a model, in eval mode, whose S4D layers became convolutions for sequences of one length; for export.

    Args:
        model: with S4D layers.
        length: L of every sequence; the work grows with its square.

    Raises:
        InputError: if `length` is below 1, or the model has no S4D layer.
    """
    if length < 1:
        raise InputError(f"fixed: length must be at least 1; got {length}.")
    made = copied(model).eval()
    found = {name: m for name, m in made.named_modules() if isinstance(m, S4D)}
    if not found:
        raise InputError(f"fixed: {type(model).__name__} has no S4D layer.")
    if "" in found:
        return FixedS4D(found[""], length).eval()
    for name, layer in found.items():
        made.set_submodule(name, FixedS4D(layer, length).eval())
    return made
