"""Former names still work, and say what they are called now."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

from unweave.moved import MODULES, dropped, renamed


@pytest.mark.parametrize("former", list(MODULES))
def test_a_former_module_is_understood(former: str) -> None:
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"^{former} is {MODULES[former][0]} now$"):
        found = importlib.import_module(former)
    new = importlib.import_module(MODULES[former][0])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(found, name) is getattr(new, name) for name in public)
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        _ = found.nonsense


def test_former_modules_hide_no_file() -> None:
    for former in MODULES:
        assert not any(
            f.find_spec(former, importlib.import_module(former.rpartition(".")[0]).__path__)
            for f in sys.meta_path
            if getattr(f, "__name__", "") == "PathFinder"
        ), f"{former} is a file again: take it out of the table"


def test_a_former_argument_is_understood() -> None:
    @renamed(held="holders")
    def judge(*, holders: int = 0) -> int:
        return holders

    with pytest.warns(DeprecationWarning, match="judge: held is called holders now"):
        assert judge(held=3) == 3  # type: ignore[call-arg]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge(holders=4) == 4
    with pytest.raises(TypeError, match="give it once"):
        judge(held=3, holders=4)  # type: ignore[call-arg]


def test_an_argument_that_is_gone_is_passed_over_aloud() -> None:
    @dropped(rng="nothing is drawn")
    def judge(*, holders: int = 0) -> int:
        return holders

    with pytest.warns(DeprecationWarning, match="judge: rng is passed over now: nothing is drawn"):
        assert judge(holders=3, rng=1) == 3  # type: ignore[call-arg]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge(holders=4) == 4
    with pytest.raises(TypeError, match="nonsense"):
        judge(nonsense=1)  # type: ignore[call-arg]
