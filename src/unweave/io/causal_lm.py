"""Causal language models in transformers folders: local files only, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.nn import Module

from ..errors import InputError
from ..masks.mask import Mask
from .loading import config_of, transformers_class
from .lora import is_adapter
from .text_folder import tokenizer_files
from .transformers_folder import load_model, save_model_folder

CAUSAL = "AutoModelForCausalLM"
"""The class of transformers that reads such a model."""
_BESIDE = ("generation_config.json",)


def is_causal_lm(folder: Path) -> bool:
    """Whether a transformers folder says that it holds a model that continues texts."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return False
    config = config_of(folder)
    mapping = transformers_class("MODEL_FOR_CAUSAL_LM_MAPPING")
    known = mapping[type(config)].__name__ if type(config) in mapping else None
    return known is not None and list(config.architectures or ()) == [known]


def load_causal_lm(folder: Path) -> Module:
    """Read a causal language model in the precision of its files; tied weights are tied, adapters merged.

    Raises:
        InputError: if the folder holds another kind of model, or quantised weights.
        IntegrityError: if a file is damaged, holds NaN, or would run code.
        MissingExtraError: if transformers is absent or does not import.
    """
    folder = Path(folder)
    if not is_adapter(folder):
        require_causal_lm(folder)
    return load_model(folder, auto_class=CAUSAL)


def require_causal_lm(folder: Path) -> None:
    """Refuse a folder that does not hold a causal language model in plain numbers.

    Raises:
        InputError: if so.
    """
    config = config_of(folder)
    if not is_causal_lm(folder):
        raise InputError(
            f"{folder} holds {', '.join(config.architectures or ()) or 'a model that its config.json does not name'}, "
            "which is no causal language model of transformers (LlamaForCausalLM, GPT2LMHeadModel, ...)."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{folder} holds quantised weights, which are not edited: zeros and gradients need plain numbers. Give the "
            "model from before its quantisation, and quantise afterwards."
        )


def save_causal_lm(
    model: Module,
    folder: Path,
    *,
    source: Path,
    mask: Mask | None = None,
    structure: Mapping[str, Any] | None = None,
) -> None:
    """Write a causal language model with the tokenizer and generation settings of `source`, byte for byte.

    Weights are split as in `source`: no file gets larger than its largest.

    Args:
        model: of transformers.
        folder: replaced if it is there.
        source: folder the model was read from.
        mask: written beside the weights; the model must be zero elsewhere.
        structure: record of removed structure; see `save_model_folder`.
    """
    source = Path(source)
    beside = (*tokenizer_files(source), *(name for name in _BESIDE if (source / name).is_file()))
    sizes = [file.stat().st_size for file in source.glob("model-*.safetensors")]
    save_model_folder(
        model, folder, mask=mask, structure=structure, source=source, beside_weights=beside,
        largest_file=max(sizes, default=None),
    )  # fmt: skip
