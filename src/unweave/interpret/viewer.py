"""A classifier that looks at parts of one image, and what it says as more and more of it is shown or hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError
from ..tasks import evaluating
from ..tasks.batches import answers, under_last_linear
from . import regions as cut

Prepare = Callable[[Tensor], Tensor]
"""Images [n, c, h, w] in pixel space -> what the model reads."""


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """One image, its regions, and a model that is asked about any choice of them, in eval mode.

    Attributes:
        model: images [n, c, h, w] -> logits [n, classes], or an object with `.logits`.
        image: [c, h, w], in pixel space: hiding is done there, before `prepare`.
        regions: label of each pixel, 0 to m - 1, [h, w].
        hidden: what stands in the place of what is not shown, [c, h, w].
        prepare: normalisation; None for none.
        batch_size: images at once.
    """

    model: Module
    image: Tensor
    regions: Tensor
    hidden: Tensor
    prepare: Prepare | None = None
    batch_size: int = 64

    @classmethod
    def of(
        cls,
        model: Module,
        image: Tensor,
        regions: Tensor,
        *,
        fill: str = "black",
        prepare: Prepare | None = None,
        batch_size: int = 64,
    ) -> Viewer:
        """Check an image and its regions.

        Raises:
            InputError: if the image is not [c, h, w] and finite, or the regions do not fit it.
        """
        checked_image(image)
        cut.checked(regions, *image.shape[1:])
        return cls(
            model=model,
            image=image,
            regions=regions,
            hidden=cut.filled(image, fill),
            prepare=prepare,
            batch_size=batch_size,
        )

    @property
    def m(self) -> int:
        """Number of regions."""
        return int(self.regions.max()) + 1

    @property
    def areas(self) -> Tensor:
        """Share of the image that each region takes, float64 [m]."""
        return self.regions.flatten().bincount(minlength=self.m).double() / self.regions.numel()

    def shown(self, keep: Tensor) -> Tensor:
        """The image with just these regions, [b, c, h, w], of `keep`, bool [b, m]."""
        seen = keep[:, self.regions.cpu()][:, None].to(self.image.device)
        return torch.where(seen, self.image, self.hidden)

    def ask(self, keep: Tensor) -> Tensor:
        """Logits of the image with just these regions, [b, classes], of `keep`, bool [b, m]; on the CPU.

        Raises:
            InputError: if the model does not answer with logits [b, classes].
        """
        found = []
        with evaluating(self.model):
            for part in torch.split(keep, self.batch_size):
                found.append(self._logits(self.shown(part)).cpu())
        return torch.cat(found)

    def features(self, keep: Tensor) -> Tensor:
        """What the model makes of it under its last linear layer, or its logits where it has none, [b, width]."""
        if not any(isinstance(module, Linear) for module in self.model.modules()):
            return self.ask(keep)
        found = []
        with evaluating(self.model):
            for part in torch.split(keep, self.batch_size):
                images = self.shown(part)
                found.append(under_last_linear(self.model, lambda x=images: self._logits(x)).cpu())
        return torch.cat(found)

    def gradient(self, target: int) -> Tensor:
        """Gradient of the target's log-probability at the whole image, in pixel space, [c, h, w]."""
        with evaluating(self.model), torch.enable_grad():
            at = self.image.detach().clone().requires_grad_()
            value = self._logits(at[None]).log_softmax(1)[0, target]
            found: Tensor = torch.autograd.grad(value, at)[0]
        return found

    def _logits(self, images: Tensor) -> Tensor:
        ready = images if self.prepare is None else self.prepare(images)
        logits = answers(self.model, (ready, None))
        if logits.ndim != 2 or len(logits) != len(images):
            raise InputError(
                f"the model answers {tuple(logits.shape)} to {len(images)} images; a classifier answers [n, classes]."
            )
        return logits


