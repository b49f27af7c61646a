"""SMDL: explain a prediction by the few regions that, shown alone, make it, and, hidden, unmake it.

Chen, Zhang, Liang, Li, Cao, "Less is More: Fewer Interpretable Region via Submodular Subset Selection", ICLR 2024,
arXiv 2402.09164. Regions are added greedily by F(S) = l1 confidence + l2 effectiveness + l3 consistency +
l4 collaboration: how sure the model is of S alone, how different its regions are, the target's probability on S, and
one minus that without S. For a wrong prediction with the true class as target the same search shows what would repair
it.

Decisions. Weights are those of the authors' later code (0, 0.05, 1, 1); the paper's are all 1 (`published`), where the
unnormalised effectiveness grows with the set and outweighs the rest. The paper's guarantee needs F submodular and
monotone, which nothing makes it for a network: this is a heuristic that climbs the very curves it is judged by.
Confidence without a second, evidential network is 1 - entropy / log classes. Of one region effectiveness is 0.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, NonNegative, refuse_idle, settings
from . import regions as cut
from .viewer import Explanation, Prepare, Viewer, checked_image, saliency_of, target_of, trace


@settings
class SMDL:
    """Explain what an image classifier says by the fewest regions that say it.

    Attributes:
        confidence: weight l1.
        effectiveness: weight l2, of regions' angles to one another.
        consistency: weight l3, of the target's probability on the regions alone.
        collaboration: weight l4, of one minus that without them.
        sureness: confidence by "entropy" of the probabilities, or "evidence", which takes exp(logit) for a class's
            evidence and suits networks trained so.
        division: "superpixels" (SLIC), "grid", or "prior": patches of a 10 x 10 grid sorted by gradient x input, four
            a region.
        pieces: regions to cut into, about.
        steps: regions to order; all, unless given.
        candidates: regions tried at each step, drawn anew; all, unless given.
        fill: what hides: "black", the image's "mean" colour, or a "blur" of it.
        batch_size: images at once.
    """

    confidence: NonNegative = 0.0
    effectiveness: NonNegative = 0.05
    consistency: NonNegative = 1.0
    collaboration: NonNegative = 1.0
    sureness: Literal["entropy", "evidence"] = "entropy"
    division: Literal["superpixels", "grid", "prior"] = "superpixels"
    pieces: Count = 49
    steps: Count | None = None
    candidates: Count | None = None
    fill: Literal["black", "mean", "blur"] = "black"
    batch_size: Count = 64

    paper: ClassVar[Paper] = Paper(
        "Less is More: Fewer Interpretable Region via Submodular Subset Selection",
        "Chen, Zhang, Liang, Li, Cao", "ICLR", 2024, "2402.09164",
    )  # fmt: skip

    def __post_init__(self) -> None:
        weights = (self.confidence, self.effectiveness, self.consistency, self.collaboration)
        if not any(weights):
            raise InputError("SMDL: all four weights are 0, so every region would be worth the same.")
        if self.confidence == 0:
            refuse_idle(self, "sureness", when="with confidence=0")
        if self.division == "prior":
            refuse_idle(
                self, "pieces", when="with division='prior', which has a 10 x 10 grid, four patches a region"
            )

    @classmethod
    def published(cls) -> Self:
        """The paper's own: all weights 1, regions of patches sorted by a saliency map, 24 steps."""
        return cls(confidence=1.0, effectiveness=1.0, division="prior", steps=24)

    def explain(
        self,
        model: Module,
        image: Tensor,
        *,
        target: int | None = None,
        regions: Tensor | None = None,
        prepare: Prepare | None = None,
        rng: Generator,
    ) -> Explanation:
        """Order the regions of an image.

        Args:
            model: images [n, c, h, w] -> logits [n, classes], or an object with `.logits`; left unchanged.
            image: [c, h, w], in pixel space.
            target: class; the model's own unless given. The true class, where the prediction is wrong.
            regions: label of each pixel, int64 [h, w], as `regions.of_masks` makes of masks; cut by `division` unless
                given.
            prepare: normalises images before the model reads them.
            rng: draws candidates, where not all are tried.

        Raises:
            InputError: if the image is not [c, h, w], there is no such class, the regions do not fit it, or there are
                more of them than pixels.
        """
        require_generator(rng)
        whole = self._whole(model, image, prepare)
        y = target_of(whole.ask(torch.ones(1, 1, dtype=torch.bool))[0], target)
        labels = self._cut(whole, y) if regions is None else regions
        cut.checked(labels, *image.shape[1:])
        viewer = replace(whole, regions=labels)
        order, scores = self.search(viewer, y, rng=rng)
        return trace(viewer, order, y, scores)

    def require(
        self, model: Module, image: Tensor, *, target: int | None = None, prepare: Prepare | None = None
    ) -> None:
        """Refuse, before anything is searched, what `explain` would refuse: one or two forward passes.

        Raises:
            InputError: as `explain` does.
        """
        whole = self._whole(model, image, prepare)
        self._cut(whole, target_of(whole.ask(torch.ones(1, 1, dtype=torch.bool))[0], target))

    def _whole(self, model: Module, image: Tensor, prepare: Prepare | None) -> Viewer:
        checked_image(image)
        one = torch.zeros(image.shape[1:], dtype=torch.long)
        return Viewer.of(model, image, one, fill=self.fill, prepare=prepare, batch_size=self.batch_size)

    def search(self, viewer: Viewer, target: int, *, rng: Generator) -> tuple[Tensor, Tensor]:
        """The greedy order [k] and the value F of the set after each step [k].

        All candidates of a step are asked about at once, in batches: m (m + 1) images in all for m regions. Of equal
        ones the first is taken.
        """
        m = viewer.m
        apart = _angles(viewer.features(torch.eye(m, dtype=torch.bool))) if self.effectiveness else None
        chosen, values = list[int](), list[float]()
        kept = torch.zeros(m, dtype=torch.bool)
        for _ in range(min(self.steps or m, m)):
            left = (~kept).nonzero().flatten()
            if self.candidates is not None and self.candidates < len(left):
                left = left[torch.randperm(len(left), generator=rng)[: self.candidates]].sort().values
            keep = kept.repeat(len(left), 1)
            keep[torch.arange(len(left)), left] = True
            worth = self.worth(viewer, keep, target, apart)
            best = int(worth.argmax())
            chosen.append(int(left[best]))
            values.append(float(worth[best]))
            kept[left[best]] = True
        return torch.tensor(chosen), torch.tensor(values)

    def worth(self, viewer: Viewer, keep: Tensor, target: int, apart: Tensor | None = None) -> Tensor:
        """F of each set of regions, float64 [b], of `keep`, bool [b, m].

        Args:
            viewer: image, regions and model.
            keep: which regions are of the set.
            target: class.
            apart: angles between regions [m, m], from 0 to 1; found anew unless given.
        """
        total = torch.zeros(len(keep), dtype=torch.float64)
        if self.confidence or self.consistency:
            logits = viewer.ask(keep).double()
            total += self.confidence * self._sure(logits) + self.consistency * logits.softmax(1)[:, target]
        if self.collaboration:
            total += self.collaboration * (1 - viewer.ask(~keep).double().softmax(1)[:, target])
        if self.effectiveness:
            if apart is None:
                apart = _angles(viewer.features(torch.eye(viewer.m, dtype=torch.bool)))
            total += self.effectiveness * _spread(apart, keep)
        return total

    def _sure(self, logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        if self.sureness == "evidence":
            return 1 - classes / (logits.clamp(-10, 10).exp() + 1).sum(1)
        logs = logits.log_softmax(1)
        return 1 + (logs.exp() * logs).sum(1) / math.log(classes)

    def _cut(self, whole: Viewer, target: int) -> Tensor:
        height, width = whole.image.shape[1:]
        if self.division == "prior":
            return cut.by_prior(saliency_of(whole, target))
        if self.division == "grid":
            return cut.squares(height, width, self.pieces)
        return cut.superpixels(whole.image, self.pieces)


def _angles(features: Tensor) -> Tensor:
    """Angle between the rows of [m, width] over pi, float64 [m, m]; a row of zeros lies at right angles to all."""
    f = features.double()
    f = f / f.norm(dim=1, keepdim=True).clamp(min=1e-12)
    angles: Tensor = (f @ f.T).clamp(-1, 1).arccos() / math.pi
    return angles


def _spread(apart: Tensor, keep: Tensor) -> Tensor:
    """Sum over a set of each one's angle to its nearest in it, [b], of `keep`, bool [b, m]; 0 for a set of one."""
    m = len(apart)
    far = apart.masked_fill(torch.eye(m, dtype=torch.bool), torch.inf)
    found = []
    for rows in torch.split(keep, 64):  # [64, m, m] at once
        nearest = torch.where(rows[:, None], far, torch.inf).amin(2)
        found.append(torch.where(rows & nearest.isfinite(), nearest, 0.0).sum(1))
    return torch.cat(found)
