"""A model folder and what to look at it with, as a job: texts for a language model, a picture for a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..interpret import GSAE, SMDL, ChoiceSAE, Dictionary, ZeroShot
from ..interpret.activations import read_layer
from ..interpret.places import Places
from ..interpret.viewer import as_prepare
from ..types import Data
from .explain import LatentsJob
from .regions import RegionsJob

AROUND = 12
"""Tokens on each side of the one that a latent speaks of."""


def open_latents(
    folder: Path | str,
    *,
    layer: str,
    texts: Path | str,
    method: GSAE | ChoiceSAE | Dictionary | None = None,
    length: int = 128,
    latents: int = 20,
    top: int = 5,
    seed: int = 0,
) -> LatentsJob:
    """A job on a layer of a causal language model.

    Args:
        folder: of transformers, with its tokenizer.
        layer: name in `named_modules`.
        texts: a .txt or .jsonl file; see `io.texts.read_sequences`.
        method: how the autoencoder is trained; `ChoiceSAE()` unless given.
        length: tokens a window.
        latents: how many to show.
        top: examples of each.
        seed: governs the whole run.

    Raises:
        InputError: if the folder holds no such model, it has no such layer, or the file holds no window of text.
    """
    from ..io.causal_lm import load_causal_lm
    from ..io.loading import read_tokenizer
    from ..io.texts import read_sequences

    path, file = Path(folder), Path(texts)
    tokenizer = read_tokenizer(path)
    read = read_sequences(file, tokenizer, length)
    return LatentsJob(
        model=load_causal_lm(path), data=read.data, layer=layer, method=method or ChoiceSAE(), latents=latents, top=top,
        show=_in_context(tokenizer), name=f"{folder} on {file.name}", notes=read.notes, seed=seed,
        files={"model": path, "texts": file},
    )  # fmt: skip


def open_image_latents(
    folder: Path | str,
    *,
    layer: str,
    images: str,
    method: GSAE | ChoiceSAE | Dictionary | None = None,
    latents: int = 20,
    top: int = 5,
    seed: int = 0,
) -> LatentsJob:
    """A job on a layer of an image classifier: which patches each latent speaks of.

    Args:
        folder: of transformers, with its image processor.
        layer: name in `named_modules`.
        images: "imagefolder:FOLDER", or the folder alone, with the model's classes as its folders; its training side is
            read.
        method: how the autoencoder is trained; `ChoiceSAE()` unless given.
        latents: how many to show.
        top: examples of each.
        seed: governs the whole run.

    Raises:
        InputError: if the folder holds no such model, it has no such layer, or the images cannot be read for it.
    """
    from ..io.images import load_images, processor_of
    from ..io.transformers_folder import load_model

    path, spec = Path(folder), images if images.startswith("imagefolder:") else f"imagefolder:{images}"
    model, read, processor = load_model(path), load_images(spec, path), processor_of(path)
    places = Places.of(read_layer(model, *_first(read.train), layer), read.train.examples[0]["pixel_values"])
    root = Path(spec.removeprefix("imagefolder:").partition(":holdout=")[0])
    return LatentsJob(
        model=model, data=read.train, layer=layer, method=method or ChoiceSAE(), latents=latents, top=top,
        show=lambda _, place: places.told(place), ids=read.ids, name=f"{folder} on {root.name}", notes=read.facts,
        picture=lambda example, place: places.framed(_pixels(example["pixel_values"], processor), place),
        seed=seed, files={"model": path, "images": root},
    )  # fmt: skip


def _first(data: Data[Any]) -> tuple[Any, Any]:
    return next(data.subset([0]).batches()), data.task


def _pixels(seen: Tensor, processor: Any) -> Tensor:
    """What the model reads as a picture from 0 to 1: the processor's normalisation undone."""
    if not getattr(processor, "do_normalize", True):
        return seen.clamp(0, 1)
    mean, std = (
        torch.tensor(getattr(processor, name)).view(-1, 1, 1) for name in ("image_mean", "image_std")
    )
    return (seen.float().cpu() * std + mean).clamp(0, 1)


def open_regions(
    folder: Path | str,
    *,
    image: Path | str,
    method: SMDL | None = None,
    target: str | int | None = None,
    classes: Sequence[str] = (),
    seed: int = 0,
) -> RegionsJob:
    """A job on one picture and an image classifier, or a model of images and texts such as CLIP.

    Args:
        folder: of transformers, with its image processor.
        image: the picture's file.
        method: the search; `SMDL()` unless given.
        target: class to explain, by number or name; the model's own unless given.
        classes: texts to choose between, for a model of images and texts; a classifier has its own.
        seed: governs the whole run.

    Raises:
        InputError: if the folder holds no such model, the file no picture, or there is no such class.
    """
    from ..io.one_image import read_image
    from ..io.transformers_folder import load_model

    path, file = Path(folder), Path(image)
    pixels, processor = read_image(file, path)
    model: Any
    if classes:
        model, names = _of_texts(path, classes), tuple(classes)
    else:
        model = load_model(path)
        named = dict(model.config.id2label)
        names = tuple(str(named[i]) for i in range(len(named)))
    return RegionsJob(
        model=model, image=pixels, method=method or SMDL(), target=_number(target, names),
        prepare=as_prepare(processor), class_names=names, name=f"{folder} on {file.name}", seed=seed,
        files={"model": path, "image": file},
    )  # fmt: skip


def _of_texts(folder: Path, classes: Sequence[str]) -> ZeroShot:
    from ..io.text_folder import tokenizer_of
    from ..io.transformers_folder import load_model

    ready = tokenizer_of(folder)(list(classes), padding=True, return_tensors="pt")
    return ZeroShot(load_model(folder, "AutoModel"), {k: ready[k] for k in ("input_ids", "attention_mask")})


def _number(target: str | int | None, names: Sequence[str]) -> int | None:
    if target is None or isinstance(target, int):
        return target
    if target in names:
        return names.index(target)
    if target.isdigit():
        return int(target)
    from difflib import get_close_matches

    near = get_close_matches(target, names, n=3, cutoff=0.4) or list(names)[:8]
    raise InputError(f"the model has no class {target!r}. It has {', '.join(near)}, by number or name.")


def _in_context(tokenizer: Any) -> Callable[[Any, int], str]:
    def shown(example: Any, place: int) -> str:
        ids = example["input_ids"].tolist()
        low = max(0, place - AROUND)
        before, here, after = ids[low:place], ids[place : place + 1], ids[place + 1 : place + 1 + AROUND]
        told = f"{tokenizer.decode(before)}«{tokenizer.decode(here)}»{tokenizer.decode(after)}"
        return " ".join(told.split())

    return shown
