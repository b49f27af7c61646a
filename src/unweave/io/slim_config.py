"""A configuration of transformers for a model whose channels were removed, where its numbers can say that shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import chain, combinations, product
from math import inf, nextafter
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import Module

from ..random import global_seed
from .loading import quiet

Pairs = set[tuple[int, int]]
"""(how many there were, how many are left), of channels, heads and the like; the same twice for a width that stays."""

TINY = 1e-2
"""Numbers below are a norm's guard against zero."""
_RIGHT, _WRONG = 1e-6, 1e-3  # faults: not worth a further search; that of another model


def says(model: Any) -> bool:
    """Whether a model's own configuration makes a model of its shapes."""
    return _misfits(model, model.config) == 0


def slimmed(model: Any, pairs: Pairs, wrong: Callable[[Module], float]) -> Any:
    """A model made anew from the configuration that says a cut model's shape; None if no number of it does.

    Widths can be told where all layers that share one were cut alike. Numbers that equal a width that was cut (an
    intermediate size), lists that hold one, and ratios of widths are tried one after the other, also those of parts
    (of a text model, say), and kept where more of the model's shapes come out right; models are made without storage to
    see that. Then numbers that change no shape are tried the same way, such as how many heads share a width, by what
    is still wrong.

    Args:
        model: a transformers model whose tensors are already cut; left unchanged.
        pairs: what the numbers may have changed from and to.
        wrong: how much of a model made anew is not as it should be: 0 is right, rounding passes, 1 is a wrong part.
    """
    for ways in ((_one_changed, _widths_changed), (_widths_changed, _one_changed)):
        config = _shaped(model, pairs, ways)
        if config is not None:
            return _silent(model, config, pairs, wrong)
    return None


def _shaped(model: Any, pairs: Pairs, ways: tuple[Callable[[Any, Pairs], Iterator[Any]], ...]) -> Any:
    """The configuration whose shapes are the model's, by the changes that mend more of them; None without one."""
    config = deepcopy(model.config)
    left, before = _misfits(model, config), None
    while left and left != before:  # a number may only fit after another has changed
        before = left
        for tried in chain.from_iterable(way(config, pairs) for way in ways):
            now = _misfits(model, tried)
            if now is not None and now < left:
                config, left = tried, now
                break
    return config if left == 0 else None


def _silent(model: Any, config: Any, pairs: Pairs, wrong: Callable[[Module], float]) -> Any:
    """The model of a configuration whose shapes are right, after numbers that change none, or none together."""
    best = _made(model, config)
    fault, before = wrong(best) if best is not None else inf, None
    while fault > _RIGHT and fault != before:
        before = fault
        for tried in (*_one_changed(config, pairs, tiny=True), *_two_changed(config, pairs)):
            if _misfits(model, tried) != 0:
                continue
            made = _made(model, tried)
            now = wrong(made) if made is not None else inf
            if now < fault:
                config, best, fault = tried, made, now
                break
    return best if fault < _WRONG else None


def _one_changed(config: Any, pairs: Pairs, *, tiny: bool = False) -> Iterator[Any]:
    for at, name in _numbers(config):
        yield from _tried(config, at, name, pairs, tiny=tiny)


def _widths_changed(config: Any, pairs: Pairs) -> Iterator[Any]:
    """Two settings of one part changed at once, as the widths of a stem and of the stages after it.

    Or a number and one that was left to be worked out from it, as the width of a head from how many there are.
    """
    numbers = [(at, n, getattr(_part(config, at), n, None)) for at, n in _numbers(config)]
    known = {of for of, kept in pairs if of != kept}
    holding = [
        (at, name)
        for at, name, value in numbers
        if not isinstance(value, bool | str)
        and (
            value in known
            if isinstance(value, int)
            else isinstance(value, list | tuple) and known & set(value)
        )
    ]
    for (at, one), (other, two) in combinations(holding, 2):
        if at == other:
            for first in _tried(config, at, one, pairs):
                yield from _tried(first, at, two, pairs)
    open_ = [(at, name) for at, name, value in numbers if value is None]
    for (at, one), (other, two), (of, kept) in product(holding, open_, sorted(pairs)):
        if at == other and of == kept:
            for tried in _tried(config, at, one, pairs):
                with suppress(Exception):  # a setting that is no number
                    setattr(_part(tried, at), two, kept)
                    yield tried


