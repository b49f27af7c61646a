"""Image classifiers in transformers folders, and image folders read by `datasets`: local files only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW, Optimizer
from torch.utils.data import Dataset

from ..errors import InputError, IntegrityError, MissingExtraError, UnweaveError, require
from ..fit.recipe import SparseTraining, Supervised, refuse_idle
from ..masks.mask import Mask
from ..random import global_seed, seeded
from ..settings import Count, NonNegative, Positive, Whole, settings
from ..tasks.classify import Classify
from ..types import Data, Edit
from .checkpoint import load_into, mask_beside, nonfinite, require_zeros, save_model
from .files import folder_written_beside
from .masks import save_mask

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


@settings
class TransformersRecipe:
    """Train the architecture of a transformers folder with AdamW; with `prune`, prune it and train on.

    Attributes:
        folder: holds the model's config.json; its weights are not read.
        epochs: passes over the data.
        lr: peak learning rate; a linear rise over the first twentieth of the steps, then half a cosine to
            zero.
        weight_decay: of AdamW.
        optimizer: makes another optimiser than AdamW: called with (parameters, lr=...).
        sparse: sparse training from the first step on.
        init_seed: seed of the initial weights; None draws them from the run's generator.
        base: folder of a model trained on other data whose weights are taken where names and shapes agree; ""
            begins at random weights. It must not have seen the training data, or retraining would not forget.
        prune: applied once after training.
        recover_epochs: further passes under the mask.
        recover_lr: peak learning rate of these.

    Raises:
        InputError: if a field would do nothing beside the others.
    """

    folder: Path
    epochs: Count = 10
    lr: Positive = 3e-4
    weight_decay: NonNegative = 0.05
    optimizer: Callable[..., Optimizer] | None = None
    sparse: SparseTraining | None = None
    init_seed: int | None = None
    base: Path | str = ""
    prune: Edit[Data[Any]] | None = None
    recover_epochs: Whole = 0
    recover_lr: Positive = 1e-4

    of_own_optimizer: ClassVar[tuple[str, ...]] = ("weight_decay",)

    def __post_init__(self) -> None:
        refuse_idle(self, self.of_own_optimizer)

    def initial(self, rng: Generator) -> Module:
        """The network before training; the same one for every `rng` if `init_seed` is set."""
        return self._supervised().initial(rng)

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Train on `data` from the initial weights."""
        return self._supervised().build(data, rng=rng)

    def train_(self, model: Module, data: Data[Any], **how: Any) -> None:
        """Train `model` in place the recipe's way; see `Supervised.train_`."""
        self._supervised().train_(model, data, **how)

    def _supervised(self) -> Supervised:
        return Supervised(
            network=self._network, epochs=self.epochs, lr=self.lr,
            optimizer=self.optimizer or partial(AdamW, weight_decay=self.weight_decay), sparse=self.sparse,
            prune=self.prune, recover_epochs=self.recover_epochs, recover_lr=self.recover_lr, init_seed=self.init_seed,
        )  # fmt: skip

    def _network(self) -> Module:
        config = _config(Path(self.folder))
        with _loading(Path(self.folder)), _quiet():
            auto = _transformers("AutoModelForImageClassification")
            if self.base:
                made, _ = auto.from_pretrained(
                    self.base, config=config, ignore_mismatched_sizes=True, output_loading_info=True,
                    local_files_only=True, trust_remote_code=False,
                )  # fmt: skip
            else:
                made = auto.from_config(config, trust_remote_code=False)
        model: Module = made
        return model


def is_model_folder(path: Path) -> bool:
    """Whether a path is a transformers folder: one with a config.json."""
    return (Path(path) / "config.json").is_file()


