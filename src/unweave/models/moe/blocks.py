"""Find every mixture of experts of a model by structure, and read it; refuse what is not understood.

A block is a module with a child of two stacked parameters [experts, ., .] (the experts), a child with a matrix
[experts, H] (the router), and perhaps a dense child (the shared expert) and a linear layer to one number (its gate).
That covers Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek-V2 and V3, GPT-OSS and Llama 4 of transformers 5 without
asking for one of their names. Each reading is checked against the block's own answers before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleList

from ...errors import InputError
from ...random import seeded
from ...tasks import evaluating
from .matrices import Layout, Matrices, feed_forwards, layouts
from .watch import Routed, route_once

_PROBES = 16  # tokens that a reading is checked on
_EPS = 256  # allowed difference in units of the dtype's own rounding


@dataclass(frozen=True, eq=False)
class MoE:
    """One mixture of experts of a model.

    Attributes:
        name: its path in the model.
        block: the module there.
        experts: the fused experts.
        router: what chooses among them.
        shared: the expert that every token passes, or None.
        shared_gate: linear layer whose sigmoid scales the shared expert's output, or None.
        layout: where the matrices lie in `experts`.
        shared_matrices: those of the shared expert.
        top_k: experts a token.
        width: H.
        scales_input: whether the weight multiplies what an expert reads, and not what it answers (Llama 4).
        pair: whether the block answers with a pair whose first is its output.
    """

    name: str
    block: Module
    experts: Module
    router: Module
    shared: Module | None = None
    shared_gate: Linear | None = None
    layout: Layout = field(default=None)  # type: ignore[assignment]
    shared_matrices: Matrices | None = None
    top_k: int = 0
    width: int = 0
    scales_input: bool = False
    pair: bool = False

    @property
    def layer(self) -> str:
        """Path of the decoder layer that it is a part of."""
        return self.name.rpartition(".")[0]

    @property
    def count(self) -> int:
        """Experts that it holds."""
        return len(next(p for p in self.experts.parameters(recurse=False) if p.ndim == 3))

    @property
    def routes(self) -> int:
        """Outputs of the router: as many as there are experts, unless experts were merged."""
        return len(_scores_of(self.router))

    def expert(self, e: int) -> Matrices:
        """The matrices of one expert: views of the model's own parameters."""
        return self.layout.of(self.experts, e)

    def apply_expert(self, e: int, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """An expert's answer for tokens x [n, H], weighted as the model weighs it; `weight` is a number or [n]."""
        w = weight[:, None].to(x.dtype) if isinstance(weight, Tensor) else weight
        return self.expert(e)(x * w) if self.scales_input else self.expert(e)(x) * w

    def apply_shared(self, x: Tensor) -> Tensor:
        """The shared expert's answer for tokens x [n, H], gated as in the model; zeros where there is none."""
        if self.shared is None:
            return torch.zeros_like(x)
        y: Tensor = self.shared(x)
        return y if self.shared_gate is None else torch.sigmoid(self.shared_gate(x)) * y


def experts_in(module: Module) -> set[str]:
    """Names of a module's own stacked parameters [experts, ., .], if it has two or more of one length."""
    stacks = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim == 3}
    return set(stacks) if len(stacks) > 1 and len({len(p) for p in stacks.values()}) == 1 else set()


def moe_layers(model: Module, who: str = "this") -> list[MoE]:
    """Every mixture of experts of a model, in the order of its modules.

    Args:
        model: left as it is.
        who: named in errors.

    Raises:
        InputError: if there is none, the weights are quantised, lie on several devices, or a block computes something
            that is not understood.
    """
    _refuse_placed(model, who)
    found = [part for name, module in model.named_modules() if (part := _parts(name, module)) is not None]
    if not found:
        raise InputError(f"{who} needs a mixture of experts; {_what_instead(model)}")
    with evaluating(model), torch.no_grad():
        return [_read(moe, getattr(model, "config", None), who) for moe in found]


def _parts(name: str, module: Module) -> MoE | None:
    children = dict(module.named_children())
    experts = [c for c in children.values() if experts_in(c)]
    if len(experts) != 1:
        return None
    n = len(next(p for p in experts[0].parameters(recurse=False) if p.ndim == 3))
    rest = [c for c in children.values() if c is not experts[0] and any(True for _ in c.parameters())]
    gates: list[Module] = [c for c in rest if type(c) is Linear and c.out_features == 1]
    routers = [c for c in rest if c not in gates and len(_scores_of(c)) > 0]
    if not routers and len(gates) == 1 and n == 1:
        routers, gates = gates, []
    shared = [c for c in rest if c not in routers and c not in gates]
    if len(routers) != 1 or len(gates) > 1 or len(shared) > 1 or len(_scores_of(routers[0])) < n:
        return None
    gate: Any = gates[0] if gates else None
    return MoE(name, module, experts[0], routers[0], shared[0] if shared else None, gate)


