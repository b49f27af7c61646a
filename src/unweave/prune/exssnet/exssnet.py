"""Exclusive supermask subnetworks: learn task after task in one network and forget none.

Yadav, Bansal, "Exclusive Supermask Subnetwork Training for Continual Learning", Findings of ACL 2023,
arXiv 2210.10209: each task finds a sparse mask in the shared weights, then trains only those weights under its mask
that no earlier task uses. Which task an input belongs to must be known.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.nn.utils import parametrize
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...fit import Loop, fit_
from ...fit.batches import set_aside
from ...fit.recipe import mean_loss
from ...masks.layers import BATCH_NORMS
from ...masks.mask import Mask
from ...masks.scope import ROWS, Scope
from ...paper import Paper
from ...random import child, require_generator
from ...settings import Count, Positive, Range, SomeShare, Whole, refuse_idle, settings
from ...tasks import Labelled, Representing, accuracy, predict, read_labels, requires
from ...types import Data
from .supermasks import Head, Supermasks, TopK, top


@settings
class ExSSNeT:
    """Learn tasks one after another, each in a subnetwork of its own.

    Every weight becomes +-gain / sqrt(fan-in); biases and the affine part of batch normalisation are set to 0 and 1
    and frozen. The public code's mask phase takes the weights' learning rate; here each phase has its own. With
    `validation` above 0 a phase ends as its best epoch left it: weights train from the best masks (the public code goes
    on from the last), and stay untrained if no epoch makes them better. The paper always does so; here it is a choice.

    Attributes:
        density: share of each layer's weights a task uses.
        mask_epochs: passes over a task's data that train its scores.
        weight_epochs: passes that train its weights; 0 is SupSup, masks alone.
        mask_lr: learning rate of the scores (Adam, cosine).
        weight_lr: learning rate of the weights (Adam, cosine).
        exclusive: False trains all weights under the mask, also those of earlier tasks (SSNeT, which forgets).
        transfer: "knn_best" starts a task's scores from those of the earlier task whose features tell its classes
            apart best, if better than chance; "knn_all" from the mean over all tasks better than chance (the public
            code adds it into the first one's scores and so changes an old mask); "none" starts at random.
        neighbours: of the nearest-neighbour classifier that judges features; at most a tenth of the examples that it
            learns from.
        share: of a task's data that it reads.
        validation: share of a task's data kept from training to choose the best epoch by accuracy, of equal ones the
            later; 0 trains on all of it and keeps the last epoch.
    """

    density: SomeShare = 0.1
    mask_epochs: Count = 50
    weight_epochs: Whole = 50
    mask_lr: Positive = 0.01
    weight_lr: Positive = 1e-3
    exclusive: bool = True
    transfer: Literal["none", "knn_best", "knn_all"] = "knn_best"
    neighbours: Count = 200
    share: SomeShare = 0.2
    validation: Annotated[
        float, Range(at_least=0, below=1, why="It is the share of a task's data that chooses the best epoch.")
    ] = 0.0

    paper: ClassVar[Paper] = Paper(
        "Exclusive Supermask Subnetwork Training for Continual Learning", "Yadav, Bansal",
        "Findings of ACL", 2023, "2210.10209",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.transfer == "none":
            refuse_idle(self, "neighbours", "share", when='since transfer is "none"')
        if self.weight_epochs == 0:
            refuse_idle(self, "weight_lr", "exclusive", when="since weight_epochs is 0")

    def start(self, model: Module, *, rng: Generator) -> Supermasks:
        """A network without tasks, of signed constants in the place of `model`'s weights."""
        require_generator(rng)
        backbone = deepcopy(model).requires_grad_(True)
        weights = Scope().weights(backbone, ROWS)
        with torch.no_grad():
            for name, p in backbone.named_parameters():
                if name in weights:
                    signs = torch.randint(2, p.shape, generator=rng).to(p) * 2 - 1
                    p.copy_(signs * (2 / p[0].numel()) ** 0.5)
                else:
                    p.fill_(1.0 if name.endswith("weight") else 0.0)
        return Supermasks(backbone.requires_grad_(False))

    def learn(self, net: Supermasks, data: Data[Any], *, rng: Generator) -> Supermasks:
        """A copy of `net` that has learnt one task more; what earlier tasks use has the same bits.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if `validation` leaves nothing to train on, or the task has no labels, or no features for
                `transfer`.
        """
        data.require_examples("ExSSNeT")
        requires(data.task, Labelled, "ExSSNeT")
        if self.transfer != "none":
            requires(data.task, Representing, f'ExSSNeT(transfer="{self.transfer}")')
        kept: Data[Any] | None = None
        if self.validation:
            data, kept = set_aside(data, self.validation, who="ExSSNeT", rng=rng)
        net, classes = deepcopy(net), data.task.classes
        scores = self._initial(net, data, child(rng))
        work = nn.Sequential(_fresh(net.backbone), Head(classes))
        weights = Scope().weights(deepcopy(net.backbone).requires_grad_(True), ROWS)
        for name in weights:
            layer = work[0].get_submodule(name.rpartition(".")[0])
            parametrize.register_parametrization(layer, "weight", TopK(scores[name], self.density))
        trained = [m.scores for m in work.modules() if isinstance(m, TopK)]
        _train(work, data, trained, self.mask_epochs, self.mask_lr, rng, kept=kept)
        found = [m.scores.detach() for m in work.modules() if isinstance(m, TopK)]
        mask = Mask({n: top(s.abs(), self.density) for n, s in zip(weights, found, strict=True)})
        for name in weights:
            parametrize.remove_parametrizations(work[0].get_submodule(name.rpartition(".")[0]), "weight")
        free = mask - net.used() if net.masks and self.exclusive else mask
        if free.count() < 0.05 * mask.count() and self.weight_epochs:
            warnings.warn(
                f"ExSSNeT: only {free.count()} of this task's {mask.count()} weights are its own; the network is "
                "nearly full. Lower density or take a wider network.",
                stacklevel=2,
            )
        if self.weight_epochs and free.count():
            living = [work[0].get_parameter(n).requires_grad_(True) for n in weights]
            only = Mask({f"0.{n}": alive for n, alive in free.keep.items()})
            _train(work, data, living, self.weight_epochs, self.weight_lr, rng, only, kept, untrained=True)
            with torch.no_grad():
                for name, alive in free.keep.items():
                    net.backbone.get_parameter(name)[alive] = work[0].get_parameter(name)[alive]
        net.masks.append(mask)
        net.scores.append(dict(zip(weights, found, strict=True)))
        net._statistics.append({n: b.clone() for n, b in work[0].named_buffers()})
        net._classes.append(classes)
        return net

    def apply(self, model: Module, tasks: Sequence[Data[Any]], *, rng: Generator) -> Supermasks:
        """Learn the tasks in order, in a network of `model`'s shape."""
        net = self.start(model, rng=rng)
        for data in tasks:
            net = self.learn(net, data, rng=rng)
        return net

    def _initial(self, net: Supermasks, data: Data[Any], rng: Generator) -> dict[str, Tensor]:
        sources = [] if self.transfer == "none" else self.sources(net, data)
        if sources:
            chosen = [net.scores[t] for t in (sources if self.transfer == "knn_all" else sources[:1])]
            return {n: torch.stack([s[n] for s in chosen]).mean(0) for n in chosen[0]}
        weights = Scope().weights(deepcopy(net.backbone).requires_grad_(True), ROWS)
        bound = {n: w[0].numel() ** -0.5 for n, w in weights.items()}  # Kaiming-uniform with a = sqrt 5
        return {n: (torch.rand(w.shape, generator=rng) * 2 - 1).to(w) * bound[n] for n, w in weights.items()}

    def sources(self, net: Supermasks, data: Data[Any]) -> list[int]:
        """Earlier tasks whose features classify this task better than chance by nearest neighbours, best first."""
        from sklearn.neighbors import KNeighborsClassifier

        part = data.subset(range(max(3, ceil(self.share * len(data)))) if len(data) > 3 else range(len(data)))
        labels, cut = read_labels(part).numpy(), round(0.66 * len(part))
        right = []
        for task in range(len(net.masks)):
            net_of = net.subnetwork(task, classes=data.task.classes)
            features = predict(net_of, part, data.task.features).numpy()
            # as many neighbours as there are examples would give every example the same answer
            classifier = KNeighborsClassifier(min(self.neighbours, max(1, cut // 10))).fit(
                features[:cut], labels[:cut]
            )
            right.append(float((classifier.predict(features[cut:]) == labels[cut:]).mean()))
        better = [t for t, a in enumerate(right) if a > 1 / data.task.classes]
        return sorted(better, key=lambda t: -right[t])


def _fresh(backbone: Module) -> Module:
    copy = deepcopy(backbone)
    for module in copy.modules():
        if isinstance(module, BATCH_NORMS):
            module.reset_running_stats()
    return copy.train()


def _train(
    model: Module,
    data: Data[Any],
    trained: list[Any],
    epochs: int,
    lr: float,
    rng: Generator,
    only: Mask | None = None,
    kept: Data[Any] | None = None,
    untrained: bool = False,
) -> None:
    optimizer = Adam(trained, lr)
    schedule = CosineAnnealingLR(optimizer, epochs * data.steps)
    fit = partial(
        fit_,
        model,
        data,
        mean_loss(data),
        optimizer,
        loop=Loop(schedule=schedule, label="task"),
        only=only,
        rng=rng,
    )
    if kept is None:
        fit(epochs=epochs)
        return
    best, state = (accuracy(model, kept) if untrained else -1.0), deepcopy(model.state_dict())
    for _ in range(epochs):  # one training an epoch, so that a resumed run judges the same states again
        fit(epochs=1)
        if (reached := accuracy(model, kept)) >= best:
            best, state = reached, deepcopy(model.state_dict())
    model.load_state_dict(state)
