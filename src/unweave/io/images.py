"""Image folders read by `datasets`, as examples that a transformers processor prepares: local files only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError, IntegrityError, UnweaveError, require
from ..random import seeded
from ..tasks.classify import Classify
from ..types import Data
from .loading import config_of, loading, quiet, short, transformers_class

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Images:
    """An image folder, read for a model.

    Attributes:
        train: batches {"pixel_values" [n, channels, height, width], "labels" [n]}.
        heldout: the same, of images that are not in `train`.
        class_names: of the labels, in the model's order.
        columns: further facts of the folder's metadata file, name -> one value a training image.
        ids: path of each training image relative to the folder.
    """

    train: Data[Classify]
    heldout: Data[Classify]
    class_names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    ids: tuple[str, ...]


def load_images(
    spec: str, folder: Path, *, batch_size: int = 32, holdout: float = 0.2, seed: int = 0
) -> Images:
    """Read an image folder with the image processor of a transformers folder.

    Args:
        spec: "imagefolder:" and a folder of class folders, with or without train/ and test/ or validation/
            above them.
        folder: of the model.
        batch_size: images a batch.
        holdout: share held out, drawn with `seed`, if the folder has no test or validation split.
        seed: of that draw.

    Raises:
        InputError: if the folder, its images or its classes cannot be used with the model.
        MissingExtraError: if transformers, datasets or pillow is absent or does not import.
    """
    kind, _, place = spec.partition(":")
    if kind != "imagefolder" or not place:
        raise InputError(f"--data must be imagefolder:FOLDER; got {spec!r}.")
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"there is no image folder {root}.")
    if not 0 < holdout < 1:
        raise InputError(f"the held-out share must lie between 0 and 1; got {holdout}.")
    config, processor = config_of(Path(folder)), _processor(Path(folder))
    splits = _read_splits(root)
    if len(splits) == 2:
        train, heldout = splits
    else:
        order = torch.randperm(len(splits[0].files), generator=seeded(seed))
        cut = max(1, round(holdout * len(order)))
        train, heldout = splits[0].at(order[cut:].sort().values), splits[0].at(order[:cut].sort().values)
    if not train.files:
        raise InputError(
            f"{root} leaves no image to train on: it has {len(heldout.files)} in all. Add images."
        )
    names = _match_classes(root, train, config)
    task = Classify(len(names))
    place_of = {name: i for i, name in enumerate(names)}

    def data(split: _Split) -> Data[Classify]:
        labels = torch.tensor([place_of[name] for name in split.classes])
        channels = int(getattr(config, "num_channels", 3))
        return Data(
            ImageExamples(root, split.files, labels, processor, "L" if channels == 1 else "RGB"),
            task,
            batch_size,
        )

    return Images(
        train=data(train),
        heldout=data(heldout),
        class_names=names,
        columns=train.columns,
        ids=tuple(train.files),
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
        file = self._root / self.ids[at]
        try:
            with image.open(file) as opened:
                picture = opened.convert(self._mode)
        except Exception as error:  # pillow raises SyntaxError, struct.error and others on damaged files
            raise IntegrityError(
                f"{file} is not a whole image ({short(error)}). Mend or remove it."
            ) from error
        with loading(file):
            pixels: Tensor = self._processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        return pixels


@dataclass(frozen=True)
class _Split:
    files: list[str]
    classes: list[str]
    columns: dict[str, list[Any]]

    def at(self, positions: Tensor) -> _Split:
        chosen = positions.tolist()
        return _Split(
            [self.files[i] for i in chosen],
            [self.classes[i] for i in chosen],
            {name: [values[i] for i in chosen] for name, values in self.columns.items()},
        )


def _read_splits(root: Path) -> list[_Split]:
    datasets = require("datasets", extra="vision", purpose="reading image folders")
    with TemporaryDirectory(prefix="unweave-") as cache, quiet():
        try:
            held = datasets.load_dataset(
                "imagefolder", data_dir=str(root.resolve()), drop_labels=False, cache_dir=cache
            )
            splits = {name: _split(root.resolve(), split, datasets) for name, split in held.items()}
        except UnweaveError:
            raise
        except Exception as error:
            raise InputError(f"{root} cannot be read as an image folder ({short(error)}).") from error
    tests = [splits[name] for name in ("test", "validation") if name in splits]
    if "train" not in splits:
        raise InputError(f"{root} has the splits {', '.join(splits)}, and none named train.")
    return [splits["train"], *tests[:1]]


def _split(root: Path, split: Any, datasets: Any) -> _Split:
    columns = {name: list(split[name]) for name in split.column_names if name not in ("image", "label")}
    files = []
    for entry in split.cast_column("image", datasets.Image(decode=False))["image"]:
        path = Path(entry["path"])
        if not path.is_relative_to(root):
            raise InputError(f"{path} lies outside {root}. Unpack archives first.")
        files.append(path.relative_to(root).as_posix())
    return _Split(files, _classes(root, split, files), columns)


def _classes(root: Path, split: Any, files: Sequence[str]) -> list[str]:
    if "label" in split.column_names:
        feature = split.features["label"]
        return [feature.int2str(x) if hasattr(feature, "int2str") else str(x) for x in split["label"]]
    folders = [PurePosixPath(file).parent.name for file in files]  # a metadata file takes the labels' place
    if len(set(folders)) < 2:
        raise InputError(f"{root} has no labels. Put each class's images into a folder of its name.")
    return folders


def _match_classes(root: Path, train: _Split, config: Any) -> tuple[str, ...]:
    found = sorted(set(train.classes))
    known = [str(config.id2label[i]) for i in range(int(config.num_labels))]
    if set(found) <= set(known):
        return tuple(known)
    if len(found) == len(known) and known == [f"LABEL_{i}" for i in range(len(known))]:
        return tuple(found)  # the model has no names; datasets numbers classes by name, in this order
    strange = [name for name in found if name not in known]
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
            f"the weights in {folder} {' and '.join(parts)}. Give the folder of an image classifier as it "
            "was saved."
        )


def _processor(folder: Path) -> Any:
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
