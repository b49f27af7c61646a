"""What lies in a folder of images: every file accounted for, sides and classes by the names of folders alone.

    FOLDER/train/beagle/001.png  FOLDER/test/beagle/002.png     with a side that was never trained on
    FOLDER/beagle/001.png                                        without: a share must be held out by request

Nothing is guessed from names of files, and nothing is dropped in silence: an image that would be lost, or whose side
or class is in doubt, is an error that lists it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .image_metadata import LABEL, METADATA, read_metadata

TRAIN = ("train", "training")
"""Names, in any case, of the folder that the model was trained on."""
HELDOUT = ("test", "testing", "val", "valid", "validation", "holdout", "heldout", "eval", "evaluation")
"""Names, in any case, of folders that it never saw."""
IMAGES = tuple(
    ".apng .avif .avifs .bmp .dib .gif .icb .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pcx .pfm "
    ".pgm .png .pnm .ppm .qoi .ras .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp .xbm .xpm".split()
)
"""Endings of files that are read as images, in any case."""
_UNREAD = tuple(
    ".arw .blp .cr2 .cr3 .cur .dcx .dds .dng .emf .eps .fit .fits .heic .heif .icns .ico .im .jxl .nef .orf .pcd .psd "
    ".raf .raw .svg .svgz .wmf".split()
)
_ARCHIVES = tuple(".7z .bz2 .gz .rar .tar .tgz .xz .zip .zst".split())


@dataclass(frozen=True)
class Split:
    """Images of one side.

    Attributes:
        files: of each image the path relative to the folder, with / between its parts; sorted.
        classes: of each image.
        columns: further facts from metadata files, name -> one text an image.
    """

    files: list[str]
    classes: list[str]
    columns: dict[str, list[str]] = field(default_factory=dict)

    def of(self, files: Iterable[str]) -> Split:
        """Those of these files, in this order."""
        wanted = set(files)
        kept = [at for at, file in enumerate(self.files) if file in wanted]
        columns = {name: [values[at] for at in kept] for name, values in self.columns.items()}
        return Split([self.files[at] for at in kept], [self.classes[at] for at in kept], columns)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, read.

    Attributes:
        train: what the model was trained on.
        heldout: what it never saw.
        numbered: whether classes are the numbers in a metadata column, not names of folders.
        facts: what was read, from where, and what was passed over, as sentences.
    """

    train: Split
    heldout: Split
    numbered: bool
    facts: tuple[str, ...]


def read_image_folder(root: Path, *, holdout: float | None = None, seed: int = 0) -> ImageFolder:
    """Read which images a folder holds, on which side and of which class; no image is opened.

    Args:
        root: holds train/ (or training/) and test/ (or another of `HELDOUT`), each with class folders; or class
            folders alone.
        holdout: share in (0, 1) to hold out where there are class folders alone. Which images it takes depends on
            each one's name and `seed`, so that an image never changes sides when others come or go.
        seed: of that draw.

    Raises:
        InputError: if an image would be lost, its side or class is in doubt, a class is on one side only, or a line
            of a metadata file fits no image; the message lists them.
    """
    found = _listed(root)
    metadata = read_metadata(root, found.metadata, found.images)
    images = [file for file in found.images if file not in metadata.referred]
    passed = [
        *found.passed,
        *_told(sorted(metadata.referred & set(found.images)), "named by a metadata column"),
    ]
    if not images:
        raise InputError(f"{root} cannot be read as an image folder: it holds no image ({_ends()}).")
    sides, drawn = _sides(root, images), False
    whole = _split(root, images, metadata.columns)
    facts: list[str] = []
    if sides["heldout"]:
        if holdout is not None:
            raise InputError(
                f"{root} has images of its own to hold out, so holdout={holdout:g} would do nothing. Leave it out."
            )
        facts.append(f"{_under(sides['train'], 'to train on')}, {_under(sides['heldout'], 'held out')}")
    else:
        sides, drawn = _drawn(root, sides["train"], holdout, seed), True
        facts.append(f"{len(sides['train']):,} images to train on, {len(sides['heldout']):,} held out")
        facts.append(
            f"the held-out images were drawn at random from one folder, as holdout={holdout:g} asked; they are "
            "held out only of a model that was trained without them"
        )
    facts[0] += f", {sum(count for count, _ in passed):,} passed over"
    facts += [words for _, words in passed]
    train, heldout = whole.of(sides["train"]), whole.of(sides["heldout"])
    _require_both(root, train.classes, heldout.classes, drawn)
    return ImageFolder(train, heldout, LABEL in metadata.columns, tuple(facts))


