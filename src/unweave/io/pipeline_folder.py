"""Folders of diffusers text-to-image pipelines: read part by part, written so that diffusers reads them as they are.

Parts are read one by one by the classes that model_index.json names, so that image processors and safety checkers,
which may want torchvision, are never imported; on saving they are copied.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from ..errors import InputError, IntegrityError, require
from ..models.text_to_image import Kind, TextToImage, offload_, require_plain
from .files import folder_written_beside, write_text
from .pipeline_parts import chosen, model_of, quiet, require_finite, require_words, scheduler_of, tokenizer_of

PIPELINES: dict[str, Kind] = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "PixArtAlphaPipeline": "transformer",
    "PixArtSigmaPipeline": "transformer",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
}
"""Pipeline class -> its denoiser's folder."""

_CLIP, _T5 = "CLIPTextModelWithProjection", "T5EncoderModel"
_FURTHER = {
    "StableDiffusionXLPipeline": {2: _CLIP},
    "StableDiffusion3Pipeline": {2: _CLIP, 3: _T5},
    "FluxPipeline": {2: _T5},
}
"""Pipeline class -> number of each text encoder beyond the first -> its class."""
_INDEX = "model_index.json"
_ERASED = "unweave_erased.json"
"""What was erased from a pipeline before, in its folder."""
_ERASED_VERSION = 1


def is_pipeline_folder(path: Path) -> bool:
    """Whether a path is a diffusers pipeline: a folder with a model_index.json."""
    return (Path(path) / _INDEX).is_file()


def load_pipeline(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    offload: bool = False,
) -> TextToImage:
    """Read a text-to-image pipeline from a local folder of diffusers, safetensors only.

    Args:
        folder: holds model_index.json.
        dtype: of the weights; as they were stored, unless given.
        device: to put the weights on; the noise schedule stays where it is.
        offload: keep text encoders and VAE on the CPU while they are idle; see `offload_`.

    Raises:
        InputError: if the folder is no such pipeline, of a layout that is not supported, or lacks a part, there is no
            such device, or `offload` is asked for on the CPU, where it would do nothing.
        IntegrityError: if a part is damaged, holds NaN, or would run code.
        MissingExtraError: if diffusers or transformers is absent or does not import.
    """
    folder, device = Path(folder), _device(device)
    if offload and device.type == "cpu":
        raise InputError(
            "offload keeps idle parts on the CPU, and the pipeline works there: it would do nothing. Leave it out, or "
            "name another device (--device cuda)."
        )
    index = _index(folder)
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise InputError(f"{folder} holds a {kind}; supported are {', '.join(PIPELINES)}.")
    denoiser = PIPELINES[kind]
    further = _FURTHER.get(kind, {})
    wanted = [denoiser, "text_encoder", "tokenizer", "scheduler"]
    wanted += [f"{part}_{i}" for i in further for part in ("text_encoder", "tokenizer")]
    absent = [p for p in wanted if not _listed(index, p) or not (folder / p).is_dir()]
    if absent or (_listed(index, "vae") and not (folder / "vae").is_dir()):
        missing = absent or ["vae"]
        raise InputError(
            f"{folder} lacks {', '.join(missing)}, which a {kind} needs. Download the whole pipeline."
        )
    read = {name: model_of(folder, index, name, dtype) for name in (denoiser, "text_encoder")}
    more = {f"text_encoder_{i}": made for i, made in further.items()}
    parts = [denoiser, "text_encoder", *more]
    parts += ["vae"] if _listed(index, "vae") else []
    made = TextToImage(
        denoiser=read[denoiser],
        text_encoder=read["text_encoder"],
        **{name: model_of(folder, index, name, dtype, (made,)) for name, made in more.items()},
        vae=model_of(folder, index, "vae", dtype) if _listed(index, "vae") else None,
        tokenizers=[tokenizer_of(folder, index, name) for name in wanted if name.startswith("tokenizer")],
        scheduler=scheduler_of(folder, index),
        index=index,
        source=folder.resolve(),
        erased=_erased(folder),
        variants={} if dtype else {name: v for name in parts if (v := chosen(folder / name)[0])},
    )
    for tokenizer, encoder in zip(made.tokenizers, made.encoders, strict=True):
        require_words(tokenizer, encoder, folder)
    return offload_(made, device) if offload else made.to(device)


