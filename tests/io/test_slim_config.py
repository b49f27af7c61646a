"""Shrunk transformers models on disk: by their configuration where it can say the shape, else by their record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.io.test_transformers_folder import make_model
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.masks import Mask
from unweave.prune import shrink

pytest.importorskip("transformers")
pytest.importorskip("torch_pruning")
X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def shrunk(kind: str, folder: Path, share: float, *, uneven: bool = False) -> Any:
    """The model with a share of each feed-forward's (or residual block's) inner filters dead, and then gone."""
    model = load_model(make_model(kind, folder))
    inner = [
        layer for layer in model.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None and layer.weight.shape[1] < len(layer.weight)
        and layer.weight[0].numel() < 64
    ]  # fmt: skip
    layers = inner if kind != "resnet" else [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            dead = round(share * len(layer.weight)) + (i if uneven else 0)
            layer.weight[:dead] = 0
            if layer.bias is not None:
                layer.bias[:dead] = 0
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.bias[: round(share * len(norm.bias))] = 0
                norm.running_mean[: round(share * len(norm.bias))] = 0
    return model, shrink(model, X)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_transformers_alone_reads_what_its_configuration_can_say(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForImageClassification

    model, small = shrunk(kind, tmp_path / "model", 0.25)
    own = small.model.config.to_dict()
    save_model_folder(
        small.model, tmp_path / "small", structure=small.structure, mask=Mask.of(small.model) or None
    )
    assert small.model.config.to_dict() == own
    assert not (tmp_path / "small" / "structure.json").exists()
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X).logits, model(X).logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(load_model(tmp_path / "small")(X).logits, small.model.eval()(X).logits)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())
    if kind == "vit":
        assert json.loads((tmp_path / "small" / "config.json").read_text())["intermediate_size"] == 24


@pytest.mark.parametrize(("kind", "uneven"), [("vit", True), ("resnet", False)])
def test_other_shapes_are_read_by_their_record(tmp_path: Path, kind: str, uneven: bool) -> None:
    _, small = shrunk(kind, tmp_path / "model", 0.25, uneven=uneven)
    save_model_folder(small.model, tmp_path / "small", structure=small.structure)
    assert (tmp_path / "small" / "structure.json").exists()
    again = load_model(tmp_path / "small")
    before = {name: buffer.clone() for name, buffer in again.named_buffers()}
    with torch.no_grad():
        assert torch.equal(again(X).logits, small.model.eval()(X).logits)
    assert not any(module.training for module in again.modules())
    assert all(torch.equal(before[name], buffer) for name, buffer in again.named_buffers())
