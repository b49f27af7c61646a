"""DASG-MoE, a reconstruction: a stack of blocks with grouped attention and experts of two depths.

Li, Liu, Chen, Ji, "Dynamic Adaptive Shared Experts with Grouped Multi-Head Attention Mixture of Experts", 2025
(https://arxiv.org/abs/2509.10530). Only the abstract and the introduction could be read: the parts and what they are
for are the paper's, their form and every number here are ours, as in the method card. Nothing of it may be quoted as
the paper's result.
"""

from __future__ import annotations

from math import log
from types import SimpleNamespace
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import LayerNorm, Module, ModuleList, Parameter

from ...errors import InputError
from ...paper import Paper
from ...random import draw_seed, global_seed, seeded
from ...settings import Count, Inner, NonNegative, Part, Share, Whole, checked
from .attention import Attention, GroupedAttention
from .dual_scale import Adr, Dsse, DualScaleExperts, Stack, Told


class DASGMoE(Module):
    """A stack of pre-norm blocks: x + attention(norm x), then x + experts(norm x). A reconstruction.

    Args:
        width: d.
        heads: of attention, a divisor of d.
        blocks: how many.
        group: tokens of a group.
        window: keys that a token sees one by one.
        kv_heads: heads of keys and values; as many as `heads` unless given.
        causal: whether tokens see only what is before them.
        attention: "grouped", "window" or "full".
        dsse: pools a token may go to: "both", one of them, or one pool of equal experts, top 2 ("plain top-k"), sized
            for the same work a token at the budget rho.
        adr: how the level is chosen: "learned"; by the stream's norm ("norm threshold"); at "random"; or the share rho
            of each sequence with the highest probability ("expert choice", not for causal stacks).
        share: blocks that share one deep pool, R.
        shallow_experts: of each block's shallow pool, of which a token takes 1.
        deep_experts: of a deep pool, of which a token takes 2.
        rho: share of tokens that should go deep.
        theta: in evaluation a token goes deep above this probability; where it is the likelier level unless given.
        z2: whether the level router reads the entropy of attention.
        per_group_routing: route once a group, on its mean (causal: on that of the group before).
        tasks: how many; `task` says which one is on.
        balance: weight of the balance term in `auxiliary`.
        budget: weight of (mean probability of deep - rho)^2.
        z_loss: weight of the squared size of router logits.
        seed: of weights, noise and random levels.

    Raises:
        InputError: if a setting is out of its range, or two do not go together.

    Example:
        >>> stack = DASGMoE(16, 4, blocks=2, group=4, window=4)
        >>> stack(torch.zeros(2, 12, 16)).shape, bool(stack.auxiliary() > 0)
        (torch.Size([2, 12, 16]), True)
    """

    paper: ClassVar[Paper] = Paper(
        "Dynamic Adaptive Shared Experts with Grouped Multi-Head Attention Mixture of Experts",
        "Li, Liu, Chen, Ji", "arXiv", 2025, "2509.10530",
    )  # fmt: skip

    @checked
    def __init__(
        self, width: Count = 64, heads: Count = 4, *, blocks: Count = 2, group: Count = 128, window: Count = 128,
        kv_heads: Count | None = None, causal: bool = True, attention: Attention = "grouped", dsse: Dsse = "both",
        adr: Adr = "learned", share: Count = 2, shallow_experts: Count = 4, deep_experts: Count = 4, rho: Inner = 0.3,
        theta: Part | None = None, z2: bool = True, per_group_routing: bool = False, tasks: Count = 1,
        balance: NonNegative = 0.01, budget: NonNegative = 0.1, z_loss: NonNegative = 1e-3, seed: Whole = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if adr == "expert choice" and causal:
            raise InputError(
                'DASGMoE.adr="expert choice" ranks a token among later ones, so it would tell a causal stack of them. '
                "Take another, or causal=False."
            )
        if adr != "learned" and dsse != "both":
            raise InputError(f"DASGMoE.adr={adr!r} would do nothing with dsse={dsse!r}: there is one level.")
        rng = seeded(seed)
        self.weights = (balance, budget, z_loss)
        self.rho, self.levels = rho, dsse == "both"
        told = SimpleNamespace(
            dsse=dsse, adr=adr, rho=rho, theta=theta, causal=causal, group=group, z2=z2, tasks=tasks,
            per_group_routing=per_group_routing,
        )  # fmt: skip
        inner = 4 * width
        # products a token: one shallow expert or two deep ones, and in a plain pool two of the same work
        dual = (1 - rho) * width**2 + rho * 2 * 2 * 3 * width * inner
        plain = max(1, round(dual / (4 * width)))
        with global_seed(draw_seed(rng)):
            self.attention = ModuleList(
                GroupedAttention(
                    width, heads, group=group, window=window, kv_heads=kv_heads, causal=causal, attention=attention
                )
                for _ in range(blocks)
            )  # fmt: skip
            pools = [
                Stack(deep_experts, width, inner, depth=2, gated=True, rng=rng)
                for _ in range(-(-blocks // share))
            ]
            self.experts = ModuleList(
                DualScaleExperts(
                    width, deep=pools[i // share], shares=min(share, blocks - i // share * share),
                    shallow=shallow_experts, inner_plain=plain, log_window=log(max(2, window)), settings=told, rng=rng,
                )
                for i in range(blocks)
            )  # fmt: skip
            self.norms = ModuleList(LayerNorm(width) for _ in range(2 * blocks))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        norms = iter(self.norms)
        for attention, experts in zip(self.attention, self._experts(), strict=True):
            answer, entropy = cast(GroupedAttention, attention).attend(next(norms)(hidden))
            hidden = hidden + answer
            hidden = hidden + experts(next(norms)(hidden), hidden, entropy)
        return hidden

    def _experts(self) -> list[DualScaleExperts]:
        return [cast(DualScaleExperts, block) for block in self.experts]

    def _told(self) -> list[Told]:
        found = [block.told for block in self._experts() if block.told is not None]
        if not found:
            raise InputError("DASGMoE tells of the last forward pass; there was none yet.")
        return found

    def auxiliary(self) -> Tensor:
        """What is added to the task's loss, from the last forward pass: balance, budget and the size of logits.

        Raises:
            InputError: before the first forward pass.
        """
        balance, budget, z_loss = self.weights
        total = torch.zeros((), device=self._told()[0].z.device)
        for told in self._told():
            total = total + balance * told.balance + z_loss * told.z
            if self.levels:
                total = total + budget * (told.deep.mean() - self.rho).square()
        return total

    def deep_shares(self) -> list[float]:
        """Each block's share of the last pass's tokens that went deep; errors as of `auxiliary`."""
        return [float(told.chosen.mean()) for told in self._told()]

    @torch.no_grad()
    def spend_(self, share: Share) -> None:
        """Set each block's theta so that this share of the last forward pass's tokens would have gone deep."""
        for block, told in zip(self._experts(), self._told(), strict=True):
            block.theta = float(told.deep.quantile(1 - share))

    def anneal_(self, progress: Share) -> None:
        """Lower the temperature of the choice of level from 1 at the start of training to 0.5 at its end."""
        for block in self._experts():
            block.temperature = 1 - 0.5 * progress

    def switch_(self, task: int) -> None:
        """Say which task the next passes are of.

        Raises:
            InputError: if there is no such task.
        """
        for block in self._experts():
            if not 0 <= task < len(block.tasks):
                raise InputError(
                    f"DASGMoE.switch_: tasks are counted from 0 below {len(block.tasks)}; got {task}."
                )
            block.task = task

    def refined(self) -> list[Parameter]:
        """Deep experts and routers: what a second stage trains alone, for a tenth of the steps at a tenth of the rate.

        Experts that blocks share are listed once.
        """
        parts = [p for b in self._experts() for p in (b.deep, b.to_shallow, b.to_deep, b.level)]
        return list(dict.fromkeys(p for part in parts for p in part.parameters()))
