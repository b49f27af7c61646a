"""Attention to a sliding window and to one summary of each group of tokens.

As in the method card dasg-moe, part 1. With groups of g tokens and a window of w, token t of group i attends in one
softmax to the keys of its window and to summaries of the groups before it (not causal: of all others):

    v_j = sum over t in group j of a_t v_t,  k_j likewise,  a = softmax over the group of (u_h . k_t) / sqrt(dh)

u_h is learned for each head and begins at zero, the mean. The own group's summary is left out: in a causal model it
would tell of tokens to come. A token meets 2g keys of the band (not causal: 3g) and T / g summaries, not T keys.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from ...errors import InputError
from ...settings import Count, checked

Attention = Literal["grouped", "window", "full"]


class GroupedAttention(Module):
    """Attention to a window of near tokens and to summaries of groups of far ones.

    Args:
        width: d.
        heads: H, a divisor of d.
        group: tokens of a group, g; about sqrt(T / 2) costs least.
        window: keys that a token sees, itself included (causal); not causal, those at most w / 2 away.
        kv_heads: heads of keys and values; H unless given.
        causal: whether a token sees only itself and what is before it.
        attention: "grouped"; without summaries ("window"); or to every token ("full").

    Raises:
        InputError: if heads do not divide the width, or the window reaches past the neighbouring group.
    """

    @checked
    def __init__(
        self, width: Count, heads: Count, *, group: Count = 128, window: Count = 128, kv_heads: Count | None = None,
        causal: bool = True, attention: Attention = "grouped",
    ) -> None:  # fmt: skip
        super().__init__()
        kv = heads if kv_heads is None else kv_heads
        if width % heads or heads % kv:
            raise InputError(
                f"GroupedAttention: heads must divide the width, and kv_heads the heads; got width {width}, {heads} "
                f"heads, {kv} of keys and values."
            )
        reach = window if causal else window // 2
        if attention != "full" and reach > group:
            raise InputError(
                f"GroupedAttention.window={window} reaches past the neighbouring group of {group} tokens. Take a group "
                "of at least the window (not causal: half of it)."
            )
        self.heads, self.kv_heads, self.group, self.window = heads, kv, group, window
        self.causal, self.kind = causal, attention
        self.head_width = width // heads
        self.q = Linear(width, width, bias=False)
        self.kv = Linear(width, 2 * kv * self.head_width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.pool = Parameter(torch.zeros(heads, self.head_width))  # u_h

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        return self.attend(x)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The answer [B, T, d], and how spread each token's near attention is, its entropy in nats [B, T].

        The entropy is the mean over heads, of the window's keys alone (in full attention, of all). Where T is no more
        than a group there is nothing to summarise: attention is full, and a warning says so.
        """
        n, t, width = x.shape
        q = self.q(x).view(n, t, self.heads, self.head_width).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, self.kv_heads, self.head_width).permute(2, 0, 3, 1, 4)
        k, v = (s.repeat_interleave(self.heads // self.kv_heads, 1) for s in (k, v))
        short = self.kind == "grouped" and t <= self.group
        if short:
            warnings.warn(
                f"GroupedAttention: {t} tokens are no more than one group of {self.group}, so attention is full.",
                stacklevel=2,
            )
        y, entropy = self._full(q, k, v) if self.kind == "full" or short else self._banded(q, k, v)
        answer: Tensor = self.out(y.transpose(1, 2).reshape(n, t, width))
        return answer, entropy.mean(1)

    def _full(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        scores = q @ k.transpose(-1, -2) / self.head_width**0.5
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        p = scores.softmax(-1)
        return p @ v, _entropy(p)

    def _banded(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, dh] in groups against the band around them and, if asked, the summaries."""
        t, g = q.shape[2], self.group
        count = -(-t // g)
        q, k, v = (F.pad(s, (0, 0, 0, count * g - t)).view(*s.shape[:2], count, g, -1) for s in (q, k, v))
        sides = range(-1, 1) if self.causal else range(-1, 2)
        keys, values = (torch.cat([_shifted(s, side) for side in sides], 3) for s in (k, v))
        scores = torch.einsum("bhgqd,bhgkd->bhgqk", q, keys) / self.head_width**0.5
        scores = scores.masked_fill(~self._near(count, t, q.device), -torch.inf)
        near = scores.shape[-1]
        if self.kind == "grouped":
            far_k, far_v = self._summaries(k, v, t)
            far = torch.einsum("bhgqd,bhkd->bhgqk", q, far_k) / self.head_width**0.5
            i, j = torch.arange(count, device=q.device)[:, None, None], torch.arange(count, device=q.device)
            scores = torch.cat(
                [scores, far.masked_fill((j >= i) if self.causal else (j == i), -torch.inf)], -1
            )
        p = scores.softmax(-1)
        y = torch.einsum("bhgqk,bhgkd->bhgqd", p[..., :near], values)
        if self.kind == "grouped":
            y = y + torch.einsum("bhgqk,bhkd->bhgqd", p[..., near:], far_v)
        own = p[..., :near] / p[..., :near].sum(-1, keepdim=True).clamp(min=1e-30)
        return y.flatten(2, 3)[:, :, :t], _entropy(own).flatten(2)[:, :, :t]

    def _near(self, count: int, t: int, device: torch.device) -> Tensor:
        """Which keys of the band each query sees, bool [G, g, band]; a padded query sees itself."""
        g = self.group
        at = torch.arange(count * g, device=device).view(count, g, 1)
        start = (torch.arange(count, device=device) - 1) * g
        key = start[:, None, None] + torch.arange(g * (2 if self.causal else 3), device=device)
        back = at - key
        seen = (back >= 0) & (back < self.window) if self.causal else back.abs() <= self.window // 2
        return (seen & (key >= 0) & (key < t)) | (back == 0)

    def _summaries(self, k: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """One key and one value a group, [B, H, G, dh], padding left out."""
        weight = torch.einsum("hd,bhgtd->bhgt", self.pool, k) / self.head_width**0.5
        there = torch.arange(k.shape[2] * k.shape[3], device=k.device).view(k.shape[2:4]) < t
        a = weight.masked_fill(~there, -torch.inf).softmax(-1)
        return torch.einsum("bhgt,bhgtd->bhgd", a, k), torch.einsum("bhgt,bhgtd->bhgd", a, v)


def _shifted(s: Tensor, side: int) -> Tensor:
    """Groups [B, H, G, g, dh] in which each holds its neighbour's tokens; zeros past the ends."""
    if side == 0:
        return s
    return F.pad(s, (0, 0, 0, 0, 1, 0))[:, :, :-1] if side < 0 else F.pad(s, (0, 0, 0, 0, 0, 1))[:, :, 1:]


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=1e-30).log()).sum(-1)
