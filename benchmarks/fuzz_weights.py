"""Weights, masks, records of structure and checkpoints of every kind, for `fuzz_readers`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from benchmarks.fuzz_readers import Reader
from unweave.embedded.nets import mlp
from unweave.io.checkpoint import load_into, save_model
from unweave.io.masks import load_mask, save_mask
from unweave.io.nested import load_nested, save_nested
from unweave.io.run_record import read_record
from unweave.io.runs import RunFolder
from unweave.masks.mask import Mask


def _net(seed: int = 0, hidden: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(4, hidden, 3, batch_norm=True)


def _mask() -> Mask:
    return Mask({"1.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.5})


def _into(name: str = "") -> Callable[[Path], Any]:
    return lambda folder: load_into(_net(1), folder / name if name else folder)


def _own(folder: Path) -> None:
    save_model(_mask().apply_(_net()), folder, mask=_mask())


_STRUCTURE = {
    "format": 1,
    "layers": {"1": {"out": {"of": 6, "kept": [0, 1, 3, 5]}}, "2": {"out": {"of": 6, "kept": [0, 1, 3, 5]}},
               "4": {"in": {"of": 6, "kept": [0, 1, 3, 5]}}},
    "biases": [],
}  # fmt: skip


def _structured(folder: Path) -> None:
    save_model(_net(hidden=4), folder, structure=_STRUCTURE)


def _foreign_structure(folder: Path) -> None:
    save_file(_net(hidden=4).state_dict(), folder / "model.safetensors")
    (folder / "structure.json").write_text(json.dumps(_STRUCTURE))


def _foreign(folder: Path) -> None:
    save_file(_net().state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _training(folder: Path, zipped: bool) -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3, "net": {f"module.{n}": v for n, v in model.state_dict().items()},
        "optimizer": optimizer.state_dict(), "best": 0.9, "score": np.float64(93.2), "args": Namespace(lr=0.1),
    }  # fmt: skip
    torch.save(content, folder / "m.pth.tar", _use_new_zipfile_serialization=zipped)


def _pruned(folder: Path) -> None:
    model = _net()
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    torch.save({"state_dict": model.state_dict()}, folder / "m.pt")


def _shards(folder: Path) -> None:
    state = _net().state_dict()
    told = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(state)}
    for file in set(told.values()):
        save_file({n: state[n].clone() for n in state if told[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": told}))


def _adapter(folder: Path) -> None:
    import peft

    save_file(_net().state_dict(), folder / "base.safetensors")
    config = peft.LoraConfig(target_modules=["1"], r=2)
    wrapped = peft.get_peft_model(_net(), config)
    wrapped.save_pretrained(folder / "a")
    record = json.loads((folder / "a/adapter_config.json").read_text())
    record["base_model_name_or_path"] = "../base.safetensors"
    (folder / "a/adapter_config.json").write_text(json.dumps(record))
    (folder / "a/README.md").unlink(missing_ok=True)


def _nested(folder: Path) -> None:
    tree = {"step": 3, "state": {0: (torch.zeros(2), None)}, "lists": [[1, 2.5], "x"], "w": torch.eye(3)}
    save_nested(tree, folder / "state.safetensors")


def _run(folder: Path) -> None:
    run = folder / "run"
    with RunFolder.open(
        run, settings={"lr": 0.1, "names": ["a"]}, inputs={"data": "ab" * 32}, seed=1
    ) as opened:
        with opened.stage("edit", "a.txt") as stage:
            stage.paths[0].write_text("done")
    for other in [p for p in run.iterdir() if p.name != "run.json"]:
        other.unlink() if other.is_file() else None


def weights() -> dict[str, Reader]:
    """Readers of weights and of what lies beside them."""
    return {
        "weights": Reader(_own, _into(), sealed=True),
        "weights.structure": Reader(_structured, _into(), sealed=True),
        "weights.foreign": Reader(_foreign, _into()),
        "structure": Reader(_foreign_structure, _into()),
        "checkpoint.zip": Reader(lambda f: _training(f, True), _into("m.pth.tar")),
        "checkpoint.legacy": Reader(lambda f: _training(f, False), _into("m.pth.tar")),
        "checkpoint.pruned": Reader(_pruned, _into("m.pt")),
        "checkpoint.shards": Reader(_shards, _into()),
        "checkpoint.adapter": Reader(_adapter, _into("a")),
        "masks": Reader(
            lambda f: save_mask(_mask(), f / "mask.safetensors"),
            lambda f: dict(load_mask(f / "mask.safetensors").keep), sealed=True,
        ),
        "nested": Reader(_nested, lambda f: load_nested(f / "state.safetensors"), sealed=True),
        "run.json": Reader(_run, lambda f: read_record(f / "run"), sealed=True),
    }  # fmt: skip
