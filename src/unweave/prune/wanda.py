"""Wanda: a weight matters as much as it is large and its input is active; compared within each output.

Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024,
arXiv 2306.11695, eq. 1: S_ij = |W_ij| * ||X_j||_2 over all calibration inputs (tokens, positions). Use it
with the budget `PerOutput`, or the pattern `NM`; no weight is updated.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Linear, Module

from ..derivatives import spaced
from ..errors import InputError
from ..masks.budgets import PerOutput, Sparsity
from ..masks.layers import conv1d, copied, is_conv1d
from ..masks.patterns import NM, Unstructured, refuse_own_sparsity
from ..masks.scope import ROWS, Scope
from ..masks.select import select
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, settings
from ..types import Data
from ._layerwise import padded, padding, walk, without_padding


@settings
class Wanda:
    """Score = |w| times the l2 norm of what it is multiplied with, summed over the calibration examples.

    The paper goes layer by layer and shows each layer the outputs of already pruned ones, as `WandaPrune` does;
    here all layers see the dense network's, so that one pass suffices. Convolutions count each kernel position as
    an input of its own; padding of texts does not count.

    Attributes:
        examples: how many calibration examples, evenly spaced through the data (the paper: 128 sequences).
        scope: which weights are scored.
    """

    examples: Count | None = 128
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "A Simple and Effective Pruning Approach for Large Language Models",
        "Sun, Liu, Bair, Kolter", "ICLR", 2024,
        "2306.11695",
    )  # fmt: skip

    def score(self, model: Module, data: Data[Any]) -> dict[str, Tensor]:
        """Weight sizes times input norms, float32 or wider.

        Raises:
            EmptyDataError: if there is no example.
            InputError: if a layer in scope is never called by the model, or reads padding that cannot be told from
                text.
        """
        data.require_examples("Wanda")
        copy = copied(model).eval()
        layers = self.scope.layers(copy, (*ROWS, *conv1d()))
        energy: dict[str, Tensor] = {}
        present: Tensor | None = None

        def watch(name: str) -> Any:
            def add(layer: Module, args: tuple[Tensor, ...]) -> None:
                read = without_padding("Wanda", name, layer, args[0], present)
                energy[name] = energy.get(name, 0) + _input_energy(layer, read)

            return add

        hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer, _ in layers]
        try:
            with torch.no_grad():
                for batch in spaced(data, self.examples).batches():
                    present = padding(data.task, batch)
                    data.task.outputs(copy, batch)
        finally:
            for hook in hooks:
                hook.remove()
        for name, _, _ in layers:
            if name not in energy:
                raise InputError(
                    f"Wanda: the layer of {name} is never called by the model. Leave it out of the scope (skip; "
                    "--skip on the command line)."
                )
        return {name: weight.detach().abs() * energy[name].sqrt() for name, _, weight in layers}


@settings
class WandaPrune:
    """Prune by Wanda layer by layer, each against the outputs of the layers before, already pruned; no repair.

    Padding of texts does not count.

    Attributes:
        sparsity: share of each output's weights to remove; N:M patterns set their own.
        pattern: single weights, or N:M; layers whose inputs its m does not divide stay dense.
        examples: calibration examples, evenly spaced through the data.
        scope: which layers; in a transformer, those inside its blocks.
    """

    sparsity: Sparsity = 0.5
    pattern: Unstructured | NM = Unstructured()
    examples: Count = 128
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Wanda.paper

    def __post_init__(self) -> None:
        refuse_own_sparsity(self, "sparsity", self.sparsity)

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned copy of `model`.

        Raises:
            EmptyDataError: if there is no example.
            InputError: if a layer is never called, or N:M fits none.
        """
        require_generator(rng)
        copy = copied(model)

        @torch.no_grad()
        def visit(name: str, layer: Module, weight: Tensor, gram: Tensor) -> None:
            norms = gram.diagonal().sqrt().view(1, *weight.shape[1:])
            mask = select({name: weight.abs() * norms}, self.pattern, PerOutput(self.sparsity))
            weight.masked_fill_(~mask.keep[name], 0)

        walk("WandaPrune", copy, data, self.examples, self.scope, self.pattern, visit)
        return copy


def _input_energy(layer: Any, inputs: Tensor) -> Tensor:
    """Sum of squares of every input that each weight meets, of the weight's shape (or broadcasting to it).

    That sum is the derivative, with respect to the weight, of the layer's summed output for squared inputs.
    """
    squares = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32)).square()
    if isinstance(layer, Linear):
        return squares.reshape(-1, squares.shape[-1]).sum(0)
    if is_conv1d(layer):  # its weight is [in, out]
        return squares.reshape(-1, squares.shape[-1]).sum(0)[:, None]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(layer.kernel_size) - 1]
    with torch.enable_grad():
        weight = torch.zeros_like(layer.weight, dtype=squares.dtype, requires_grad=True)
        out = convolve(padded(layer, squares), weight, None, layer.stride, 0, layer.dilation, layer.groups)
        return torch.autograd.grad(out.sum(), weight)[0]
