"""A model folder and what to look at it with, as a job: texts for a language model, a picture for a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..interpret import GSAE, SMDL, ChoiceSAE, Dictionary, ZeroShot
from ..interpret.viewer import as_prepare
from .explain import LatentsJob, RegionsJob

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
