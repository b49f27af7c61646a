"""Names of former releases, still understood with a DeprecationWarning that tells the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MODULES = {
    "unweave.audit.erasure": (
        "unweave.audit.drawing.run",
        "unweave.audit.drawing.drawn",
        "unweave.audit.drawing.figures",
        "unweave.audit.drawing.compared",
    ),
    "unweave.audit.intervals": ("unweave.statistics",),
    "unweave.audit.report": ("unweave.report.audits",),
    "unweave.batches": ("unweave.fit.batches",),
    "unweave.comparison": ("unweave.jobs.trials",),
    "unweave.datasets": ("unweave.embedded.digits",),
    "unweave.erase.testbed": ("unweave.embedded.drawn_digits",),
    "unweave.mask": ("unweave.masks",),
    "unweave.nets": ("unweave.embedded.nets",),
    "unweave.prune.budgets": ("unweave.masks.budgets",),
    "unweave.prune.patterns": ("unweave.masks.patterns",),
    "unweave.prune.scope": ("unweave.masks.scope",),
    "unweave.recipe": ("unweave.fit.recipe",),
    "unweave.tasks.text_to_image": ("unweave.models.text_to_image",),
    "unweave.workflow": ("unweave.jobs.forget",),
    "unweave.worlds": ("unweave.jobs.subject", "unweave.jobs.opened", "unweave.tasks"),
}
"""Former module -> where its names are now."""
NAMES = {"open_world": "open_subject", "World": "Subject"}
"""Former name -> name now, in those modules."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        homes = MODULES[module.__name__]
        warnings.warn(f"{module.__name__} is {homes[0]} now", DeprecationWarning, stacklevel=2)

        def look_up(name: str) -> Any:
            for home in homes:
                found, now = import_module(home), NAMES.get(name, name)
                if hasattr(found, now):
                    return getattr(found, now)
            raise AttributeError(f"module {module.__name__!r}, now {homes[0]!r}, has no {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Let former modules be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take former names of keyword arguments: `@renamed(held="holders")`.

    Raises:
        TypeError: at the call, if an argument is given under both names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former, name in names.items():
                if former in kwargs:
                    if name in kwargs:
                        raise TypeError(f"{function.__name__}: {former} is called {name} now; give it once.")
                    warnings.warn(
                        f"{function.__name__}: {former} is called {name} now",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    kwargs[name] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate


def dropped(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments that it once had and now passes over: `@dropped(rng="why")`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former, why in names.items():
                if former in kwargs:
                    kwargs.pop(former)
                    text = f"{function.__name__}: {former} is passed over now: {why}"
                    warnings.warn(text, DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return call

    return decorate
