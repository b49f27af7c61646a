"""Images of a folder, as examples that a transformers processor prepares: local files only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError, IntegrityError, require
from ..tasks.classify import Classify
from ..types import Data
from .image_folder import ImageFolder, Split, read_image_folder
from .loading import config_of, loading, quiet, short, transformers_class

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

_CACHE_BYTES = 2 * 2**30

_ORIENTATION = 0x0112  # of EXIF
_SHARE = re.compile(r":holdout=([0-9.eE+-]+)$")


@dataclass(frozen=True, kw_only=True)
class Images:
    """An image folder, read for a model.

    Attributes:
        train: batches {"pixel_values" [n, channels, height, width], "labels" [n]}.
        heldout: the same, of images that are not in `train`.
        class_names: of the labels, in the model's order.
        columns: what the folder's metadata files say, name -> one text a training image.
        ids: path of each training image relative to the folder, with / between its parts.
        facts: how many images were read, from where, and what was passed over, as sentences.
    """

    train: Data[Classify]
    heldout: Data[Classify]
    class_names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    ids: tuple[str, ...]
    facts: tuple[str, ...] = ()


def load_images(
    spec: str, folder: Path, *, batch_size: int = 32, holdout: float | None = None, seed: int = 0
) -> Images:
    """Read an image folder with the image processor of a transformers folder.

    Args:
        spec: "imagefolder:FOLDER", read as in `read_image_folder`; with ":holdout=SHARE" after it that share of a
            folder without images to hold out is drawn, as `holdout` does.
        folder: of the model.
        batch_size: images a batch.
        holdout: share to hold out where the folder has class folders alone; None refuses such a folder, for what a
            model was trained on is not held out.
        seed: of that draw.

    Raises:
        InputError: if the folder, its images or its classes cannot be used with the model.
        MissingExtraError: if transformers or pillow is absent or does not import.
    """
    kind, _, place = spec.partition(":")
    if kind != "imagefolder" or not place:
        raise InputError(f"--data must be imagefolder:FOLDER; got {spec!r}.")
    share = _SHARE.search(place)
    if share is not None:
        place, holdout = place[: share.start()], _number(share[1])
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"there is no image folder {root}.")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"the held-out share must lie between 0 and 1; got {holdout}.")
    config, processor = config_of(Path(folder)), processor_of(Path(folder))
    found = read_image_folder(root, holdout=holdout, seed=seed)
    names, place_of = _match_classes(root, found, config)
    task = Classify(len(names))
    mode = "L" if int(getattr(config, "num_channels", 3)) == 1 else "RGB"

    def data(split: Split) -> Data[Classify]:
        labels = torch.tensor([place_of[name] for name in split.classes])
        return Data(ImageExamples(root, split.files, labels, processor, mode), task, batch_size)

    return Images(
        train=data(found.train),
        heldout=data(found.heldout),
        class_names=names,
        columns=found.train.columns,
        ids=tuple(found.train.files),
        facts=found.facts,
    )


class ImageExamples(Dataset[dict[str, Tensor]]):
    """Images of a folder, decoded and processed when first read, then kept in memory while they fit in 2 GiB.

    Attributes:
        ids: path of each image relative to the folder.
        labels: int64 [n].
    """

    def __init__(self, root: Path, files: Sequence[str], labels: Tensor, processor: Any, mode: str) -> None:
        self.ids, self.labels = tuple(files), labels
        self._root, self._processor, self._mode = root, processor, mode
        self._kept: Tensor | None = None
        self._have = torch.zeros(len(files), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        """One image: {"pixel_values" [channels, height, width], "labels" []}."""
        return {"pixel_values": self._pixels(at), "labels": self.labels[at]}

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several at once."""
        return [self[at] for at in positions]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None, "_have": torch.zeros(len(self), dtype=torch.bool)}

    def _pixels(self, at: int) -> Tensor:
        if self._kept is not None and self._have[at]:
            return self._kept[at]
        pixels = self._decode(at)
        if self._kept is None and pixels.numel() * pixels.itemsize * len(self) <= _CACHE_BYTES:
            self._kept = torch.empty((len(self), *pixels.shape), dtype=pixels.dtype)
        if self._kept is not None:
            if self._kept.shape[1:] != pixels.shape:
                raise InputError(
                    f"{self._root / self.ids[at]} becomes {tuple(pixels.shape)} and others "
                    f"{tuple(self._kept.shape[1:])}. "
                    "Give the model's image processor a fixed size."
                )
            self._kept[at], self._have[at] = pixels, True
        return pixels

    def _decode(self, at: int) -> Tensor:
        image = require("PIL.Image", extra="vision", purpose="reading images")
        turn = require("PIL.ImageOps", extra="vision", purpose="reading images").exif_transpose
        file = self._root / self.ids[at]
        try:
            with image.open(file) as opened:
                opened.verify()  # checksums, where the format has any: loading passes them over
            with image.open(file) as opened:
                opened.load()
                # as `datasets` decodes: upright where EXIF says so
                upright = turn(opened) if opened.getexif().get(_ORIENTATION) is not None else opened
                deep = upright.mode.startswith(("I", "F"))
                picture = None if deep else upright.convert(self._mode)
                kind = upright.mode
        except Exception as error:  # pillow raises SyntaxError, struct.error and others on damaged files
            raise IntegrityError(
                f"{file} is not a whole image ({short(error)}). Mend or remove it."
            ) from error
        if picture is None:
            raise InputError(
                f"{file} has more than 8 bits a channel (mode {kind}), and how the training brought it to 8 is not "
                "known: pillow clips what lies above 255. Write it in 8 bits, as the training read it."
            )
        with loading(file):
            pixels: Tensor = self._processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        return pixels


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"the held-out share must be a number between 0 and 1; got {text!r}.") from error