@dataclass
class _Listed:
    images: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    passed: list[tuple[int, str]] = field(default_factory=list)


def _listed(root: Path) -> _Listed:
    found, hidden, other = _Listed(), [], []
    wrong: dict[str, list[str]] = {"links": [], "archives": [], "unread": [], "names": []}
    for place, folders, names in os.walk(root, onerror=_unreadable):
        inside = Path(place).relative_to(root).as_posix()
        at = "" if inside == "." else f"{inside}/"
        covered = any(map(_hidden, PurePosixPath(at).parts))
        wrong["links"] += [f"{at}{n}" for n in folders if Path(place, n).is_symlink() and not _hidden(n)]
        for name in names:
            file, end = f"{at}{name}", PurePosixPath(name).suffix.casefold()
            if covered or _hidden(name):
                hidden.append(file)
            elif not _utf8(file):
                wrong["names"].append(ascii(file))
            elif name.casefold() in METADATA:
                found.metadata.append(file)
            elif end in _ARCHIVES:
                wrong["archives"].append(file)
            elif end in _UNREAD:
                wrong["unread"].append(file)
            elif end not in IMAGES:
                other.append(file)
            elif Path(place, name).is_symlink():
                wrong["links"].append(file)
            else:
                found.images.append(file)
    _refuse(root, wrong["links"], "are links, which are not followed. Put the files themselves there.")
    _refuse(root, wrong["archives"], "are archives. Unpack them, or put them elsewhere.")
    _refuse(
        root, wrong["unread"], "are images of a kind that is not read. Convert them, as for the training."
    )
    _refuse(root, wrong["names"], "have names that are no UTF-8. Rename them.")
    found.images.sort()
    found.metadata.sort()
    found.passed += _told([f for f in hidden if f.casefold().endswith(IMAGES)], "hidden or in hidden folders")
    found.passed += [(0, words) for _, words in _told(other, "that are no images by their names")]
    return found


def _sides(root: Path, images: Sequence[str]) -> dict[str, list[str]]:
    tops = sorted({top for top, rest, _ in (file.partition("/") for file in images) if rest})
    sides = {
        "train": [t for t in tops if t.casefold() in TRAIN],
        "heldout": [t for t in tops if t.casefold() in HELDOUT],
    }
    if not sides["train"] and not sides["heldout"]:
        return {"train": list(images), "heldout": []}
    strange = [file for file in images if file.partition("/")[0] not in (*sides["train"], *sides["heldout"])]
    named = ", ".join(f"{name}/" for name in (*sides["train"], *sides["heldout"]))
    _refuse(
        root, strange, f"lie beside {named} on no side that is known. Sides are {', '.join(TRAIN)} and "
        f"{', '.join(HELDOUT)}, in any case; move the others into them or away.",
    )  # fmt: skip
    if len(sides["train"]) != 1:
        raise InputError(
            f"{root} has {', '.join(sides['train']) or 'no folder'} to train on beside {named} Give one, named train."
        )
    return {
        side: [f for f in images if f.partition("/")[0] in names] for side, names in sides.items()
    }  # fmt: skip


