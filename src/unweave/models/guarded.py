"""A causal language model behind a guard: low-rank adapters that detectors of texts switch on, row by row.

The guard reads a text by the model itself with the adapters off, weighs it, and lets the model read it again with the
adapters at that weight. All tokens that are given together are judged together: of a prompt, the prompt; of a prompt
with its answer, both. `Guarded.generate` judges the prompt once and holds the weight while the model goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Module, ModuleList, Parameter

from ..errors import InputError
from ..masks.layers import copied, is_conv1d
from ..tasks import evaluating
from ..types import Data
from .blocks import blocks_of

Sign = Literal["consistent", "code"]
OFFSET = 3.0
"""Where the typical text lies in each standardised score: a linear one-class machine parts texts from the origin."""


@dataclass(frozen=True)
class Fit:
    """Settings of a detector; see `unweave.language.O3`."""

    gamma: float = 1000.0
    nu: float = 0.1
    sign: Sign = "consistent"
    zeta: float = 10.0


class Gate:
    """What the adapters of one model are multiplied by, shared by all of them.

    Attributes:
        weights: one a text, [n]; None switches them off.
        fixed: the same weight for every text, while an adapter is trained; None asks the detectors.
    """

    def __init__(self) -> None:
        self.weights: Tensor | None = None
        self.fixed: float | None = None


class Adapted(Module):
    """A linear layer and a low-rank change of it: W x + w * scale * B A x.

    Args:
        base: Linear, or transformers' transposed one; its weights are not trained.
        rank: of A [rank, in] and B [out, rank]; B begins at 0.
        scale: alpha / rank.
        gate: says w.
        rng: draws A.
    """

    def __init__(self, base: Module, rank: int, scale: float, gate: Gate, rng: Generator) -> None:
        super().__init__()
        weight: Any = base.weight
        out, inner = reversed(weight.shape) if is_conv1d(base) else weight.shape
        bound = inner**-0.5
        self.base, self.scale, self.gate = base, scale, gate
        self.a = Parameter((bound * (2 * torch.rand(rank, inner, generator=rng) - 1)).to(weight.device))
        self.b = Parameter(torch.zeros(out, rank, device=weight.device))
        self.former: Tensor
        self.register_buffer("former", torch.zeros(0, rank, inner, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]; the first dimension is of texts, or of their tokens in a row."""
        y: Tensor = self.base(x)
        w = self.gate.weights
        if w is None:
            return y
        each = w.repeat_interleave(len(x) // len(w)).to(self.a)
        change = (x.to(self.a.dtype) @ self.a.T) @ self.b.T
        return y + (self.scale * each.view(-1, *[1] * (x.ndim - 1)) * change).to(y.dtype)

    def overlap(self) -> Tensor:
        """Sum over earlier requests of || A_j A^T ||_F^2."""
        return (self.former @ self.a.T).square().sum()


class Detector(Module):
    """Weighs texts by how much they are like those of one request; all it knows are buffers.

    Use `Detector.of` to fit one.
    """

    def __init__(self, known: Mapping[str, Tensor], fit: Fit, floor: float, cut: float | None) -> None:
        super().__init__()
        for name, value in known.items():
            self.register_buffer(name, value)
        self.fit, self.floor, self.cut = fit, floor, cut

    @classmethod
    def of(
        cls, used: Tensor, rest: Tensor, fit: Fit, *, floor: float = 0.0, cut: float | None = None
    ) -> Detector:
        """Fit one.

        Args:
            used: features of the texts that it is fitted on, [n, layers, width].
            rest: of the others of the same request, [m, layers, width].
            fit: settings.
            floor: weights below it are 0.
            cut: weights are 1 from it on and 0 below; None leaves them.

        Raises:
            InputError: if the texts are all alike.
        """
        from sklearn.covariance import LedoitWolf
        from sklearn.svm import OneClassSVM

        if float(used.double().std(0).max()) < 1e-9:
            raise InputError(
                "the texts of the request are all alike to the model, so nothing tells what is like them."
            )
        mu, inverse = [], []
        for layer in used.double().unbind(1):
            found = LedoitWolf().fit(layer.numpy())
            mu.append(torch.from_numpy(np.array(found.location_)))
            inverse.append(torch.from_numpy(np.array(found.precision_)))
        known = {"mu": torch.stack(mu), "inverse": torch.stack(inverse), "seen": _unit(used.double())}
        raw = _scores(known, used, fit, own=True)
        known |= {"middle": raw.mean(0), "spread": raw.std(0).clamp(min=1e-12)}
        x = (OFFSET + (raw - known["middle"]) / known["spread"]).numpy()
        machine = OneClassSVM(kernel="linear", nu=fit.nu).fit(x)
        known |= {
            "coefficient": torch.from_numpy(np.array(machine.coef_).ravel()),
            "shift": torch.from_numpy(np.array(machine.intercept_).ravel()),
        }
        made = cls(known, fit, floor, cut)
        ends = [made._margin(raw), made.margin(rest)]
        made.register_buffer("means", torch.stack([o.mean() for o in ends]))
        made.register_buffer("sds", torch.stack([o.std(correction=0) for o in ends]).clamp(min=1e-9))
        return made

    def margin(self, features: Tensor) -> Tensor:
        """O of each text, [n]: higher is more like the request's; features are [n, layers, width]."""
        return self._margin(_scores(dict(self.named_buffers()), features, self.fit))

    def _margin(self, raw: Tensor) -> Tensor:
        known = dict(self.named_buffers())
        x = OFFSET + (raw - known["middle"]) / known["spread"]
        return x @ known["coefficient"] + known["shift"]

    def forward(self, features: Tensor) -> Tensor:
        """Weight of each text, [n] in [0, 1]."""
        known, o = dict(self.named_buffers()), self.margin(features)
        w = soft_weight(o, known["means"], known["sds"], self.fit.zeta)
        if self.cut is not None:
            return (w >= self.cut).to(w.dtype)
        return torch.where(w < self.floor, torch.zeros_like(w), w)


def soft_weight(o: Tensor, means: Tensor, sds: Tensor, zeta: float) -> Tensor:
    """W of margins [n], from the two normals' means and standard deviations [2]; above their middle it is that of it.

    Example:
        >>> soft_weight(torch.tensor([9.0, 0.0, -9.0]), torch.zeros(2), torch.ones(2), 10.0).round(decimals=3)
        tensor([1.0000, 1.0000, 0.1190])
    """
    normal, middle = torch.distributions.Normal(means, sds), means.mean()
    below = torch.minimum(o, middle)

    def mixed(x: Tensor) -> Tensor:
        found: Tensor = normal.cdf(x[:, None]).mean(1)  # type: ignore[no-untyped-call]
        return found

    return torch.sigmoid(zeta * (1 - (mixed(below) - mixed(2 * middle - below)).abs()) - 2)


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = features / features.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def _scores(known: Mapping[str, Tensor], features: Tensor, fit: Fit, *, own: bool = False) -> Tensor:
    """S of each text and layer, float64 [n, layers]; with `own` they are the known texts, whose self is left out."""
    x = features.double()
    away = x - known["mu"]
    far = torch.einsum("nld,lde,nle->nl", away, known["inverse"], away)
    near = torch.einsum("nld,mld->nlm", _unit(x), known["seen"])
    if own:
        near = near.masked_fill(torch.eye(len(x), dtype=torch.bool)[:, None], -torch.inf)
    cosine = near.amax(2)
    return -far / 2 + (fit.gamma if fit.sign == "consistent" else -fit.gamma) * cosine


class Guarded(Module):
    """A causal language model whose adapters answer texts that a detector knows; see the module.

    Attributes:
        model: whose layers are `Adapted`.
        detectors: one a request, in their order.
    """

    def __init__(self, model: Module, gate: Gate) -> None:
        super().__init__()
        self.model, self.gate, self.detectors = model, gate, ModuleList()

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def get_output_embeddings(self) -> Any:
        """The model's head."""
        inner: Any = self.model
        return inner.get_output_embeddings()

    def adapters(self) -> list[Parameter]:
        """What an edit trains."""
        return [p for layer in self.layers() for p in (layer.a, layer.b)]

    def layers(self) -> list[Adapted]:
        """The layers that have an adapter."""
        return [m for m in self.model.modules() if isinstance(m, Adapted)]

    def overlap(self) -> Tensor | None:
        """Mean over layers of what A shares with earlier requests'; None before the second request."""
        layers = self.layers()
        return torch.stack([m.overlap() for m in layers]).mean() if len(layers[0].former) else None

    def require_room(self, who: str, asked: bool) -> None:
        """Refuse a request for which a layer has no orthogonal directions left.

        Raises:
            InputError: if so, and orthogonality is asked for.
        """
        for layer in self.layers() if asked else ():
            requests, (rank, inner) = len(layer.former) + 1, layer.a.shape
            if requests * rank > inner:
                raise InputError(
                    f"{who}: request {requests} of rank {rank} needs {requests * rank} orthogonal directions, and a "
                    f"layer reads {inner}. Lower the rank, or give orthogonal=0."
                )

    def fixed(self, weight: float | None) -> None:
        """Give every text this weight, or ask the detectors again."""
        self.gate.fixed = weight

    def learnt(self, detector: Detector) -> None:
        """Add a request's detector, and remember its adapter."""
        self.detectors.append(detector)
        for layer in self.layers():
            layer.former = torch.cat([layer.former, layer.a.detach()[None].clone()])

    @torch.no_grad()
    def weigh(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """W of each text, float32 [n]; ids and mask are [n, t]."""
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = _pooled(self, input_ids, there)
        each = [d(features.to(d.get_buffer("mu").device)) for d in self.detectors]
        return torch.stack(each).amax(0).float().to(input_ids.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        """As the model's, with each text's adapter at its weight."""
        if self.gate.weights is not None:  # held while a text is continued
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        fixed = self.gate.fixed
        if fixed is None and not len(self.detectors):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        w = (
            self.weigh(input_ids, attention_mask)
            if fixed is None
            else torch.full((len(input_ids),), fixed, device=input_ids.device)
        )
        with self._at(w):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **more)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **how: Any) -> Tensor:
        """The model's own `generate`, with the weight of the prompt held; one sequence is returned a prompt."""
        inner: Any = self.model
        with self._at(self.weigh(input_ids, attention_mask)):
            found: Tensor = inner.generate(input_ids=input_ids, attention_mask=attention_mask, **how)
        return found

    @contextmanager
    def _at(self, weights: Tensor | None) -> Iterator[None]:
        before, self.gate.weights = self.gate.weights, weights
        try:
            yield
        finally:
            self.gate.weights = before


def guarded(
    model: Module, names: Callable[[Module], Sequence[str]], rank: int, scale: float, rng: Generator
) -> Guarded:
    """A copy behind a guard: an earlier one as it is, another model with fresh adapters, its own weights frozen.

    Args:
        model: left unchanged.
        names: of the linear layers to adapt.
        rank: of the adapters.
        scale: of the adapters.
        rng: draws them.

    Raises:
        InputError: if the model has no linear layer to adapt, or its guard has adapters of another rank.
    """
    made = copied(model)
    if isinstance(made, Guarded):
        found = made.layers()[0].a.shape[0]
        if found != rank:
            raise InputError(f"the model's guard has adapters of rank {found}, which go on; got rank {rank}.")
        return made
    gate, chosen = Gate(), list(names(model))
    if not chosen:
        raise InputError(f"{type(model).__name__} has no linear layer below its head to adapt.")
    made.requires_grad_(False)
    for name in chosen:
        parent, _, own = name.rpartition(".")
        holder = made.get_submodule(parent)
        setattr(holder, own, Adapted(made.get_submodule(name), rank, scale, gate, rng))
    return Guarded(made, gate).train(model.training)


def pooled(model: Module, data: Data[Any]) -> Tensor:
    """What each block puts out, the mean over a text's tokens: float32 [n, blocks, width]; adapters are off."""
    found = []
    with evaluating(model):
        for batch in data.batches():
            ids = data.task.ids(batch)
            found.append(_pooled(model, ids, data.task.present(batch).long()))
    return torch.cat(found).cpu()


def _pooled(model: Module, input_ids: Tensor, there: Tensor) -> Tensor:
    inner = model.model if isinstance(model, Guarded) else model
    at = next(inner.parameters()).device
    seen: list[Tensor] = []

    def see(_: Module, __: Any, out: Any) -> None:
        seen.append(out if isinstance(out, Tensor) else out[0])

    hooks = [block.register_forward_hook(see) for block in blocks_of(inner, "a guard")]
    mask = there.to(at)
    try:
        with model._at(None) if isinstance(model, Guarded) else _nothing(), torch.no_grad():
            inner(input_ids=input_ids.to(at), attention_mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    total = mask.sum(1)[:, None]
    return torch.stack([(h.float() * mask[..., None]).sum(1) / total for h in seen], 1)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
