"""Every method by name, found by reading the families' own exports: there is no registry to keep in step."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from importlib import import_module, resources
from typing import Any

from .errors import InputError
from .paper import Paper

FAMILIES = ("unlearn", "erase", "prune", "optim", "augment")


@dataclass(frozen=True)
class Method:
    """One published method.

    Attributes:
        family: the sub-package it lives in.
        name: its file's name, with dashes; also its name on the command line.
        cls: the class: a dataclass of hyperparameters, or what the ecosystem has for its kind (an optimiser, a module).
    """

    family: str
    name: str
    cls: type[Any]

    @property
    def paper(self) -> Paper:
        """Where it comes from."""
        paper: Paper = self.cls.paper
        return paper

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads: "forget", "retain", "labels", "recipe", ..."""
        return tuple(getattr(self.cls, "needs", ()))

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.cls) or "").split("\n", 1)[0]

    @property
    def claim(self) -> str:
        """Status of its claim: "holds", "not shown", "contradicted" or "not run"."""
        stem = self.cls.__module__.rpartition(".")[2]  # a file's methods share its claim
        return claim_statuses().get(f"{self.family}/{stem}", "not run")


def methods() -> list[Method]:
    """All methods, by family and name."""
    found = []
    for family in FAMILIES:
        package = import_module(f"unweave.{family}")
        for exported in package.__all__:
            cls = getattr(package, exported)
            if inspect.isclass(cls) and isinstance(getattr(cls, "paper", None), Paper):
                found.append(Method(family, _name(cls), cls))
    return sorted(found, key=lambda m: (FAMILIES.index(m.family), m.name))


def find(name: str) -> Method:
    """The method of that name, by its file's or its class's name; case, dashes and underscores do not matter.

    Raises:
        InputError: if there is none; names the nearest ones.
    """
    wanted = _plain(name)
    for method in methods():
        if wanted in (_plain(method.name), _plain(method.cls.__name__)):
            return method
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), [m.name for m in methods()], n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"there is no method {name!r}.{hint} See: unweave list.")


def claim_statuses() -> dict[str, str]:
    """Claim name ("unlearn/salun") -> status, as of this release."""
    file = resources.files("unweave") / "claims.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _name(cls: type[Any]) -> str:
    stem = cls.__module__.rpartition(".")[2]
    siblings = [
        c
        for c in vars(import_module(cls.__module__)).values()
        if inspect.isclass(c) and c.__module__ == cls.__module__ and "paper" in vars(c)
    ]
    if len(siblings) == 1 or _plain(cls.__name__) == _plain(stem):
        return stem.replace("_", "-")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
