"""FairSAM: sharpness-aware training whose examples are weighed so that no group sits in a sharper region.

Dai, Ji, Ma, Wu, "FairSAM: Fair Classification on Corrupted Images Through Sharpness-Aware Minimization", TMLR 2026,
arXiv 2503.22934. Only its abstract and summaries could be read: that instance weights enter SAM, and that fairness is
measured by the Corrupted Degradation Disparity, is the paper's; the rules of the weights are ours, and can be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..types import Batch
from ._sharpness import Closure
from .sam import SAM

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
        smooth: of the running means of losses, in [0, 1).
        cap: largest weight before scaling.
        where: "both" passes are weighted, or only the "ascent" or the "descent".

    Raises:
        InputError: if a group has no training example, or a batch's groups are no integers from 0 to K - 1.
    """

    def __init__(
        self, read: Callable[[Batch], Tensor], losses: Callable[[Module, Batch], Tensor], counts: Tensor, *,
        rule: Literal["groupdro", "degradation", "reweigh"] | Rule = "groupdro", eta: float = 0.01, smooth: float = 0.9,
        cap: float = 10.0, where: Literal["both", "ascent", "descent"] = "both",
    ) -> None:  # fmt: skip
        empty = (counts <= 0).nonzero().flatten().tolist()
        if empty or counts.ndim != 1:
            raise InputError(
                f"GroupWeights: groups {empty} have no training example; every group needs some."
            )
        if not 0 <= smooth < 1 or eta < 0 or cap < 1:
            raise InputError(
                f"GroupWeights needs smooth in [0, 1), eta >= 0 and cap >= 1; got {smooth}, {eta}, {cap}."
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
        if callable(self.rule) or self.rule == "reweigh":
            return
        signal = perturbed - clean if self.rule == "degradation" else perturbed
        for g in groups.unique().tolist():  # type: ignore[no-untyped-call]
            self.mean[g] = self.smooth * self.mean[g] + (1 - self.smooth) * signal[groups == g].mean()
        self.q = self.q * (self.eta * self.mean).exp()
        self.q = self.q / self.q.sum()


class FairSAM(SAM):
    """SAM on losses weighed by group, with the weights learnt from the perturbed losses.

    With weights of 1 it is SAM; with rho = 0 it is the base optimiser on the weighted loss, in two passes.

    Args:
        params: parameters or groups of parameters.
        weights: whose `objective` is being minimised.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho is negative or not finite, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "FairSAM: Fair Classification on Corrupted Images Through Sharpness-Aware Minimization",
        "Dai, Ji, Ma, Wu", "TMLR", 2026, "2503.22934",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], weights: GroupWeights, base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05,
        **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, rho=rho, **keywords)
        self.weights = weights

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Look, perturb, look again with fresh weights, step."""
        again, calls = self.needed(closure), [0]

        def counted() -> Tensor:
            calls[0] += 1
            self.weights.descending = calls[0] > 1
            return again()

        try:
            return super().step(counted)
        finally:
            self.weights.descending = False

    def state_dict(self) -> dict[str, Any]:
        """With what the weights have learnt."""
        return {**super().state_dict(), "fair": [self.weights.q, self.weights.mean]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read back what `state_dict` gave."""
        rest = dict(state_dict)
        self.weights.q, self.weights.mean = (t.clone() for t in rest.pop("fair"))
        super().load_state_dict(rest)
