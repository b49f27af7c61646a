"""Every method by name, found by reading the families' own exports: there is no registry to keep in step."""

from __future__ import annotations

import ast
import inspect
import json
import re
from dataclasses import dataclass
from importlib import import_module, resources
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from .errors import InputError
from .paper import Paper

VERBS = {
    "apply": "Edit",
    "score": "Score",
    "begin": "SparseTraining",
    "attack": "Attack",
    "select": "Selector",
    "build": "Recipe",
    "measure": "Measure",
    "objective": "Loss",
    "adapt": "Adapter",
    "recover": "Solver",
    "guide": "Guider",
    "learn": "Dictionary",
    "explain": "Attribution",
    "generate": "Decoder",
    "decompose": "Uncertainty",
    "overfit": "Delivery",
    "edit": "Editor",
}
"""The verb of a protocol -> the role of what has it."""
FAMILIES = (
    "unlearn",
    "erase",
    "language",
    "prune",
    "experts",
    "optim",
    "augment",
    "generate",
    "interpret",
    "restore",
)


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
        """What its code reads: parts of a request, abilities of a task, a recipe, concepts to guide or preserve."""
        return needs_of(self.cls)

    @property
    def suits(self) -> tuple[str, ...]:
        """Kinds of deletion requests that it suits, by measurement; empty for methods that delete nothing."""
        from .unlearn.suits import suits

        return suits(self.cls)

    @property
    def role(self) -> str:
        """What it is used as: "Edit", "Score", "Optimizer", ...; the first of its roles, "" if it has none."""
        return next(iter(roles_of(self.cls)), "")

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


PARTS = ("forget", "retain", "heldout", "guide", "preserve")
"""Attributes of a request, or of concepts, that a method may read."""
ABILITIES = {"Labelled": "labels", "Perturbing": "inputs", "Representing": "features", "Restoring": "pairs"}
"""Abilities of a task that a method may require -> what it then reads."""
SETTINGS = ("recipe", "checkpoint")
"""Fields of a method that the user must have."""


def needs_of(kind: type[Any]) -> tuple[str, ...]:
    """What a method's code reads, found in its source: nothing is typed by hand, so nothing can be out of date.

    That is which of `PARTS` its class or a function of its module takes from what it is given, which abilities it asks
    of the task (`tasks.requires`), and which of `SETTINGS` it has without a default.
    """
    tree = ast.parse(inspect.getsource(inspect.getmodule(kind) or kind))
    body = _reached(tree, kind.__name__)
    found = [
        p
        for p in PARTS
        if any(isinstance(n, ast.Attribute) and n.attr == p and _given(n.value) for n in body)
    ]
    asked = [
        n.args[1]
        for n in body
        if isinstance(n, ast.Call) and _name_of(n.func) == "requires" and len(n.args) > 1
    ]
    found += [what for ability, what in ABILITIES.items() if any(_name_of(a) == ability for a in asked)]
    hints = getattr(kind, "__annotations__", {})
    return tuple([*found, *(s for s in SETTINGS if s in hints and not hasattr(kind, s))])


def _reached(tree: ast.Module, name: str) -> list[ast.AST]:
    """Nodes of the class and of what it uses of its own module."""
    defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    waiting, seen = [name], dict[str, ast.AST]()
    while waiting:
        at = waiting.pop()
        if at in defined and at not in seen:
            seen[at] = defined[at]
            waiting += [n.id for n in ast.walk(defined[at]) if isinstance(n, ast.Name)]
    return [node for part in seen.values() for node in ast.walk(part)]


def _given(value: ast.expr) -> bool:
    """Whether an attribute is read off an argument, as in `data.forget`, and not off the method itself."""
    return isinstance(value, ast.Name) and value.id != "self"


def _name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def roles_of(kind: type[Any]) -> tuple[str, ...]:
    """All that objects of a class can be used as, by the protocols that it has the verbs of.

    Example:
        >>> from unweave.prune import GMP, SNIP
        >>> roles_of(GMP), roles_of(SNIP)
        (('Edit', 'SparseTraining'), ('Score',))
    """
    if issubclass(kind, Optimizer):
        return ("Optimizer",)
    if issubclass(kind, Module):
        targets = len(inspect.signature(kind.forward).parameters) > 2  # beside self and what is judged
        return ("Loss",) if targets else ("Layer",)
    if callable(getattr(kind, "predict_proba", None)):
        return ("Classifier",)  # its `score` is scikit-learn's, of data, not of weights
    return tuple(role for verb, role in VERBS.items() if callable(getattr(kind, verb, None)))


def name_of(thing: Any) -> str:
    """Name of a method's object as the command line knows it; of another object, its class's name with dashes."""
    known = {method.cls: method.name for method in methods()}
    return known.get(type(thing)) or _dashed(type(thing).__name__)


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
    return _dashed(cls.__name__)


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
