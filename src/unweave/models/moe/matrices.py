"""The matrices inside fused experts, whatever their layout, and what a gated unit makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import GELU, Linear, Module, SiLU


class Gated(Module):
    """act(gate) * up, the usual gated unit."""

    def __init__(self, act: Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """Both [..., F] -> [..., F]."""
        out: Tensor = self.act(gate) * up
        return out


class ClampedGated(Module):
    """(up + 1) * gate * sigmoid(alpha * gate), with gate at most `limit` and up within +-`limit` (GPT-OSS)."""

    def __init__(self, alpha: float, limit: float) -> None:
        super().__init__()
        self.alpha, self.limit = alpha, limit

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """Both [..., F] -> [..., F]."""
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))


@dataclass(frozen=True)
class Matrices:
    """One gated feed-forward, x -> down(unit(gate x, up x)).

    Attributes:
        gate: [F, H].
        up: [F, H].
        down: [H, F].
        gate_bias: [F], or None.
        up_bias: [F], or None.
        down_bias: [H], or None.
        unit: what joins gate and up.
    """

    gate: Tensor
    up: Tensor
    down: Tensor
    unit: Module
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    def inner(self, x: Tensor) -> Tensor:
        """What `down` reads: [..., H] -> [..., F]."""
        out: Tensor = self.unit(F.linear(x, self.gate, self.gate_bias), F.linear(x, self.up, self.up_bias))
        return out

    def __call__(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return F.linear(self.inner(x), self.down, self.down_bias)


@dataclass(frozen=True)
class Layout:
    """Where the matrices lie in an experts module whose parameters are [experts, ., .].

    Attributes:
        gate_up: name of the parameter that holds gate and up.
        down: name of the other.
        gate_up_bias: name of the bias [experts, 2F], or "".
        down_bias: name of the bias [experts, H], or "".
        transposed: [experts, in, out] and not [experts, out, in].
        interleaved: gate and up take turns, and do not follow one another.
        unit: what joins gate and up.
    """

    gate_up: str
    down: str
    gate_up_bias: str
    down_bias: str
    transposed: bool
    interleaved: bool
    unit: Module

    def of(self, experts: Module, e: int) -> Matrices:
        """The matrices of expert `e`: views of the module's own parameters."""
        held: Any = experts
        joint, down = getattr(held, self.gate_up)[e], getattr(held, self.down)[e]
        if self.transposed:
            joint, down = joint.T, down.T
        gate, up = self._halves(joint)
        if not self.gate_up_bias:
            return Matrices(gate, up, down, self.unit)
        biases = self._halves(getattr(held, self.gate_up_bias)[e])
        return Matrices(gate, up, down, self.unit, *biases, getattr(held, self.down_bias)[e])

    def put_(self, experts: Module, e: int, matrices: Matrices) -> None:
        """Write the matrices of expert `e`."""
        own = self.of(experts, e)
        with torch.no_grad():
            for name in ("gate", "up", "down", "gate_bias", "up_bias", "down_bias"):
                here, new = getattr(own, name), getattr(matrices, name)
                if here is not None:
                    here.copy_(new)

    def _halves(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        if self.interleaved:
            return joint[::2], joint[1::2]
        half = len(joint) // 2
        return joint[:half], joint[half:]


def layouts(experts: Module, width: int, config: Any) -> Iterator[Layout]:
    """Layouts that the shapes of an experts module allow, the likeliest first; none for experts of another kind.

    Args:
        experts: has two parameters [experts, ., .].
        width: H, of what the experts read.
        config: the model's configuration, asked for the limits of a clamped unit.
    """
    stacks = {n: p for n, p in experts.named_parameters(recurse=False) if p.ndim == 3}
    flat = {n: p for n, p in experts.named_parameters(recurse=False) if p.ndim == 2}
    if len(stacks) != 2 or len(flat) not in (0, 2):
        return
    (gate_up, big), (down, small) = sorted(stacks.items(), key=lambda item: -item[1].numel())
    if big.numel() != 2 * small.numel():
        return
    inner = small.numel() // (len(small) * width)
    biases: Sequence[tuple[str, str]] = [("", "")]
    if flat:
        (a, p), (b, q) = flat.items()
        orders = (((a, b), p, q), ((b, a), q, p))
        biases = [pair for pair, x, y in orders if (x.shape[1], y.shape[1]) == (2 * inner, width)]
    for transposed in (False, True):
        shapes = [(width, 2 * inner), (inner, width)] if transposed else [(2 * inner, width), (width, inner)]
        if [big.shape[1:], small.shape[1:]] != shapes:
            continue
        for first, second in biases:
            for interleaved in (False, True):
                for unit in units(experts, config):
                    yield Layout(gate_up, down, first, second, transposed, interleaved, unit)


def units(module: Module, config: Any) -> Iterator[Module]:
    """What may join gate and up in a module: its own activation, a clamped unit of the configuration, usual ones."""
    for child in module.children():
        if not any(True for _ in child.parameters()):
            yield Gated(child)
    alpha, limit = getattr(config, "swiglu_alpha", None), getattr(config, "swiglu_limit", None)
    if alpha is not None and limit is not None:
        yield ClampedGated(alpha, limit)
    yield from (Gated(SiLU()), Gated(GELU()), Gated(GELU(approximate="tanh")))


def feed_forwards(module: Module, width: int, config: Any) -> Iterator[Matrices]:
    """Readings of a dense gated feed-forward (a shared expert) that its three linear layers allow."""
    linears = [m for m in module.modules() if isinstance(m, Linear)]
    ins = [m for m in linears if m.in_features == width]
    for down in (m for m in linears if m.out_features == width):
        rest = [m for m in ins if m is not down and m.out_features == down.in_features]
        if len(linears) != 3 or len(rest) != 2:
            continue
        for gate, up in (rest, rest[::-1]):
            for unit in units(module, config):
                yield Matrices(gate.weight, up.weight, down.weight, unit, gate.bias, up.bias, down.bias)


def stacked(parts: Sequence[Matrices]) -> Matrices:
    """Several feed-forwards beside each other as one: inner units one after the other, output biases summed.

    All of one kind of unit, and all with biases or none.
    """

    def join(name: str, dim: int) -> Tensor:
        return torch.cat([getattr(p, name).detach() for p in parts], dim)

    made = Matrices(join("gate", 0), join("up", 0), join("down", 1), parts[0].unit)
    if parts[0].gate_bias is None:
        return made
    biases = [p.down_bias.detach() for p in parts if p.down_bias is not None]
    total = torch.stack(biases).sum(0) if biases else None
    return replace(made, gate_bias=join("gate_bias", 0), up_bias=join("up_bias", 0), down_bias=total)
