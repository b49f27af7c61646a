"""Which files of a user's own a module is made of: itself and all it imports, now or once it runs, of the user's own.

Found by reading, not by importing: a helper that is imported inside a function counts before the function has run.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

PROJECT_PREFIX = "unweave_project_"
"""Of the names under which project files are imported."""
_INSTALLED = tuple(
    Path(p).resolve() for p in {sysconfig.get_path(k) for k in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PACKAGE = Path(__file__).resolve().parents[1]


def is_users(module: ModuleType | None) -> bool:
    """Whether a module is the user's own: a file that is neither installed nor part of unweave, or typed in."""
    file = getattr(module, "__file__", None)
    if file is None:
        return module is not None and module.__name__ == "__main__"
    return Path(file).is_file() and not _foreign(Path(file))


def name_of(module: str) -> str:
    """A module's name, but for the folder of a project file, which is part of the name it is imported under."""
    return "project" if module.startswith(PROJECT_PREFIX) else module


def users_modules(module: ModuleType) -> dict[str, Path]:
    """Name -> file of a module and of the user's own modules that it imports, directly or through others."""
    file = getattr(module, "__file__", None)
    return {} if file is None else _closure(module.__name__, module.__package__ or "", Path(file))


def _closure(name: str, package: str, file: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting, root = [(name, package, file)], file.parent
    while waiting:
        name, package, file = waiting.pop()
        if name_of(name) in found or _foreign(file):
            continue
        found[name_of(name)] = file
        for asked in _imports(file, package):
            waiting += _located(asked, [str(file.parent), str(root), *sys.path])
    return found


def helpers_of(project: Path) -> dict[str, Path]:
    """What a run records of the user's own modules that a project file imports: "module NAME" -> file."""
    found = _closure("project", "", project.resolve())
    return {f"module {name}": file for name, file in sorted(found.items()) if file != project.resolve()}


def _imports(file: Path, package: str) -> list[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                try:
                    base = resolve_name(base, package)
                except ImportError:
                    base = base.lstrip(".")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    # a package's own __init__ runs first
    return sorted({".".join(n.split(".")[: i + 1]) for n in names for i in range(n.count(".") + 1)} - {""})


def _located(name: str, places: list[str]) -> Iterator[tuple[str, str, Path]]:
    """Name, package and file of a module, loaded or not; nothing if there is no such file."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        if file is not None and Path(file).suffix == ".py" and Path(file).is_file():
            yield name, loaded.__package__ or "", Path(file)
        return
    spec = _spec(name, places)
    if (
        spec is not None
        and spec.origin is not None
        and spec.has_location
        and Path(spec.origin).suffix == ".py"
    ):
        yield name, spec.parent or "", Path(spec.origin)


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    spec, parts = None, name.split(".")
    for i in range(len(parts)):
        spec = None if places is None else PathFinder.find_spec(".".join(parts[: i + 1]), places)
        if spec is None:
            return None
        inner = spec.submodule_search_locations
        places = None if inner is None else list(inner)
    return spec


def _foreign(file: Path) -> bool:
    parents = file.resolve().parents
    return _PACKAGE in parents or any(root in parents for root in _INSTALLED)
