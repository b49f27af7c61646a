"""MoSA: train an adapter as sparse pieces that take turns, and merge them.

Zhang, Zou, An, Liu, Zhang, "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training", 2023,
arXiv 2312.02923 (first version: "MoSA: Mixture of Sparse Adapters for Visual Efficient Tuning").
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Dropout, LayerNorm, Linear, Module, Parameter, ParameterList
from torch.optim import AdamW

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.recipe import warm_cosine
from ..masks.layers import copied
from ..paper import Paper
from ..random import child, global_seed, require_generator
from ..settings import Count, NonNegative, Part, Positive, checked, settings
from ..tasks import Labelled, evaluating, requires
from ..types import Batch, Data


@settings
class MoSA:
    """Adapt a frozen model to new data: adapters trained as sparse pieces, merged to one of the plain size.

    Two passes over a batch draw different pieces; their cross-entropy and the symmetric KL divergence between their
    answers are the loss. Adapters stand beside the layers that `targets` names (in a ViT its feed-forwards, as
    AdaptFormer); only U is split, the down-projection is shared. Masks are cut from a random permutation, so pieces are
    disjoint and complete even where rank times width is no multiple of n. Each piece is a parameter of its own, so that
    weight decay and the optimiser's memory reach it in the steps that draw it and in no other.

    Attributes:
        targets: regular expression on module names; the whole name must match. The layers' input and output must have
            one width, found by running one batch.
        head: regular expression on parameter names that are trained too; "" trains the adapters alone.
        pieces: n.
        rank: width of the bottleneck.
        scale: of the adapter's addition.
        dropout: inside the bottleneck.
        add_weight: weight of the second pass's cross-entropy (w_add).
        reg_weight: weight of the symmetric KL divergence (w_reg); 0 with add_weight 0 saves the second pass.
        epochs: passes over the data.
        lr: peak learning rate of AdamW, warmed up and let down along a cosine.
        weight_decay: of AdamW.
    """

    targets: str = r".*\.mlp"
    head: str = r".*(classifier|head)\..*"
    pieces: Count = 4
    rank: Count = 64
    scale: Positive = 0.1
    dropout: Part = 0.1
    add_weight: NonNegative = 0.0
    reg_weight: NonNegative = 1.0
    epochs: Count = 100
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01

    paper: ClassVar[Paper] = Paper(
        "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training", "Zhang, Zou, An, Liu, Zhang",
        "arXiv", 2023, "2312.02923",
    )  # fmt: skip

    def adapt(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` with trained, merged adapters; its other weights keep their bits.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if no module is named by `targets`, one changes the width, `head` names no parameter, or the
                task has no labels.
        """
        data.require_examples("MoSA")
        requires(data.task, Labelled, "MoSA")
        adapted = self.insert(model, data, rng=child(rng))
        wanted = {n: p.requires_grad for n, p in adapted.named_parameters()}
        if self.head and not any(re.fullmatch(self.head, name) for name in wanted):
            raise InputError(
                f"MoSA.head {self.head!r} names no parameter, so no head would be trained; the last are "
                f"{', '.join(list(wanted)[-4:])}. Name the classifier's, or set head='' to train the adapters alone."
            )
        trained = []
        for name, p in adapted.named_parameters():
            p.requires_grad_(".adapter." in f".{name}" or bool(self.head and re.fullmatch(self.head, name)))
            if p.requires_grad:
                trained.append(p)
        optimizer = AdamW(trained, self.lr, weight_decay=self.weight_decay)
        schedule = warm_cosine(optimizer, self.epochs * data.steps)
        fit_(
            adapted, data, self.objective(data), optimizer,
            epochs=self.epochs, rng=rng, loop=Loop(schedule=schedule, norms="frozen", label="adapt"), 
        )  # fmt: skip
        for module in adapted.modules():
            if isinstance(module, SplitAdapter):
                module.merge_()
        for name, p in adapted.named_parameters():
            p.requires_grad_(wanted[name])
        return adapted

    def insert(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` with fresh adapters beside the target layers."""
        require_generator(rng)
        copy = copied(model)
        names = [n for n, _ in copy.named_modules() if n and re.fullmatch(self.targets, n)]
        if not names:
            some = ", ".join([n for n, m in copy.named_modules() if n and not list(m.children())][:8])
            raise InputError(
                f"MoSA.targets {self.targets!r} names no module; there are, for example: {some}."
            )
        widths = _widths(copy, data, names)
        for name in names:
            owner = copy.get_submodule(name.rpartition(".")[0])
            layer = copy.get_submodule(name)
            like = next(copy.parameters())
            with global_seed(int(torch.randint(2**31, (), generator=rng))):
                adapter = SplitAdapter(widths[name], self.rank, self.pieces, self.scale, self.dropout)
            wrapped = Adapted(layer, adapter.to(like.device, like.dtype))
            wrapped.train(layer.training)
            setattr(owner, name.rpartition(".")[2], wrapped)
        return copy

    def objective(self, data: Data[Any]) -> Any:
        """(model, batch) -> loss of one or two passes with pieces drawn anew."""
        task = data.task

        def loss(model: Module, batch: Batch) -> Tensor:
            labels = task.labels(batch)
            first = task.outputs(model, batch)
            total = F.cross_entropy(first, labels.to(first.device))
            if self.add_weight == 0 and self.reg_weight == 0:
                return total
            second = task.outputs(model, batch)
            total = total + self.add_weight * F.cross_entropy(second, labels.to(second.device))
            a, b = first.log_softmax(1), second.log_softmax(1)
            apart = F.kl_div(a, b.detach(), reduction="batchmean", log_target=True)
            apart = apart + F.kl_div(b, a.detach(), reduction="batchmean", log_target=True)
            return total + self.reg_weight * 0.5 * apart

        return loss


class SplitAdapter(Module):
    """A bottleneck adapter h -> scale U(dropout(gelu(D(LN(h))))) whose U is n pieces with disjoint entries.

    In train mode each call draws one piece from torch's global generator (which `fit_` seeds) for the whole batch. In
    eval mode it must have been merged: U is then the mean of the pieces, the expectation of the random adapter.

    Attributes:
        up: U's pieces, each [width, rank]; of each the entries count that `keep` names.
        bias: one for each piece, [width].
        pieces: n; 1 is the plain adapter.
        merged: whether U is one matrix.
    """

    @checked
    def __init__(self, width: Count, rank: Count, pieces: Count, scale: Positive, dropout: Part) -> None:
        super().__init__()
        self.norm, self.down, self.dropout = LayerNorm(width), Linear(width, rank), Dropout(dropout)
        self.up = ParameterList(torch.zeros(width, rank) for _ in range(pieces))
        self.bias = ParameterList(torch.zeros(width) for _ in range(pieces))
        order = torch.randperm(width * rank)
        keep = torch.zeros(pieces, width * rank, dtype=torch.bool)
        for k, part in enumerate(order.tensor_split(pieces)):
            keep[k, part] = True
        self.register_buffer("keep", keep.view(pieces, width, rank))
        self.keep: Tensor
        self.pieces, self.scale, self.merged = pieces, scale, False
        torch.nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        torch.nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapter's addition to a layer's output, of `hidden`'s shape [..., width]."""
        if self.merged:
            up, bias = self.up[0], self.bias[0]
        elif self.training:
            k = int(torch.randint(self.pieces, ())) if self.pieces > 1 else 0
            up, bias = self.up[k] * self.keep[k], self.bias[k]
        else:
            raise InputError(
                "a SplitAdapter in eval mode must be merged: call merge_() first. Its pieces alone are random."
            )
        inner = self.dropout(F.gelu(self.down(self.norm(hidden))))
        return self.scale * F.linear(inner, up, bias)

    @torch.no_grad()
    def merge_(self) -> None:
        """Put the mean of the pieces in their place; not to be undone."""
        if self.merged:
            return
        up = torch.stack([piece * keep for piece, keep in zip(self.up, self.keep, strict=True)]).mean(0)
        bias = torch.stack(list(self.bias)).mean(0)
        self.up = ParameterList([Parameter(up, self.up[0].requires_grad)])
        self.bias = ParameterList([Parameter(bias, self.bias[0].requires_grad)])
        self.keep = torch.ones(1, 0, 0, dtype=torch.bool, device=up.device)
        self.pieces, self.merged = 1, True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}keep")
        if stored is not None and stored.shape != self.keep.shape:
            given, own = ("merged", "in pieces") if stored.numel() == 0 else ("in pieces", "merged")
            raise InputError(
                f"{prefix[:-1]}: the weights are of an adapter that is {given}; this one is {own}. "
                f"{'Call merge_() before loading.' if given == 'merged' else 'Make the adapter anew before loading.'}"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Adapted(Module):
    """A layer with an adapter beside it: layer(x) + adapter(x).

    Attributes:
        layer: as it was.
        adapter: added to its output.
    """

    def __init__(self, layer: Module, adapter: SplitAdapter) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output and the adapter's addition."""
        out: Tensor = self.layer(hidden, *args, **kwargs)
        added: Tensor = self.adapter(hidden)
        return out + added


def _widths(model: Module, data: Data[Any], names: list[str]) -> dict[str, int]:
    seen: dict[str, tuple[int, int]] = {}

    def look(name: str) -> Any:
        def hook(_: Module, args: tuple[Any, ...], out: Any) -> None:
            ends = [
                t.shape[-1] if isinstance(t, Tensor) and t.ndim > 1 else -1
                for t in (args[0] if args else None, out)
            ]
            seen[name] = (ends[0], ends[1])

        return hook

    hooks = [model.get_submodule(n).register_forward_hook(look(n)) for n in names]
    try:
        with evaluating(model):
            data.task.outputs(model, next(data.batches()))
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if name not in seen or seen[name][0] != seen[name][1] or seen[name][0] < 1:
            raise InputError(
                f"MoSA: {name} does not turn a tensor into one of the same width, so no adapter fits beside it. "
                "Choose other targets."
            )
    return {name: width for name, (width, _) in seen.items()}
