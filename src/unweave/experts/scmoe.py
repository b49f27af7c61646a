"""SCMoE: subtract what a model says under poor routing from what it says under its own.

Shi, Yang et al., "Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by Self-Contrast", NeurIPS 2024
(https://arxiv.org/abs/2405.14507). A strong pass routes as the model does; in a weak pass every token uses one expert
alone in each layer, the one of a given rank. With their logits z_s and z_w of the next token

    V = {v: z_s[v] >= log(alpha) + max z_s},  score[v] = (1 + beta) z_s[v] - beta z_w[v] in V, -inf elsewhere,

and the token is the argmax of the score, or drawn from its softmax. Both passes read the prompt and every token chosen,
each with its own cache.

Both passes are one: a batch of 2 B rows, of which the second half is routed weakly, so one cache object holds the two
caches. Decided here: ranks count from 0, and the experts that the model chose come first, by weight; the others follow
by router score (with the correction bias where there is one). The default rank is thus the first expert not chosen.
Where a router picks groups first, experts of other groups count as well. The threshold on the Jensen-Shannon divergence
of both passes, below which nothing is subtracted, and the sum of both as a control are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError, require
from ..models.moe import MoE, Routed, moe_layers, rerouting, route_once
from ..paper import Paper
from ..random import require_generator, seeded
from ..settings import NonNegative, Share, SomeShare, Whole, refuse_idle, settings
from ..tasks import evaluating

_PROBES = 16  # tokens from which a router's rule of weights is read


@settings
class SCMoE:
    """Decode a mixture of experts against itself under poor routing.

    Attributes:
        beta: how much of the weak pass is subtracted; 0 is plain decoding.
        alpha: a token must be at least this likely, as a share of the likeliest; 1 leaves that one alone.
        weak: the weak pass's expert of each token: that of one rank, any ("random"), or every one ("all").
        rank: counted from 0, the best; the first expert that the model did not choose unless given.
        weak_norm: weight of the weak pass's experts: together 1, or what the model's own rule gives them.
        mode: subtract, or add ("ensemble", z_s + beta z_w), as a control.
        threshold: in nats; where the passes differ by less, in Jensen-Shannon divergence, nothing is subtracted.
    """

    beta: NonNegative = 0.5
    alpha: SomeShare = 0.1
    weak: Literal["rank", "random", "all"] = "rank"
    rank: Whole | None = None
    weak_norm: Literal["one", "model"] = "one"
    mode: Literal["contrast", "ensemble"] = "contrast"
    threshold: Share = 0.0

    paper: ClassVar[Paper] = Paper(
        "Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by Self-Contrast",
        "Shi, Yang, Zhu, Wang, Wu, Li, Cai, Yang, Meng", "NeurIPS", 2024, "2405.14507",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.weak != "rank":
            refuse_idle(self, "rank", when=f"with weak={self.weak!r}")

    def generate(
        self, model: Module, input_ids: Tensor, *, rng: Generator | None = None, **options: Any
    ) -> Tensor:
        """Continue prompts: `model.generate(input_ids, custom_generate=self, ...)` of transformers.

        Args:
            model: a causal language model with mixtures of experts; left unchanged.
            input_ids: prompts [B, t], padded on the left (then with `attention_mask`).
            rng: drawn from with `do_sample=True`, once a token, and with weak="random".
            options: transformers' own: max_new_tokens, do_sample, temperature, eos_token_id, ...

        Returns:
            Prompts and what follows, [B, t + new].

        Raises:
            InputError: if the model has no such layers, a rank no expert, or beams, a dictionary of outputs or
                embeddings are asked for.
        """
        host: Any = model
        ids: Tensor = host.generate(input_ids, custom_generate=self, rng=rng, **options)
        return ids

    @torch.no_grad()
    def __call__(
        self, model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
        rng: Generator | None = None, **others: Any,
    ) -> Tensor:  # fmt: skip
        """As transformers calls a `custom_generate`; see `generate`."""
        _refuse(generation_config, others)
        sample = bool(generation_config.do_sample)
        if sample:
            require_generator(rng)
        eos, pad = generation_config.eos_token_id, generation_config.pad_token_id
        pad = pad if pad is not None else eos[0] if isinstance(eos, list) else eos
        given = others.get("attention_mask")
        mask = torch.ones_like(input_ids) if given is None else given.to(input_ids)
        ids, feed, going = input_ids, input_ids, torch.ones_like(input_ids[:, 0], dtype=torch.bool)
        kept: dict[str, Any] = {}
        with evaluating(model), rerouting(*self._weakly(model, rng)):
            while bool(going.any()):
                at = (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]
                twice = {"input_ids": feed, "attention_mask": mask, "position_ids": at}
                out = model(**{n: t.repeat(2, 1) for n, t in twice.items()}, use_cache=True, **kept)
                kept = _cache_of(out)
                strong, weak = out.logits[:, -1].float().chunk(2)
                score = logits_processor(ids, self.scores(strong, weak))
                new = _drawn(score, rng) if sample else score.argmax(-1)
                feed = (new if pad is None else new.where(going, new.new_tensor(pad)))[:, None]
                ids, mask = torch.cat([ids, feed], 1), torch.cat([mask, torch.ones_like(feed)], 1)
                if others.get("streamer") is not None:
                    others["streamer"].put(feed[:, 0].cpu())
                going = going & ~torch.as_tensor(stopping_criteria(ids, score), device=ids.device)
        if others.get("streamer") is not None:
            others["streamer"].end()
        return ids

    @torch.no_grad()
    def logits(
        self, model: Module, input_ids: Tensor, *, rng: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Strong and weak logits of every position of texts [B, t] without padding, [B, t, vocabulary] each."""
        with evaluating(model), rerouting(*self._weakly(model, rng)):
            strong, weak = model(input_ids=input_ids.repeat(2, 1)).logits.float().chunk(2)
        return strong, weak

    def scores(self, strong: Tensor, weak: Tensor) -> Tensor:
        """The score of each token from both passes' logits [..., vocabulary]; not a calibrated probability."""
        if self.mode == "ensemble":
            score = strong + self.beta * weak
        else:
            score = (1 + self.beta) * strong - self.beta * weak
        if self.threshold:
            score = torch.where(_divergence(strong, weak) > self.threshold, score, strong)
        best = strong.amax(-1, keepdim=True)
        return score.masked_fill(strong < log(self.alpha) + best, -torch.inf)

    def _weakly(self, model: Module, rng: Generator | None) -> tuple[Sequence[MoE], Any]:
        """The blocks, and how the second half of each one's tokens is routed."""
        moes = moe_layers(model, "SCMoE")
        if self.weak == "random":
            require_generator(rng)
        for moe in moes:
            rank = moe.top_k if self.rank is None else self.rank
            if self.weak == "rank" and rank >= moe.routes:
                raise InputError(
                    f"SCMoE.rank={rank} is no expert of {moe.name}, which has {moe.routes}, from 0, and chooses "
                    f"{moe.top_k}. Give a rank below."
                )
        rules = {moe.name: Rule.of(moe) for moe in moes}

        def change(moe: MoE, routed: Routed) -> Routed:
            half = len(routed.hidden) // 2
            second = routed.rows(torch.arange(len(routed.hidden)) >= half)
            index, weights = self._weak(moe, second, rules[moe.name], rng)
            wide = max(index.shape[1], routed.index.shape[1])
            own = _widened(routed.index[:half], routed.weights[:half], wide)
            other = _widened(index, weights.to(routed.weights.dtype), wide)
            return replace(routed, index=torch.cat([own[0], other[0]]), weights=torch.cat([own[1], other[1]]))

        return moes, change

    def _weak(self, moe: MoE, routed: Routed, rule: Rule, rng: Generator | None) -> tuple[Tensor, Tensor]:
        assert routed.logits is not None
        tokens, n = routed.logits.shape
        if self.weak == "random":
            index = torch.randint(n, (tokens, 1), generator=rng).to(routed.index.device)
        elif self.weak == "all":
            index = torch.arange(n, device=routed.index.device).expand(tokens, n)
        else:
            rank = moe.top_k if self.rank is None else self.rank
            index = rule.ranked(routed)[:, rank : rank + 1]
        return index, rule.weights(routed.logits, index, one=self.weak_norm == "one")


