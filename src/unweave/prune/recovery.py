"""Recovery: train a pruned model on under its mask, so that what was pruned stays exactly zero.

Three ways: all weights that are left ("full"); a low-rank change of them (Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", ICLR 2022, arXiv 2106.09685), of which only what falls on living weights counts, from the first
step on, so that merging it back loses nothing; or all weights against the unpruned model's answers, not the data's
(Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Linear, Module
from torch.optim import AdamW

from ..errors import InputError, require
from ..fit import Fit, Loop, fit_
from ..fit.recipe import mean_loss, warm_cosine
from ..fit.training import Objective, steps_of
from ..masks.layers import copied, is_conv1d
from ..masks.mask import Mask
from ..models.adapters import masked_forward, merged_weight
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, Positive, Share, refuse_idle, settings
from ..tasks import Padded, evaluating, refuse_measured
from ..types import Batch, Data

By = Literal["full", "lora", "distil"]
LEARNING_RATES: dict[str, float] = {"full": 1e-4, "distil": 1e-4, "lora": 1e-3}
"""Peak of AdamW's learning rate for each way, unless another is given."""


@settings
class Recovery:
    """How a pruned model is trained on: AdamW, a linear rise over the first twentieth of the steps, then half a cosine.

    Attributes:
        by: "full" trains every weight that lives, on the task's loss; "lora" a low-rank change of the pruned layers'
            weights, on the same; "distil" every weight, on the original model's answers.
        epochs: passes over the data.
        lr: peak learning rate; 1e-4 unless given, 1e-3 for "lora".
        rank: of the change, for "lora".
        alpha: the change is scaled by alpha / rank, for "lora".
        temperature: by which logits of both models are divided, for "distil".
        hard: weight of the task's own loss beside the distance to the original's answers, in [0, 1], for "distil".
    """

    by: By = "full"
    epochs: Count = 1
    lr: Positive | None = None
    rank: Count = 8
    alpha: Positive = 16.0
    temperature: Positive = 1.0
    hard: Share = 0.0

    def __post_init__(self) -> None:
        for way, names in {"lora": ("rank", "alpha"), "distil": ("temperature", "hard")}.items():
            if self.by != way:
                refuse_idle(self, *names, when=f"with by={self.by!r}")

    @property
    def peak(self) -> float:
        """The learning rate's highest."""
        return LEARNING_RATES[self.by] if self.lr is None else self.lr

    def require(self) -> None:
        """Refuse a way that needs a package which is not there, before anything is pruned.

        Raises:
            MissingExtraError: for "lora" without peft.
        """
        if self.by == "lora":
            require("peft", extra="language", purpose="recovery by low-rank adapters")

    def train_(self, model: Module, data: Data[Any], *, original: Module, rng: Generator) -> Fit:
        """Train `model` in place; positions that are pruned in it stay zero.

        Args:
            model: a pruned model.
            data: to train on.
            original: the model before it was pruned; only "distil" reads it.
            rng: governs batch order, dropout and the adapters' first weights.

        Raises:
            EmptyDataError: if there is no example.
            InputError: if nothing is pruned in a layer that "lora" can adapt, or "distil" is asked of a task whose
                outputs are no logits.
            MissingExtraError: for "lora" without peft.
        """
        data.require_examples("Recovery")
        require_generator(rng)
        self.require()
        hold = Mask.of(model) or None
        if self.by == "lora":
            with adapted_(model, hold or Mask({}), self.rank, self.alpha, rng) as trained:
                return self._fit_(model, data, mean_loss(data), trained, None, rng)
        objective = mean_loss(data)
        if self.by == "distil":
            refuse_measured(data.task, "Recovery(by='distil')")
            objective = self._towards(copied(original).eval().requires_grad_(False), data, objective)
        return self._fit_(model, data, objective, list(model.parameters()), hold, rng)

    def _fit_(
        self, model: Module, data: Data[Any], objective: Objective, trained: list[Tensor], hold: Mask | None,
        rng: Generator,
    ) -> Fit:  # fmt: skip
        optimizer = AdamW(trained, lr=self.peak)
        schedule = warm_cosine(optimizer, self.epochs * steps_of(model, data))
        return fit_(
            model, data, objective, optimizer, epochs=self.epochs, rng=rng, hold=hold,
            loop=Loop(schedule=schedule, label=f"recover ({self.by})"),
        )  # fmt: skip

    def _towards(self, teacher: Module, data: Data[Any], plain: Objective) -> Objective:
        def distance(model: Module, batch: Batch) -> Tensor:
            with evaluating(teacher):
                wanted = data.task.outputs(teacher, batch)
            found = data.task.outputs(model, batch)
            loss = distillation(found, wanted.to(found.device), self.temperature, present_in(data, batch))
            return (1 - self.hard) * loss + (self.hard * plain(model, batch) if self.hard else 0)

        return distance


