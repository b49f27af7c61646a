"""The reference: every public name with its signature, what its arguments take, and what its docstring says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from docstring_parser import Docstring, DocstringStyle, parse
from typing_extensions import is_protocol

from unweave.settings import described, hints


def _all(package: str) -> tuple[str, ...]:
    """The public modules of a package that exports nothing itself."""
    found = (module.name for module in pkgutil.iter_modules(import_module(package).__path__))
    return tuple(f"{package}.{name}" for name in found if not name.startswith("_"))


PAGES: dict[str, tuple[str, ...]] = {
    "unweave": ("unweave", "unweave.types", "unweave.random"),
    "unlearn": ("unweave.unlearn", "unweave.unlearn.exact"),
    "erase": ("unweave.erase",),
    "language": ("unweave.language",),
    "prune": ("unweave.prune",),
    "experts": ("unweave.experts",),
    "optim": ("unweave.optim",),
    "augment": ("unweave.augment",),
    "generate": ("unweave.generate",),
    "interpret": ("unweave.interpret",),
    "restore": ("unweave.restore",),
    "jobs": ("unweave.jobs",),
    "audit": ("unweave.audit",),
    "report": (
        "unweave.report.audits",
        "unweave.report.comparisons",
        "unweave.report.models",
        "unweave.report.exact",
    ),
    "tasks": ("unweave.tasks", "unweave.tasks.language"),
    "fit": ("unweave.fit", "unweave.fit.recipe"),
    "masks": ("unweave.masks",),
    "derivatives": ("unweave.derivatives",),
    "statistics": ("unweave.statistics",),
    "models": ("unweave.models.text_to_image", "unweave.models.moe"),
    "embedded": _all("unweave.embedded"),
    "io": _all("unweave.io"),
    "parallel": ("unweave.parallel", "unweave.progress"),
    "catalogue": ("unweave.catalogue", "unweave.paper"),
    "settings": ("unweave.settings", "unweave.errors"),
}
"""Page -> the modules on it."""


def names(module: ModuleType) -> list[str]:
    """Public names of a module: its `__all__`, else the classes and functions that it defines, in its order."""
    if hasattr(module, "__all__"):
        return [str(name) for name in module.__all__]
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]


def page(slug: str, cards: Mapping[type[Any], str]) -> str:
    """A page of the reference in Markdown.

    Args:
        slug: which of `PAGES`.
        cards: class of a method -> path of its card below docs/.
    """
    parts, told = [f"# {slug}"], set[str]()
    for module in map(import_module, PAGES[slug]):
        here = [name for name in names(module) if name not in told]  # a type is told where it is met first
        told.update(here)
        if len(PAGES[slug]) > 1 or module.__name__ != f"unweave.{slug}":
            parts.append(f"## `{module.__name__}`")
        parts.append(_prose(inspect.getdoc(module) or ""))
        parts += [_entry(module, name, cards) for name in here]
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(module: ModuleType, name: str, cards: Mapping[type[Any], str]) -> str:
    thing = getattr(module, name)
    parts = [f"### {name} {{ #{name} }}"]
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return "\n\n".join([*parts, _code(f"{name} = {_shown(thing)}"), _prose(_beside(module, name))])
    parts.append(_code(_signature(thing, name)))
    if thing in cards:
        parts.append(f"[The method's card](../{cards[thing]})")
    parts.append(_told(thing))
    if inspect.isclass(thing):
        parts += [_member(label, member) for label, member in _members(thing)]
    return "\n\n".join(part for part in parts if part)


def _told(thing: Any) -> str:
    """What a docstring says, and what each argument takes."""
    doc = _parsed(thing)
    takes = _taken(thing)
    parts = [_prose(doc.short_description or ""), _prose(doc.long_description or "")]
    if doc.params:
        rows = [
            f"| `{p.arg_name}` | {_cell(takes.get(p.arg_name, ''))} | {_cell(_prose(p.description or ''))} |"
            for p in doc.params
        ]
        parts.append("\n".join(["| name | takes | what it is |", "| --- | --- | --- |", *rows]))
    if doc.returns and doc.returns.description:
        word = "Yields" if doc.returns.is_generator else "Returns"
        parts.append(f"**{word}** {_prose(doc.returns.description)}")
    parts += [f"**Raises** `{r.type_name}` {_prose(r.description or '')}" for r in doc.raises]
    parts += [_code(f"{e.snippet or ''}\n{e.description or ''}".strip(), "pycon") for e in doc.examples]
    return "\n\n".join(part for part in parts if part)


def _member(label: str, member: Any) -> str:
    return f'<div class="member" markdown>\n\n{_code(label)}\n\n{_told(member)}\n\n</div>'


def _members(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """Signature and function of each public method and property that a class itself defines and describes."""
    for name, found in vars(cls).items():
        function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        if name.startswith("_") or not inspect.getdoc(function):
            continue
        if isinstance(function, property):
            yield f"{cls.__name__}.{name}", function.fget
        elif inspect.isfunction(function):
            yield (
                _signature(function, f"{cls.__name__}.{name}", bound=not isinstance(found, staticmethod)),
                function,
            )


def _signature(thing: Any, name: str, *, bound: bool = False) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # a class that takes what its C base takes
        return name
    if is_protocol(thing):
        return f"class {name}(Protocol)"
    given = list(signature.parameters.values())[bound:]
    arguments = [_argument(p) for p in given]
    named = next((i for i, p in enumerate(given) if p.kind is p.KEYWORD_ONLY), None)
    if named is not None and not any(p.kind is p.VAR_POSITIONAL for p in given):
        arguments.insert(named, "*")
    returns = signature.return_annotation
    end = "" if returns is signature.empty or inspect.isclass(thing) else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(arguments)}){end}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){end}"


def _argument(p: inspect.Parameter) -> str:
    star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    told = "" if p.annotation is p.empty else f": {_annotation(p.annotation)}"
    default = "" if p.default is p.empty else f" = {_shown(p.default)}"
    return f"{star}{p.name}{told}{default}"


def _taken(thing: Any) -> dict[str, str]:
    """Argument -> what its annotation takes, in words."""
    annotated = thing.__init__ if inspect.isclass(thing) and not dataclasses.is_dataclass(thing) else thing
    try:
        return {name: described(kind) for name, kind in hints(annotated).items()}
    except TypeError:  # a name that only type checkers know, or an object without annotations
        return {}


def _parsed(thing: Any) -> Docstring:
    written = thing.__doc__ if inspect.isclass(thing) else inspect.getdoc(thing)
    return parse(inspect.cleandoc(written or ""), style=DocstringStyle.GOOGLE)


def _beside(module: ModuleType, name: str) -> str:
    """The string after the assignment of a constant or a type, wherever in the package it is made."""
    root = module.__name__.split(".")[0]
    for found in [module, *(m for key, m in sorted(sys.modules.items()) if key.startswith(f"{root}."))]:
        if getattr(found, name, None) is not getattr(module, name) or not getattr(found, "__file__", None):
            continue
        body = ast.parse(inspect.getsource(found)).body
        for node, after in zip(body, body[1:], strict=False):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(after, ast.Expr):
                return str(ast.literal_eval(after.value)) if isinstance(after.value, ast.Constant) else ""
    return ""


def _annotation(annotation: Any) -> str:
    if not isinstance(annotation, str):
        return inspect.formatannotation(annotation)
    return (
        ast.unparse(_Bare().visit(ast.parse(annotation, mode="eval")))
        if "Annotated" in annotation
        else annotation
    )


class _Bare(ast.NodeTransformer):
    """Takes ranges out of an annotation: they stand in words beside it."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        bare = (
            isinstance(node.value, ast.Name)
            and node.value.id == "Annotated"
            and isinstance(node.slice, ast.Tuple)
        )
        return node.slice.elts[0] if bare else node


def _shown(value: Any) -> str:
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(value)).replace("typing.", "")
    return "..." if shown == "<factory>" else shown


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _prose(text: str) -> str:
    """Text of a docstring as Markdown: what looks like a tag is none, code stays as it is."""
    lines = [
        line if line.startswith("    ") else re.sub(r"(`[^`]*`)|<", lambda m: m[1] or "&lt;", line)
        for line in text.strip().splitlines()
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
