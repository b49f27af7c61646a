"""UOE: unlearn in one expert of a mixture of experts, and keep the router choosing it.

Zhuang, Zhang and others, "SEUF: Is Unlearning One Expert Enough for Mixture-of-Experts LLMs?", ACL 2025 (first as "UOE:
Unlearning One Expert Is Enough For Mixture-of-experts LLMS"), arXiv 2411.18797. With g the gate values of a token t of
text j, as the model applies them and 0 for experts that were not chosen, an expert's affinity to the forget set is

    s_i = mean over texts j of 1 / L_j * sum over its tokens of g_i(t)

The expert of the largest s over all layers is trained by any unlearner of language models, with its layer's router and
nothing else, on that unlearner's loss plus

    alpha * mean over tokens to forget of || p(t) - a ||^2

p being the router's scores of all N experts (softmax, or what the model applies) and a one-hot at the expert: else the
loss is lowered by sending tokens elsewhere.

Decided here: the other unlearner is left as it is. It trains a model in which all else is frozen and the expert's
matrices are parameters of their own, so that neither an optimiser nor weight decay moves the other experts; the
anchor's gradient joins its own where the layer's output is read, once a batch of texts to forget. Where layers have
different numbers of experts, affinities are multiplied by that number. With several experts in a layer, a is shared
evenly among them. "forget minus retain" is an addition: gate mass alone picks experts that are popular everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..models.moe import HeldApart, MoE, Routed, moe_layers, watching
from ..paper import Paper
from ..random import child, require_generator
from ..settings import Count, NonNegative, Whole, refuse_idle, settings
from ..tasks import Autoregressive, evaluating, requires
from ..tasks.language import CausalLM
from ..types import Batch, Data, Edit, Request

FORGOTTEN = "anchored"
"""Key that marks a batch of texts to forget."""


@dataclass(frozen=True)
class Chosen:
    """An expert to unlearn in.

    Attributes:
        layer: which of the model's mixtures of experts, from 0.
        name: path of that block.
        expert: which of its experts.
        affinity: see the module; NaN where the expert was given.
    """

    layer: int
    name: str
    expert: int
    affinity: float = float("nan")


@settings
class UOE:
    """Run an unlearner of language models on one expert and its router, which is held to choosing it.

    Attributes:
        unlearn: the unlearner; every one of family language that trains weights themselves (lora=None).
        experts: how many are trained; the paper's finding is that one is best.
        expert: (layer, expert) to train, counted over the mixtures of experts; chosen by affinity unless given.
        attribution: how tokens to forget are counted for an expert: by their gate values, by how many chose it, or by
            gate values less those of the retain set.
        pick: the experts of highest affinity, or any ("random", the paper's control).
        alpha: weight of what holds the router.
        train_router: whether the layer's router is trained; else `alpha` would do nothing.
        texts: of each set that affinities are read on, at most.
    """

    unlearn: Edit[Request[CausalLM]]
    experts: Count = 1
    expert: tuple[Whole, Whole] | None = None
    attribution: Literal["gate", "frequency", "forget minus retain"] = "gate"
    pick: Literal["highest", "random"] = "highest"
    alpha: NonNegative = 1.0
    train_router: bool = True
    texts: Count = 512

    paper: ClassVar[Paper] = Paper(
        "SEUF: Is Unlearning One Expert Enough for Mixture-of-Experts LLMs?",
        "Zhuang, Zhang and others", "ACL", 2025, "2411.18797",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.expert is not None:
            refuse_idle(
                self, "experts", "attribution", "pick", "texts", when="with expert, which is taken as it is"
            )
        if self.pick == "random":
            refuse_idle(self, "attribution", "texts", when='with pick="random", which reads no affinity')
        if not self.train_router:
            refuse_idle(self, "alpha", when="with train_router=False, which leaves the router as it is")
        if getattr(self.unlearn, "lora", None) is not None:
            raise InputError(
                f"UOE.unlearn, a {type(self.unlearn).__name__}, trains adapters on every linear layer (lora); UOE "
                "trains one expert's own weights. Leave its lora out."
            )

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` in which only the chosen experts and their routers differ.

        Args:
            model: with mixtures of experts; left unchanged.
            data: what `unlearn` reads.
            rng: governs what `unlearn` draws, and a random choice.

        Raises:
            EmptyDataError: if a part that is read is empty.
            InputError: if the model has no such layer or no such expert, the data hold no texts, or the router's scores
                are not seen.
        """
        require_generator(rng)
        data.forget.require_examples("UOE")
        requires(data.forget.task, Autoregressive, "UOE")
        moes = moe_layers(model, "UOE")
        places = [
            _Place(moes[layer], tuple(c.expert for c in group), gates_of(model, moes[layer], data.forget))
            for layer, group in _by_layer(self.chosen(model, data, rng=child(rng)))
        ]
        prepared = _prepared(model, places, self.train_router)
        weight = self.alpha / max(1, getattr(self.unlearn, "accumulate", 1)) if self.train_router else 0.0
        task = _Anchored(places=tuple(places), weight=weight)
        trained = self.unlearn.apply(prepared, _marked(data, task), rng=rng)
        return _put_back(model, trained, places)

    def chosen(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> list[Chosen]:
        """The experts that would be trained, those of highest affinity first.

        Raises:
            InputError: if there is no such expert, or there are fewer.
        """
        moes = moe_layers(model, "UOE")
        if self.expert is not None:
            layer, expert = self.expert
            if layer >= len(moes) or expert >= moes[layer].count:
                sizes = ", ".join(str(m.count) for m in moes)
                raise InputError(
                    f"UOE.expert is {self.expert}; the model's layers have {sizes} experts, from 0."
                )
            return [Chosen(layer, moes[layer].name, expert)]
        total = sum(m.count for m in moes)
        if self.experts > total:
            raise InputError(f"UOE.experts is {self.experts}; the model has {total}.")
        if self.pick == "random":
            every = [Chosen(k, m.name, i) for k, m in enumerate(moes) for i in range(m.count)]
            return [every[i] for i in torch.randperm(total, generator=rng)[: self.experts].tolist()]
        found = self.affinities(model, data)
        ranked = sorted(
            (Chosen(k, m.name, i, float(found[k][i])) for k, m in enumerate(moes) for i in range(m.count)),
            key=lambda c: (-c.affinity, c.layer, c.expert),
        )
        return ranked[: self.experts]

    def affinities(self, model: Module, data: Request[CausalLM]) -> list[Tensor]:
        """Affinity of each layer's experts to the forget set, float64 [experts] each; see the module."""
        moes = moe_layers(model, "UOE")
        ones = self.attribution == "frequency"
        found = affinities(model, moes, _some(data.forget, self.texts), ones=ones)
        if self.attribution == "forget minus retain":
            data.retain.require_examples("UOE with attribution by both sets")
            others = affinities(model, moes, _some(data.retain, self.texts))
            found = [a - b for a, b in zip(found, others, strict=True)]
        apart = len({m.count for m in moes}) > 1
        return [s * m.count if apart else s for s, m in zip(found, moes, strict=True)]


def affinities(model: Module, moes: Sequence[MoE], data: Data[Any], *, ones: bool = False) -> list[Tensor]:
    """Mean over texts of each text's mean gate value an expert, float64 [experts] a layer.

    Args:
        model: left unchanged.
        moes: its mixtures of experts.
        data: texts.
        ones: count choices, and not gate values.
    """
    task, texts = data.task, 0
    found = {m.name: torch.zeros(m.routes, dtype=torch.float64) for m in moes}
    with evaluating(model):
        for batch in data.batches():
            present = task.present(batch)
            rows, lengths = present.nonzero()[:, 0], present.sum(1)

            def see(moe: MoE, routed: Routed, rows: Tensor = rows, lengths: Tensor = lengths) -> None:
                w = torch.ones_like(routed.weights) if ones else routed.weights
                own = routed.index < moe.routes  # others lie on another machine
                each = torch.zeros(len(routed.index), moe.routes, dtype=torch.float64)
                each.scatter_add_(1, routed.index.clamp(max=moe.routes - 1).cpu(), (w * own).double().cpu())
                found[moe.name] += (each / lengths[rows][:, None]).sum(0)

            with watching(moes, see, present):
                task.outputs(model, batch)
            texts += len(present)
    return [found[m.name] / texts for m in moes]


def gates_of(model: Module, moe: MoE, data: Data[Any]) -> Callable[[Tensor], Tensor]:
    """What makes gate values of the router's answers: nothing, a softmax or a sigmoid, whichever the model applies.

    Raises:
        InputError: if the router's answers are not seen.
    """
    seen: list[Routed] = []
    batch = next(data.batches())
    with evaluating(model), watching([moe], lambda _, routed: seen.append(routed), data.task.present(batch)):
        data.task.outputs(model, batch)
    logits, index, weights = seen[0].logits, seen[0].index, seen[0].weights.double()
    if logits is None:
        raise InputError(f"UOE cannot see the scores of the router of {moe.name}, so it cannot hold it.")
    options: tuple[Callable[[Tensor], Tensor], ...] = (_same, _softmax, torch.sigmoid)
    for shares in (False, True):
        for gate in options:
            own = gate(logits.double()).gather(1, index)
            pair = [w / w.sum(1, keepdim=True) for w in (own, weights)] if shares else [own, weights]
            if torch.allclose(pair[0], pair[1], rtol=1e-2, atol=1e-3):
                return gate
    return _softmax


def _same(logits: Tensor) -> Tensor:
    return logits


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


@dataclass(frozen=True)
class _Place:
    """Experts of one layer that are trained, and what makes gate values of its router's answers."""

    moe: MoE
    experts: tuple[int, ...]
    gate: Callable[[Tensor], Tensor]

    def within(self, model: Module) -> MoE:
        """The same layer of a model whose experts may be held apart."""
        prefix = f"{self.moe.name}."
        parts = {id(m): n for n, m in self.moe.block.named_modules()}
        experts, router = (
            model.get_submodule(prefix + parts[id(m)]) for m in (self.moe.experts, self.moe.router)
        )
        return replace(self.moe, block=model.get_submodule(self.moe.name), experts=experts, router=router)

    def penalty(self, routed: Routed) -> Tensor:
        """Mean over tokens of || p - a ||^2."""
        assert routed.logits is not None
        p = self.gate(routed.logits.to(torch.promote_types(routed.logits.dtype, torch.float32)))
        goal = torch.zeros_like(p)
        goal[:, list(self.experts)] = 1 / len(self.experts)
        return (p - goal).square().sum(1).mean()


class _Beside(torch.autograd.Function):
    """A tensor as it is, and beside its gradient that of a penalty."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, penalty: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *pull: Tensor) -> Any:
        return pull[0], torch.ones((), device=pull[0].device)


@dataclass(frozen=True)
class _Anchored(CausalLM):
    """Texts, of which those to forget hold the router."""

    places: tuple[_Place, ...] = ()
    weight: float = 0.0

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        marked = isinstance(batch, Mapping) and FORGOTTEN in batch
        if not (marked and self.weight and torch.is_grad_enabled()):
            return super().outputs(model, batch)
        with _holding(model, self.places, self.weight, self.present(batch)):
            return super().outputs(model, batch)


@contextmanager
def _holding(model: Module, places: Sequence[_Place], weight: float, present: Tensor) -> Iterator[None]:
    """Add the penalties' gradients where the blocks' outputs are read."""
    inside = {p.moe.name: (p, p.within(model)) for p in places}
    due: dict[str, Tensor] = {}

    def see(moe: MoE, routed: Routed) -> None:
        due[moe.name] = weight * inside[moe.name][0].penalty(routed).float()

    def answered(name: str) -> Callable[..., Any]:
        def hook(_: Module, __: Any, output: Any) -> Any:
            penalty = due.pop(name)
            if not penalty.requires_grad:
                return output
            if isinstance(output, Tensor):
                return _Beside.apply(output, penalty)  # type: ignore[no-untyped-call]
            return (_Beside.apply(output[0], penalty), *output[1:])  # type: ignore[no-untyped-call]

        return hook

    hooks = [moe.block.register_forward_hook(answered(name)) for name, (_, moe) in inside.items()]
    try:
        with watching([moe for _, moe in inside.values()], see, present):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _prepared(model: Module, places: Sequence[_Place], train_router: bool) -> Module:
    """The model with the chosen experts held apart and all else frozen; its weights are the model's own."""
    shared: dict[int, Any] = {id(p): Parameter(p.detach(), False) for p in model.parameters()}
    free = {id(p) for p in model.parameters() if p.requires_grad}
    made = deepcopy(model, shared)
    names = {id(m): n for n, m in model.named_modules()}
    for place in places:
        at = names[id(place.moe.experts)]
        apart = HeldApart(made.get_submodule(at), place.experts)
        for n, p in place.moe.experts.named_parameters(recurse=False):
            if n in apart.own:
                apart.own[n].requires_grad_(id(p) in free)
        parent, _, own = at.rpartition(".")
        setattr(made.get_submodule(parent), own, apart)
        router = made.get_submodule(names[id(place.moe.router)])
        for name, p in place.moe.router.named_parameters() if train_router else ():
            _own(router, name, Parameter(p.detach().clone(), id(p) in free))
    return made


def _own(module: Module, name: str, parameter: Parameter) -> None:
    at, _, own = name.rpartition(".")
    setattr(module.get_submodule(at), own, parameter)


def _put_back(model: Module, trained: Module, places: Sequence[_Place]) -> Module:
    edited = copied(model)
    names = {id(m): n for n, m in model.named_modules()}
    alive = Mask.of(model)
    with torch.no_grad():
        for place in places:
            at, router = names[id(place.moe.experts)], names[id(place.moe.router)]
            apart: Any = trained.get_submodule(at)
            experts = dict(edited.get_submodule(at).named_parameters(recurse=False))
            for name, own in apart.own.items():
                experts[name][list(place.experts)] = own
            learned = dict(trained.get_submodule(router).named_parameters())
            for name, p in edited.get_submodule(router).named_parameters():
                p.copy_(learned[name])
        for _, weight, keep in alive.match(edited):
            weight.masked_fill_(~keep, 0)
    return edited


def _marked(data: Request[CausalLM], task: CausalLM) -> Request[CausalLM]:
    """The request read by `task`, with batches of the forget set marked."""
    plain, collate = data.forget.task, data.forget.collate

    def marked(examples: list[Any]) -> dict[str, Any]:
        batch = collate(examples)
        told = (
            dict(batch)
            if isinstance(batch, Mapping)
            else {"input_ids": plain.ids(batch), "labels": plain.labels(batch)}
        )
        return {**told, FORGOTTEN: torch.ones(len(told["input_ids"]))}

    return Request(
        replace(data.forget, task=task, collate=marked), replace(data.retain, task=task), data.heldout
    )


def _by_layer(chosen: Sequence[Chosen]) -> list[tuple[int, list[Chosen]]]:
    layers = dict.fromkeys(c.layer for c in chosen)
    return [(layer, [c for c in chosen if c.layer == layer]) for layer in layers]


def _some(data: Data[Any], most: int) -> Data[Any]:
    if len(data) <= most:
        return data
    return data.subset(torch.linspace(0, len(data) - 1, most).long())