def _two_changed(config: Any, pairs: Pairs) -> Iterator[Any]:
    """Two whole numbers of one part changed by one ratio, as of heads and of their keys and values."""
    counts = [
        (at, name, value)
        for at, name in _numbers(config)
        if type(value := getattr(_part(config, at), name, None)) is int and value > 1
    ]
    for of, kept in sorted(pairs):
        for (at, one, a), (other, two, b) in combinations(counts, 2):
            if (
                of != kept
                and at == other
                and a * kept % of == 0
                and b * kept % of == 0
                and (a == of or b == of)
            ):
                tried = deepcopy(config)
                try:
                    setattr(_part(tried, at), one, a * kept // of)
                    setattr(_part(tried, at), two, b * kept // of)
                except Exception:  # a number that the configuration checks
                    continue
                yield tried


def _made(model: Any, config: Any) -> Any:
    """A model of this configuration with the tensors, types and flags of another; None where there can be none."""
    kind: Any = type(model)
    own = dict(model.named_parameters())
    try:
        with quiet(), global_seed(0):
            made = kind(deepcopy(config))
        made.to(model.dtype).load_state_dict(model.state_dict())
        with TemporaryDirectory() as folder:
            made.config.save_pretrained(folder)
    except Exception:  # whatever a model, or its configuration, raises at numbers that do not go together
        return None
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(own[name].requires_grad)
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = deepcopy(model.generation_config)
    return made.to(model.device).eval()


def _numbers(config: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path to a part's configuration, name) of every setting of a configuration and its parts."""
    here = _part(config, at)
    for name in list(here.to_dict()):
        value = getattr(here, name, None)
        if hasattr(value, "to_dict"):
            yield from _numbers(config, (*at, name))
        else:
            yield at, name


def _part(config: Any, at: tuple[str, ...]) -> Any:
    for name in at:
        config = getattr(config, name)
    return config


def _tried(config: Any, at: tuple[str, ...], name: str, pairs: Pairs, *, tiny: bool = False) -> Iterator[Any]:
    value = getattr(_part(config, at), name, None)
    seen: list[Any] = [value]
    for changed in _changed(value, pairs, tiny):
        if changed in seen:
            continue
        seen.append(changed)
        tried = deepcopy(config)
        try:
            setattr(_part(tried, at), name, changed)
        except Exception:  # a number that the configuration works out from others, or checks
            continue
        yield tried


def _changed(value: Any, pairs: Pairs, tiny: bool) -> Iterator[Any]:
    if isinstance(value, bool) or not value:
        return
    if tiny and isinstance(value, float) and 0 < value < TINY:
        yield from (value * of / kept for of, kept in sorted(pairs))
        return
    if isinstance(value, list | tuple):
        whole = dict(sorted(pairs))
        if any(v in whole for v in value if isinstance(v, int)):
            yield type(value)(whole.get(v, v) for v in value)
        for of, kept in sorted(pairs):
            if of in value:
                yield type(value)(kept if v == of else v for v in value)
        return
    if not isinstance(value, int | float):
        return
    for of, kept in sorted(pairs):
        if value == of:
            yield kept
    for of, kept in sorted(pairs):
        ratio = value * kept / of
        if ratio.is_integer():
            yield type(value)(ratio)
        elif isinstance(value, float):
            yield from (ratio, nextafter(ratio, inf))  # either may give the width, which is rounded down


def _misfits(model: Module, config: Any) -> int | None:
    """How many of the model's tensors have another shape under a configuration; None if it makes other tensors."""
    kind: Any = type(model)
    try:
        with quiet(), torch.device("meta"):
            made: Module = kind(deepcopy(config))
    except Exception:  # whatever a model raises at numbers that do not go together
        return None
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    new = {name: tensor.shape for name, tensor in made.state_dict().items()}
    return sum(own[name] != new[name] for name in own) if own.keys() == new.keys() else None
