"""Sparse autoencoders as folders in sae-lens' layout (of release 6.49.2): cfg.json and sae_weights.safetensors.

Architectures "topk", "jumprelu" and "gated" are written and read; "standard" (ReLU alone) is read as a jumprelu of
threshold 0, which it equals. What their code does beside (normalised activations, rescaling by the decoder's norms, a
decoder bias that is not taken off the input) is refused, not passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..errors import InputError, IntegrityError
from ..io.files import folder_written_beside, sha256
from ..io.weights import load_weights
from ..random import seeded
from .autoencoder import Gate, SparseAutoencoder

LAYOUT = "6.49.2"
"""Release of sae-lens whose layout this is."""
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
GATES = ("topk", "jumprelu", "gated")
ONE_WAY = {
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
    "normalize_decoder": False,
    "apply_b_dec_to_input": True,
}
"""Options of sae-lens -> the one value that is read."""


def save(sae: SparseAutoencoder, folder: Path, *, layer: str = "", model: str = "") -> None:
    """Write an autoencoder; the folder appears whole or not at all.

    Args:
        sae: saved in float32, rows of the decoder as they are.
        folder: made new; an old one is replaced.
        layer: that it was trained on, for its record (`hook_name`).
        model: likewise (`model_name`).

    Raises:
        StorageError: if it cannot be written.
    """
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in sae.state_dict().items()}
    config: dict[str, Any] = {
        "architecture": sae.gate,
        "d_in": sae.width,
        "d_sae": sae.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if sae.gate == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    metadata = {
        "sae_lens_version": LAYOUT,
        "sae_lens_training_version": None,
        "hook_name": layer,
        "model_name": model,
    }
    with folder_written_beside(Path(folder)) as beside:
        save_file(tensors, beside / WEIGHTS)
        metadata["sha256"] = sha256(beside / WEIGHTS)
        (beside / CONFIG).write_text(json.dumps(config | {"metadata": metadata}, indent=1), encoding="utf-8")


def load(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """Read an autoencoder and its record (`hook_name`, `model_name`, ...), written by `save` or by sae-lens.

    Raises:
        InputError: if it is absent, of another architecture, or uses an option that is not read.
        IntegrityError: if it is damaged, or its weights are not those that were recorded.
    """
    folder = Path(folder)
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise InputError(f"{folder} is no sparse autoencoder: it must hold {CONFIG} and {WEIGHTS}.")
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{config} is damaged: it is no JSON ({error}).") from error
    if not isinstance(told, dict) or not all(isinstance(told.get(name), int) for name in ("d_in", "d_sae")):
        raise InputError(f"{config} does not say d_in and d_sae, the sizes, as whole numbers.")
    _refuse_options(told, config)
    metadata = told.get("metadata") or {}
    if metadata.get("sha256") not in (None, sha256(weights)):
        raise IntegrityError(f"{weights} is not the file that {CONFIG} records: it was changed or damaged.")
    gate: Gate = "jumprelu" if told["architecture"] == "standard" else told["architecture"]
    sae = SparseAutoencoder(
        told["d_in"], told["d_sae"], gate=gate, k=told.get("k") if gate == "topk" else None, rng=seeded(0)
    )
    tensors = load_weights(weights)
    if told["architecture"] == "standard":
        tensors = {**tensors, "threshold": torch.zeros(told["d_sae"])}
    expected = {name: tuple(t.shape) for name, t in sae.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise InputError(
            f"{weights} does not fit {CONFIG}: {wrong[0]} has shape {found.get(wrong[0], 'none')}, "
            f"expected {expected.get(wrong[0], 'none')}."
        )
    sae.load_state_dict(dict(tensors))
    return sae.requires_grad_(False).eval(), dict(metadata)


def _refuse_options(told: Mapping[str, Any], config: Path) -> None:
    if told.get("architecture") not in (*GATES, "standard"):
        raise InputError(
            f"{config} is of architecture {told.get('architecture')!r}; read are {', '.join(GATES)} and standard."
        )
    for name, value in ONE_WAY.items():
        given = told.get(name, value)
        if given not in (value, None):
            raise InputError(
                f"{config} has {name}={given!r}, which would change what codes mean; only {value!r} is read. Fold it "
                "into the weights with sae-lens first."
            )