def checked_image(image: Tensor) -> None:
    """Refuse what is no single image.

    Raises:
        InputError: unless it is floating point [c, h, w] and finite.
    """
    if image.ndim != 3 or not image.is_floating_point():
        raise InputError(f"an image is floating point [c, h, w]; got {image.dtype} {tuple(image.shape)}.")
    if not bool(image.isfinite().all()):
        raise InputError("the image has a pixel that is not finite.")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model says of a class as regions are shown, and hidden, in an order.

    Attributes:
        order: regions, the most important first, [k].
        regions: label of each pixel, [h, w].
        target: the class that is explained.
        predicted: the model's class for the whole image.
        probability: of the target, on the whole image.
        revealed: share of the image in the first r regions, float64 [k + 1], from 0.
        insertion: probability of the target with the first r regions alone, [k + 1].
        deletion: the same without them, [k + 1].
        says: the model's class with the first r regions alone, [k + 1].
        scores: what each step's choice was worth, [k]; empty where nothing was searched.
    """

    order: Tensor
    regions: Tensor
    target: int
    predicted: int
    probability: float
    revealed: Tensor
    insertion: Tensor
    deletion: Tensor
    says: Tensor
    scores: Tensor

    @property
    def empty(self) -> float:
        """Probability of the target with nothing shown: what the hiding itself says."""
        return float(self.insertion[0])

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve over the share revealed, higher is better; up to what was ordered."""
        return _area(self.revealed, self.insertion)

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, lower is better."""
        return _area(self.revealed, self.deletion)

    def best(self, within: float = 1.0) -> tuple[int, float]:
        """(r, probability): of prefixes within a share of the image, the one that makes the target likeliest."""
        inside = self.revealed <= within + 1e-9
        r = int(self.insertion.masked_fill(~inside, -1.0).argmax())
        return r, float(self.insertion[r])

    @property
    def repaired(self) -> int | None:
        """Fewest regions that alone make the model say the target, None if none do: what cures a wrong prediction."""
        found = (self.says[1:] == self.target).nonzero().flatten()
        return int(found[0]) + 1 if len(found) else None

    def saliency(self, kind: str = "order") -> Tensor:
        """A map [h, w] from 0 to 1: "order" by rank, "value" by how much each step changed both curves.

        Regions beyond the order are 0.
        """
        k, m = len(self.order), int(self.regions.max()) + 1
        each = torch.zeros(m)
        if kind == "order":
            each[self.order] = torch.arange(k, 0, -1) / k
        elif kind == "value":
            both = self.insertion[1:] + 1 - self.deletion[1:]
            steps = torch.cat([torch.zeros(1), -both.diff().abs().cumsum(0)])
            span = float(steps[0] - steps[-1])
            each[self.order] = (steps - steps[-1]) / span if span > 0 else torch.ones(k)
        else:
            raise InputError(f'saliency: kind must be "order" or "value"; got {kind!r}.')
        return each[self.regions.cpu()]


def trace(
    viewer: Viewer, order: Sequence[int] | Tensor, target: int | None = None, scores: Tensor | None = None
) -> Explanation:
    """Follow an order of regions: both curves, at every step.

    Args:
        viewer: image, regions and model.
        order: different regions, not necessarily all.
        target: class; the model's own unless given.
        scores: of the search, to be kept with it.

    Raises:
        InputError: if the order repeats or leaves the regions, or there is no such class.
    """
    chosen = torch.as_tensor(order, dtype=torch.long)
    m, k = viewer.m, len(chosen)
    if k == 0 or len(set(chosen.tolist())) < k or int(chosen.min()) < 0 or int(chosen.max()) >= m:
        raise InputError(
            f"an order holds different regions from 0 to {m - 1}, at least one; got {chosen.tolist()[:12]}."
        )
    keep = torch.zeros(k + 1, m, dtype=torch.bool)
    for r in range(k):
        keep[r + 1] = keep[r]
        keep[r + 1, chosen[r]] = True
    whole = viewer.ask(torch.ones(1, m, dtype=torch.bool))[0]
    y = target_of(whole, target)
    shown, hidden = viewer.ask(keep), viewer.ask(~keep)
    return Explanation(
        order=chosen,
        regions=viewer.regions,
        target=y,
        predicted=int(whole.argmax()),
        probability=float(whole.softmax(0)[y]),
        revealed=torch.cat([torch.zeros(1, dtype=torch.float64), viewer.areas[chosen].cumsum(0)]),
        insertion=shown.softmax(1)[:, y],
        deletion=hidden.softmax(1)[:, y],
        says=shown.argmax(1),
        scores=torch.zeros(0) if scores is None else scores,
    )


def target_of(logits: Tensor, target: int | None) -> int:
    """The class to explain: the likeliest, unless given.

    Raises:
        InputError: if there is no such class.
    """
    if target is None:
        return int(logits.argmax())
    if not 0 <= target < len(logits):
        raise InputError(f"target must be a class from 0 to {len(logits) - 1}; got {target}.")
    return target


def occlusion(viewer: Viewer, target: int | None = None) -> Tensor:
    """Regions by how much hiding each alone lowers the target's probability, the most first, [m]."""
    m = viewer.m
    keep = torch.cat([torch.ones(1, m, dtype=torch.bool), ~torch.eye(m, dtype=torch.bool)])
    logits = viewer.ask(keep)
    p = logits.softmax(1)[:, target_of(logits[0], target)]
    return (p[0] - p[1:]).argsort(descending=True, stable=True)


def gradient_times_input(viewer: Viewer, target: int | None = None) -> Tensor:
    """Regions by the mean of |gradient x (image - what hides it)| over their pixels, the most first, [m]."""
    y = target_of(viewer.ask(torch.ones(1, viewer.m, dtype=torch.bool))[0], target)
    return per_region(viewer, saliency_of(viewer, y)).argsort(descending=True, stable=True)


def saliency_of(viewer: Viewer, target: int) -> Tensor:
    """|gradient x (image - what hides it)| of each pixel, summed over channels, [h, w]."""
    return (viewer.gradient(target) * (viewer.image - viewer.hidden)).sum(0).abs().cpu()


def per_region(viewer: Viewer, saliency: Tensor) -> Tensor:
    """Mean of a map [h, w] over each region, [m]."""
    where = viewer.regions.flatten().cpu()
    sums = torch.zeros(viewer.m, dtype=torch.float64).index_add_(0, where, saliency.flatten().double())
    return sums / where.bincount(minlength=viewer.m)


def _area(x: Tensor, y: Tensor) -> float:
    span = float(x[-1] - x[0])
    return float(torch.trapezoid(y.double(), x)) / span if span > 0 else float(y[0])


def as_prepare(processor: Any) -> Prepare:
    """What a transformers image processor does to pixels from 0 to 1: its mean and standard deviation, if it has them.

    Raises:
        InputError: if it names a mean without a standard deviation.
    """
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if not getattr(processor, "do_normalize", True) or mean is None:
        return lambda images: images
    if std is None:
        raise InputError("the image processor names image_mean and no image_std.")
    a, b = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return lambda images: (images - a.to(images)) / b.to(images)
