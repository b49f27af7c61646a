"""CLIP-MoE: tune a CLIP's feed-forwards in stages, each on pairs that the former model cannot tell apart, and mix them.

Zhang, Qu, Zhu, Cheng, "CLIP-MoE: Towards Building Mixture of Experts for CLIP with Diversified Multiplet Upcycling",
EMNLP 2025 (https://arxiv.org/abs/2409.19291); where paper and code differ, as in the method card.

A. Stage s = 1..N-1: the former stage's model embeds all pairs; k-means of images and of texts gives a label, which
   joins those of the stages before; every batch comes from one cluster, so its negatives share what is captured
   already; the feed-forwards are trained on it from the base.
B. Each block's feed-forward becomes a mixture: the base's own, and one a stage; a router without bias on what it reads.
C. The routers alone are trained, with a balance term: B_image + B_text / 2.

Decided here: balance is taken per block and averaged (the code: over all blocks together, `balance_over="model"`); the
temperature is the model's own and stays; noise of "noisy upcycling" is a hundredth of each matrix's spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Conv2d, Conv3d, Module
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ...errors import InputError
from ...fit import Loop, fit_
from ...masks.layers import copied
from ...masks.mask import Mask
from ...models.mixed_mlp import MixedMLP, plain_mlps
from ...models.moe.dense import swap_
from ...paper import Paper
from ...random import require_generator
from ...settings import Count, NonNegative, Part, Positive, Whole, refuse_idle, settings
from ...tasks import predict
from ...tasks.contrast import Contrast
from ...types import Batch, Data
from .stages import Modality, Stages, cluster_batches, pseudo_labels


@settings
class CLIPMoE:
    """Make a mixture of experts of a CLIP from pairs of images and texts.

    Attributes:
        experts: feed-forwards that a block ends with, the base's own included.
        top_k: of which a token passes so many.
        init: where the others come from: "stages"; copies of the base ("upcycling"); copies with noise.
        towers: which blocks become mixtures.
        unlock: vision blocks from this one on are tuned in stages; earlier ones stay the base's in every expert.
        k_image: clusters of images a stage.
        k_text: clusters of texts.
        cluster: what pairs are clustered by.
        start: what a stage begins from: the "base", or the "previous" stage.
        epochs: passes over the clustered pairs, a stage.
        lr: peak rate of AdamW.
        weight_decay: of it.
        warm: steps of a linear rise, in stages and for routers, at most half of all; then half a cosine to 0.
        smoothing: of the labels, in stages and for routers.
        train: what is trained after assembly: routers alone, or experts with them.
        router_epochs: passes over all pairs.
        router_lr: peak rate of that.
        balance: weight of the balance term.
        balance_over: what is balanced: each "block", or the whole "model".
        dropout: of experts' answers, while routers are trained.
    """

    experts: Count = 4
    top_k: Count = 2
    init: Literal["stages", "upcycling", "noisy upcycling"] = "stages"
    towers: Literal["both", "vision", "text"] = "both"
    unlock: Whole = 0
    k_image: Count = 3
    k_text: Count = 3
    cluster: Modality = "both"
    start: Literal["base", "previous"] = "base"
    epochs: Count = 1
    lr: Positive = 1e-5
    weight_decay: NonNegative = 0.2
    warm: Whole = 200
    smoothing: Part = 0.1
    train: Literal["routers", "routers and experts"] = "routers"
    router_epochs: Count = 1
    router_lr: Positive = 1e-6
    balance: NonNegative = 0.01
    balance_over: Literal["block", "model"] = "block"
    dropout: Part = 0.1

    paper: ClassVar[Paper] = Paper(
        "CLIP-MoE: Towards Building Mixture of Experts for CLIP with Diversified Multiplet Upcycling",
        "Zhang, Qu, Zhu, Cheng", "EMNLP", 2025, "2409.19291",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts < 2 or self.top_k > self.experts:
            raise InputError(
                f"CLIPMoE.experts must be at least 2 and top_k at most as many; got {self.experts} and {self.top_k}."
            )
        if self.init != "stages":
            names = ("k_image", "k_text", "cluster", "start", "epochs", "lr", "weight_decay", "unlock")
            refuse_idle(self, *names, when=f"with init={self.init!r}: there are no stages")
        if self.towers == "text":
            refuse_idle(self, "unlock", when='with towers="text"')
        if self.balance == 0:
            refuse_idle(self, "balance_over", when="with balance=0")

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` whose feed-forwards are mixtures with trained routers; it is called as before.

        Args:
            model: as `tasks.contrast.Contrast` reads it, with a plain feed-forward in each block.
            data: pairs; its batch size is that of every stage.
            rng: for clusters, order, routers and dropout.

        Raises:
            EmptyDataError: if there is no pair.
            InputError: if the model has no such feed-forward, the task reads no pairs, or clusters are too small for
                one batch.
        """
        self._require(data, rng)
        return self.route(self.assemble(model, self.stages(model, data, rng=rng), rng=rng), data, rng=rng)

    def stages(self, model: Module, data: Data[Any], *, rng: Generator) -> Stages:
        """The experts of every feed-forward, trained stage by stage; arguments and errors as in `apply`."""
        self._require(data, rng)
        names = self._places(model)
        found = [{n: _state(model.get_submodule(n)) for n in names}]
        clusters, dropped = list[int](), list[float]()
        if self.init != "stages":
            for _ in range(self.experts - 1):
                found.append({n: self._noisy(s, rng) for n, s in found[0].items()})
            return Stages(found, clusters, dropped)
        labels, current = torch.zeros(len(data), dtype=torch.long), model
        for _ in range(self.experts - 1):
            seen = predict(current, data)
            labels = pseudo_labels(
                seen, labels, k_image=self.k_image, k_text=self.k_text, modality=self.cluster, rng=rng
            )
            batches = [cluster_batches(labels, data.batch_size, rng) for _ in range(self.epochs)]
            if not batches[0]:
                raise InputError(
                    f"CLIPMoE: none of {int(labels.max()) + 1} clusters of {len(data)} pairs fills a batch of "
                    f"{data.batch_size}. Give more pairs, smaller batches, fewer experts, or smaller k."
                )
            current = copied(model if self.start == "base" else current)
            order = [i for epoch in batches for batch in epoch for i in batch]
            self._tune_(current, data.subset(order), self._tuned(current), rng)
            found.append({n: _state(current.get_submodule(n)) for n in names})
            clusters.append(int(labels.max()) + 1)
            dropped.append(1 - len(batches[0]) * data.batch_size / len(data))
        return Stages(found, clusters, dropped)

    def assemble(self, model: Module, stages: Stages, *, rng: Generator) -> Module:
        """A copy of `model` with a mixture in place of each feed-forward, its routers not yet trained."""
        edited = copied(model)
        for name in self._places(model):
            mixed = MixedMLP.like(
                edited.get_submodule(name),
                experts=len(stages.experts),
                top_k=self.top_k,
                dropout=self.dropout,
            )
            for expert, states in zip(mixed.experts, stages.experts, strict=True):
                expert.load_state_dict(states[name])
            weight = mixed.router.weight
            with torch.no_grad():
                bound = weight.shape[1] ** -0.5  # as torch draws a linear layer
                weight.copy_((2 * torch.rand(weight.shape, generator=rng) - 1) * bound)
            swap_(edited, name, mixed)
        return edited

    def route(self, mixed: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of an assembled model with trained routers; arguments and errors as in `apply`."""
        self._require(data, rng)
        edited = copied(mixed)
        every = {n: m for n, m in edited.named_modules() if isinstance(m, MixedMLP)}
        vision = _vision(edited, every)
        sides = [[m for n, m in every.items() if (n in vision) is side] for side in (True, False)]
        task = Contrast(self.smoothing)

        def objective(m: Module, batch: Batch) -> Tensor:
            loss = task.losses(m, batch).mean()
            terms = [self._imbalance(side) for side in sides]
            return loss + self.balance * (terms[0] + terms[1] / 2)

        whole = self.train != "routers"
        weights = [p for m in every.values() for p in (m if whole else m.router).parameters()]
        optimizer = AdamW(weights, lr=self.router_lr, weight_decay=0.01)
        modes = {part: part.training for part in edited.modules()}
        edited.eval()
        for mixture in every.values():
            mixture.dropout.train()
        steps = self.router_epochs * data.steps
        loop = Loop(schedule=LambdaLR(optimizer, self._rate(steps)), label="train routers")
        fit_(
            edited,
            data,
            objective,
            optimizer,
            epochs=self.router_epochs,
            rng=rng,
            hold=Mask.of(edited),
            loop=loop,
        )
        for part, mode in modes.items():
            part.training = mode
        return edited

    def _tune_(self, model: Module, data: Data[Any], weights: list[Tensor], rng: Generator) -> None:
        task = Contrast(self.smoothing)
        optimizer = AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)
        loop = Loop(schedule=LambdaLR(optimizer, self._rate(data.steps)), label="train a stage", ordered=True)
        fit_(
            model, data, lambda m, b: task.losses(m, b).mean(), optimizer, epochs=1, rng=rng, hold=Mask.of(model),
            loop=loop,
        )  # fmt: skip

    def _rate(self, steps: int) -> Any:
        rise = min(self.warm, steps // 2)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            done = (step - rise) / max(1, steps - rise)
            return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(1.0, done)))))

        return factor

    def _imbalance(self, mixtures: Sequence[MixedMLP]) -> Tensor | float:
        told = [m for m in mixtures if m.told is not None]
        if not told:
            return 0.0
        if self.balance_over == "block":
            return torch.stack([m.imbalance() for m in told]).mean()
        index, p = (torch.cat([m.told[i] for m in told if m.told is not None]) for i in (0, 1))
        share = torch.bincount(index.flatten(), minlength=p.shape[1]) / index.numel()
        return p.shape[1] * (share * p.mean(0)).sum()

    def _require(self, data: Data[Any], rng: Generator) -> None:
        require_generator(rng)
        data.require_examples("CLIPMoE")
        if not isinstance(data.task, Contrast):
            raise InputError(
                "CLIPMoE reads pairs of images and texts: data of tasks.contrast.Contrast; got "
                f"{type(data.task).__name__}."
            )

    def _places(self, model: Module) -> list[str]:
        """Paths of the feed-forwards that become mixtures."""
        every = plain_mlps(model)
        vision = _vision(model, every)
        towers = {"both": set(every), "vision": vision, "text": set(every) - vision}
        chosen = [n for n in every if n in towers[self.towers]]
        if not chosen:
            raise InputError(
                f"CLIPMoE needs a two-layer feed-forward in each block of its {self.towers} tower(s); this "
                f"{type(model).__name__} has none (a convolutional CLIP has not). Give a CLIP of transformer blocks."
            )
        if self.unlock and self.unlock >= len(vision):
            raise InputError(
                f"CLIPMoE.unlock must be below {len(vision)}, the vision blocks; got {self.unlock}."
            )
        return chosen

    def _tuned(self, model: Module) -> list[Tensor]:
        vision = [n for n in plain_mlps(model) if n in _vision(model, plain_mlps(model))]
        locked = set(vision[: self.unlock])
        names = [n for n in self._places(model) if n not in locked]
        return [p for n in names for p in model.get_submodule(n).parameters()]

    def _noisy(self, state: dict[str, Tensor], rng: Generator) -> dict[str, Tensor]:
        if self.init == "upcycling":
            return state
        return {
            n: t + 0.01 * t.std().nan_to_num() * torch.randn(t.shape, generator=rng).to(t)
            for n, t in state.items()
        }


def averaged(model: Module, stages: Stages) -> Module:
    """A copy of `model` whose feed-forwards are the plain means of the experts': a control that costs nothing more."""
    edited = copied(model)
    for name in stages.experts[0]:
        states = [e[name] for e in stages.experts]
        mean = {n: torch.stack([s[n].double() for s in states]).mean(0).to(t) for n, t in states[0].items()}
        edited.get_submodule(name).load_state_dict(mean)
    return edited


def _state(module: Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in module.state_dict().items()}


def _vision(model: Module, names: Iterable[str]) -> set[str]:
    """Those paths that lie in a tower with a convolution, which reads pixels."""
    towers = {n.partition(".")[0] for n, m in model.named_modules() if isinstance(m, Conv2d | Conv3d)}
    return {n for n in names if n.partition(".")[0] in towers}
