"""What was done to a model's mixtures of experts, as plain JSON, and how a fresh model takes that shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import Linear, Module

from ...errors import InputError
from ..mixed_mlp import MixedMLP, width_of
from .blocks import MoE, experts_in, moe_layers
from .cut import expert_count, recount_, slice_
from .dense import Condensed, Dense, Trimmed, swap_
from .matrices import Matrices
from .skipping import Skipping, skip_
from .tied import Tied, tie_

KINDS = ("experts", "condensed", "trimmed", "tied", "mixed", "skipping")


def record_of(model: Module) -> dict[str, Any]:
    """The structure record of a model whose experts were cut, condensed or trimmed; empty if none were.

    `{"format": 1, "layers": {}, "experts": {block: {"of": n, "kept": [...]}}, "condensed": {block: {...}},
    "trimmed": {name: {...}}, "tied": {block: {"of": n, "places": [...]}}, "mixed": {name: {...}},
    "skipping": {block: {"beta": b}}}`, for `io.structure.restructure_`.
    """
    parts: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for name, module in model.named_modules():
        if isinstance(module, Condensed):
            parts["condensed"][name] = _described(module)
        elif isinstance(module, Trimmed):
            parts["trimmed"][name] = {"whole": module.whole, "pair": module.pair}
        elif isinstance(module, MixedMLP):
            parts["mixed"][name] = module.shape()
        elif isinstance(module, Skipping):
            parts["skipping"][name.rpartition(".")[0]] = {"beta": module.beta}
        elif isinstance(module, Tied):
            parts["tied"][name.rpartition(".")[0]] = {
                "of": len(module.places),
                "places": module.places.tolist(),
            }
        elif experts_in(module) and hasattr(module, "kept"):
            block = name.rpartition(".")[0]
            if isinstance(model.get_submodule(block), Skipping):
                block = block.rpartition(".")[0]
            parts["experts"][block] = {"of": module.of, "kept": list(module.kept)}
    made = {kind: entries for kind, entries in parts.items() if entries}
    return {"format": 1, "layers": {}, **made} if made else {}


def rebuilt_(model: Module, structure: Mapping[str, Any]) -> Module:
    """Give a full model the recorded shape, in place; weights that are new are filled when the file is read.

    Raises:
        InputError: if the record was made for another model. The model is untouched.
    """
    named = {name for kind in KINDS for name in structure.get(kind, {})}
    modules = dict(model.named_modules())
    lost = [name for name in named if name not in modules]
    if lost:
        raise InputError(f"the structure names {lost[0]!r}, which the model lacks.")
    _mix_(model, structure.get("mixed", {}))
    if named <= set(structure.get("mixed", {})):
        return model
    moes = {moe.name: moe for moe in moe_layers(model, "the structure record")}
    for kind in ("experts", "condensed", "tied"):
        for name, entry in structure.get(kind, {}).items():
            # a configuration may say the smaller count already; a condensed block is made whatever the count was
            if name not in moes or (
                kind == "experts" and moes[name].count not in (entry["of"], len(entry["kept"]))
            ):
                raise InputError(
                    f"the structure tells of {entry['of']} experts in {name!r}; the model has "
                    f"{moes[name].count if name in moes else 'no experts'} there. It was recorded for another model."
                )
    field = expert_count(model, next(iter(moes.values())))
    for name, entry in structure.get("experts", {}).items():
        if moes[name].count != len(entry["kept"]):
            _shrink_(model, moes[name], entry, field)
        held: Any = moes[name].experts
        held.kept, held.of = tuple(entry["kept"]), entry["of"]
    for name, entry in structure.get("condensed", {}).items():
        swap_(model, name, _condensed(moes[name], entry))
    for name, entry in structure.get("tied", {}).items():
        tie_(model, moes[name], _clusters(entry["places"]), field)
    for name, entry in structure.get("skipping", {}).items():
        if name not in moes:
            raise InputError(
                f"the structure tells of skipped experts in {name!r}; the model has no experts there."
            )
        skip_(moes[name], entry["beta"])
    for name, entry in structure.get("trimmed", {}).items():
        swap_(model, name, Trimmed(**entry))
    return model


def _mix_(model: Module, entries: Mapping[str, Any]) -> None:
    odd = next((name for name in entries if not width_of(model.get_submodule(name))), None)
    if odd is not None:
        raise InputError(
            f"the structure tells of a mixture of feed-forwards in {odd!r}, where the model has none."
        )
    for name, entry in entries.items():
        swap_(model, name, MixedMLP.like(model.get_submodule(name), **entry))


def _counts(entry: Mapping[str, Any]) -> tuple[int, ...]:
    return (entry["of"], len(entry["kept"])) if "kept" in entry else (entry["of"],)


def _clusters(places: list[int]) -> list[list[int]]:
    return [[e for e, place in enumerate(places) if place == i] for i in range(max(places) + 1)]


def _shrink_(model: Module, moe: MoE, entry: Mapping[str, Any], field: str | None) -> None:
    n, kept = moe.count, torch.tensor(entry["kept"])
    if sorted(set(entry["kept"])) != entry["kept"] or not 0 <= int(kept.min()) <= int(kept.max()) < n:
        raise InputError(
            f"the structure of {moe.name} does not list experts from 0 to {n - 1} in rising order."
        )
    slice_(moe, kept)
    recount_(model, moe, len(kept), field)


def _described(module: Condensed) -> dict[str, Any]:
    def shape(dense: Dense | None) -> dict[str, Any] | None:
        if dense is None:
            return None
        biases = [m.bias is not None for m in (dense.gate_proj, dense.down_proj)]
        return {
            "inner": dense.gate_proj.out_features, "biases": biases, "scaled": dense.scale is not None,
            "scales_input": dense.scales_input,
        }  # fmt: skip

    gate = module.shared_gate
    return {
        "of": module.of, "kept": list(module.kept), "alpha": list(module.alpha), "pair": module.pair,
        "routed": shape(module.routed), "shared": shape(module.shared),
        "gate": None if gate is None else gate.bias is not None,
    }  # fmt: skip


def _condensed(moe: MoE, entry: Mapping[str, Any]) -> Condensed:
    like = next(moe.experts.parameters())

    def dense(shape: Mapping[str, Any] | None) -> Dense | None:
        if shape is None:
            return None
        inner, (biased, out) = shape["inner"], shape["biases"]
        bias = like.new_empty(inner) if biased else None
        unit = moe.layout.unit
        blank = Matrices(
            like.new_empty(inner, moe.width), like.new_empty(inner, moe.width), like.new_empty(moe.width, inner),
            unit, bias, bias, like.new_empty(moe.width) if out else None,
        )  # fmt: skip
        scale = like.new_ones(inner) if shape["scaled"] else None
        return Dense(blank, scale, scales_input=shape["scales_input"])

    gate = entry["gate"]
    made = None if gate is None else Linear(moe.width, 1, bias=gate, device=like.device, dtype=like.dtype)
    return Condensed(
        dense(entry["routed"]), dense(entry["shared"]), made, kept=entry["kept"], alpha=entry["alpha"], of=entry["of"],
        pair=entry["pair"],
    )  # fmt: skip
