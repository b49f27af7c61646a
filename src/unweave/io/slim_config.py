"""A configuration of transformers for a model whose channels were removed, where its numbers can say that shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from math import inf, nextafter
from typing import Any

import torch
from torch.nn import Module

from .loading import quiet


def slim_config(model: Any, structure: Mapping[str, Any]) -> Any:
    """The configuration from which transformers makes a model of this shape; None if no number of it does.

    Widths can be told where all layers that share one were cut alike. Numbers that equal a width that was cut (an
    intermediate size), lists that hold one, and ratios of widths are tried one after the other, and kept where more
    of the model's shapes come out right; models are made without storage to see that.

    Args:
        model: a transformers model, already smaller; left unchanged.
        structure: the record of what was removed.
    """
    cuts = {
        (cut["of"], len(cut["kept"]))
        for sides in structure.get("layers", {}).values()
        for cut in sides.values()
        if cut["of"] != len(cut["kept"])
    }
    config = deepcopy(model.config)
    wrong = _misfits(model, config)
    for name, value in list(config.to_dict().items()):
        if not wrong:  # nothing more to mend, or no way to tell
            break
        for changed in _changed(value, cuts):
            tried = deepcopy(config)
            try:
                setattr(tried, name, changed)
            except Exception:  # a number that the configuration works out from others, or checks
                continue
            left = _misfits(model, tried)
            if left is not None and left < wrong:
                config, wrong = tried, left
                break
    return config if wrong == 0 else None


def _changed(value: Any, cuts: set[tuple[int, int]]) -> Iterator[Any]:
    if isinstance(value, bool):
        return
    for of, kept in sorted(cuts):
        if value == of:
            yield kept
        elif isinstance(value, list | tuple) and of in value:
            yield type(value)(kept if v == of else v for v in value)
        elif isinstance(value, int | float) and value:
            ratio = value * kept / of
            if ratio.is_integer():
                yield type(value)(ratio)
            yield from (ratio, nextafter(ratio, inf))  # either may give the width, which is rounded down


def _misfits(model: Module, config: Any) -> int | None:
    """How many of the model's tensors have another shape under a configuration; None if it makes other tensors."""
    kind: Any = type(model)
    try:
        with quiet(), torch.device("meta"):
            made: Module = kind(config)
    except Exception:  # whatever a model raises at numbers that do not go together
        return None
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    new = {name: tensor.shape for name, tensor in made.state_dict().items()}
    return sum(own[name] != new[name] for name in own) if own.keys() == new.keys() else None