def load_model(folder: Path) -> Module:
    """Read an image classifier of transformers (ViT, Swin, ResNet, ConvNeXT, ...) from a local folder.

    Stricter than transformers: a weight that is missing, left over, of another shape or not finite is an
    error, where transformers would draw it at random or leave it out.

    Raises:
        InputError: if the folder is no such model, or its weights do not fit its config.
        IntegrityError: if a file is damaged, holds NaN, or would run code.
        MissingExtraError: if transformers is absent or does not import.
    """
    folder = Path(folder)
    config = _config(folder)
    auto = _transformers("AutoModelForImageClassification")
    if (folder / "structure.json").exists():
        with _loading(folder), _quiet(), global_seed(0):
            full = auto.from_config(config, trust_remote_code=False)
        return load_into(full, folder)
    with _loading(folder), _quiet(), global_seed(0):
        model, info = auto.from_pretrained(
            folder,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    _refuse_misfit(folder, info)
    bad = nonfinite(model.state_dict())
    if bad:
        raise IntegrityError(f"the weights in {folder} hold {bad}. Use a checkpoint from before that.")
    mask = mask_beside(folder)
    if mask is not None:
        require_zeros(model, mask, f"the weights in {folder} and the mask beside them")
    loaded: Module = model
    return loaded


def save_model_folder(
    model: Module,
    folder: Path,
    *,
    mask: Mask | None = None,
    structure: Mapping[str, Any] | None = None,
    source: Path | None = None,
) -> None:
    """Write a transformers model as a folder that transformers reads, whole or not at all.

    Args:
        model: a transformers model.
        folder: replaced if it is there.
        mask: written beside the weights; the model must be zero elsewhere.
        structure: record of removed structure; such a folder is read by `load_model`, not by transformers
            alone.
        source: folder whose image processor is copied; the one the model was read from unless given.

    Raises:
        InputError: if the model is none of transformers, or not zero where the mask says so.
        StorageError: if it cannot be written; then the old folder is still there.
    """
    folder = Path(folder)
    if not hasattr(model, "save_pretrained"):
        raise InputError(f"a {type(model).__name__} is no transformers model. Write it with save_model.")
    pretrained: Any = model
    if mask is not None:
        require_zeros(model, mask)
    origin = source if source is not None else Path(str(getattr(model, "name_or_path", "") or "/nonexistent"))
    with folder_written_beside(folder) as beside, _quiet():
        if structure is not None:
            pretrained.config.save_pretrained(beside)
            save_model(model, beside, mask=mask, structure=structure)
        else:
            pretrained.save_pretrained(beside)
            if mask is not None:
                save_mask(mask, beside / "mask.safetensors")
        for name in _PROCESSOR_FILES:
            if (Path(origin) / name).is_file():
                shutil.copyfile(Path(origin) / name, beside / name)


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
    config, processor = _config(Path(folder)), _processor(Path(folder))
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
                f"{file} is not a whole image ({_short(error)}). Mend or remove it."
            ) from error
        with _loading(file):
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
    with TemporaryDirectory(prefix="unweave-") as cache, _quiet():
        try:
            held = datasets.load_dataset(
                "imagefolder", data_dir=str(root.resolve()), drop_labels=False, cache_dir=cache
            )
            splits = {name: _split(root.resolve(), split, datasets) for name, split in held.items()}
        except UnweaveError:
            raise
        except Exception as error:
            raise InputError(f"{root} cannot be read as an image folder ({_short(error)}).") from error
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


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no transformers folder: it has no config.json.")
    auto = _transformers("AutoConfig")
    with _loading(folder), _quiet():
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _processor(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise InputError(
            f"{folder} has no preprocessor_config.json, so how its images were prepared is not known. "
            "Save the image processor of its training there."
        )
    auto = _transformers("AutoImageProcessor")
    with _loading(folder), _quiet():
        # the pillow one: the other needs torchvision
        return auto.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)


def _transformers(name: str) -> Any:
    transformers = require("transformers", extra="vision", purpose="reading a transformers folder")
    try:
        return getattr(transformers, name)
    except Exception as error:  # its modules are imported when first asked for
        raise _broken(error) from error


@contextmanager
def _loading(where: Path) -> Iterator[None]:
    try:
        yield
    except UnweaveError:
        raise
    except Exception as error:
        if any(isinstance(cause, ImportError) or "torchvision" in str(cause) for cause in _chain(error)):
            raise _broken(error) from error
        if "trust_remote_code" in str(error):
            raise IntegrityError(
                f"{where} holds a model of its own code, which would run when read, so it was not. "
                "Only architectures of transformers itself can be used."
            ) from error
        raise IntegrityError(
            f"{where} cannot be read ({_short(error)}). Save or download it again."
        ) from error


def _broken(error: BaseException) -> MissingExtraError:
    root = _chain(error)[-1]
    return MissingExtraError(
        "reading a transformers folder needs transformers, which is installed but does not import "
        f"({_short(root)}). "
        "Run: unweave doctor."
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers and datasets, where these are loaded."""
    import sys

    undo: list[Callable[[], Any]] = []
    if (logging := sys.modules.get("transformers.utils.logging")) is not None:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(50)
        logging.disable_progress_bar()
        undo.append(lambda: logging.set_verbosity(level))
        undo += [logging.enable_progress_bar] if bars else []
    if (
        datasets := sys.modules.get("datasets")
    ) is not None and not datasets.utils.are_progress_bars_disabled():
        datasets.disable_progress_bars()
        undo.append(datasets.enable_progress_bars)
    try:
        yield
    finally:
        for step in undo:
            step()


def _short(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
