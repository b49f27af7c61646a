"""M-SAM: sharpness-aware steps for the share of the loss that the dominant modality has.

Nowdeh, Ji, Ma, Afghah, "Modality-Aware SAM: Sharpness-Aware-Minimization Driven Gradient Modulation for Harmonized
Multimodal Learning", NeurIPS 2025, arXiv 2510.24919, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..settings import checked
from ..tasks import evaluating
from ..types import Batch
from .two_pass import Rho, climb_, come_back_
from .vectors import copies, norm
from .wrapper import Closure, Wrapper


class Modalities:
    """How a batch falls apart into modalities, and how much each contributes to the answers.

    Its `objective` is what `fit_` minimises; while an `MSAM` built on it steps, it returns the loss, or the dominant
    modality's part of it, as asked.

    Args:
        names: of the modalities, two or more (with one, M-SAM is SAM).
        read: batch -> (name -> tensor [n, ...], labels [n]).
        answer: (model, name -> tensor) -> logits [n, classes].
        value: "accuracy" of the batch (the paper's), or the mean probability of the right class ("probability"), which
            is finer. Ties between modalities are broken by the latter.
        absent: what stands for a modality that is left out: "zeros" or its mean over the batch.

    Attributes:
        shares: v, one a modality, of the last step's batch; for `decomposition="sample"` one row an example.
    """

    @checked
    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[Batch], tuple[Mapping[str, Tensor], Tensor]],
        answer: Callable[[Module, Mapping[str, Tensor]], Tensor],
        *,
        value: Literal["accuracy", "probability"] = "accuracy",
        absent: Literal["zeros", "mean"] = "zeros",
    ) -> None:
        if len(set(names)) != len(names) or not names:
            raise InputError(f"Modalities: names must be one or more different ones; got {list(names)}.")
        if len(names) > 4:
            raise InputError(
                f"Modalities: exact Shapley values of {len(names)} modalities need {2 ** len(names)} passes; at most 4."
            )
        self.names, self.read, self.answer, self.value, self.absent = (
            tuple(names),
            read,
            answer,
            value,
            absent,
        )
        self.shares = torch.full((len(names),), 1 / len(names))
        self.part: Literal["all", "again", "dominant"] = "all"
        self.by_sample = False

    @property
    def dominant(self) -> int:
        """Position of the modality with the largest share."""
        return int((self.shares if self.shares.ndim == 1 else self.shares.mean(0)).argmax())

    def objective(self, model: Module, batch: Batch) -> Tensor:
        """Mean cross-entropy; within an M-SAM step, the part asked for."""
        inputs, labels = self._opened(batch)
        if self.part == "all":
            self.shares = self.contributions(model, batch)
        losses = F.cross_entropy(self.answer(model, inputs), labels, reduction="none")
        if self.part == "dominant":
            weights = self.shares[..., self.dominant]
            return (losses * weights).mean()
        return losses.mean()

    @torch.no_grad()
    def contributions(self, model: Module, batch: Batch) -> Tensor:
        """V = max(Phi, 0) / sum max(Phi, 0), [modalities], or [n, modalities] by sample; equal where none helps."""
        phi = self.shapley(model, batch)
        whole = phi if self.by_sample else phi.mean(0)
        positive = whole.clamp(min=0)
        total = positive.sum(-1, keepdim=True)
        return torch.where(
            total > 0, positive / total.clamp(min=1e-12), torch.full_like(positive, 1 / len(self.names))
        )

    @torch.no_grad()
    def shapley(self, model: Module, batch: Batch) -> Tensor:
        """Exact Shapley values of every example, [n, modalities]: their rows sum to V(all) - V(none)."""
        inputs, labels = self._opened(batch)
        m = len(self.names)
        values: dict[frozenset[int], Tensor] = {}
        with evaluating(model):
            for size in range(m + 1):
                for present in combinations(range(m), size):
                    shown = {
                        n: t if i in present else self._without(t) for i, (n, t) in enumerate(inputs.items())
                    }
                    logits = self.answer(model, shown).float()
                    right = logits.softmax(1).gather(1, labels[:, None])[:, 0]
                    if self.value == "accuracy":
                        # a thousandth of the probability breaks ties
                        right = (logits.argmax(1) == labels).float() + 1e-3 * right
                    values[frozenset(present)] = right
        phi = torch.zeros(len(labels), m, device=labels.device)
        for i in range(m):
            for size in range(m):
                for others in combinations([k for k in range(m) if k != i], size):
                    weight = factorial(size) * factorial(m - size - 1) / factorial(m)
                    phi[:, i] += weight * (values[frozenset({*others, i})] - values[frozenset(others)])
        return phi

    def _without(self, tensor: Tensor) -> Tensor:
        if self.absent == "zeros":
            return torch.zeros_like(tensor)
        return tensor.mean(0, keepdim=True).expand_as(tensor)

    def _opened(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels = self.read(batch)
        missing = [n for n in self.names if n not in inputs]
        if missing:
            raise InputError(
                f"Modalities: the batch has no {', '.join(missing)}; it has {', '.join(inputs)}."
            )
        return {n: inputs[n] for n in self.names}, labels.long()


@final
class MSAM(Wrapper):
    """SAM for the dominant modality's share of the loss, a plain gradient for the rest.

    As the paper writes it ("batch"), every share is the whole loss times a number: the ascent is exactly SAM's, and the
    step is v SAM + (1 - v) SGD with v the dominant modality's share. "sample" takes shares example by example, so that
    the ascent differs (one pass more); "encoder" perturbs the parameters of the dominant modality's group alone, which
    is not the paper's equation.

    Args:
        params: parameters or groups; for "encoder", groups with the entry `modality`.
        modalities: whose `objective` is being minimised.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        decomposition: "batch" (the paper), "sample" or "encoder".
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, "encoder" is asked for without groups of every modality, or `step`
            gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Modality-Aware SAM: Sharpness-Aware-Minimization Driven Gradient Modulation for Harmonized Multimodal "
        "Learning",
        "Nowdeh, Ji, Ma, Afghah", "NeurIPS", 2025, "2510.24919",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], modalities: Modalities, base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        decomposition: Literal["batch", "sample", "encoder"] = "batch", foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.modalities, self.decomposition = modalities, decomposition
        modalities.by_sample = decomposition == "sample"
        tagged = {group.get("modality") for group in self.param_groups}
        missing = [n for n in modalities.names if n not in tagged]
        if decomposition == "encoder" and missing:
            raise InputError(
                f"MSAM: no parameter group has the modality {', '.join(missing)}; tag groups with `modality`."
            )

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Look, perturb by the dominant part, look again, step by both.

        Returns:
            The loss at the weights before the step.
        """
        again = self.needed(closure)
        self.modalities.part = "all"
        try:
            loss = self.gradient(again)
            self.modalities.part = "again"  # shares are those at the weights before the step
            weights = self.trained()
            share, rest = self._split(again, weights)
            self._climb()
            try:
                self.gradient(again)
            finally:
                come_back_(self)
        finally:
            self.modalities.part = "all"
        for perturbed, plain in zip(self.gradients(weights), rest, strict=True):
            perturbed.mul_(share).add_(plain)
        self.base.step()
        return loss

    def _split(self, closure: Closure, weights: list[Tensor]) -> tuple[float, list[Tensor]]:
        """The dominant part's share of the loss that is perturbed, and the plain gradient of all else.

        "sample" leaves the gradients of the dominant part in the parameters, for the ascent.
        """
        shares, whole = self.modalities.shares, copies(self.gradients(weights))
        if self.decomposition != "sample":
            share = float(shares[self.modalities.dominant])
            return share, [g * (1 - share) for g in whole]
        self.modalities.part = "dominant"
        self.gradient(closure)
        return 1.0, [g - part for g, part in zip(whole, self.gradients(weights), strict=True)]

    def _climb(self) -> None:
        name = self.modalities.names[self.modalities.dominant]
        if self.decomposition == "encoder":
            for group in self.param_groups:
                if group.get("modality") != name:
                    for p in group["params"]:
                        if p.grad is not None:
                            p.grad.zero_()
        weights = self.trained()
        gradients = self.gradients(weights)
        climb_(self, weights, gradients, norm(gradients, foreach=self.foreach))
