"""The models of a ledger: what was made of what, with which data, and which version of each is in use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, IntegrityError
from ...io.content import UnstableError, describe
from ...io.files import sha256, sha256_of, written_beside
from ...io.identities import SIZE
from ...masks.mask import Mask
from ...unlearn.exact.folder import is_exact, read_record
from ..exact import as_recorded, dense
from ..forget_exact import source_of
from ..subject import Subject
from .parents import begins_at
from .state import State, Version

if TYPE_CHECKING:
    from .book import Ledger


class Models:
    """The models of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def add(
        self,
        name: str,
        subject: Subject,
        *,
        how: str = "trained",
        parent: str = "",
        recipients: Sequence[str] = (),
        source: Mapping[str, Any] | None = None,
    ) -> Version:
        """Take in a model that was made elsewhere, or a new version of one; it is in use from then on.

        A model of a new name may hold what was deleted: then it is late, and made anew, or withdrawn, with the next
        serving.

        Args:
            name: of the model, through all its versions.
            subject: its data, and as `model` the path of its weights.
            how: it was made, in a word or two.
            parent: the model it was made of, by its name or the digest of a version; "unknown" if that is so.
            recipients: who was given it, to be told of deletions.
            source: project or folder that opens it, for the command line.

        Raises:
            InputError: if it brings no weights on disk, its parent is not known here, it is its own, or a new version
                would bring back what was deleted.
        """
        _check_name(name)
        state, subject = self.ledger.state(), placed(subject)
        if name in state.current and (deleted := self.ledger.positions(subject, state.served)):
            raise InputError(
                f"the data of {name} hold {len(deleted)} examples that were deleted, and the version in use does not. "
                "A new one must be trained without them: take `Ledger.allowed(subject)`, or remove them from the data."
            )
        self._require_recipe_prunes(name, subject)
        above = parent if parent in ("", "unknown") else self._parent(state, name, parent)
        self._require_base_said(state, name, subject, above)
        told = self.described(name, subject, how=how, parent=above, recipients=recipients, source=source)
        number = self.ledger.log.append("model", told).number
        self.settle()
        return next(v for v in self.ledger.state().versions if v.entry == number)

    def described(
        self,
        name: str,
        subject: Subject,
        *,
        how: str,
        parent: str,
        recipients: Sequence[str] = (),
        source: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        released: bool = True,
        why_not: str = "",
    ) -> dict[str, Any]:
        """What an entry says of a model; fields as those of `Version`. Its data are stored."""
        if subject.model is None or not isinstance(subject.model, (str, Path)):
            raise InputError(
                f"a ledger knows models by their files, and {subject.name} brings none. Give its path."
            )
        place = Path(subject.model)
        return {
            "name": name, "digest": digest(subject, place), "files": sha256_of(place),
            "place": _told(place, self.ledger.folder), "how": how, "parent": parent,
            "data": self._keep(self.ledger.prints(subject)), "without": list(without), "recipe": _recipe(subject),
            "source": dict(source) if source is not None else None, "recipients": list(recipients),
            "released": released, "why_not": why_not,
        }  # fmt: skip

    def _require_base_said(self, state: State, name: str, subject: Subject, above: str) -> None:
        parent = state.version(above)
        for v in state.versions:
            said = parent is not None and parent.name == v.name
            if v.name != name and not said and begins_at(subject.recipe, [self.place(v)]):
                raise InputError(
                    f"{name} was trained from {v.name}, by its recipe (base), and so it holds what {v.name} holds. "
                    f"Name that as its parent (--parent {v.name})."
                )

    def _require_recipe_prunes(self, name: str, subject: Subject) -> None:
        at = subject.model
        if not isinstance(at, (str, Path)) or is_exact(Path(at)) or not _dense(subject.recipe):
            return
        if mask := Mask.of(subject.read(Path(at))):
            raise InputError(
                f"{name} is pruned ({mask.density():.1%} of its weights are kept) and its recipe trains a dense one: "
                "it could not be made anew without what is deleted. Say in the recipe of its project how it is pruned: "
                "Supervised(prune=Prune(...), recover_epochs=...)."
            )

    def _parent(self, state: State, name: str, parent: str) -> str:
        if parent == name:
            raise InputError(f"{name} cannot be its own parent. Name another model, or 'unknown'.")
        if parent in state.current:
            return state.current[parent]
        if (found := state.version(parent)) is not None:
            return found.digest
        known = ", ".join(dict.fromkeys(v.name for v in state.versions)) or "none"
        raise InputError(
            f"the ledger knows no model {parent!r} of which {name} could be made; it knows: {known}. Add that one "
            "first, or give the parent 'unknown': then nothing above suppression can be claimed for it."
        )

    def place(self, version: Version) -> Path:
        """Where a version's files lie."""
        return self.ledger.folder / version.place

    def impact(self, prints: Sequence[bytes]) -> list[Version]:
        """Every version of every model that ever saw one of these examples, itself or through what it was made of.

        Args:
            prints: fingerprints of the examples.
        """
        wanted = set(prints)
        scopes = {r: wanted & prints for r, prints in self.ledger.log.scopes().items()}
        state, kept = self.ledger.state(), dict[str, set[bytes]]()
        return [v for v in state.versions if self._saw(v, state, wanted, scopes, kept)]

    def _saw(
        self,
        version: Version,
        state: State,
        wanted: set[bytes],
        scopes: Mapping[str, set[bytes]],
        kept: dict[str, set[bytes]],
    ) -> bool:
        """Whether a version saw any of the fingerprints, itself or through what it was made of."""
        left = wanted.difference(*(scopes[r] for r in version.without))
        for above in state.ancestors(version):
            if above.data not in kept:
                kept[above.data] = wanted & self._kept(above.data)
            if left.difference(*(scopes[r] for r in above.without)) & kept[above.data]:
                return True
        return False

    def share(self, version: Version, prints: Sequence[bytes]) -> float:
        """Share of a version's data that these examples are."""
        held = self._kept(version.data)
        return len(held.intersection(prints)) / max(1, len(held))

    def use(self, name: str, which: str, *, by: str = "", reason: str = "") -> Version:
        """Put another version of a model into use, such as the one before.

        Args:
            name: of the model.
            which: digest of a version, or its first 8 or more digits.
            by: who takes it upon themselves, where the version was not released.
            reason: why.

        Raises:
            InputError: if it holds what a request deleted, or was not released and nobody answers for it.
        """
        state = self.ledger.state()
        found = [
            v for v in state.versions if v.name == name and len(which) >= 8 and v.digest.startswith(which)
        ]
        if not found:
            there = (
                ", ".join(f"{v.digest[:12]} ({v.how})" for v in state.versions if v.name == name) or "none"
            )
            raise InputError(f"{name} has no version {which!r}. It has: {there}.")
        version = found[-1]
        for request in state.served:
            if request not in version.without and version in self.impact(self.ledger.log.scope(request)):
                raise InputError(
                    f"version {version.digest[:12]} of {name} holds what {request} deleted (entry "
                    f"{state.requests[request].served}): going back to it would bring that back. Choose a later one."
                )
        if not version.released and not (by and reason):
            raise InputError(
                f"version {version.digest[:12]} of {name} was not released: {version.why_not}. Somebody must answer "
                "for using it all the same: give a name and a reason (--by, --reason)."
            )
        self.ledger.log.append("used", {"name": name, "digest": version.digest, "by": by, "reason": reason})
        self.settle()
        return version

    def settle(self) -> None:
        """Let `serving/NAME` lead to the version in use of each model; done again after a crash, it changes nothing."""
        serving = self.ledger.folder / "serving"
        in_use = {v.name: v for v in self.ledger.state().in_use()}
        serving.mkdir(exist_ok=True)
        for old in serving.iterdir():
            if old.name not in in_use:
                old.unlink()
        for name, version in in_use.items():
            link, to = serving / name, os.path.relpath(self.place(version).resolve(), serving.resolve())
            if link.is_symlink() and os.readlink(link) == to:
                continue
            beside = serving / f".{name}.partial"
            beside.unlink(missing_ok=True)
            beside.symlink_to(to)
            os.replace(beside, link)

    def superseded(self) -> list[Version]:
        """Versions that are not in use any more, hold what was deleted, and whose files are still there."""
        state = self.ledger.state()
        in_use = {v.entry for v in state.in_use()}
        old = [v for v in state.versions if v.entry not in in_use and self.place(v).exists()]
        return self._holding(state, old)

    def purgeable(self) -> list[Version]:
        """Those of `superseded` whose files lie in the ledger's folder; the others are their owner's to remove."""
        inside = self.ledger.folder.resolve()
        return [v for v in self.superseded() if self.place(v).resolve().is_relative_to(inside)]

    def late(self) -> list[Version]:
        """Versions in use that hold what was deleted: taken in afterwards, and not made anew yet."""
        state = self.ledger.state()
        return self._holding(state, state.in_use())

    def _holding(self, state: State, versions: Sequence[Version]) -> list[Version]:
        scopes = self.ledger.log.scopes()
        wanted = set[bytes]().union(*(scopes[r] for r in state.served))
        scopes = {r: wanted & prints for r, prints in scopes.items()}
        kept = dict[str, set[bytes]]()
        return [v for v in versions if self._saw(v, state, wanted, scopes, kept)]

    def _keep(self, prints: Sequence[bytes]) -> str:
        """Store the fingerprints of a data set, once."""
        joined = b"".join(sorted(set(prints)))
        name = hashlib.sha256(joined).hexdigest()
        file = self.ledger.folder / "data" / name
        if not file.exists():
            with written_beside(file) as beside:
                beside.write_bytes(joined)
        return name

    def _kept(self, data: str) -> set[bytes]:
        file = self.ledger.folder / "data" / data
        if not file.is_file() or sha256(file) != data:
            raise IntegrityError(f"{file}, which tells what a model was trained on, is gone or was altered.")
        joined = file.read_bytes()
        return {joined[i : i + SIZE] for i in range(0, len(joined), SIZE)}


