"""Experts of two depths behind one always-on shallow expert, and the router that picks a token's depth.

As in the method card dasg-moe, parts 2 to 4: a token's answer is

    y = S0(x) + pi_level * sum over the top-k e of the chosen pool of r_e E_e(x)

with pi the level router's softmax over {shallow, deep} and r the pool's, renormalised over the chosen. The level router
reads [x; task; z1; z2]: z1 the log norm of the residual stream, standardised by running statistics, z2 the entropy of
the token's near attention over the log of the window.

Decided here: training computes both pools and mixes them with a straight-through choice, so its values are those of
evaluation where no noise is added; a deep expert answers M1(x) + M2(x + M1(x)), the change that its two residual layers
make; a lone chosen expert weighs 1, which teaches its router nothing, so its gradient is that of its probability; the
gradient of deep experts that R blocks share is divided by sqrt(R).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import GELU, LayerNorm, Linear, Module, Parameter, Sequential

from ...errors import InputError
from ...models.moe import Matrices
from ...random import seeded

Dsse = Literal["both", "shallow only", "deep only", "plain top-k"]
Adr = Literal["learned", "norm threshold", "random", "expert choice"]


@dataclass
class Told:
    """What the routers of one forward pass did.

    Attributes:
        deep: probability of the deep level [tokens].
        chosen: whether it was taken, 0 or 1 [tokens].
        balance: sum over pools of E sum_e f_e P_e.
        z: mean squared log-sum-exp of all router logits.
    """

    deep: Tensor
    chosen: Tensor
    balance: Tensor
    z: Tensor


class Stack(Module):
    """Experts of `depth` residual gated or plain layers, their matrices stacked [E, ., .].

    Args:
        count: E.
        width: d.
        inner: hidden units of each layer.
        depth: 1 for M(x), 2 for M1(x) + M2(x + M1(x)).
        gated: SwiGLU rather than GELU.
        rng: for the weights.
    """

    def __init__(
        self, count: int, width: int, inner: int, *, depth: int, gated: bool, rng: Generator
    ) -> None:
        super().__init__()
        self.count, self.depth, self.gated = count, depth, gated
        rows = inner * (2 if gated else 1)

        def drawn(*shape: int) -> Parameter:
            return Parameter(torch.randn(*shape, generator=rng) / shape[-1] ** 0.5)

        self.up = drawn(depth, count, rows, width)
        self.down = drawn(depth, count, width, inner)
        self.down.data /= (2 * depth) ** 0.5

    def run(self, e: int, x: Tensor, scale: float = 1.0) -> Tensor:
        """Expert e's answer for tokens [n, d]; gradients of its matrices are multiplied by `scale`."""
        total = torch.zeros_like(x)
        for layer in range(self.depth):
            up, down = (_slowed(w[layer, e], scale) for w in (self.up, self.down))
            inner = F.linear(x + total, up)
            if self.gated:
                gate, inner = inner.chunk(2, -1)
                inner = F.silu(gate) * inner
            else:
                inner = F.gelu(inner)
            total = total + F.linear(inner, down)
        return total

    @torch.no_grad()
    def upcycle_(self, dense: Matrices, *, noise: float = 1e-2, rng: Generator) -> None:
        """Begin every expert as a dense gated feed-forward, plus noise of that share of each matrix's own spread.

        The first layer takes it; a second one begins without an answer.

        Raises:
            InputError: if its shape, or a bias, does not fit.
        """
        joint = torch.cat([dense.gate, dense.up])
        biased = dense.gate_bias is not None
        if (
            not self.gated
            or biased
            or joint.shape != self.up.shape[2:]
            or dense.down.shape != self.down.shape[2:]
        ):
            raise InputError(
                f"upcycle_ needs a gated feed-forward without biases, {list(self.up.shape[2:])} and "
                f"{list(self.down.shape[2:])}; got {list(joint.shape)} and {list(dense.down.shape)}"
                f"{' with biases' if biased else ''}."
            )
        for own, given in ((self.up, joint), (self.down, dense.down)):
            drawn = torch.randn(own[0].shape, generator=rng).to(own)
            own[0] = given.to(own) + noise * given.std().to(own) * drawn
        self.down[1:] = 0