def present_in(data: Data[Any], batch: Batch) -> Tensor | None:
    """Which positions of texts are no padding, bool [n, t]; None for a task whose examples are not filled up."""
    return data.task.present(batch) if isinstance(data.task, Padded) else None


def distillation(found: Tensor, wanted: Tensor, temperature: float, present: Tensor | None = None) -> Tensor:
    """T^2 KL(wanted || found) of logits [n, ..., classes] at temperature T, the mean over examples or `present` tokens.

    The factor keeps gradients as large as those of the task's own loss at any T (section 2 of the paper).
    """
    if present is not None:
        found, wanted = found[present.to(found.device)], wanted[present.to(wanted.device)]
    found, wanted = ((x / temperature).flatten(end_dim=-2).log_softmax(-1) for x in (found, wanted))
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


@contextmanager
def adapted_(model: Module, alive: Mask, rank: int, alpha: float, rng: Generator) -> Iterator[list[Tensor]]:
    """Put peft's low-rank adapters on the pruned layers of `model`, and merge them into its living weights at the end.

    Inside, a layer computes with W + M * (alpha / rank) B A, M being its mask: just what it computes with afterwards.
    Dead weights stay zero, and the adapters are trained for what they can change. All else is frozen meanwhile.

    Args:
        model: changed in place.
        alive: its mask.
        rank: of B A.
        alpha: see above.
        rng: draws A; B begins at zero, so that the model answers as before.

    Yields:
        The adapters' weights.

    Raises:
        InputError: if no layer that peft adapts (Linear, Conv1D) is pruned.
        MissingExtraError: without peft.
    """
    peft: Any = require("peft", extra="language", purpose="recovery by low-rank adapters")
    kinds = {n: m for n, m in model.named_modules() if isinstance(m, Linear) or is_conv1d(m)}
    names = [name for name in kinds if f"{name}.weight" in alive.keep]
    if not names:
        raise InputError(
            "recovery by low-rank adapters changes pruned Linear layers, and there is none in this model. Recover it "
            'by "full" or "distil".'
        )
    flags = {p: p.requires_grad for p in model.parameters()}
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
    with global_seed(draw_seed(rng)), catch_warnings():
        simplefilter("ignore")  # it tells which layers are transposed, and transposes them
        peft.inject_adapter_in_model(config, model)
    layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    try:
        trained: list[Tensor] = [
            p for layer in layers.values() for p in layer.parameters() if p.requires_grad
        ]
        for name, layer in layers.items():
            mask = alive.keep[f"{name}.weight"].to(next(layer.parameters()).device)
            vars(layer)["forward"] = masked_forward(layer, mask)
        yield trained
        with torch.no_grad():
            for name, layer in layers.items():
                layer.get_base_layer().weight.copy_(merged_weight(layer, alive.keep[f"{name}.weight"]))
    finally:
        for name, layer in layers.items():
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