@dataclass(frozen=True)
class Rule:
    """How a router weighs the experts that it chose.

    Attributes:
        sigmoid: whether chances are sigmoids of the logits, not their softmax.
        renormalised: whether the chances of the chosen are divided by their sum.
        factor: what they are multiplied by then.
        bias: added to the sigmoids for the choice alone [experts], or None.
    """

    sigmoid: bool
    renormalised: bool
    factor: float
    bias: Tensor | None

    @classmethod
    def of(cls, moe: MoE) -> Rule:
        """Read off a block's own weights of random tokens.

        Raises:
            InputError: if its router tells no logits, or its weights follow neither rule.
        """
        like = next(moe.experts.parameters())
        with torch.no_grad():
            x = torch.randn(_PROBES, moe.width, generator=seeded(1)).to(like.device, like.dtype)
            routed = route_once(moe, x)[1]
        biases = [b for b in moe.router.buffers(recurse=False) if b.shape == (moe.routes,)]
        bias = biases[0] if biases else None
        if routed.logits is not None:
            for renormalised in (False, True):
                for sigmoid in (False, True):
                    rule = cls(sigmoid, renormalised, 1.0, bias)
                    ratio = routed.weights.double() / rule.weights(routed.logits, routed.index, one=False)
                    if float((ratio / ratio.mean() - 1).abs().max()) < 256 * torch.finfo(like.dtype).eps:
                        return replace(rule, factor=float(ratio.mean()))
        raise InputError(
            f"SCMoE: the weights of {moe.name} follow from its router's logits by no known rule."
        )

    def weights(self, logits: Tensor, index: Tensor, *, one: bool) -> Tensor:
        """Weights of these experts [tokens, k], float64: with sum 1, or as the model would weigh them."""
        z = logits.double()
        chances = (torch.sigmoid(z) if self.sigmoid else z.softmax(-1)).gather(1, index)
        if one or self.renormalised:
            chances = chances / chances.sum(1, keepdim=True)
        return chances if one else self.factor * chances

    def ranked(self, routed: Routed) -> Tensor:
        """Experts of each token, best first [tokens, experts]: the chosen ones, then the others."""
        assert routed.logits is not None
        liked = routed.logits.double()
        if self.bias is not None:
            liked = torch.sigmoid(liked) + self.bias.double()
        liked = liked - liked.amax(1, keepdim=True) - 1  # below every weight
        return liked.scatter(1, routed.index, routed.weights.double()).argsort(
            dim=1, descending=True, stable=True
        )