def _match_classes(root: Path, found: ImageFolder, config: Any) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the model's classes, and the number of each name in the folder."""
    here = sorted({*found.train.classes, *found.heldout.classes})
    count, named = int(config.num_labels), config.id2label
    if not isinstance(named, Mapping) or set(named) != set(range(count)):
        raise IntegrityError(
            f"the model's config.json does not name its {count} classes (id2label). Mend it."
        )
    known = [str(named[i]) for i in range(count)]
    nameless = known == [f"LABEL_{i}" for i in range(len(known))]
    numbers = [str(i) for i in range(len(known))]
    if set(here) <= set(known):
        return tuple(known), {name: i for i, name in enumerate(known)}
    if found.numbered and set(here) <= set(numbers):
        return tuple(known), {name: i for i, name in enumerate(numbers)}
    if (
        len(here) == len(known) and nameless
    ):  # classes are numbered by their names, in this order, in every trainer
        return tuple(here), {name: i for i, name in enumerate(here)}
    strange = [name for name in here if name not in known]
    raise InputError(
        f"{root} has the classes {_few(strange)}, which the model does not know; it knows {_few(known)}. "
        "Name the folders as in the model's config.json (id2label)."
    )


def _refuse_misfit(folder: Path, info: Mapping[str, Any]) -> None:
    missing, extra = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    wrong = [entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]]
    parts = [f"lack {_few(missing)}"] if missing else []
    parts += [f"have {_few(extra)}, which the model lacks"] if extra else []
    parts += [f"have another shape at {_few(sorted(wrong))}"] if wrong else []
    if parts:
        raise InputError(
            f"the weights in {folder} {' and '.join(parts)}. Give the folder as its model was saved."
        )


def processor_of(folder: Path) -> Any:
    """The image processor saved beside a model.

    Raises:
        InputError: if there is none, so that nobody knows how its images were prepared.
    """
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise InputError(
            f"{folder} has no preprocessor_config.json, so how its images were prepared is not known. "
            "Save the image processor of its training there."
        )
    auto = transformers_class("AutoImageProcessor")
    with loading(folder), quiet():
        # the pillow one: the other needs torchvision
        return auto.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
