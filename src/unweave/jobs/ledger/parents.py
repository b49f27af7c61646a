"""What a model is made of: its parent's version in use, given to its recipe as `parent`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import Module

from ...masks.mask import Mask
from .state import Version

if TYPE_CHECKING:
    from .book import Ledger


def unlike(old: Module, new: Module) -> str:
    """In what a model that was made anew is no version of the old one, as the end of a sentence; "" if in nothing."""
    if bool(Mask.of(old)) and not Mask.of(new):
        return (
            "the model is pruned and its recipe made a dense one. Say in the recipe how it is pruned: "
            "Supervised(prune=Prune(...), recover_epochs=...), or prune in your own function"
        )
    counts = [sum(p.numel() for p in m.parameters()) for m in (old, new)]
    if counts[0] != counts[1]:
        return f"its recipe made a network of {counts[1]:,} weights and the model has {counts[0]:,}. Mend the recipe"
    return ""


@dataclass(frozen=True)
class Parent:
    """What a model is made of, as it is now.

    Attributes:
        name: of the parent.
        digest: of its version.
        place: where that lies; None if the parent was withdrawn.
        level: what may be claimed for it.
        lay: where its versions lay, former ones too.
    """

    name: str
    digest: str
    place: Path | None
    level: str
    lay: tuple[Path, ...] = ()


def takes_parent(recipe: Any, above: Parent) -> bool:
    """Whether a recipe makes its model of its parent: it has an attribute, or its function a parameter, `parent`.

    Or training begins at the parent's weights: the recipe's `base` is the place of one of its versions.
    """
    return _takes(recipe) or begins_at(recipe, above.lay)


def begins_at(recipe: Any, places: Sequence[Path]) -> bool:
    """Whether a recipe's `base` is one of these folders."""
    base = getattr(recipe, "base", "")
    return (
        isinstance(base, (str, Path)) and bool(base) and Path(base).resolve() in {p.resolve() for p in places}
    )


def _takes(recipe: Any) -> bool:
    return bool(getattr(recipe, "takes_parent", hasattr(recipe, "parent")))


def with_parent(recipe: Any, place: Path) -> Any:
    """The recipe with the model at `place` as what it begins at; `recipe` must take one."""
    if not _takes(recipe):
        return replace(recipe, base=place)
    if is_dataclass(recipe) and not isinstance(recipe, type):
        return replace(recipe, parent=place)
    recipe = copy(recipe)
    recipe.parent = place
    return recipe


def parent_of(
    ledger: Ledger,
    version: Version,
    made: Sequence[Mapping[str, Any]],
    entries: Sequence[tuple[str, Mapping[str, Any]]],
) -> Parent | None:
    """What a version is made of, as it is once a batch has been served; None if of no other model that is known.

    Args:
        ledger: that knows the models.
        version: of the child.
        made: what the batch did to each model so far.
        entries: of the new versions.
    """
    state = ledger.state()
    above = state.version(version.parent)
    if above is None or above.name == version.name:
        return None
    lay = tuple(ledger.models.place(v) for v in state.versions if v.name == above.name)
    now = next((m for m in made if m["name"] == above.name), None)
    if now is not None and now["step"] == "withdraw":
        return Parent(above.name, now["old"], None, "", lay)
    if now is not None and now["new"]:
        place = next(e["place"] for kind, e in entries if kind == "model" and e["name"] == above.name)
        return Parent(above.name, now["new"], ledger.folder / place, now["level"], lay)
    current = next((v for v in state.in_use() if v.name == above.name), None)
    if current is None:
        return Parent(above.name, above.digest, None, "", lay)
    return Parent(above.name, current.digest, ledger.models.place(current), _level(ledger, current), lay)


def _level(ledger: Ledger, version: Version) -> str:
    """What was claimed for a version when it was made; one that came from outside never saw what was deleted."""
    levels = [
        m["level"]
        for e in ledger.log.entries()
        if e.kind == "served"
        for m in e.body["models"]
        if m["new"] == version.digest and m["level"]
    ]
    return levels[-1] if levels else "E4"