def _widened(index: Tensor, weights: Tensor, wide: int) -> tuple[Tensor, Tensor]:
    """More columns, of the first expert with weight 0."""
    more = wide - index.shape[1]
    zeros = weights.new_zeros(len(weights), more)
    return torch.cat([index, index[:, :1].expand(-1, more)], 1), torch.cat([weights, zeros], 1)


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two softmaxes in nats, [..., 1]."""
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    m = ((p + q) / 2).clamp(min=1e-300).log()
    each: Tensor = torch.special.xlogy(p, p) - p * m + torch.special.xlogy(q, q) - q * m
    return each.sum(-1, keepdim=True) / 2


def _drawn(score: Tensor, rng: Generator | None) -> Tensor:
    return torch.multinomial(score.double().softmax(-1).cpu(), 1, generator=rng)[:, 0].to(score.device)


def _cache_of(out: Any) -> dict[str, Any]:
    """The cache that a model answered with, under the name by which it reads it."""
    cache = require("transformers", extra="vision", purpose="decoding a language model").Cache
    return {n: v for n, v in out.items() if isinstance(v, cache)}


def _refuse(config: Any, others: dict[str, Any]) -> None:
    asked = {
        "num_beams": (config.num_beams or 1) > 1,
        "return_dict_in_generate": bool(config.return_dict_in_generate),
        "inputs_embeds": others.get("inputs_embeds") is not None,
    }
    for name, given in asked.items():
        if given:
            raise InputError(
                f"SCMoE chooses tokens one by one from ids and answers with ids; {name} cannot be used."
            )
