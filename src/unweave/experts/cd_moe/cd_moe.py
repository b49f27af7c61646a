"""CD-MoE: replace whole mixture-of-experts layers by small dense blocks that every token passes.

Cao, Li, Ji et al., "Condense, Don't Just Prune: Enhancing Efficiency and Performance in MoE Layer Pruning", 2024
(https://arxiv.org/abs/2412.00069). Steps 0 to 4 follow the method card, which follows the authors' code where the paper
is silent. A condensed layer l answers

    y(x) = Sh(x) + sum over e in S_l of alpha_{l,e} E_e(x)

for every token, with alpha the mean weight that the router gives the expert where it is chosen, not renormalised over
S_l. Experts are chosen greedily in each layer by the Jensen-Shannon divergence of the softmaxes, over the hidden
dimension, of the decoder layer's output before and after; layers greedily by the same of the final hidden state.

Decided here, where the card leaves it open or the code differs from its intention:
- An expert that no calibration token chose gets the layer's mean alpha (the code: 0.06).
- The last decoder layer is compared after the final norm, as the authors' code does.
- Greedy ties go to the lower index.
- Where a model weighs what experts read (Llama 4), so does alpha.
- Light tuning warms up linearly over 3 % of the steps and decays to half of the rate; padding counts nowhere. What the
  authors' scheduler does instead (no warm-up, to 0) is `schedule="to zero"`.
- Folding is exact and comes after tuning, so that Adam sees each expert's own matrices.
- Block trimming never takes the first decoder layer: its cache tells the model how much has been read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...derivatives import spaced
from ...errors import InputError
from ...masks.layers import copied
from ...models.moe import Condensed, MoE, Trimmed, moe_layers
from ...models.moe.dense import swap_
from ...paper import Paper
from ...progress import progress
from ...random import require_generator
from ...settings import Count, Positive, SomeShare, Whole, refuse_idle, settings
from ...tasks import evaluating, requires
from ...tasks.language import CausalLM
from ...types import Data
from .._recover import Recovery, expert_places, recover_
from .choose import Alpha, Selector, choose_experts, condensation_weights, least_squares
from .layers import choose_layers, fixed_order
from .states import Metric, capture, last_norm


@dataclass(frozen=True)
class Choice:
    """What was chosen, before anything is changed.

    Attributes:
        order: paths of the replaced modules, in the order of their choice.
        final: distance of the final hidden states after each of them.
        kept: block -> its experts in the order of their choice; of all blocks, replaced or not.
        alpha: block -> their weights.
        alone: block -> distance of its layer's output with none, the first, the first two, ... of them.
        ready: path -> the module that replaces it.
    """

    order: Sequence[str]
    final: Sequence[float]
    kept: Mapping[str, Sequence[int]]
    alpha: Mapping[str, Sequence[float]]
    alone: Mapping[str, Sequence[float]]
    ready: Mapping[str, Module]


@settings
class CDMoE:
    """Condense mixture-of-experts layers to their shared expert and a few routed ones with fixed weights.

    Attributes:
        mode: "SR" keeps the shared expert and k routed ones, "S" the shared one alone. Baselines: "layer trim" takes
            the whole block out, "block trim" the whole decoder layer.
        k: routed experts kept in a condensed layer; the model's own number a token unless given.
        layers: layers to condense; as many as `memory` asks unless given.
        memory: share of the model's parameters to end with, at most.
        metric: how hidden states are compared: "js", relative "l2", or "cosine".
        selector: how experts are chosen.
        layer_selector: "greedy"; "sequential": by each layer's own effect alone; or the layers, counted from 0 among
            the mixture-of-experts layers.
        alpha: weights of the kept experts; "least squares" is our extension: one ridge solve a layer.
        examples: calibration texts, evenly spaced through the data.
        fold: multiply alpha into the weights.
        recover: light tuning of the shared and kept experts of condensed layers: none, language modelling ("lm"), the
            same on a low-rank change of them ("lora"), or towards the original's predictions ("distil").
        recover_epochs: passes over the data.
        recover_lr: peak rate of AdamW.
        schedule: of that rate: "to half", or the authors' "to zero".
    """

    mode: Literal["SR", "S", "layer trim", "block trim"] = "SR"
    k: Whole | None = None
    layers: Count | None = None
    memory: SomeShare = 0.725
    metric: Metric = "js"
    selector: Selector = "greedy"
    layer_selector: Literal["greedy", "sequential"] | tuple[Whole, ...] = "greedy"
    alpha: Alpha = "conditional mean"
    examples: Count = 100
    fold: bool = True
    recover: Recovery = "none"
    recover_epochs: Count = 1
    recover_lr: Positive = 1e-5
    schedule: Literal["to half", "to zero"] = "to half"

    paper: ClassVar[Paper] = Paper(
        "Condense, Don't Just Prune: Enhancing Efficiency and Performance in MoE Layer Pruning",
        "Cao, Li, Ji, Zhang, Ma, Liu, Yin", "arXiv", 2024, "2412.00069",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.layers is not None:
            refuse_idle(self, "memory", when="with layers: it says how many")
        if isinstance(self.layer_selector, tuple):
            refuse_idle(self, "layers", "memory", when="with a list of layers")
        if self.mode != "SR":
            refuse_idle(
                self, "k", "selector", "alpha", when=f"with mode={self.mode!r}: no routed expert is kept"
            )
        if self.mode.endswith("trim"):
            refuse_idle(
                self, "fold", "recover", when=f"with mode={self.mode!r}: nothing is left to fold or tune"
            )
        if self.recover == "none":
            refuse_idle(self, "recover_epochs", "recover_lr", "schedule", when='with recover="none"')

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A condensed copy of `model`, a causal language model.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: calibration texts; all of them serve the light tuning.
            rng: for random choices and the order of the tuning.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, or k, layers or memory ask for more than the model has.
        """
        return self.carry_out(self.choose(model, data, rng=rng), model, data, rng=rng)

    def check(self, model: Module) -> None:
        """Refuse what `apply` would refuse of a model, before any text is read; errors as there."""
        moes = moe_layers(model, "CDMoE")
        k = self._experts(moes)
        some = {moe.name: list(range(k)) for moe in moes}
        self._limits(model, self._ready(model, moes, some, dict.fromkeys(some, torch.ones(k))))

    def carry_out(self, choice: Choice, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A condensed copy of `model` by what was chosen for it; arguments as in `apply`."""
        edited = copied(model)
        for name in choice.order:
            swap_(edited, name, copied(choice.ready[name]))
        if self.recover != "none":
            warm, floor = (0.03, 0.5) if self.schedule == "to half" else (0.0, 0.0)
            recover_(
                edited, model, data, expert_places(edited), by=self.recover, epochs=self.recover_epochs,
                lr=self.recover_lr, warm=warm, floor=floor, rng=rng,
            )  # fmt: skip
        for module in edited.modules():
            if isinstance(module, Condensed) and self.fold:
                module.fold_()
        return edited

    def choose(self, model: Module, data: Data[Any], *, rng: Generator) -> Choice:
        """Choose experts, weights and layers, without changing the model; arguments and errors as in `apply`."""
        require_generator(rng)
        data.require_examples("CDMoE")
        requires(data.task, CausalLM, "CDMoE")
        texts = spaced(data, self.examples)
        kept: dict[str, list[int]] = {}
        alpha: dict[str, Tensor] = {}
        alone: dict[str, list[float]] = {}
        with evaluating(model):
            moes = moe_layers(model, "CDMoE")
            k = self._experts(moes)
            if not self.mode.endswith("trim"):
                with progress("choose experts", len(moes)) as bar:
                    for moe in moes:
                        part = self._chosen(model, texts, moe, k, moe is moes[-1], rng)
                        kept[moe.name], alpha[moe.name], alone[moe.name] = part
                        bar.advance()
            ready = self._ready(model, moes, kept, alpha)
            order, final = self._ordered(model, texts, ready)
        weights = {name: a.tolist() for name, a in alpha.items()}
        return Choice(order, final, kept, weights, alone, ready)

    def _experts(self, moes: Sequence[MoE]) -> int:
        """How many routed experts stay in a condensed layer, once that fits all layers."""
        least = min(moe.count for moe in moes)
        k = {"SR": moes[0].top_k if self.k is None else self.k}.get(self.mode, 0)
        if k > least:
            raise InputError(f"CDMoE.k must be at most {least}, the experts of {moes[0].name}; got {k}.")
        bare = next((moe.name for moe in moes if moe.shared is None), None)
        if k == 0 and bare is not None and not self.mode.endswith("trim"):
            raise InputError(
                f"CDMoE: {bare} has no shared expert, so mode S (no routed expert) leaves nothing of it. Take mode SR "
                "with k of at least 1."
            )
        return k

    def _chosen(
        self, model: Module, texts: Data[Any], moe: MoE, k: int, last: bool, rng: Generator
    ) -> tuple[list[int], Tensor, list[float]]:
        seen = capture(model, texts, moe)
        if len(seen.output) < 2:
            raise InputError(
                "CDMoE: the calibration texts hold one token in all, from which nothing can be told. Give longer texts."
            )
        weights = condensation_weights(moe, seen, self.alpha)
        norm = last_norm(model, texts) if last and _is_last_layer(model, moe) else None
        kept, distances = choose_experts(
            moe, seen, weights, k, selector=self.selector, metric=self.metric, norm=norm, rng=rng
        )
        own = weights[kept]
        return kept, least_squares(moe, seen, kept, own) if self.alpha == "least squares" else own, distances

    def _ready(
        self, model: Module, moes: Sequence[MoE], kept: Mapping[str, list[int]], alpha: Mapping[str, Tensor]
    ) -> dict[str, Module]:
        if self.mode == "layer trim":
            return {moe.name: Trimmed(whole=False, pair=moe.pair) for moe in moes}
        if self.mode == "block trim":
            later = [moe for moe in moes if not _is_first_layer(model, moe)]
            return {moe.layer: Trimmed(whole=True) for moe in later}
        return {moe.name: Condensed.of_block(moe, kept[moe.name], alpha[moe.name]) for moe in moes}

    def _ordered(
        self, model: Module, texts: Data[Any], ready: Mapping[str, Module]
    ) -> tuple[list[str], list[float]]:
        names = list(ready)
        saved, total = self._limits(model, ready)
        if isinstance(self.layer_selector, tuple):
            order = [names[i] for i in self.layer_selector]
            return order, fixed_order(model, texts, ready, order, self.metric)

        def enough(done: Sequence[str]) -> bool:
            if self.layers is not None:
                return len(done) >= self.layers
            return total - sum(saved[name] for name in done) <= self.memory * total

        greedy = self.layer_selector == "greedy"
        return choose_layers(model, texts, ready, enough, greedy=greedy, metric=self.metric)

    def _limits(self, model: Module, ready: Mapping[str, Module]) -> tuple[dict[str, int], int]:
        """Parameters that each replacement saves, and those of the model, once the settings fit these."""
        names = list(ready)
        total = _size(model)
        saved = {name: _size(model.get_submodule(name)) - _size(new) for name, new in ready.items()}
        if isinstance(self.layer_selector, tuple):
            given = self.layer_selector
            if not given or max(given) >= len(names) or len(set(given)) < len(given):
                raise InputError(
                    f"CDMoE.layer_selector must name different layers from 0 to {len(names) - 1}; got {given}."
                )
        elif self.layers is not None and self.layers > len(names):
            raise InputError(
                f"CDMoE.layers must be at most {len(names)}, the mixture-of-experts layers that can be replaced; got "
                f"{self.layers}."
            )
        least = (total - sum(max(s, 0) for s in saved.values())) / total
        if self.layers is None and not isinstance(self.layer_selector, tuple) and self.memory < least:
            raise InputError(
                f"CDMoE.memory={self.memory:g} cannot be reached: with all {len(names)} layers replaced "
                f"{least:.3f} of the parameters are left. Ask for more, or keep fewer experts (k)."
            )
        return saved, total


def _size(module: Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _siblings(model: Module, moe: MoE) -> list[Module]:
    return list(model.get_submodule(moe.layer.rpartition(".")[0]).children())


def _is_last_layer(model: Module, moe: MoE) -> bool:
    return _siblings(model, moe)[-1] is model.get_submodule(moe.layer)


def _is_first_layer(model: Module, moe: MoE) -> bool:
    return _siblings(model, moe)[0] is model.get_submodule(moe.layer)
