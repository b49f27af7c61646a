"""FairSAM: sharpness-aware training whose examples are weighed so that no group sits in a sharper region.

Dai, Ji, Ma, Wu, "FairSAM: Fair Classification on Corrupted Images Through Sharpness-Aware Minimization", TMLR 2026,
arXiv 2503.22934. Only its abstract and summaries could be read: that instance weights enter SAM, and that fairness is
measured by the Corrupted Degradation Disparity, is the paper's; the rules of the weights are ours, and can be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..settings import NonNegative, Part, Range, checked
from ..types import Batch
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import norm
from .wrapper import Closure, Wrapper

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(losses at the weights [n], losses at the perturbed weights [n], groups [n]) -> weights [n]."""


class GroupWeights:
    """Weights of examples by their group; its `objective` is what `fit_` minimises with `FairSAM`.

    Rules: "groupdro" raises the weight q_g of groups whose smoothed loss is high, q_g <- q_g exp(eta ema_g);
    "degradation" does so by how much a group's loss rises under the perturbation, the proxy of its degradation on
    corrupted data; "reweigh" is constant, (n / K) / n_g by the training counts; a function of your own gives weights
    for a batch. Weights of a batch are scaled to mean 1, and carry no gradient.

    Args:
        read: batch -> group of each example, integers from 0, [n].
        losses: (model, batch) -> loss of each example, [n].
        counts: training examples of each group, [K]; none may be 0.
        rule: see above.
        eta: rate of the rules that learn.
        smooth: of the running means of losses, for the rules that learn.
        cap: largest weight before scaling.
        where: "both" passes are weighted, or only the "ascent" or the "descent".

    Raises:
        InputError: if a setting is out of its range or does nothing with this rule, a group has no training example, or
            a batch's groups are no integers from 0 to K - 1.
    """

    @checked
    def __init__(
        self, read: Callable[[Batch], Tensor], losses: Callable[[Module, Batch], Tensor], counts: Tensor, *,
        rule: Literal["groupdro", "degradation", "reweigh"] | Rule = "groupdro", eta: NonNegative = 0.01,
        smooth: Part = 0.9, cap: Annotated[float, Range(at_least=1)] = 10.0,
        where: Literal["both", "ascent", "descent"] = "both",
    ) -> None:  # fmt: skip
        empty = (counts <= 0).nonzero().flatten().tolist()
        if empty or counts.ndim != 1:
            raise InputError(
                f"GroupWeights: groups {empty} have no training example; every group needs some."
            )
        self.learns = rule in ("groupdro", "degradation")
        if not self.learns and (eta, smooth) != (0.01, 0.9):
            raise InputError(
                f"GroupWeights.eta and smooth are for rules that learn; {rule!r} does not. Leave them out."
            )
        self.read, self.losses, self.counts, self.rule = read, losses, counts.double(), rule
        self.eta, self.smooth, self.cap, self.where = eta, smooth, cap, where
        self.q = torch.full((len(counts),), 1 / len(counts), dtype=torch.float64)
        self.mean = torch.zeros(len(counts), dtype=torch.float64)
        self.descending = False
        self._clean: Tensor | None = None

    def objective(self, model: Module, batch: Batch) -> Tensor:
        """Weighted mean loss of a batch; in an optimiser's second pass the weights are refreshed first."""
        groups = self.groups(batch)
        losses = self.losses(model, batch)
        now = losses.detach().double().cpu()
        if self.descending:
            clean = now if self._clean is None else self._clean
            self._learn(clean, now, groups)
        else:
            self._clean = now
            clean = now
        if self.where not in ("both", "descent" if self.descending else "ascent"):
            return losses.mean()
        weights = self.weights(clean, now, groups).to(losses)
        return (weights * losses).mean()

    def weights(self, clean: Tensor, perturbed: Tensor, groups: Tensor) -> Tensor:
        """Weight of each example, mean 1, [n]."""
        if callable(self.rule):
            raw = self.rule(clean, perturbed, groups).double()
        elif self.rule == "reweigh":
            raw = (self.counts.sum() / (len(self.counts) * self.counts))[groups]
        else:
            here = torch.bincount(groups, minlength=len(self.q)).double()
            raw = (self.q / (here / len(groups)).clamp(min=1e-12))[groups]
        raw = raw.clamp(max=self.cap)
        return raw * len(raw) / raw.sum()

    def groups(self, batch: Batch) -> Tensor:
        """Group of each example, int64 on the CPU."""
        found = self.read(batch)
        if found.is_floating_point() or int(found.min()) < 0 or int(found.max()) >= len(self.q):
            raise InputError(
                f"GroupWeights: groups must be integers from 0 to {len(self.q) - 1}; got {found.dtype} from "
                f"{found.min().item()} to {found.max().item()}."
            )
        return found.long().cpu()

    def _learn(self, clean: Tensor, perturbed: Tensor, groups: Tensor) -> None:
        if not self.learns:
            return
        signal = perturbed - clean if self.rule == "degradation" else perturbed
        for g in groups.unique().tolist():  # type: ignore[no-untyped-call]
            self.mean[g] = self.smooth * self.mean[g] + (1 - self.smooth) * signal[groups == g].mean()
        self.q = self.q * (self.eta * self.mean).exp()
        self.q = self.q / self.q.sum()


@final
class FairSAM(Wrapper):
    """SAM on losses weighed by group, with the weights learnt from the perturbed losses.

    With weights of 1 it is SAM; with rho = 0 it is the base optimiser on the weighted loss, in two passes.

    Args:
        params: parameters or groups of parameters.
        weights: whose `objective` is being minimised.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "FairSAM: Fair Classification on Corrupted Images Through Sharpness-Aware Minimization",
        "Dai, Ji, Ma, Wu", "TMLR", 2026, "2503.22934",
    )  # fmt: skip
    entries: ClassVar[tuple[str, ...]] = ("fair",)

    @checked
    def __init__(
        self, params: Iterable[Any], weights: GroupWeights, base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.weights = weights

    @property
    def fair(self) -> list[Tensor]:
        """What the weights have learnt: each group's weight and running mean."""
        return [self.weights.q, self.weights.mean]

    @fair.setter
    def fair(self, learnt: list[Tensor]) -> None:
        self.weights.q, self.weights.mean = (t.clone() for t in learnt)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Perturb, look again with fresh weights, step.

        Returns:
            The weighted loss at the weights before the step.
        """
        try:
            return two_passes(self, closure, self.first_step, self.second_step)
        finally:
            self.weights.descending = False

    @torch.no_grad()
    def first_step(self) -> None:
        """Move to the perturbed weights, by the gradients that are there; the weights of examples descend from now."""
        weights = self.trained()
        gradients = self.gradients(weights)
        climb_(self, weights, gradients, norm(gradients, foreach=self.foreach))
        self.weights.descending = True

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back to the weights before `first_step` and step by the gradients that are there now."""
        self.weights.descending = False
        come_back_(self)
        self.base.step()
