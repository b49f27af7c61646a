"""Stages that are low-rank adapters in one group of blocks each, and a head, over a base that is never trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ...errors import InputError, require
from ...fit import Loop, fit_, steps_of
from ...fit.recipe import mean_loss
from ...masks.layers import copied
from ...random import draw_seed, global_seed, seeded
from ...types import Data
from .blocks import blocks, groups, head_of, query_and_value, require_untied
from .service import State

_NAME = "default"


class Settings(Protocol):
    """What `S3T` says of its adapters."""

    @property
    def slices(self) -> int: ...  # noqa: D102
    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def alpha(self) -> float | None: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def first(self) -> str: ...  # noqa: D102
    @property
    def head(self) -> str: ...  # noqa: D102
    @property
    def layers(self) -> str: ...  # noqa: D102
    @property
    def targets(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def heads(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Adapters:
    """Stage i adapts the layers of group i, and trains the head on; all before it stays as it was.

    Attributes:
        base: frozen.
        settings: of the adapters and of their training.
        groups: whole names of the adapted layers, a tuple a stage.
        heads: whole names of the modules trained at every stage.
    """

    base: Module = field(repr=False)
    settings: Settings
    groups: tuple[tuple[str, ...], ...]
    heads: tuple[str, ...]

    @classmethod
    def of(cls, model: Module, data: Data[Any], settings: Settings) -> Adapters:
        """Find the blocks, the layers to adapt and the head; what is named in the settings is not searched for.

        Raises:
            InputError: if one cannot be found, a name is none of the model's, or the slices do not divide the blocks.
            MissingExtraError: without peft.
        """
        require("peft", extra="language", purpose="S3T")
        names = blocks(model, settings.layers)
        cut = groups(names, settings.slices, settings.first)
        targets = settings.targets or query_and_value(model, data, names)
        there = dict(model.named_modules())
        layers = tuple(tuple(f"{block}.{target}" for block in part for target in targets) for part in cut)
        absent = [name for part in layers for name in part if name not in there]
        if absent:
            own = [n for n, m in there[names[0]].named_modules() if n and not list(m.children())]
            raise InputError(
                f"S3T.targets must name layers of every block; there is no {absent[0]}. A block has: {', '.join(own)}."
            )
        heads: tuple[str, ...] = ()
        if settings.head == "per-stage":
            heads = settings.heads or (head_of(model, data, names),)
        return cls.named(model, settings, layers, heads)

    @classmethod
    def named(
        cls, model: Module, settings: Settings, layers: Sequence[Sequence[str]], heads: Sequence[str]
    ) -> Adapters:
        """With layers and heads as they were found before.

        Raises:
            InputError: if the model lacks one.
            MissingExtraError: without peft.
        """
        require("peft", extra="language", purpose="S3T")
        there = dict(model.named_modules())
        for name in (*(n for part in layers for n in part), *heads):
            if name not in there:
                raise InputError(
                    f"S3T needs the layer {name}, and this {type(model).__name__} has none of that name."
                )
        for name in heads:
            require_untied(model, name, "S3T")
        base = copied(model).requires_grad_(False).eval()
        return cls(base, settings, tuple(map(tuple, layers)), tuple(heads))

    def trained(self, before: Sequence[State], data: Data[Any], *, seed: int) -> State:
        """Train one stage; see `Stages`."""
        rng, how = seeded(seed), self.settings
        with global_seed(draw_seed(rng)):
            model = self._adapted(len(before) + 1)
        self._load_(model, before)
        own = self._own(model, len(before))
        for parameter in own.values():
            parameter.requires_grad_(True)
        optimizer = AdamW(list(own.values()), lr=how.lr, weight_decay=how.weight_decay)
        loop = Loop(norms="frozen", label="stage")
        total = how.epochs * steps_of(model, data, loop)
        schedule = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
        fit_(
            model, data, mean_loss(data), optimizer,
            epochs=how.epochs, rng=rng, loop=Loop(norms="frozen", label="stage", schedule=schedule),
        )  # fmt: skip
        return {n: p.detach().cpu().clone(memory_format=torch.contiguous_format) for n, p in own.items()}

    def assembled(self, states: Sequence[State]) -> Module:
        """The base with the adapters of these stages and the head of the last."""
        with global_seed(0):
            model = self._adapted(len(states))
        self._load_(model, states)
        return model.requires_grad_(False).eval()

    def _adapted(self, stages: int) -> Module:
        """A copy of the base with fresh adapters in the first groups; what is frozen is shared with the base."""
        heads = {id(p) for name in self.heads for p in self.base.get_submodule(name).parameters()}
        shared = {id(p): p for p in self.base.parameters() if id(p) not in heads}
        model = deepcopy(self.base, shared)
        wanted = [name for part in self.groups[:stages] for name in part]
        if wanted:
            self._inject_(model, wanted)
        return model.requires_grad_(False)

    def _inject_(self, model: Module, wanted: Sequence[str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        how = self.settings
        config = LoraConfig(
            r=how.rank, lora_alpha=how.rank if how.alpha is None else how.alpha, lora_dropout=how.dropout,  # type: ignore[arg-type]
            use_rslora=True, target_modules=list(wanted),
        )  # fmt: skip
        with warnings.catch_warnings():
            # it is set right for transformers' Conv1D, layer by layer
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
            inject_adapter_in_model(config, model, _NAME)
        found = _lora_layers(model)
        if found != set(wanted):
            strange = ", ".join(sorted(found ^ set(wanted))[:4])
            raise InputError(
                f"S3T asked peft for adapters in {len(wanted)} layers and got others: {strange}."
            )

    def _own(self, model: Module, stage: int) -> dict[str, Parameter]:
        """Name -> parameter that this stage (from 0) trains."""
        found: dict[str, Parameter] = {}
        for name in self.groups[stage]:
            layer: Any = model.get_submodule(name)
            found[f"{name}.lora_A"] = layer.lora_A[_NAME].weight
            found[f"{name}.lora_B"] = layer.lora_B[_NAME].weight
        for name in self.heads:
            found |= {f"{name}.{n}": p for n, p in model.get_submodule(name).named_parameters()}
        return found

    @torch.no_grad()
    def _load_(self, model: Module, states: Sequence[State]) -> None:
        for stage, state in enumerate(states):
            own: dict[str, Tensor] = dict(self._own(model, stage))
            if own.keys() != state.keys():
                raise InputError(
                    f"stage {stage + 1} holds {sorted(state)[:3]} ..., and needs {sorted(own)[:3]} ...."
                )
            for name, tensor in own.items():
                tensor.copy_(state[name])


def _lora_layers(model: Module) -> set[str]:
    from peft.tuners.lora import LoraLayer

    return {name for name, m in model.named_modules() if isinstance(m, LoraLayer)}
