"""Parts of a diffusers pipeline's folder, read one by one: models, tokenizers, the scheduler."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from ..errors import InputError, IntegrityError, UnweaveError, require
from .shards import shards_of

_TRANSFORMERS = (
    "PixArtTransformer2DModel",
    "Transformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)
_MODELS = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "transformer": ("diffusers", _TRANSFORMERS),
    "vae": ("diffusers", ("AutoencoderKL",)),
}
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast",
               "TokenizersBackend")  # fmt: skip


def model_of(
    folder: Path,
    index: dict[str, Any],
    name: str,
    dtype: torch.dtype | None,
    encoders: Sequence[str] = _ENCODERS,
) -> Module:
    """A denoiser, text encoder or VAE of a pipeline's folder, from safetensors alone.

    Args:
        folder: of the pipeline.
        index: its model_index.json.
        name: of the part.
        dtype: of the weights; as they were stored, unless given.
        encoders: classes that a text encoder may be of.

    Raises:
        InputError: if it is of another class, quantised or incomplete.
        IntegrityError: if it is damaged, holds NaN, or would run code.
    """
    library, known = _MODELS.get(name, ("transformers", tuple(encoders)))
    kind = index[name][1]
    if kind not in known:
        raise InputError(f"{folder / name} is a {kind}; supported is {' or '.join(known)}.")
    if kind == "Transformer2DModel":  # what PixArt's class was called once; the weights fit
        kind = "PixArtTransformer2DModel"
    part = folder / name
    config = part / "config.json"
    if not config.is_file():
        raise InputError(f"{part} has no config.json. Download the whole pipeline.")
    with loading(part):
        told = config.read_text(encoding="utf-8")
    if "quantization_config" in told:
        raise InputError(f"{part} is quantised, which is not supported. Use unquantised weights.")
    for several in part.glob("*.index.json"):
        shards_of(several)  # refuses what leads outside
    variant, weights = chosen(part)
    loader = getattr(require(library, extra="diffusion", purpose="reading a pipeline"), kind)
    with loading(part), quiet():
        made, info = loader.from_pretrained(
            part, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True,
            torch_dtype=dtype or "auto" if library == "transformers" else dtype or _stored(weights),
        )  # fmt: skip
    wrong = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    if wrong:
        raise InputError(
            f"the weights in {part} do not fit its config: {wrong[0]} and {len(wrong) - 1} more."
        )
    model: Module = made.eval()
    require_finite(model, f"the weights in {part}")
    return model


def chosen(part: Path) -> tuple[str | None, Path]:
    """The variant of a part's weights that is read, the plain one where there is one, and a file of it."""
    weights = {_variant(p.name): p for p in sorted(part.glob("*.safetensors"), reverse=True)}
    if not weights:
        code = [p.name for p in part.iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".pth")]
        if code:
            raise IntegrityError(
                f"{part} holds only {code[0]}, which would run code when read. Convert it to safetensors."
            )
        raise InputError(f"{part} has no safetensors file. Download the whole pipeline.")
    variant = None if None in weights else min(v for v in weights if v is not None)
    return variant, weights[variant]


def _variant(name: str) -> str | None:
    """Which variant a file of weights is of ("fp16"), whole or in shards; None for the plain one."""
    _, *rest = re.sub(r"-\d+-of-\d+", "", name.removesuffix(".safetensors")).split(".")
    return rest[0] if rest else None


def _stored(path: Path) -> torch.dtype:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        dtype: torch.dtype = file.get_tensor(next(iter(file.keys()))).dtype
    return dtype


def tokenizer_of(folder: Path, index: dict[str, Any], name: str) -> Any:
    """A tokenizer of a pipeline's folder; raises as `model_of` does."""
    kind = index[name][1]
    if kind not in _TOKENIZERS:
        raise InputError(f"{folder / name} is a {kind}; supported are {', '.join(_TOKENIZERS)}.")
    loader = getattr(require("transformers", extra="diffusion", purpose="reading a pipeline"), kind)
    with loading(folder / name), quiet():
        return loader.from_pretrained(folder / name, local_files_only=True, trust_remote_code=False)


def require_words(tokenizer: Any, encoder: Module, where: Path) -> None:
    """Raise if a tokenizer has more words than its encoder has vectors."""
    held: Any = encoder
    there, known = len(tokenizer), held.get_input_embeddings().num_embeddings
    if there > known:
        raise IntegrityError(
            f"a tokenizer in {where} has {there} words, and its encoder knows {known}. Take both from one pipeline."
        )


def scheduler_of(folder: Path, index: dict[str, Any]) -> Any:
    """The scheduler of a pipeline's folder; raises as `model_of` does, or if diffusers has no such class."""
    diffusers = require("diffusers", extra="diffusion", purpose="reading a pipeline")
    kind = str(index["scheduler"][1])
    known = kind.endswith("Scheduler") and getattr(diffusers, kind, None)
    if not known:
        raise InputError(
            f"{folder / 'scheduler'} is a {kind}, which diffusers {diffusers.__version__} lacks."
        )
    with loading(folder / "scheduler"), quiet():
        scheduler = known.from_pretrained(folder / "scheduler", local_files_only=True)
        shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        deepcopy(scheduler).set_timesteps(2, **shift)  # some settings are only looked at here
    return scheduler


def require_finite(model: Module, what: str) -> None:
    """Raise if a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise IntegrityError(f"{what} hold NaN or infinity in {name}. Use a checkpoint from before that.")


@contextmanager
def loading(part: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a damaged part."""
    try:
        yield
    except UnweaveError:
        raise
    except Exception as error:  # diffusers and transformers raise errors of many kinds on damaged files
        raise IntegrityError(f"{part} cannot be read ({' '.join(str(error).split())[:200]}).") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from talking and from drawing progress bars."""
    import warnings

    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    bars = []
    for library in ("diffusers.utils.logging", "transformers.utils.logging"):
        module = require(library, extra="diffusion", purpose="reading a pipeline")
        if getattr(module, "is_progress_bar_enabled", lambda: True)():
            bars.append(module)
            module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
        for module in bars:
            module.enable_progress_bar()