def _drawn(root: Path, images: Sequence[str], holdout: float | None, seed: int) -> dict[str, list[str]]:
    if holdout is None:
        raise InputError(
            f"{root} has no folder of images to hold out ({', '.join(HELDOUT)}), so all {len(images):,} count as "
            "trained on. Move images that the model never saw into test/, and the others into train/. If it was "
            "trained by unweave on a share of this folder, give imagefolder:PATH:holdout=SHARE as then."
        )
    out = [f for f in images if _draw(f, seed) < holdout]
    kept = [f for f in images if _draw(f, seed) >= holdout]
    if not out or not kept:
        raise InputError(
            f"of the {len(images)} images of {root}, holdout={holdout:g} draws {len(out)}. Add images, or give "
            "another share."
        )
    return {"train": kept, "heldout": out}


def _draw(file: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed} {file}".encode()).digest()[:6], "big") / 2**48


def _split(root: Path, files: Sequence[str], columns: Mapping[str, Mapping[str, str]]) -> Split:
    folders = [PurePosixPath(_below_side(file)).parent.as_posix() for file in files]
    told = columns.get(LABEL)
    if told is None:
        bare = [f for f, place in zip(files, folders, strict=True) if place == "."]
        _refuse(root, bare, "have no labels. Put each class's images into a folder of its name.")
        deep = [f for f, place in zip(files, folders, strict=True) if "/" in place]
        _refuse(
            root, deep, "lie deeper than in a folder of their class, so which name is the class is not known. Put each "
            "image directly into its class's folder.",
        )  # fmt: skip
        classes = folders
    else:
        classes = _labelled(root, files, folders, told)
    kept = {n: [v.get(f, "") for f in files] for n, v in columns.items() if n != LABEL}
    return Split(list(files), classes, kept)


def _labelled(root: Path, files: Sequence[str], folders: Sequence[str], told: Mapping[str, str]) -> list[str]:
    _refuse(
        root, [f for f in files if not told.get(f)], f"have no {LABEL} in the metadata. Give every image one."
    )
    classes = [told[f] for f in files]
    if len(set(folders)) > 1:
        apart = [f for f, place in zip(files, folders, strict=True) if told[f] != place]
        _refuse(
            root,
            apart,
            f"lie in a folder that is not their {LABEL} in the metadata. Take that column out, or move them.",
        )
    return classes


def _below_side(file: str) -> str:
    top, _, rest = file.partition("/")
    return rest if rest and top.casefold() in (*TRAIN, *HELDOUT) else file


def _require_both(root: Path, train: Sequence[str], heldout: Sequence[str], drawn: bool) -> None:
    mine, theirs = sorted(set(train)), sorted(set(heldout))
    absent = [] if drawn else [name for name in mine if name not in theirs]
    strange = [name for name in theirs if name not in mine]
    parts = [f"{_few(absent)} only among the images to train on"] if absent else []
    parts += [f"{_few(strange)} only among the held-out images"] if strange else []
    if parts:
        cure = "Add images, or hold out less." if drawn else "Give both sides the same class folders."
        raise InputError(
            f"{root} has the classes {' and '.join(parts)}. To train on: {_few(mine, 20)}. Held out: "
            f"{_few(theirs, 20)}. {cure}"
        )


def _under(files: Iterable[str], what: str) -> str:
    counts = Counter(file.partition("/")[0] for file in files)
    return ", ".join(f"{n:,} images {what} under {top}/" for top, n in sorted(counts.items()))


def _told(files: Sequence[str], what: str) -> list[tuple[int, str]]:
    return [(len(files), f"{len(files):,} files {what} were passed over: {_few(files)}")] if files else []


def _refuse(root: Path, files: Sequence[str], why: str) -> None:
    if files:
        raise InputError(f"{len(files):,} files in {root} {why} They are: {_few(files)}.")


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}). Mend its permissions.") from error


def _hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name.isprintable()


def _ends() -> str:
    return f"{', '.join(IMAGES[:4])}, ... {IMAGES[-1]}"


def _few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
