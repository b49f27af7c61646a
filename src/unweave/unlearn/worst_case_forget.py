"""Worst-case forget sets: the examples whose influence is hardest to erase, to judge an unlearner on.

Fan, Liu, Hero, Liu, "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning", ECCV 2024, arXiv
2403.07362. With w_i = 1 where example i is to be forgotten, losses l and a size m,
    min over w of sum_i w_i l_i(theta(w)) + gamma |w|^2   subject to   0 <= w <= 1, sum w = m,
    theta(w) = argmin of sum_i (1 - w_i) l_i(theta), from the trained model:
the worst set has low losses even where only the rest was trained on. theta(w) is unrolled by steps along the sign of
the gradient; a sign's derivative is zero, so that w's gradient is just l_i(theta(w)) + 2 gamma w_i. A round trains from
the original model, steps and projects: w <- P(w - lr_w (l + 2 gamma w)).

Departures. lr_w = step / (90 % - 10 % quantile of l), since a fixed one moves nothing where losses are small: an
example changes sides if lr_w times the spread is about 1. A run in which none ever does is refused. P is exact, by
sorting, not by bisection. Losses are read in eval mode. Batch normalisation keeps its running statistics, which the
examples left out would go on shaping. The easiest set maximises sum w l - gamma |w|^2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from numbers import Integral
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.batches import Numbered
from ..masks.layers import copied, free
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child, require_generator
from ..settings import Count, Inner, NonNegative, Part, Positive, Range, refuse_idle, settings
from ..tasks import Labelled, Perturbing, able, evaluating, predict, read_labels, requires
from ..types import Batch, Data

Which = Literal["worst", "easiest", "random", "lowest-loss", "highest-loss"]


@dataclass(frozen=True, kw_only=True)
class ForgetSet:
    """A forget set and how it was found.

    Attributes:
        positions: in the data, ascending, int64 [m].
        swaps: examples that came into the set, a round; empty where none was searched for.
        losses: mean loss on the set after training on the rest, a round.
        agreement: share of the set that the plain control names as well: the m lowest losses of the original model
            (of the easiest set, the m highest). Report it: near 1 the search found nothing that a sort does not.
        twins: examples of the set of which the rest has an exact copy: no unlearner can erase these. None where the
            task does not show its inputs.
    """

    positions: Tensor = field(repr=False)
    swaps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    agreement: float
    twins: int | None


@settings
class WorstCaseForget:
    """Choose the forget set of a given size that is hardest, or easiest, to erase.

    Even a retrained model still knows the worst set, for the rest teaches the same: judge an unlearner by its gap to
    retraining there, never by the accuracy on the set alone.

    Attributes:
        size: m, a number if an int, a share of the data if a float (the paper's main setting is a tenth).
        which: "worst" and "easiest" are searched for; "random" draws; "lowest-loss" and "highest-loss" are the plain
            controls: the extreme losses of the model as it is.
        stratified: the same share of every class, so that no class is emptied.
        rounds: times w is stepped; the authors' script has 2, their default is 10.
        epochs: passes over the data that train each theta(w).
        lr: length of a sign step, of every weight.
        step: c, of lr_w = c / spread of the losses.
        gamma: weight of |w|^2.
        binarise: rounds after which w is set to its m largest entries; it is at the end, too.
        least: share of its accuracy that theta(w) must keep on what it is trained on, as sign steps that are too long
            destroy a network. Looked at where the task has labels.
    """

    paper: ClassVar[Paper] = Paper(
        "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning",
        "Fan, Liu, Hero, Liu", "ECCV", 2024, "2403.07362",
    )  # fmt: skip

    size: Inner | Count = 0.1
    which: Which = "worst"
    stratified: bool = False
    rounds: Count = 4
    epochs: Count = 3
    lr: Positive = 1e-3
    step: Annotated[float, Range(above=0, why="Examples change sides from about 1 on.")] = 1.0
    gamma: NonNegative = 0.0
    binarise: Count = 20
    least: Part = 0.9

    def __post_init__(self) -> None:
        if self.which not in ("worst", "easiest"):
            searching = ("rounds", "epochs", "lr", "step", "gamma", "binarise", "least")
            refuse_idle(self, *searching, when=f"with which={self.which!r}, which is not searched for")

    def select(self, model: Module, data: Data[Any], *, rng: Generator) -> ForgetSet:
        """Choose from `data`, which `model` was trained on.

        Args:
            model: left unchanged.
            data: n examples. Its positions name the examples, so it must give the same ones each time: without
                augmentation.
            rng: governs the first w, or the random set, and batch order.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if the size is not between 1 and n - 1 (or, stratified, leaves a class without an example), the
                data give other examples at each reading, every parameter is frozen, theta(w) lost its accuracy, or
                no example ever changed sides.
            NonFiniteError: if a training diverges.
        """
        require_generator(rng)
        data.require_examples("WorstCaseForget")
        m = self._count(len(data))
        groups = self._groups(data, m)
        losses = _stable_losses(model, data)
        rising = self.which in ("easiest", "highest-loss")
        plain = top(losses if rising else -losses, groups)
        swaps: list[int] = []
        trace: list[float] = []
        if self.which in ("worst", "easiest"):
            chosen, swaps, trace = self._search(model, data, groups, rng)
        elif self.which == "random":
            chosen = top(torch.rand(len(data), generator=child(rng), dtype=torch.float64), groups)
        else:
            chosen = plain
        return ForgetSet(
            positions=chosen.nonzero().flatten(),
            swaps=tuple(swaps),
            losses=tuple(trace),
            agreement=float((chosen & plain).sum()) / m,
            twins=_twins(data, chosen),
        )

    def _search(
        self, model: Module, data: Data[Any], groups: list[tuple[Tensor, int]], rng: Generator
    ) -> tuple[Tensor, list[int], list[float]]:
        """The set [n], the swaps and the mean loss on the set of each round."""
        free("WorstCaseForget", model)
        inside = top(torch.rand(len(data), generator=child(rng), dtype=torch.float64), groups)
        w, sign = inside.double(), 1.0 if self.which == "worst" else -1.0
        before = _accuracies(model, data)
        swaps, trace = [], []
        for done in range(1, self.rounds + 1):
            losses = self._losses_without(w, model, data, before, rng)
            trace.append(float((w * losses).sum() / w.sum()))
            for positions, m in groups:
                w[positions] = stepped(
                    w[positions], sign * losses[positions], m, step=self.step, gamma=self.gamma
                )
            now = top(w, groups)
            swaps.append(int((now & ~inside).sum()))
            inside = now
            if done % self.binarise == 0:
                w = inside.double()
        if not any(swaps):
            raise InputError(
                f"WorstCaseForget moved no example in {self.rounds} rounds: the set is still the random one. Raise "
                f"step ({self.step:g}), lr ({self.lr:g}) or rounds."
            )
        return inside, swaps, trace

    def _losses_without(
        self, w: Tensor, model: Module, data: Data[Any], before: Tensor | None, rng: Generator
    ) -> Tensor:
        """Loss of every example at theta(w), float64 [n]."""
        theta = copied(model)

        def rest(m: Module, batch: tuple[Batch, Tensor]) -> Tensor:
            losses: Tensor = data.task.losses(m, batch[0])
            return ((1 - w[batch[1]]).to(losses) * losses).sum()

        fit_(
            theta, Numbered(data), rest, SignSGD(free("WorstCaseForget", theta), self.lr), epochs=self.epochs, rng=rng,
            hold=Mask.of(model), loop=Loop(norms="frozen", label="worst-case forget set"),
        )  # fmt: skip
        after = _accuracies(theta, data)
        if before is not None and after is not None:
            was, is_now = (float(((1 - w) * right).sum() / (1 - w).sum()) for right in (before, after))
            if is_now < self.least * was:
                raise InputError(
                    f"WorstCaseForget trained on the rest, and accuracy there fell from {100 * was:.1f} % to "
                    f"{100 * is_now:.1f} %, below least = {self.least:g} of it: sign steps of lr = {self.lr:g} destroy "
                    "this network. Lower lr, or epochs."
                )
        return predict(theta, data, data.task.losses).double()

    def _count(self, n: int) -> int:
        m = int(self.size) if isinstance(self.size, Integral) else max(1, round(self.size * n))
        if m >= n:
            raise InputError(f"WorstCaseForget.size is {m} of {n} examples; at least one must stay.")
        return m

    def _groups(self, data: Data[Any], m: int) -> list[tuple[Tensor, int]]:
        """Positions that share a part of the size, and that part; without strata one group."""
        if not self.stratified:
            return [(torch.arange(len(data)), m)]
        requires(data.task, Labelled, "WorstCaseForget(stratified=True)")
        labels = read_labels(data)
        found = [(labels == c).nonzero().flatten() for c in torch.unique(labels)]
        counts = shares([len(positions) for positions in found], m)
        if any(count >= len(positions) for positions, count in zip(found, counts, strict=True)):
            raise InputError(
                f"WorstCaseForget.size = {self.size} leaves no example of a class of {min(map(len, found))}. Take "
                "fewer, or stratified=False."
            )
        return [(positions, count) for positions, count in zip(found, counts, strict=True) if count]


def stepped(w: Tensor, losses: Tensor, m: int, *, step: float, gamma: float) -> Tensor:
    """One projected step: P(w - lr_w (losses + 2 gamma w)), lr_w = step / (90 % - 10 % quantile of the losses), [n].

    Raises:
        InputError: if these quantiles are the same.
    """
    low, high = torch.quantile(losses, torch.tensor([0.1, 0.9], dtype=losses.dtype))
    if not high > low:
        raise InputError(
            f"WorstCaseForget finds no spread in the losses (both quantiles are {float(low):.3g}): all examples are "
            "equally hard after training on the rest. Train fewer epochs, or take harder data."
        )
    return project(w - step / (high - low) * (losses + 2 * gamma * w), m)


def project(a: Tensor, m: int) -> Tensor:
    """The point nearest `a` [n] with entries from 0 to 1 that sum to m: clip(a - mu, 0, 1), mu found by sorting.

    The sum falls in mu, piecewise linear with corners at a_i and a_i - 1; mu is solved for in the piece that has m.

    Example:
        >>> project(torch.tensor([2.0, 0.5, 0.3, -1.0]), 1)
        tensor([1., 0., 0., 0.])
    """
    ordered = a.double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    corners = torch.cat([ordered - 1, ordered]).sort().values
    above, full = (
        torch.searchsorted(ordered, corners, right=True), torch.searchsorted(ordered, corners + 1)
    )  # fmt: skip
    full = torch.maximum(full, above)
    totals = len(a) - full + sums[full] - sums[above] - (full - above) * corners
    last = int((totals >= m).nonzero().max())
    fall = (totals[last] - m) / (totals[last] - totals[last + 1])
    mu = corners[last] + fall * (corners[last + 1] - corners[last])
    return (a.double() - mu).clamp(0, 1).to(a)


def top(scores: Tensor, groups: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Where the m largest scores of each group are, bool [n]; of equal ones the first."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    for positions, m in groups:
        order = scores[positions].argsort(descending=True, stable=True)
        chosen[positions[order[:m]]] = True
    return chosen


def shares(sizes: list[int], m: int) -> list[int]:
    """`m` in proportion to the sizes, rounded to the largest remainders; of equal ones the first.

    Example:
        >>> shares([5, 3, 2], 4)
        [2, 1, 1]
    """
    exact = [m * size / sum(sizes) for size in sizes]
    counts = [int(x) for x in exact]
    order = sorted(range(len(sizes)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: m - sum(counts)]:
        counts[i] += 1
    return counts


class SignSGD(Optimizer):
    """A step of one length along the sign of each weight's gradient."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        """Move every weight by lr against the sign of its gradient; returns the closure's loss."""
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(p.grad.sign(), alpha=group["lr"])
        return loss


def _stable_losses(model: Module, data: Data[Any]) -> Tensor:
    """Loss of every example at the model, float64 [n]."""
    losses = predict(model, data, data.task.losses).double()
    with evaluating(model):
        again = data.task.losses(model, next(data.batches())).double().cpu()
    if not torch.allclose(again, losses[: len(again)], rtol=1e-3, atol=1e-5):
        raise InputError(
            "WorstCaseForget names examples by their positions, and these data give other ones at each reading. Take "
            "the augmentation out."
        )
    return losses


def _accuracies(model: Module, data: Data[Any]) -> Tensor | None:
    """1 where the model is right, 0 where it is wrong, float64 [n]; None without labels."""
    if not able(data.task, Labelled):
        return None
    return (predict(model, data).argmax(1) == read_labels(data)).double()


def _twins(data: Data[Any], chosen: Tensor) -> int | None:
    """How many of the chosen have the very inputs of an example that was not."""
    if not able(data.task, Perturbing):
        return None
    inputs = (x for batch in data.batches() for x in data.task.inputs(batch).double().cpu())
    seen = [sha256(x.numpy().tobytes()).digest() for x in inputs]
    rest = {key for key, inside in zip(seen, chosen.tolist(), strict=True) if not inside}
    taken = [key for key, inside in zip(seen, chosen.tolist(), strict=True) if inside]
    return sum(key in rest for key in taken)