def _scores_of(router: Module) -> Tensor:
    """The router's own matrix [experts, H]; empty if it has none."""
    own = [p for p in router.parameters(recurse=False) if p.ndim == 2]
    return own[0] if len(own) == 1 else torch.empty(0)


def _read(moe: MoE, config: Any, who: str) -> MoE:
    """Find layout, routing and shared expert of a block, and check that they give its own answers."""
    scores = _scores_of(moe.router)
    width, of = scores.shape[1], next(moe.experts.parameters())
    if not of.is_floating_point() or of.element_size() < 2:
        raise InputError(f"{who}: the experts of {moe.name} are quantised ({of.dtype}). {_DEQUANTISE}")
    x = torch.randn(_PROBES, width, generator=seeded(0)).to(of.device, of.dtype)
    out, routed = route_once(moe, x)
    dense = len(list(_tensors_read(moe, x))) == 1
    parts: dict[str, Any] = {
        "width": width, "top_k": routed.index.shape[1], "scales_input": dense,
        "pair": not isinstance(moe.block(x[None]), Tensor),
    }  # fmt: skip
    parts["layout"] = _fitting_layout(moe, x, config, dense, who)
    if moe.shared is not None:
        y = moe.shared(x)
        fits = [m for m in feed_forwards(moe.shared, width, config) if _close(m(x), y)]
        parts["shared_matrices"] = fits[0] if fits else None
    known = MoE(moe.name, moe.block, moe.experts, moe.router, moe.shared, moe.shared_gate, **parts)
    if not _close(_recomputed(known, x, routed), out):
        raise InputError(
            f"{who}: {moe.name} ({type(moe.block).__name__}) does more with its experts than to weigh and add them, "
            "so it cannot be edited without changing what it computes."
        )
    return known


def _recomputed(moe: MoE, x: Tensor, routed: Routed) -> Tensor:
    y = moe.apply_shared(x)
    for e in range(moe.count):
        tokens, weights = routed.of(e)
        if len(tokens):
            y = y.index_add(0, tokens, moe.apply_expert(e, x[tokens], weights).to(y.dtype))
    return y


def _fitting_layout(moe: MoE, x: Tensor, config: Any, dense: bool, who: str) -> Layout:
    run: Any = moe.experts
    if dense:
        y = run(x.repeat(moe.count, 1))[: len(x)]
    else:
        y = run(x, torch.zeros(len(x), 1, dtype=torch.long, device=x.device), x.new_ones(len(x), 1))
    for layout in layouts(moe.experts, x.shape[1], config):
        if _close(layout.of(moe.experts, 0)(x), y):
            return layout
    raise InputError(
        f"{who}: the experts of {moe.name} ({type(moe.experts).__name__}) are no gated feed-forwards of a known layout "
        f"({', '.join(f'{n} {list(p.shape)}' for n, p in moe.experts.named_parameters(recurse=False))})."
    )


def _tensors_read(moe: MoE, x: Tensor) -> Iterator[Tensor]:
    seen: list[Tensor] = []

    def keep(_: Module, args: Any, kwargs: Any) -> None:
        seen.extend(t for t in [*args, *kwargs.values()] if isinstance(t, Tensor))

    hook = moe.experts.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        moe.block(x[None])
    finally:
        hook.remove()
    yield from seen


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.double().norm()
    return bool((a.double() - b.double()).norm() <= _EPS * torch.finfo(b.dtype).eps * scale)


_DEQUANTISE = "Their numbers cannot be sliced or added. Load the model in float32 or bfloat16."


def _refuse_placed(model: Module, who: str) -> None:
    quantised = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    if quantised or getattr(model, "is_quantized", False):
        raise InputError(f"{who}: this model is quantised. {_DEQUANTISE}")
    devices = {str(p.device) for p in model.parameters()}
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    if "meta" in devices or len(devices) > 1 or spread:
        raise InputError(
            f"{who}: the model was dispatched over {', '.join(sorted(devices))} by accelerate. Load it on one device "
            "(without device_map)."
        )


def _what_instead(model: Module) -> str:
    for name, module in model.named_modules():
        for child in module.children():
            if (
                experts_in(child)
                and not experts_in(module)
                and any(True for _ in module.buffers(recurse=False))
            ):
                return f"the experts of {name} were already merged: their router has outputs that share one."
    for name, module in model.named_modules():
        lists = [c for c in module.children() if isinstance(c, ModuleList) and len(c) > 1]
        routers = [c for c in module.children() if isinstance(c, Linear)]
        if any(len(held) == router.out_features for held in lists for router in routers):
            return (
                f"{name} of this {type(model).__name__} keeps every expert as a module of its own, as transformers 4 "
                "did. Load it with transformers 5, which stacks them."
            )
    return f"this {type(model).__name__} has no block with stacked experts and a router. Give one that has."
