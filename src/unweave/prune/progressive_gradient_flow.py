"""Train to N:M sparsity by fading what is pruned: STE, SR-STE, mask decay (MdGf) and structure decay (SdGf).

Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci, Krishna, "Progressive Gradient Flow for Robust N:M Sparsity
Training in Transformers", CPAL 2025, arXiv 2402.04744; SR-STE is of Zhou et al., ICLR 2021, arXiv 2102.04010.
"""

from __future__ import annotations

from math import exp, log, log2
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.utils import parametrize
from torch.optim import AdamW

from ..errors import InputError
from ..fit import Loop, Step, fit_
from ..fit.recipe import mean_loss, warm_cosine
from ..masks.layers import copied
from ..masks.mask import Mask
from ..masks.patterns import NM, fitting
from ..masks.scope import ROWS, Scope
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, refuse_idle, settings
from ..types import Data

Flow = Literal["ste", "sr-ste", "mdgf-linear", "mdgf-exp", "sdgf-step", "sdgf-geometric"]


@settings
class ProgressiveNM:
    """Train with weights W masked anew each forward pass: in each group of M inputs the N largest live.

    Flows: "ste" passes the gradient of the masked weight on to all of W; "sr-ste" also pulls pruned weights to zero;
    "mdgf-linear" and "mdgf-exp" multiply pruned weights by a factor that fades from 1 to 0, and their gradients with
    them; "sdgf-step" goes through (M-1):M, M/2:M, M/4:M ... N:M, "sdgf-geometric" through 8N:8M, 4N:4M, 2N:2M, N:M.
    The authors' code passes the gradient on unfaded in mask decay too; `backward="ste"` does that. It also drops
    biases, divides the dense share by 100 and keeps its clock outside checkpoints: not so here.

    The share `dense` of the steps is trained dense, the last share `finetune` under the final binary mask. The factor
    reaches a thousandth at the end of the steps between. A model's own zeros stay zero.

    Attributes:
        n: weights that live in a group.
        m: weights in a group, along the input dimension; layers in which it does not divide that (eight times m for
            "sdgf-geometric") stay dense.
        flow: how pruned weights fade, see above.
        backward: "autodiff" fades gradients with the weights; "ste" does not. For mask decay alone.
        pull: SR-STE's lambda. For "sr-ste" alone.
        dense: share of the training without sparsity.
        finetune: share of the training with the final mask fixed in form.
        epochs: passes over the data.
        lr: peak learning rate of AdamW, warmed up and let down along a cosine.
        weight_decay: of AdamW; it acts on all of W.
        scope: which layers; leaves out the last.
    """

    n: Count = 1
    m: Count = 16
    flow: Flow = "mdgf-exp"
    backward: Literal["autodiff", "ste"] = "autodiff"
    pull: NonNegative = 2e-4
    dense: Part = 0.05
    finetune: Part = 0.1
    epochs: Count = 40
    lr: Positive = 3e-3
    weight_decay: NonNegative = 0.01
    scope: Scope = Scope(last=False)

    paper: ClassVar[Paper] = Paper(
        "Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers",
        "Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci, Krishna", "CPAL", 2025, "2402.04744",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise InputError(f"ProgressiveNM needs n < m; got {self.n} and {self.m}.")
        if self.dense + self.finetune >= 1:
            raise InputError(
                f"ProgressiveNM: dense and finetune are shares that leave some of the training; got {self.dense} and "
                f"{self.finetune}."
            )
        if self.flow != "sr-ste":
            refuse_idle(self, "pull", when=f'since flow is "{self.flow}"')
        if not self.flow.startswith("mdgf"):
            refuse_idle(self, "backward", when=f'since flow is "{self.flow}"')

    @property
    def pattern(self) -> NM:
        """The widest groups that the flow goes through, which must divide a layer's inputs."""
        scale = 8 if self.flow == "sdgf-geometric" else 1
        return NM(scale * self.n, scale * self.m)

    def stage(self, step: int, steps: int) -> tuple[int, int, float]:
        """(n, m, factor of pruned weights) at a step of a training; (0, 0, 1) while it is dense."""
        begin, end = round(self.dense * steps), round((1 - self.finetune) * steps)
        if step < begin:
            return 0, 0, 1.0
        if step >= end:
            return self.n, self.m, 0.0
        share = (step - begin) / (end - begin)
        if self.flow == "mdgf-linear":
            return self.n, self.m, 1 - share
        if self.flow == "mdgf-exp":
            return self.n, self.m, exp(-log(1000) * share)
        if self.flow == "sdgf-geometric":
            scale = (8, 4, 2, 1)[int(4 * share)]
            return scale * self.n, scale * self.m, 0.0
        if self.flow == "sdgf-step":
            rungs = [self.m - 1, *(self.m >> k for k in range(1, int(log2(self.m / self.n)) + 1))]
            rungs = [r for r in rungs if r > self.n] + [self.n]
            return rungs[int(len(rungs) * share)], self.m, 0.0
        return self.n, self.m, 0.0

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A trained copy of `model` with at most N of every M weights alive.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if the largest M that the flow goes through divides the inputs of no layer.
        """
        data.require_examples("ProgressiveNM")
        trained, given = copied(model), Mask.of(model)
        steps = self.epochs * data.steps
        clocks = self.attach_(trained, steps)
        hold = Mask({_inner(n, clocks): alive for n, alive in given.keep.items()}) if given else None
        weights = [p for p in trained.parameters() if p.requires_grad]
        optimizer = AdamW(weights, self.lr, weight_decay=self.weight_decay)

        def tick(step: Step) -> None:
            for fading in clocks.values():
                fading.step += 1

        fit_(
            trained, data, mean_loss(data), optimizer,
            epochs=self.epochs, rng=rng,
            loop=Loop(schedule=warm_cosine(optimizer, steps), label=f"train to {self.n}:{self.m}"),
            after_step=tick, hold=hold,
        )  # fmt: skip
        freeze_(trained)
        return trained

    def attach_(self, model: Module, steps: int) -> dict[str, Fading]:
        """Parametrise the weights in scope for a training of so many steps; name of the weight -> its clock."""
        layers = self.scope.layers(model, ROWS)
        fit = fitting(self.pattern, {name: w.shape for name, _, w in layers})
        clocks = {}
        for name, layer, _ in layers:
            if name not in fit:
                continue
            clocks[name] = Fading(self, steps)
            parametrize.register_parametrization(layer, "weight", clocks[name])
        return clocks


class Fading(Module):
    """Parametrisation of one weight; its clock is a buffer, so a resumed training is in step.

    Attributes:
        step: of the training, counted by whoever trains.
    """

    def __init__(self, how: ProgressiveNM, steps: int) -> None:
        super().__init__()
        self.how, self.steps = how, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.step: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the layer uses it."""
        n, m, factor = self.how.stage(int(self.step), self.steps)
        if n == 0:
            return weight
        alive = n_of_m(weight.detach(), n, m)
        if factor == 0.0:
            pull = self.how.pull if self.how.flow == "sr-ste" else 0.0
            used: Tensor = _Straight.apply(weight, alive, pull, factor)  # type: ignore[no-untyped-call]
        elif self.how.backward == "ste":
            used = _Straight.apply(weight, alive, 0.0, factor)  # type: ignore[no-untyped-call]
        else:
            used = torch.where(alive, weight, weight * factor)
        return used


class _Straight(torch.autograd.Function):
    """W (mask + (1 - mask) factor), with the gradient of the masked weight, plus pull (1 - mask) W."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, alive: Tensor, pull: NonNegative, factor: float) -> Tensor:
        ctx.save_for_backward(weight, alive)
        ctx.pull = pull
        return torch.where(alive, weight, weight * factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        weight, alive = ctx.saved_tensors
        gradient = gradients[0]
        if ctx.pull:
            gradient = gradient + ctx.pull * weight.masked_fill(alive, 0)
        return gradient, None, None, None


def n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """The n largest of every m neighbouring inputs, equal ones by position; bool of the weight's shape."""
    last = weight.abs().movedim(1, -1)
    groups = last.reshape(-1, m)
    # a stable sort, so that equal weights are told apart by position
    order = groups.argsort(dim=1, descending=True, stable=True)[:, :n]
    alive = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
    return alive.view(last.shape).movedim(-1, 1)


def freeze_(model: Module) -> Module:
    """Bake the final mask into the weights and remove the parametrisations, in place."""
    for module in list(model.modules()):
        chain = getattr(module, "parametrizations", None)
        if chain is None or "weight" not in chain or not isinstance(chain["weight"][0], Fading):
            continue
        fading = chain["weight"][0]
        with torch.no_grad():
            fading.step.fill_(fading.steps)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model


def _inner(name: str, clocks: dict[str, Fading]) -> str:
    if name not in clocks:
        return name
    layer, _, weight = name.rpartition(".")
    return f"{layer}.parametrizations.{weight}.original".lstrip(".")
