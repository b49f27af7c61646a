"""Who names drawn images: the small world's judge, a file of the user's, a transformers classifier."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...erase import Concepts
from ...errors import InputError
from .drawn import Judge


def judge_at(path: Path, concepts: Concepts) -> Judge:
    """The judge that a path means: a .py file of the user's own, or a folder of a transformers classifier.

    Raises:
        InputError: if it is neither, or knows too little to judge these concepts.
    """
    return WrittenJudge(path) if path.suffix == ".py" else ClassifierJudge(path, concepts)


class DigitsJudge:
    """The small world's judge, trained on the spot or read from its cache, the usual one unless given."""

    def __init__(self, cache: Path | None = None) -> None:
        from ...embedded.drawn_digits import DIGITS, judge

        self._judge, self._words = judge(cache=cache), DIGITS
        self.labels = DIGITS

    def names(self, images: Tensor) -> list[str]:
        """Digit of each image [n, 1, 8, 8], as a word; "" for none."""
        return ["" if k < 0 else self._words[k] for k in self._judge.digits(images).tolist()]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What it reads them by, [n, width]."""
        return self._judge.features(images)


class WrittenJudge:
    """A user's own judge: a file that defines names(images) and features(images), and may list the `labels` it knows.

    Raises:
        InputError: if the file is absent, does not run, or lacks one of the two.
    """

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("unweave_judge", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InputError(
                f"there is no judge file {path}. It is a Python file with names(images) and features(images)."
            )
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's own code
            raise InputError(f"{path}: {type(error).__name__}: {error}. Mend it and run again.") from error
        missing = [n for n in ("names", "features") if not callable(getattr(module, n, None))]
        if missing:
            raise InputError(f"{path} does not define {' and '.join(missing)}(images).")
        self.names, self.features = module.names, module.features
        self.labels = tuple(getattr(module, "labels", ()))


class ClassifierJudge:
    """A transformers image classifier whose labels name the concepts.

    Raises:
        InputError: if it has no label for one of the concepts.
    """

    def __init__(self, folder: Path, concepts: Concepts) -> None:
        from ...io.transformers_folder import load_model
        from ...tasks.classify import Classify

        model: Any = load_model(folder).eval()
        self._model = model
        self._size, self._scale, self._mean, self._std = _preparation(folder, model.config)
        labels = [model.config.id2label[i] for i in range(len(model.config.id2label))]
        self._task = Classify(len(labels))
        asked = {c.lower(): c for c in (*concepts.labels, *concepts.preserve)}
        self._names = [_asked(label, asked) for label in labels]
        self.labels = tuple(self._names)
        missing = [c for c in asked.values() if c not in self._names]
        if missing:
            raise InputError(
                f"the judge {folder} has no label for {', '.join(missing)}; it knows {', '.join(labels[:10])}"
                f"{' ...' if len(labels) > 10 else ''}."
            )

    @torch.no_grad()
    def names(self, images: Tensor) -> list[str]:
        """Label of each image [n, channels, height, width] (about -1 to 1), as the concepts spell it."""
        logits = self._task.outputs(self._model, (self._ready(images), torch.zeros(len(images))))
        return [self._names[k] for k in logits.argmax(1).tolist()]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the classifier's last layer reads, [n, width]."""
        return self._task.features(self._model, (self._ready(images), torch.zeros(len(images))))

    def _ready(self, images: Tensor) -> Tensor:
        grown = torch.nn.functional.interpolate(images.float(), size=self._size, mode="bilinear")
        channels = self._model.config.num_channels
        if grown.shape[1] != channels:
            grown = grown.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        return ((grown.clamp(-1, 1) / 2 + 0.5) * self._scale - self._mean) / self._std


def _preparation(folder: Path, config: Any) -> tuple[tuple[int, int], float, Tensor, Tensor]:
    """Height and width, scale of pixels from 0 to 1, mean and deviation that the classifier's images had."""
    from ...io.images import _PROCESSOR_FILES, processor_of
    from ...io.loading import loading

    side, half = getattr(config, "image_size", 224), torch.full((1, 1, 1, 1), 0.5)
    default = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        return default, 1.0, half, half
    read = processor_of(folder)
    with loading(folder / "preprocessor_config.json"):
        cropped = getattr(read, "do_center_crop", False) and getattr(read, "crop_size", None)
        given = dict(read.crop_size if cropped else getattr(read, "size", None) or {})
        edge = given.get("shortest_edge")
        size = (int(given.get("height") or edge or default[0]), int(given.get("width") or edge or default[1]))
        scale = 255.0 * float(read.rescale_factor) if getattr(read, "do_rescale", True) else 255.0
        shape = (1, -1, 1, 1)
        moved = getattr(read, "do_normalize", True)
        mean = torch.tensor(read.image_mean if moved else [0.0], dtype=torch.float32).reshape(shape)
        std = torch.tensor(read.image_std if moved else [1.0], dtype=torch.float32).reshape(shape)
        fits = all(t.shape[1] in (1, config.num_channels) and bool(t.isfinite().all()) for t in (mean, std))
        if not (
            fits and bool((std > 0).all()) and 0 < scale < float("inf") and all(0 < n <= 4096 for n in size)
        ):
            raise ValueError(
                f"size {size}, mean {mean.flatten().tolist()}, deviation {std.flatten().tolist()}"
            )
    return size, scale, mean, std


def _asked(label: str, asked: dict[str, str]) -> str:
    """The concept that one of the label's synonyms names, or the first of them."""
    parts = [part.strip() for part in label.split(",")]
    return next((asked[part.lower()] for part in parts if part.lower() in asked), parts[0])
