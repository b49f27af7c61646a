"""SynFlow: prune without data, by the flow of synaptic strength, so slowly that no layer collapses.

Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020, arXiv 2006.05467: R = sum of the outputs of the network with |w| for w on an input of
ones; score |w dR/dw| (eq. 2); density d^(k/n) after iteration k of n (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError, NonFiniteError
from ..masks.budgets import Global, Sparsity
from ..masks.layers import RUNNING_NORMS, copied
from ..masks.mask import Mask
from ..masks.patterns import Pattern, Reduce, Unstructured, require_rising, suited
from ..masks.scope import Scope
from ..masks.select import select
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, settings
from ..tasks import Perturbing, requires
from ..types import Data

_PAPER = Paper(
    "Pruning neural networks without any data by iteratively conserving synaptic flow",
    "Tanaka, Kunin, Yamins, Ganguli", "NeurIPS", 2020, "2006.05467",
)  # fmt: skip


@settings
class SynFlow:
    """One iteration's score, |w dR/dw|, in float64 and eval mode.

    The data's first example is read for its shape alone. Biases and the running means of batch normalisation count as
    zero (they are, at initialisation): a bias feeds a flow that no weight before it carries, so that layers collapse,
    and a mean subtracted from a flow of absolute values would turn parts of it negative.

    Attributes:
        scope: which weights are scored.
    """

    scope: Scope = Scope()

    reduce: ClassVar[Reduce] = "sum"
    paper: ClassVar[Paper] = _PAPER

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Synaptic flow through each weight, float64, non-negative; within a layer without bias it sums to R.

        Raises:
            EmptyDataError: if there is no example to take the shape of.
            InputError: if the task cannot exchange its inputs.
            NonFiniteError: if the flow overflows even in float64.
        """
        data.require_examples("SynFlow")
        requires(data.task, Perturbing, "SynFlow")
        flow = copied(model).double().eval()
        with torch.no_grad():
            for tensor in (*flow.parameters(), *flow.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
            for module in flow.modules():
                if isinstance(module, RUNNING_NORMS) and module.running_mean is not None:
                    module.running_mean.zero_()
                bias = getattr(module, "bias", None)
                if isinstance(bias, Tensor):  # a flow that no weight carries would keep dead layers alive
                    bias.zero_()
        weights = self.scope.weights(flow)
        batch = next(iter(data.subset([0]).batches()))
        ones = data.task.replace_inputs(batch, torch.ones_like(data.task.inputs(batch), dtype=torch.float64))
        with torch.enable_grad():
            total = data.task.outputs(flow, ones).sum()
            if not bool(total.isfinite()):
                raise NonFiniteError(
                    "SynFlow: the flow through the network overflows float64; normalise or rescale its "
                    "layers."
                )
            found = torch.autograd.grad(total, list(weights.values()))
        return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), found, strict=True)}


@settings
class SynFlowPrune:
    """Prune by synaptic flow, iteratively, one global threshold each time.

    Attributes:
        sparsity: share of the weights in scope to remove.
        iterations: n; with 1 layers may collapse as they do for one-shot scores.
        pattern: which weights live or die together.
        scope: which weights are pruned.
    """

    sparsity: Sparsity = 0.9
    iterations: Count = 100
    pattern: Pattern = Unstructured()
    scope: Scope = Scope()

    paper: ClassVar[Paper] = _PAPER

    def __post_init__(self) -> None:
        require_rising(self, "Prune(score=SynFlow(), pattern=...)")

    def mask(self, model: Module, data: Data[Any]) -> Mask:
        """The mask alone; `model` is left unchanged. No draw is made.

        Raises:
            EmptyDataError: if there is no example to take the shape of.
            InputError: if a layer would lose all its weights, naming those that carry no flow.
        """
        score = SynFlow(scope=self.scope)
        masked, mask = copied(model), Mask({})
        weak: list[str] = []
        for k in range(1, self.iterations + 1):
            scores = score.score(masked, data)
            weak = _weak(scores) if k == 1 else weak
            for name, alive in mask.keep.items():
                scores[name].masked_fill_(~alive, -1.0)  # below the weights that live but carry no flow
            budget = Global(1 - (1 - self.sparsity) ** (k / self.iterations))
            try:
                mask = select(scores, suited(self.pattern, score), budget)
            except InputError as error:
                raise InputError(f"SynFlow: {error}{_advice(weak)}") from error
            mask.apply_(masked)
        return mask

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned copy of `model`.

        Raises:
            EmptyDataError: if there is no example to take the shape of.
            InputError: if a layer would lose all its weights.
        """
        require_generator(rng)
        return self.mask(model, data).apply_(copied(model))


def _weak(scores: Mapping[str, Tensor]) -> list[str]:
    """Layers that carry next to none of the flow; without biases and products all carry the same."""
    flow = {name: float(values.sum()) for name, values in scores.items()}
    return [name for name, value in flow.items() if value < 1e-3 * max(flow.values())]


def _advice(weak: list[str]) -> str:
    if not weak:
        return ""
    more = f" and {len(weak) - 6} more" if len(weak) > 6 else ""
    return (
        f" Next to no flow goes through {', '.join(weak[:6])}{more}, as "
        "through an attention's query and key: leave them out (scope's skip; --skip on the command line)."
    )
