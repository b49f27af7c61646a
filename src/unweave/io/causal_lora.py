"""What an edit changed in a causal language model, as an adapter that peft loads over the folder it began at.

A method that trains adapters of rank r changes each linear layer by D = B A of that rank, and D is what its largest r
singular values say (Eckart and Young, 1936): A = S_r^(1/2) V_r^T and B = U_r S_r^(1/2). In half precision the edited
weights were rounded, and so is D: what is left out then is rounding.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, require
from ..masks.layers import is_conv1d
from .causal_lm import files_beside, load_causal_lm
from .files import folder_written_beside
from .loading import quiet
from .lora import is_adapter

LEFT_OUT, ROUNDED = 0.01, 0.5
"""Share of the whole change that an adapter may leave out, in Frobenius' norm: of float32 weights, of half ones."""
_CONFIGS = ("config.json", "generation_config.json")


def save_adapter(model: Module, folder: Path, *, source: Path, rank: int) -> None:
    """Write what an edit changed as a folder of peft, with the tokenizer beside it, whole or not at all.

    `PeftModel.from_pretrained(base, folder)` reads it, and so does everything here; the base stays where it is.

    Args:
        model: that was edited.
        folder: replaced if it is there.
        source: folder that the model was read from before the edit.
        rank: of the adapters.

    Raises:
        InputError: if something else than linear layers changed, the change is of a higher rank, there is none, or
            `source` is an adapter itself.
        MissingExtraError: without peft.
    """
    peft: Any = require("peft", extra="language", purpose="writing an adapter")
    if is_adapter(source):
        raise InputError(
            f"{source} is an adapter itself; an adapter is written over whole weights. Merge it first."
        )
    original = load_causal_lm(source)
    changes = changes_of(model, original)
    factors = {name: low_rank(change, rank) for name, change in changes.items()}
    left = sum(
        float((d - (b @ a)).square().sum())
        for d, (a, b) in zip(changes.values(), factors.values(), strict=True)
    )
    share = (left / sum(float(d.square().sum()) for d in changes.values())) ** 0.5
    exact = next(original.parameters()).dtype in (torch.float32, torch.float64)
    if share > (LEFT_OUT if exact else ROUNDED):
        raise InputError(
            f"the edit changed the weights by more than rank {rank}: an adapter would leave out {share:.0%} of it. "
            "Name a method that trains adapters (lora), or leave the output a whole model."
        )
    modules = dict(original.named_modules())
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(factors), task_type="CAUSAL_LM",
        fan_in_fan_out=all(is_conv1d(modules[name]) for name in factors),
    )  # fmt: skip
    with catch_warnings():
        simplefilter("ignore")  # peft asks for names that transformers has renamed
        wrapped = peft.get_peft_model(original, config)
    adapted = dict(wrapped.get_base_model().named_modules())
    with torch.no_grad():
        for name, (a, b) in factors.items():
            turned = is_conv1d(modules[name])
            layer: Any = adapted[name]
            (key,) = layer.lora_A
            layer.lora_A[key].weight.copy_(b.T if turned else a)
            layer.lora_B[key].weight.copy_(a.T if turned else b)
    wrapped.peft_config["default"].base_model_name_or_path = str(Path(source).resolve())
    with folder_written_beside(Path(folder)) as beside, quiet():
        wrapped.save_pretrained(beside)
        for name, file in files_beside(Path(source)).items():
            if name not in _CONFIGS:
                shutil.copyfile(file, beside / name)


def changes_of(model: Module, original: Module) -> dict[str, Tensor]:
    """Name of each linear layer that was changed -> by what, float64.

    Raises:
        InputError: if another weight changed, or none.
    """
    before, modules = dict(original.named_parameters()), dict(model.named_modules())
    found = {}
    for name, weight in model.named_parameters():
        if torch.equal(weight, before[name]):
            continue
        layer, _, part = name.rpartition(".")
        module = modules[layer]
        if part != "weight" or not (isinstance(module, torch.nn.Linear) or is_conv1d(module)):
            raise InputError(
                f"the edit changed {name}, which no adapter of linear layers holds. Name a method that trains adapters "
                "(lora), or leave the output a whole model."
            )
        found[layer] = (weight.detach().double() - before[name].detach().double()).cpu()
    if not found:
        raise InputError("the edit changed no weight, so there is no adapter to write.")
    return found


def low_rank(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A [rank, in], B [out, rank]) whose product B A is nearest to a change [out, in]; zeros where it has less rank.

    Example:
        >>> a, b = low_rank(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
        >>> (b @ a).round(decimals=6).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    r, root = min(rank, len(s)), s[:rank].sqrt()
    a, b = change.new_zeros(rank, change.shape[1]), change.new_zeros(change.shape[0], rank)
    a[:r], b[:, :r] = root[:, None] * v[:r], u[:, :r] * root
    return a, b