def placed(subject: Subject) -> Subject:
    """A subject whose model is the run of one that can forget exactly, as the folder with its record."""
    model = subject.model
    if not isinstance(model, (str, Path)) or not is_exact(source_of(model)):
        return subject
    return as_trained(replace(subject, model=source_of(model)))


def as_trained(subject: Subject) -> Subject:
    """The subject of an exactly deletable model, with the recipe as it was then."""
    assert isinstance(subject.model, (str, Path))
    return as_recorded(dense(subject), read_record(Path(subject.model)))


def digest(subject: Subject, place: Path) -> str:
    """SHA-256 of a model's tensors, however its file stores them; of an exactly deletable one, of its stages' files."""
    if is_exact(place):
        told = read_record(place)
        return describe([told["base"], *sorted(stage["sha256"] for stage in told["stages"])])
    return describe(dict(sorted(subject.read(place).state_dict().items())))


def _dense(recipe: Any) -> bool:
    """Whether a recipe could prune, and does not."""
    return hasattr(recipe, "prune") and all(
        getattr(recipe, name, None) is None for name in ("prune", "sparse")
    )


def _recipe(subject: Subject) -> str:
    """SHA-256 of the recipe and its code; "" where it has no stable one."""
    try:
        return "" if subject.recipe is None else describe(subject.recipe)
    except UnstableError:
        return ""


def _told(place: Path, folder: Path) -> str:
    """A path as the ledger keeps it: within its folder by the way there, so that the folder can be moved."""
    full, base = place.resolve(), folder.resolve()
    return str(full.relative_to(base)) if full.is_relative_to(base) else str(full)


def _check_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "-_" for c in name) or len(name) > 60:
        raise InputError(f"a model's name has letters, digits, - and _ only, up to 60; got {name!r}.")