class DualScaleExperts(Module):
    """A shared shallow expert, and for each token a few experts of one of two pools.

    Args:
        width: d.
        deep: the deep pool, which other blocks may share.
        shares: how many blocks share it, R.
        shallow: experts of the shallow pool.
        inner_plain: hidden units of the experts of "plain top-k".
        log_window: what the entropy of attention is divided by.
        settings: of `DASGMoE`: dsse, adr, rho, theta, causal, group, per_group_routing, tasks.
        rng: for weights, noise and random levels.
    """

    def __init__(
        self, width: int, *, deep: Stack, shares: int, shallow: int, inner_plain: int, log_window: float, settings: Any,
        rng: Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings, self.shares, self.log_window, self.deep = settings, shares, log_window, deep
        self.always = Sequential(Linear(width, max(1, width // 4)), GELU(), Linear(max(1, width // 4), width))
        self.shallow = Stack(shallow, width, max(1, width // 2), depth=1, gated=False, rng=rng)
        plain = settings.dsse == "plain top-k"
        self.plain = (
            Stack(shallow + deep.count, width, inner_plain, depth=1, gated=False, rng=rng) if plain else None
        )
        self.deep_norm, self.deep_scale = LayerNorm(width), Parameter(torch.ones(width))
        self.to_shallow, self.to_deep = (
            Linear(width, shallow, bias=False),
            Linear(width, deep.count, bias=False),
        )
        self.to_plain = Linear(width, shallow + deep.count, bias=False) if plain else None
        self.tasks = Parameter(torch.zeros(settings.tasks, 16))
        hidden = max(2, width // 4)
        self.level = Sequential(Linear(width + 18, hidden), GELU(), Linear(hidden, 2))
        with torch.no_grad():  # the levels begin at the budget, so that neither starves
            cast(Linear, self.level[2]).bias.copy_(
                torch.tensor([0.0, log(settings.rho / (1 - settings.rho))])
            )
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("var", torch.ones(()))
        self.task, self.temperature = 0, 1.0
        self.theta: float | None = settings.theta
        self.told: Told | None = None
        self._noise = seeded(int(torch.randint(2**31, (), generator=rng)))

    def forward(self, x: Tensor, residual: Tensor, entropy: Tensor) -> Tensor:
        """What is added to the residual stream.

        Args:
            x: the normalised stream [B, T, d].
            residual: the stream itself [B, T, d].
            entropy: of the tokens' near attention in nats [B, T].
        """
        shape, read = x.shape, self._read(x)
        flat, told = x.flatten(0, 1), read.flatten(0, 1)
        y = self.always(flat)
        if self.plain is not None and self.to_plain is not None:
            every = flat.new_ones(len(flat))
            added, balance, z = self._pool(self.plain, self.to_plain, 2, flat, told, every, 1.0)
            self.told = Told(torch.zeros_like(every), torch.zeros_like(every), balance, z)
            answer: Tensor = (y + added).view(shape)
            return answer
        logits = self._level_logits(read, residual, entropy)
        pi = logits.softmax(-1)
        hard, mix = self._levels(logits, pi, shape)
        parts, balance, z = [], x.new_zeros(()), logits.logsumexp(-1).square().mean()
        pools = (
            (self.shallow, self.to_shallow, 1, flat, 1.0),
            (self.deep, self.to_deep, 2, self._deep(flat), float(self.shares**-0.5)),
        )
        for which, (pool, router, k, inputs, scale) in enumerate(pools):
            if self.settings.dsse == ("deep only", "shallow only")[which]:
                continue
            taken = hard[:, which] > 0
            rows = taken if not self.training else torch.ones_like(taken)
            weight = mix[:, which] * (pi[:, which] if self.settings.dsse == "both" else 1.0)
            part, even, size = self._pool(
                pool, router, k, inputs, told, weight, scale, rows=rows, counted=taken
            )
            parts.append(part)
            balance, z = balance + even, z + size
        self.told = Told(pi[:, 1], hard[:, 1], balance, z)
        out: Tensor = (y + torch.stack(parts).sum(0)).view(shape)
        return out

    def _deep(self, flat: Tensor) -> Tensor:
        normed: Tensor = self.deep_norm(flat) * self.deep_scale
        return normed

    def _read(self, x: Tensor) -> Tensor:
        """What the routers read: each token, or its group's mean (causal: the group's before it)."""
        if not self.settings.per_group_routing:
            return x
        g, t = self.settings.group, x.shape[1]
        count = -(-t // g)
        there = torch.arange(count * g, device=x.device).view(count, g, 1) < t
        sums = F.pad(x, (0, 0, 0, count * g - t)).view(len(x), count, g, -1).sum(2)
        means = sums / there.sum(1)
        if self.settings.causal:
            means = F.pad(means, (0, 0, 1, 0))[:, :-1]
        spread: Tensor = means.repeat_interleave(g, 1)[:, :t]
        return spread

    def _level_logits(self, read: Tensor, residual: Tensor, entropy: Tensor) -> Tensor:
        size = _wide(residual).norm(dim=-1).clamp(min=1e-12).log()
        z1 = (size - self.mean) / (self.var + 1e-6).sqrt()
        if self.training:
            with torch.no_grad():  # after they were used: else they would tell of this batch's later tokens
                self.mean += 0.1 * (size.mean() - self.mean)
                self.var += 0.1 * (size.var(correction=0) - self.var)
        z2 = _wide(entropy) / self.log_window if self.settings.z2 else torch.zeros_like(size)
        extra = torch.stack([z1, z2], -1)
        extra = self._read(extra)
        task = self.tasks[self.task].expand(*read.shape[:2], -1)
        if self.settings.adr == "norm threshold":
            limit = torch.special.ndtri(torch.tensor(1 - self.settings.rho, dtype=torch.float64)).to(extra)
            deep = (extra[..., 0] > limit).flatten().to(read.dtype)
            return torch.stack([1 - deep, deep], -1).clamp(min=1e-6).log()
        return _wide(self.level(torch.cat([read, task, extra.to(read.dtype)], -1)).flatten(0, 1))

    def _levels(self, logits: Tensor, pi: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The choice of a level [tokens, 2], 0 or 1, and the same with a gradient while training."""
        how, only = self.settings.adr, {"shallow only": 0, "deep only": 1}.get(self.settings.dsse)
        soft = pi
        if only is not None:
            deep = torch.full_like(pi[:, 1], only)
        elif how == "random":
            drawn = torch.rand(len(pi), generator=self._noise).to(pi)
            deep = (drawn < self.settings.rho).to(pi)
        elif how == "expert choice":
            take = max(1, round(self.settings.rho * shape[1]))
            best = pi[:, 1].view(shape[:2]).topk(take, dim=1).indices
            deep = torch.zeros(shape[:2], device=pi.device, dtype=pi.dtype).scatter_(1, best, 1.0).flatten()
        elif self.training and how == "learned":
            uniform = torch.rand(pi.shape, generator=self._noise).clamp(1e-9, 1 - 1e-9).to(pi)
            soft = ((logits - (-uniform.log()).log()) / self.temperature).softmax(-1)
            deep = (soft[:, 1] > soft[:, 0]).to(pi)
        else:
            deep = (pi[:, 1] > (0.5 if self.theta is None else self.theta)).to(pi)
        hard = torch.stack([1 - deep, deep], -1)
        return (
            hard,
            hard + soft - soft.detach() if self.training and how == "learned" and only is None else hard,
        )

    def _pool(
        self, pool: Stack, router: Linear, k: int, x: Tensor, read: Tensor, weight: Tensor, scale: float, *,
        rows: Tensor | None = None, counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Weighted answers of a pool [tokens, d], its balance term, and its mean squared log-sum-exp."""
        logits = _wide(router(read))
        p = logits.softmax(-1)
        best, index = p.topk(min(k, pool.count), dim=-1)
        alone = best.shape[1] == 1
        best = best + 1 - best.detach() if alone else best / best.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(pool.count):
            tokens, slot = torch.where((index == e) if rows is None else (index == e) & rows[:, None])
            if len(tokens):
                part = (best[tokens, slot] * weight[tokens]).to(x.dtype)[:, None]
                y = y.index_add(0, tokens, part * pool.run(e, x[tokens], scale).to(x.dtype))
        seen = torch.ones(len(x), dtype=torch.bool, device=x.device) if counted is None else counted
        total = seen.sum().clamp(min=1)
        share = torch.bincount(index[seen].flatten(), minlength=pool.count) / (total * index.shape[1])
        mean = (p * seen[:, None]).sum(0) / total
        return y, pool.count * (share * mean).sum(), logits.logsumexp(-1).square().mean()


def _slowed(w: Tensor, scale: float) -> Tensor:
    """The same values, with gradients multiplied by `scale`."""
    return w if scale == 1.0 else w.detach() + scale * (w - w.detach())


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
