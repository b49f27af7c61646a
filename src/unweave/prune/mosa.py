"""MoSA: train an adapter as sparse pieces that take turns, and merge them.

Zhang, Zou, An, Liu, Zhang, "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training", 2023,
arXiv 2312.02923 (first version: "MoSA: Mixture of Sparse Adapters for Visual Efficient Tuning").
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.recipe import warm_cosine
from ..paper import Paper
from ..random import child, global_seed
from ..types import Batch, Data
from ._adapter import Adapted, SplitAdapter


@dataclass(frozen=True, kw_only=True)
class MoSA:
    """Adapt a frozen model to new data: adapters trained as sparse pieces, merged to one of the plain size.

    Two passes over a batch draw different pieces; their cross-entropy and the symmetric KL divergence between their
    answers are the loss. Adapters stand beside the layers that `targets` names (in a ViT its feed-forwards, as
    AdaptFormer); only U is split, the down-projection is shared. Masks are cut from a random permutation, so pieces are
    disjoint and complete even where rank times width is no multiple of n. Weight decay reaches the living entries of
    the drawn piece alone, since the others have no gradient and are zero.

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
    pieces: int = 4
    rank: int = 64
    scale: float = 0.1
    dropout: float = 0.1
    add_weight: float = 0.0
    reg_weight: float = 1.0
    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.01

    paper: ClassVar[Paper] = Paper(
        "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training", "Zhang, Zou, An, Liu, Zhang",
        "arXiv", 2023, "2312.02923",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.rank < 1 or self.epochs < 1:
            raise InputError(
                f"MoSA needs pieces, rank and epochs of at least 1; got {self.pieces}, {self.rank} and {self.epochs}."
            )
        if not 0 <= self.dropout < 1 or self.reg_weight < 0 or self.add_weight < 0 or self.lr <= 0:
            raise InputError(
                "MoSA needs dropout in [0, 1), reg_weight and add_weight of at least 0 and a positive lr; got "
                f"{self.dropout}, {self.reg_weight}, {self.add_weight} and {self.lr}."
            )

    def adapt(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` with trained, merged adapters; its other weights keep their bits.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if no module is named by `targets`, or one changes the width; if `head` names no parameter.
        """
        data.require_examples("MoSA")
        adapted = self.insert(model, data, rng=child(rng))
        wanted = {n: p.requires_grad for n, p in adapted.named_parameters()}
        trained = []
        for name, p in adapted.named_parameters():
            p.requires_grad_(".adapter." in f".{name}" or bool(self.head and re.fullmatch(self.head, name)))
            if p.requires_grad:
                trained.append(p)
        if self.head and not any(re.fullmatch(self.head, name) for name in wanted):
            raise InputError(
                f"MoSA.head {self.head!r} names no parameter, so no head would be trained; the last are "
                f"{', '.join(list(wanted)[-4:])}. Name the classifier's, or set head='' to train the adapters alone."
            )
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
        copy = deepcopy(model)
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

    from ..tasks import evaluating

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
