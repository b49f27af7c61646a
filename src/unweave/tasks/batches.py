"""How batches of inputs and targets are opened: pairs, tuples with several inputs, dictionaries by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ..errors import InputError
from ..types import Batch

TARGETS = ("labels", "label", "targets", "target", "y")
INPUTS = ("pixel_values", "inputs", "input", "image", "x")
TEXT = "input_ids"

Reads = int | tuple[str, ...] | None
"""Which of a batch the model reads. None: the first of a tuple (input, target, ...); of a dictionary the one input, or
all but the target where there are token ids. k: the first k of a tuple (input, ..., input, target). Names: these of a
dictionary, each as the model's argument of that name."""


def key_of(batch: Batch, names: tuple[str, ...]) -> str:
    """The first of `names` that a dictionary batch has.

    Raises:
        InputError: if it has none.
    """
    found = next((name for name in names if name in batch), None)
    if found is None:
        raise InputError(f"a batch must have one of {', '.join(names)}; it has {', '.join(map(str, batch))}.")
    return found


def place_of_target(batch: Batch, reads: Reads) -> Any:
    """Key or position of the target in a batch.

    Raises:
        InputError: if it has none there.
    """
    if isinstance(batch, Mapping):
        return key_of(batch, TARGETS)
    at = reads if isinstance(reads, int) else 1
    if not isinstance(batch, (tuple, list)) or len(batch) <= at:
        held = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
        raise InputError(
            f"a batch must be a tuple of {at} input{'s' * (at != 1)} and the target, or a dictionary with one of "
            f"{', '.join(TARGETS)}; got {held}."
        )
    return at


def places_of_inputs(batch: Batch, reads: Reads) -> list[Any]:
    """Keys or positions of what the model reads, in order.

    Raises:
        InputError: if the batch lacks one.
    """
    if not isinstance(batch, Mapping):
        place_of_target(batch, reads)
        return list(range(reads if isinstance(reads, int) else 1))
    if isinstance(reads, tuple):
        absent = [name for name in reads if name not in batch]
        if absent:
            raise InputError(
                f"a batch must have {', '.join(reads)}; it has {', '.join(map(str, batch))} and lacks {absent[0]}."
            )
        return list(reads)
    known = next((name for name in INPUTS if name in batch), None)
    others = [name for name in batch if name not in TARGETS]
    if known is None and TEXT not in batch and len(others) == 1:
        known = others[0]
    return others if TEXT in batch else [known or key_of(batch, INPUTS)]


def target(batch: Batch, reads: Reads = None) -> Tensor:
    """The targets, [n, ...].

    Raises:
        InputError: if they are no numbers.
    """
    found = batch[place_of_target(batch, reads)]
    try:
        return torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"targets must be numbers; got a {type(found).__name__} ({' '.join(str(error).split())[:100]}). "
            "Number the classes from 0."
        ) from error


def with_target(batch: Batch, targets: Tensor, reads: Reads = None) -> Batch:
    """The same batch with other targets; the input batch is left unchanged."""
    at = place_of_target(batch, reads)
    if isinstance(batch, Mapping):
        return {**batch, at: targets}
    return (*batch[:at], targets, *batch[at + 1 :])


def only_input(batch: Batch, reads: Reads, what: str) -> Any:
    """Key or position of the one input.

    Raises:
        InputError: if there are several, or it is token ids; says that `what` is for one.
    """
    places = places_of_inputs(batch, reads)
    if len(places) > 1 or places[0] == TEXT:
        named = ", ".join(map(str, places))
        raise InputError(
            f"{what} needs one input that is a tensor of measured values; the model reads {named}. Choose a method "
            "that does not move inputs."
        )
    return places[0]


def answers(model: Module, batch: Batch, reads: Reads = None) -> Tensor:
    """What the model returns, or its `.logits`, float32 or wider; inputs are moved to its device and float dtype.

    One input is given by position. Several are given by position, or by their names where the batch is a dictionary.
    """
    first = next((p for p in model.parameters()), None)

    def ready(value: Any) -> Any:
        if first is None or not isinstance(value, Tensor):
            return value
        value = value.to(first.device)
        return value.to(first.dtype) if value.is_floating_point() else value

    places = places_of_inputs(batch, reads)
    given = [ready(batch[at]) for at in places]
    named = isinstance(batch, Mapping) and (len(places) > 1 or places[0] == TEXT)
    out = model(**dict(zip(places, given, strict=True))) if named else model(*given)
    found: Tensor = out.logits if hasattr(out, "logits") else out
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model returned a {type(found).__name__}; it must return a tensor, or an object with `.logits`."
        )
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def under_last_linear(model: Module, read: Any) -> Tensor:
    """Input of the model's last linear layer while `read()` runs it, flattened to [n, width].

    Raises:
        InputError: if the model has no linear layer, or it reads one vector a token.
    """
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    if not linears:
        raise InputError("the model has no Linear layer, so it has no representation under the last one.")
    seen: list[Tensor] = []
    hook = linears[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        read()
    finally:
        hook.remove()
    return seen[-1].flatten(1).float()
