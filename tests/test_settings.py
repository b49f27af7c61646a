"""Settings are refused by their annotations, in words that say what to do."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pytest
import torch
from torch.nn import Module

from unweave.errors import InputError
from unweave.settings import (
    Count,
    Inner,
    NonNegative,
    Number,
    Part,
    Positive,
    Range,
    Share,
    SomeShare,
    Whole,
    check,
    checked,
    described,
    refuse_idle,
    settings,
)


class Scorer(Protocol):
    weight: float

    def score(self, x: int) -> int: ...


class Good:
    weight = 1.0

    def score(self, x: int) -> int:
        return x


@settings
class Everything:
    lr: Positive = 0.1
    decay: NonNegative = 0.0
    shift: Number = 0.0
    share: Share = 0.5
    some: SomeShare = 1.0
    part: Part = 0.0
    inner: Inner = 0.5
    epochs: Count = 1
    skip: Whole = 0
    plain: float = 1.0
    flag: bool = False
    norms: Literal["train", "frozen"] = "frozen"
    level: Literal[1, 2] = 1
    maybe: Positive | None = None
    name: str = ""
    folder: Path = Path()
    pair: tuple[Positive, Whole] = (1.0, 0)
    several: tuple[Literal["a", "b"], ...] = ()
    sequence: Sequence[Count] = ()
    table: Mapping[str, Positive] = field(default_factory=dict)
    call: Callable[[int], int] | None = None
    kind: type[Module] | None = None
    scorer: Scorer | None = None
    dtype: torch.dtype | None = None
    anything: Any = None


GOOD = {
    "lr": (1, 1e-9, np.float32(0.5)), "decay": (0, 0.0), "shift": (-3.5, 0), "share": (0, 1), "some": (1,),
    "part": (0, 0.999), "inner": (0.5,), "epochs": (1, np.int64(3)), "skip": (0,), "plain": (-1.0, 0),
    "flag": (True,), "norms": ("train",), "level": (2,), "maybe": (None, 2.0), "name": ("x",),
    "folder": (Path("/"),), "pair": ((0.1, 3),), "several": ((), ("a", "b")), "sequence": ((1, 2), [3]),
    "table": ({}, {"a": 1.0}), "call": (None, abs), "kind": (torch.nn.Linear,), "scorer": (Good(),),
    "dtype": (torch.float16,), "anything": (math.nan, "x"),
}  # fmt: skip
BAD = {
    "lr": (0, -1, math.nan, math.inf, "0.1", True, None), "decay": (-1e-9, math.nan), "shift": (math.nan, -math.inf, "1"),
    "share": (-0.1, 1.1), "some": (0, 1.01), "part": (1,), "inner": (0, 1), "epochs": (0, -1, 1.0, True),
    "skip": (-1, 0.5), "plain": (math.nan, math.inf, False), "flag": (1, "yes", None), "norms": ("freeze", "", None, 1),
    "level": (3, True, 1.0, "1"), "maybe": (0, math.nan), "name": (1,), "folder": ("x",),
    "pair": ((0.0, 3), (1.0,), (1.0, 2, 3), [1.0, 2]), "several": (("a", "c"), "a", ["a"]),
    "sequence": ((0,), "12", 3), "table": ({"a": -1.0}, {1: 1.0}, []), "call": (3,), "kind": (torch.nn.Linear(1, 1), 3),
    "scorer": (object(), "magnitude"), "dtype": ("float16",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(n, v, id=f"{n} {i}") for n, vs in GOOD.items() for i, v in enumerate(vs)]
)
def test_takes(name: str, value: Any) -> None:
    assert getattr(Everything(**{name: value}), name) is value


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(n, v, id=f"{n} {i}") for n, vs in BAD.items() for i, v in enumerate(vs)]
)
def test_refuses(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^Everything\.{name} must be .*; got "):
        Everything(**{name: value})


def test_messages_say_what_to_do() -> None:
    @settings
    class Method:
        density: Annotated[
            float, Range(above=0, at_most=1, why="It is the share of weights that may move.")
        ] = 0.5
        norms: Literal["train", "frozen"] = "frozen"

    with pytest.raises(InputError) as found:
        Method(density=1.5)
    assert str(found.value) == (
        "Method.density must be above 0 and at most 1; got 1.5. It is the share of weights that may move."
    )
    with pytest.raises(InputError) as found:
        Method(norms="frozn")
    assert (
        str(found.value) == 'Method.norms must be "train" or "frozen"; got \'frozn\'. Did you mean "frozen"?'
    )


def test_is_a_frozen_dataclass_that_checks_again_when_replaced() -> None:
    one = Everything(lr=2.0)
    with pytest.raises(FrozenInstanceError):
        one.lr = 1.0
    with pytest.raises(TypeError):
        Everything(0.1)
    assert replace(one, epochs=3) == Everything(lr=2.0, epochs=3)
    with pytest.raises(InputError, match="Everything.epochs"):
        replace(one, epochs=0)
    assert pickle.loads(pickle.dumps(one)) == one


def test_by_position_where_asked() -> None:
    @settings(kw_only=False)
    class NM:
        n: Count
        m: Count

        def __post_init__(self) -> None:
            if self.n > self.m:
                raise InputError("NM keeps n of m.")

    assert NM(2, 4) == NM(n=2, m=4)
    with pytest.raises(InputError, match="keeps n of m"):
        NM(4, 2)
    with pytest.raises(InputError, match="NM.n must be a whole number at least 1; got 0"):
        NM(0, 4)


def test_inherited_settings_are_checked_and_named_by_the_class_made() -> None:
    @settings
    class Base:
        lr: Positive = 1.0

    @settings
    class More(Base):
        epochs: Count = 1

    with pytest.raises(InputError, match="More.lr"):
        More(lr=-1)


def test_what_two_inherited_settings_say_together_holds_for_those_who_inherit_them() -> None:
    @settings
    class Base:
        low: Count = 1
        high: Count | None = None

        def __post_init__(self) -> None:
            if self.high is None:
                object.__setattr__(self, "high", 2 * self.low)
            if self.high < self.low:
                raise InputError("low must not exceed high")

    @settings
    class Plain(Base):
        more: Count = 1

    @settings
    class Further(Base):
        even: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.even and self.high % 2:
                raise InputError("high must be even")

    for cls in (Plain, Further):
        assert cls(low=3).high == 6
        with pytest.raises(InputError, match="low must not exceed high"):
            cls(low=3, high=2)
    with pytest.raises(InputError, match="Plain.more must be"):
        Plain(more=0)
    with pytest.raises(InputError, match="high must be even"):
        Further(high=3, even=True)


def test_settings_that_would_do_nothing_are_refused() -> None:
    @settings
    class Draws:
        transfer: Literal["none", "best"] = "best"
        neighbours: Count = 200

        def __post_init__(self) -> None:
            if self.transfer == "none":
                refuse_idle(self, "neighbours", when='since transfer is "none"')

    assert Draws(transfer="none").neighbours == 200
    assert Draws(neighbours=5).neighbours == 5
    with pytest.raises(InputError) as told:
        Draws(transfer="none", neighbours=5)
    assert str(told.value) == (
        'Draws.neighbours=5 would do nothing since transfer is "none". Leave it at 200.'
    )


def test_arguments_of_a_constructor() -> None:
    class Optimiser:
        @checked
        def __init__(self, params: Any, *, lr: Positive, rho: NonNegative = 0.05, **rest: Any) -> None:
            self.rho = rho

    assert Optimiser([], lr=1, other=3).rho == 0.05
    with pytest.raises(InputError, match=r"^Optimiser\.rho must be at least 0; got -1\.$"):
        Optimiser([], lr=1, rho=-1)
    with pytest.raises(TypeError, match="lr"):
        Optimiser([])


def test_an_annotation_for_type_checkers_only_is_an_error_of_ours() -> None:
    namespace: dict[str, Any] = {"__name__": "made_up"}
    exec("class Lost:\n    x: 'NotThere' = 1\n", namespace)
    with pytest.raises(TypeError, match="Lost: an annotation names 'NotThere'"):
        check(namespace["Lost"], {"x": 1})


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Count, "a whole number at least 1"), (Number, "any finite number"), (bool, "True or False"),
        (tuple[Positive, ...], "a tuple, each above 0"), (Path, "a Path"), (Literal[1, 2], "1 or 2"),
        (Scorer, "a Scorer (with score, weight)"), (Callable[[int], int] | None, "something to call, or None"),
        (tuple[Count, Share], "a tuple (a whole number at least 1; at least 0 and at most 1)"),
    ],
)  # fmt: skip
def test_described(annotation: Any, words: str) -> None:
    assert described(annotation) == words


def test_a_field_that_nothing_reads_is_refused_where_it_was_changed() -> None:
    @settings
    class Method:
        kind: Literal["a", "b"] = "a"
        rate: Positive = 0.5
        size: Count | None = None

        def __post_init__(self) -> None:
            if self.kind == "a":
                refuse_idle(self, "rate", "size", when="with kind='a'")

    Method()
    Method(rate=0.5)
    Method(kind="b", rate=1.0, size=3)
    with pytest.raises(InputError) as found:
        Method(rate=1.0)
    assert str(found.value) == "Method.rate=1.0 would do nothing with kind='a'. Leave it at 0.5."
    with pytest.raises(InputError, match="Method.size=3 would do nothing with kind='a'"):
        Method(size=3)
