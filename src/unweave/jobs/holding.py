"""What still holds the deleted data once a model was edited, and removing what is ours of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

from ..audit.result import Audit
from ..errors import StorageError
from ..io.files import in_bytes, strict_json
from ..io.model_cache import Lineage, entries, note_deletion, remove
from ..io.runs import RunFolder
from ..report.page import Section

HOLDERS = "holders.json"
HEADING = "What still holds the deleted data"


@dataclass(frozen=True)
class Held:
    """Something that was trained on the deleted data.

    Attributes:
        what: in words.
        place: file or folder.
        size: in bytes; 0 if it is not on disk.
        ours: whether this run or an earlier one made it, so that purging removes it.
        removed: whether that was done.
        kept: why it is still there though it was to be removed; "" where nothing is to be said.
    """

    what: str
    place: str
    size: int
    ours: bool
    removed: bool = False
    kept: str = ""


def still_held(
    run: RunFolder, audits: Sequence[Audit], given: Any, cache: Path, asked: Lineage, name: str
) -> list[Held]:
    """All that is known to hold the data that `asked` leaves out, which is noted in `cache` under `name`.

    Args:
        run: in which the model was edited.
        audits: of the model that is handed out first, then of those it is compared with.
        given: the model before the edit, or its file; None if the run trained it.
        cache: folder of trained models.
        asked: the training data, without what was deleted.
        name: of the request.
    """
    found = [_given(given)] if given is not None else []
    if (run.path / "original").exists():
        found.append(_in_run(run, "original", "the model before the edit, trained by this run"))
    for i, audit in enumerate(audits):
        outcome = audit.verdict.outcome
        if audit.passed:
            continue
        verdict = f'whose verdict is "{outcome}"'
        if i == 0 and (run.path / "model").exists():
            place = run.path / "model"
            found.append(Held(f"the model that is handed out, {verdict}", str(place), _size(place), False))
        slug = "".join(c if c.isalnum() else "-" for c in audit.method)
        folders = [
            f"compared/{slug}",
            *(f"several/{p.name}" for p in (run.path / "several").glob(f"{slug}-*")),
        ]
        found += [
            _in_run(run, folder, f"a model that is compared with, {verdict}")
            for folder in folders
            if (run.path / folder).exists()
        ]
    try:
        note_deletion(cache, name, asked)
    except StorageError as error:
        if (
            cache.is_dir() or getattr(error.__cause__, "errno", None) == ENOSPC
        ):  # it may hold models of these data
            raise
        warnings.warn(f"the cache will not know what was deleted: {error}", stacklevel=2)
    for entry in entries(cache, asked):
        if "asked" in entry.holds and (entry.models or entry.unfinished):
            told = [f"{len(entry.models)} finished" * bool(entry.models)]
            told += [f"{len(entry.unfinished)} unfinished" * bool(entry.unfinished)]
            what = f"models to compare with, in the cache: {' and '.join(filter(None, told))}"
            found.append(Held(what, str(entry.folder), entry.size, True))
    return found


def purged(run: RunFolder, held: Sequence[Held], cache: Path) -> list[Held]:
    """Remove what is ours of it, but for models of the cache that another process is using, and look again."""
    known = {str(entry.folder): entry for entry in entries(cache)}
    after = []
    for one in held:
        if not one.ours or one.removed:
            after.append(one)
            continue
        place = Path(one.place)
        kept = "could not be removed"
        if one.place in known:
            _, busy = remove(known[one.place])
            kept = f"kept: {len(busy)} in use by another process" if busy else kept
        elif run.path in place.parents:
            run.discard(place.relative_to(run.path).as_posix())
        removed = not place.exists()  # looked at, not believed
        after.append(Held(one.what, one.place, one.size, True, removed, "" if removed else kept))
    return after


def section(held: Sequence[Held]) -> Section:
    """The part of the report that tells of it."""
    left = [h for h in held if not h.removed]
    gone = [h for h in held if h.removed]
    lead = "Of models and checkpoints that are known to have been trained on it; data files, backups and copies made "
    lead += "elsewhere are not looked for. " + ("" if left else "Nothing is left of them. ")
    if gone:
        lead += f"Removed: {len(gone)}, with {in_bytes(sum(h.size for h in gone))}. "
    if any(h.ours for h in left):
        lead += "The same command with --purge removes those made by unweave. "
    if any(not h.ours for h in left):
        lead += "Files of your own are yours to remove."
    rows = [(h.what, h.place, in_bytes(h.size) if h.size else "–", _fate(h)) for h in held]
    return Section(
        heading=HEADING,
        caption=lead.strip(),
        columns=("what", "where", "size", "state") if rows else (),
        rows=rows,
    )


def to_json(held: Sequence[Held]) -> str:
    """As strict JSON."""
    return strict_json([asdict(h) for h in held])


def from_json(text: str) -> list[Held]:
    """Read back what `to_json` wrote."""
    told: list[Mapping[str, Any]] = json.loads(text)
    return [Held(**one) for one in told]


def _fate(held: Held) -> str:
    if held.removed:
        return "removed"
    return held.kept or ("made by unweave" if held.ours else "yours to remove")


def _given(model: Any) -> Held:
    if isinstance(model, (str, Path)):
        return Held("the model before the edit", str(model), _size(Path(model)), False)
    return Held("the model before the edit", "in memory, and wherever it was read from", 0, False)


def _in_run(run: RunFolder, made: str, what: str) -> Held:
    return Held(what, str(run.path / made), _size(run.path / made), True)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return sum(p.stat().st_size for p in files if p.is_file())