def save_pipeline(model: TextToImage, folder: Path) -> None:
    """Write a pipeline as a folder that diffusers reads, whole or not at all.

    Args:
        model: parts that were not read (safety checker, image processors) are copied from `model.source`; parts that
            were read from files of a variant ("fp16") are written under that name, in the dtype that they have.
        folder: replaced if it is there.

    Raises:
        InputError: if a weight is not finite, parts to copy are gone, or a part holds LoRA or quantised weights.
        IntegrityError: if what was written does not read back as what it was; then the old folder is still there.
        StorageError: if it cannot be written; then the old folder is still there.
    """
    folder = Path(folder)
    own: dict[str, Any] = {model.kind: model.denoiser, "text_encoder": model.text_encoder}
    own |= {f"text_encoder_{i}": encoder for i, encoder in enumerate(model.encoders[1:], 2)}
    own |= {"vae": model.vae, "scheduler": model.scheduler}
    own |= {"tokenizer" if i == 0 else f"tokenizer_{i + 1}": t for i, t in enumerate(model.tokenizers)}
    own = {name: part for name, part in own.items() if part is not None}
    for name, part in own.items():
        if isinstance(part, Module):
            require_plain(part, f"the {name}")
            require_finite(part, f"the {name} to be written")
    index = dict(model.index) or _new_index(model)
    _require_inside(index, "the pipeline to be written")
    copied = [name for name in index if name not in own and _listed(index, name)]
    for name in copied:
        if model.source is None or not (model.source / name).is_dir():
            raise InputError(
                f"{name} was not read and is no longer in {model.source}; it cannot be written to {folder}."
            )
    with folder_written_beside(folder) as beside, quiet():
        for name, part in own.items():
            variant = {"variant": model.variants[name]} if model.variants.get(name) else {}
            part.save_pretrained(beside / name, **variant)
        for name in copied:
            assert model.source is not None
            shutil.copytree(model.source / name, beside / name)
        write_text(beside / _INDEX, json.dumps(index, indent=2) + "\n")
        if model.erased:
            told = {"format": "unweave erased", "version": _ERASED_VERSION, "erased": list(model.erased)}
            write_text(beside / _ERASED, json.dumps(told, indent=1) + "\n")
        _require_same(load_pipeline(beside), model)


def _require_same(read: TextToImage, model: TextToImage) -> None:
    """Raise unless every weight reads back as it was."""
    found = dict(read.named_parameters())
    for name, weight in model.named_parameters():
        if name not in found or not torch.equal(found[name].double(), weight.detach().cpu().double()):
            raise IntegrityError(
                f"{name} does not read back from what was written as it was. Nothing was changed."
            )
    if list(read.erased) != json.loads(json.dumps(list(model.erased))):
        raise IntegrityError(
            "the record of what was erased does not read back as it was. Nothing was changed."
        )


def _erased(folder: Path) -> list[dict[str, Any]]:
    """What was erased from a pipeline before, as its folder has it."""
    path = folder / _ERASED
    if not path.is_file():
        return []
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        version, entries = told["version"], told["erased"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}). Take the folder as it was written."
        ) from error
    if (
        version != _ERASED_VERSION
        or not isinstance(entries, list)
        or not all(isinstance(e, dict) for e in entries)
    ):
        raise IntegrityError(f"{path} is of version {version!r}; this program reads {_ERASED_VERSION}.")
    return entries


def _require_inside(index: dict[str, Any], where: object) -> None:
    """Raise if the index names a part that would lie outside the pipeline's folder."""
    for name, entry in index.items():
        if isinstance(entry, list) and not name.isidentifier():
            raise InputError(
                f"{where}: {_INDEX} names a part {name!r}; parts are folders with plain names inside it."
            )


def _device(named: torch.device | str) -> torch.device:
    try:
        device = torch.device(named)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the device
        raise InputError(
            f"there is no device {named!s} here ({str(error).splitlines()[0]}). Try cpu."
        ) from error
    return device


def _new_index(model: TextToImage) -> dict[str, Any]:
    named = {
        "unet": "StableDiffusionPipeline",
        "xl": "StableDiffusionXLPipeline",
        "transformer": "PixArtAlphaPipeline",
        "joint": "StableDiffusion3Pipeline",
        "packed": "FluxPipeline",
    }
    diffusers = require("diffusers", extra="diffusion", purpose="writing a pipeline")
    index: dict[str, Any] = {"_class_name": named[model.layout], "_diffusers_version": diffusers.__version__}

    def entry(part: Any, library: str) -> list[str | None]:
        return [None, None] if part is None else [library, type(part).__name__]

    index["scheduler"] = entry(model.scheduler, "diffusers")
    index[model.kind] = entry(model.denoiser, "diffusers")
    index["text_encoder"] = entry(model.text_encoder, "transformers")
    for i, tokenizer in enumerate(model.tokenizers):
        index["tokenizer" if i == 0 else f"tokenizer_{i + 1}"] = entry(tokenizer, "transformers")
    for i, encoder in enumerate(model.encoders[1:], 2):
        index[f"text_encoder_{i}"] = entry(encoder, "transformers")
    index["vae"] = entry(model.vae, "diffusers")
    if model.layout == "unet":
        index |= {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")}
        index["requires_safety_checker"] = False
    return index


def _index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(
            f"there is no pipeline folder {folder}. Give a local folder of diffusers with a {_INDEX}; from a hub, "
            "`hf download NAME --local-dir FOLDER` makes one."
        )
    path = folder / _INDEX
    if not path.is_file():
        raise InputError(
            f"{folder} is no diffusers pipeline: it has no {_INDEX}. Give the folder that holds it."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is no JSON ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(index, dict):
        raise IntegrityError(f"{path} does not hold an object.")
    _require_inside(index, folder)
    return index


def _listed(index: dict[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
