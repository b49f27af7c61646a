"""Causal language models in transformers folders: read, and written back with all that lay beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from ..errors import InputError, IntegrityError
from ..masks.mask import Mask
from .checkpoint import require_zeros
from .files import folder_written_beside
from .loading import config_of, has_tokenizer, quiet, read_tokenizer, transformers_class
from .lora import base_of, is_adapter
from .masks import save_mask
from .shards import INDEXES, shards_of
from .transformers_folder import load_model, save_model_folder

AUTO = "AutoModelForCausalLM"
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_BESIDE = (
    _CONFIG, _GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_OF_READING = {"_name_or_path", "dtype", "transformers_version", "use_cache", "architectures"}
_TERMS = ("LICENSE", "NOTICE", "USE_POLICY")


def load_causal_lm(folder: Path) -> Module:
    """Read a causal language model from a local folder, in its own dtype, sharded or not; an adapter with its base.

    Raises:
        InputError: if the folder holds none, its weights do not fit its config, or they are quantised.
        IntegrityError: if a file is damaged, holds NaN, or would run code.
        MissingExtraError: if transformers is absent or does not import.
    """
    require_causal_lm(Path(folder))
    return load_model(Path(folder), auto_class=AUTO)


def require_causal_lm(folder: Path) -> Any:
    """The configuration of a causal language model's folder.

    Raises:
        InputError: if the folder holds no such model, or one with quantised weights.
    """
    folder = _whole(Path(folder))
    config = config_of(folder)
    how = getattr(config, "quantization_config", None)
    if how is not None:
        told = how if isinstance(how, Mapping) else how.to_dict()
        raise InputError(
            f"the weights in {folder} are quantised ({told.get('quant_method', 'by an unnamed method')}), so they "
            "cannot be edited one by one. Give the weights from before that, and quantise what comes out."
        )
    known = transformers_class("MODEL_FOR_CAUSAL_LM_MAPPING")
    kinds = known[type(config)] if type(config) in known else ()
    names = {kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))}
    said = set(getattr(config, "architectures", None) or names)
    if not names & said:
        raise InputError(
            f"{folder} holds a {', '.join(sorted(said)) or type(config).__name__}, which is no causal language model. "
            "Give a folder that AutoModelForCausalLM reads as it was trained (LlamaForCausalLM, GPT2LMHeadModel, ...)."
        )
    return config


def longest(folder: Path, most: int = 2048) -> int:
    """Tokens of the longest sequence that the model in a folder is made for, at most `most`."""
    limit = getattr(config_of(_whole(Path(folder))), "max_position_embeddings", None)
    return min(most, int(limit)) if limit and int(limit) > 1 else most


def save_causal_lm(
    model: Module,
    folder: Path,
    *,
    source: Path,
    mask: Mask | None = None,
    structure: Mapping[str, Any] | None = None,
    packed: bool = False,
) -> None:
    """Write an edited causal language model as a folder that transformers reads, whole or not at all.

    Generation configuration, tokenizer and licence are copied bit for bit from `source`, and so is the configuration,
    unless the edit changed the model's own (its widths, say). Weights keep their dtype and ties, and lie in shards no
    larger than the largest of its own. What was written is read back and compared before the folder takes its place.

    Args:
        model: of transformers.
        folder: replaced if it is there.
        source: folder that the model was read from.
        mask: written beside the weights; the model must be zero elsewhere.
        structure: record of removed structure; see `save_model_folder`.
        packed: as `save_model_folder` takes it.

    Raises:
        InputError: if the model is none of transformers, or not zero where the mask says so.
        IntegrityError: if what is read back differs.
        StorageError: if it cannot be written; then the old folder is still there.
    """
    whole, beside_weights = _whole(Path(source)), files_beside(Path(source))
    shard = _largest_shard(whole)
    if structure is not None or packed:
        config = getattr(model, "config", None)
        own = structure is not None or config is None or not _same_config(config, config_of(whole))
        names = [name for name in beside_weights if not (own and name == _CONFIG)]
        save_model_folder(
            model, folder, mask=mask, structure=structure, source=whole, beside_weights=names, largest_file=shard,
            packed=packed,
        )  # fmt: skip
        return
    if not hasattr(model, "save_pretrained"):
        raise InputError(f"a {type(model).__name__} is no transformers model. Write it with save_model.")
    if mask is not None:
        require_zeros(model, mask)
    pretrained: Any = model
    if not _same_config(pretrained.config, config_of(whole)):
        del beside_weights[_CONFIG]
    with folder_written_beside(Path(folder)) as beside:
        with quiet():
            pretrained.save_pretrained(beside, **({} if shard is None else {"max_shard_size": shard}))
        (beside / _GENERATION).unlink(missing_ok=True)  # the source's own is copied, where it has one
        for name, at in beside_weights.items():
            shutil.copyfile(at, beside / name)
        if mask is not None:
            save_mask(mask, beside / "mask.safetensors")
        _require_same(model, load_model(beside, auto_class=AUTO), Path(folder))


def files_beside(source: Path) -> dict[str, Path]:
    """Name -> file of all that belongs to a model beside its weights: configurations, tokenizer, licence.

    Args:
        source: folder of a model, or of an adapter, whose own files come before those of its base.
    """
    found: dict[str, Path] = {}
    for folder in dict.fromkeys((_whole(source), source)):
        known = {*_BESIDE, *_vocabulary(folder)}
        for at in sorted(folder.iterdir()):
            wanted = at.name in known or at.name.upper().startswith(_TERMS)
            if wanted and at.is_file() and not at.is_symlink():
                found[at.name] = at
    return found


def _same_config(own: Any, former: Any) -> bool:
    """Whether two configurations describe one model; where it lay and in which dtype it was read is no part of that."""
    told = ({k: v for k, v in config.to_dict().items() if k not in _OF_READING} for config in (own, former))
    return bool(next(told) == next(told))


def _vocabulary(folder: Path) -> set[str]:
    return set(read_tokenizer(folder).vocab_files_names.values()) if has_tokenizer(folder) else set()


def _whole(folder: Path) -> Path:
    return base_of(folder) if is_adapter(folder) else folder


def _largest_shard(folder: Path) -> int | None:
    """Bytes of the tensors in the largest file that an index in the folder names; None without one."""
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    return None if index is None else max(_bytes_of_tensors(folder / file) for file in shards_of(index))


def _bytes_of_tensors(file: Path) -> int:
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        return size
    with file.open("rb") as opened:  # a header's length in 8 bytes, the header, the tensors
        return size - 8 - int.from_bytes(opened.read(8), "little")


def _require_same(model: Module, again: Module, folder: Path) -> None:
    wanted, found = model.state_dict(), again.state_dict()
    odd = sorted(wanted.keys() ^ found.keys())
    odd += [name for name in wanted if name in found and not _equal(wanted[name], found[name])]
    if odd:
        raise IntegrityError(
            f"the model that was written for {folder} was read back with other values of {', '.join(odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}, so it was not kept. Are weights tied, or cast, in "
            "a way that its config.json does not say?"
        )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.detach().cpu(), b.detach().cpu())
