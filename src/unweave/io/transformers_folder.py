"""Image classifiers in transformers folders: local files only. Their images are read by `images`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW, Optimizer

from ..errors import InputError, IntegrityError
from ..fit.recipe import SparseTraining, Supervised, refuse_idle
from ..masks.mask import Mask
from ..random import global_seed
from ..settings import Count, NonNegative, Positive, Whole, settings
from ..types import Data, Edit
from .checkpoint import load_into, mask_beside, require_zeros, save_model
from .files import folder_written_beside
from .images import _PROCESSOR_FILES, _refuse_misfit, load_images
from .loading import config_of, loading, quiet, transformers_class
from .lora import adapter_weights, base_of, is_adapter, merged
from .masks import save_mask
from .shards import INDEXES, shards_of
from .slim_config import says
from .weights import PACKED, load_weights, nonfinite, usual

__all__ = [
    "TransformersRecipe",
    "is_model_folder",
    "is_packed",
    "load_images",
    "load_model",
    "save_model_folder",
]


IMAGES = "AutoModelForImageClassification"


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
        auto: class of transformers that makes the model.

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
    auto: str = IMAGES

    of_own_optimizer: ClassVar[tuple[str, ...]] = ("weight_decay",)

    def __post_init__(self) -> None:
        refuse_idle(self, self.of_own_optimizer)

    @property
    def stepper(self) -> Callable[..., Optimizer]:
        """What makes the recipe's optimiser: called with (parameters, lr=...)."""
        return self.optimizer or partial(AdamW, weight_decay=self.weight_decay)

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
            optimizer=self.stepper, sparse=self.sparse,
            prune=self.prune, recover_epochs=self.recover_epochs, recover_lr=self.recover_lr, init_seed=self.init_seed,
        )  # fmt: skip

    def _network(self) -> Module:
        config = config_of(Path(self.folder))
        auto = transformers_class(self.auto)
        if self.base:
            return _begun_at(Path(self.base), auto, config)
        with loading(Path(self.folder)), quiet():
            made: Module = auto.from_config(config, trust_remote_code=False)
        return made


def _begun_at(base: Path, auto: Any, config: Any) -> Module:
    """A network of this configuration with the weights of another model where names and shapes agree.

    Raises:
        InputError: if structure was removed from that model in a way that its configuration does not say.
    """
    if (base / "structure.json").exists():
        raise InputError(
            f"{base} lost structure in a way that its config.json does not say, so no network of that configuration "
            "can begin at its weights. Give the model from before that."
        )
    how: dict[str, Any] = {
        "config": config, "ignore_mismatched_sizes": True, "output_loading_info": True, "local_files_only": True,
    }  # fmt: skip
    with loading(base), quiet():
        if is_packed(base):
            with torch.device("meta"):  # for its class alone: nothing is drawn
                kind = type(auto.from_config(config, trust_remote_code=False))
            made, _ = kind.from_pretrained(None, state_dict=_once(load_weights(base)), **how)
        else:
            made, _ = auto.from_pretrained(str(base), trust_remote_code=False, **how)
    model: Module = made
    return model


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights under the first of their names alone, as transformers writes them."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {n: t for n, t in tensors.items() if not t.numel() or first[t.data_ptr()] == n}


def is_packed(folder: Path) -> bool:
    """Whether the weights in a folder are packed, which transformers does not read."""
    return usual(folder).name == PACKED and usual(folder).is_file()


def is_model_folder(path: Path) -> bool:
    """Whether a path is a transformers folder: one with a config.json."""
    return (Path(path) / "config.json").is_file()


def load_model(folder: Path, auto_class: str = IMAGES) -> Module:
    """Read an image classifier of transformers (ViT, Swin, ResNet, ConvNeXT, ...) from a local folder.

    Stricter than transformers: a weight that is missing, left over, of another shape or not finite is an
    error, where transformers would draw it at random or leave it out. The folder of an adapter (adapter_config.json) is
    merged into its base, where that is a local folder.

    Raises:
        InputError: if the folder is no such model, or its weights do not fit its config.
        IntegrityError: if a file is damaged, holds NaN, or would run code.
        MissingExtraError: if transformers is absent or does not import.
    """
    folder = Path(folder)
    if is_adapter(folder):
        return merged(load_model(base_of(folder), auto_class), folder, load_weights(adapter_weights(folder)))
    config = config_of(folder)
    for index in INDEXES:
        if (folder / index).is_file():
            shards_of(folder / index)  # refuses what leads outside the folder
    auto = transformers_class(auto_class)
    if (folder / "structure.json").exists() or is_packed(folder):
        with loading(folder), quiet(), global_seed(0):
            full = auto.from_config(config, trust_remote_code=False)
        return load_into(full, folder).eval()
    with loading(folder), quiet(), global_seed(0):
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
    beside_weights: Sequence[str] = _PROCESSOR_FILES,
    largest_file: int | None = None,
    packed: bool = False,
) -> None:
    """Write a transformers model as a folder that transformers reads, whole or not at all.

    Args:
        model: a transformers model.
        folder: replaced if it is there.
        mask: written beside the weights; the model must be zero elsewhere.
        structure: record of removed structure. Where the model's configuration says the smaller shape, transformers
            reads the folder; elsewhere structure.json lies in it, and `load_model` reads it.
        source: folder whose image processor is copied; the one the model was read from unless given.
        beside_weights: names of the files that are copied from there.
        largest_file: bytes of the largest file of weights, beyond which they are split into several.
        packed: write sparse weights packed (packed.safetensors, see `save_model`), which `load_model` reads and
            transformers alone does not.

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
    with folder_written_beside(folder) as beside, quiet():
        told = structure is not None and not says(model)
        if told or packed:
            pretrained.config.save_pretrained(beside)
            save_model(model, beside, mask=mask, structure=structure if told else None, packed=packed)
        else:
            pretrained.save_pretrained(
                beside, **({} if largest_file is None else {"max_shard_size": largest_file})
            )
            if mask is not None:
                save_mask(mask, beside / "mask.safetensors")
        for name in beside_weights:
            if (Path(origin) / name).is_file():
                shutil.copyfile(Path(origin) / name, beside / name)
