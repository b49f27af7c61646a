"""Checkpoints as training scripts write them: read to the bit and told, or refused with the cure."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from tests.faults import one_line
from unweave import Supervised, seeded
from unweave.embedded.nets import mlp
from unweave.errors import InputError, IntegrityError
from unweave.io.checkpoint import load_into
from unweave.io.weights import load_weights
from unweave.masks.layers import copied


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(4, 6, 3, batch_norm=True)


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "model.",
        "net._orig_mod.",
        "a.b.",
    ],
)
@pytest.mark.parametrize(
    "name", ["m.pt", "m.pth.tar", "m.ckpt", "m.safetensors", "pytorch_model.bin", "m.th", "m.pkl"]
)
def test_prefixes_are_taken_off_and_told(
    tmp_path: Path, prefix: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = prefixed(net().state_dict(), prefix)
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    with caplog.at_level(logging.WARNING, "unweave"):
        assert same(load_into(net(1), tmp_path / name), net())
    (said,) = caplog.messages
    assert f"read {len(state)} tensors, prefix " in said
    assert all(f"'{part}.'" in said for part in prefix.rstrip(".").split("."))


def test_the_models_own_names_need_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = nn.ModuleDict({"module": net()})
    torch.save(inner.state_dict(), tmp_path / "m.pt")
    assert same(load_into(nn.ModuleDict({"module": net(1)}), tmp_path / "m.pt"), inner)
    assert not caplog.messages


def test_wrapped_models_read_plain_checkpoints(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "m.pt")
    wrapped = load_into(nn.DataParallel(net(1)), tmp_path / "m.pt")
    assert same(wrapped.module, net())


def test_compiled_parts_inside_a_model_are_read(tmp_path: Path) -> None:
    state = {n.replace("1.", "1._orig_mod.", 1): v for n, v in net().state_dict().items()}
    torch.save(state, tmp_path / "m.pt")
    assert same(load_into(net(1), tmp_path / "m.pt"), net())


def test_names_that_would_become_one_are_refused(tmp_path: Path) -> None:
    both = prefixed(net().state_dict(), "module.") | net(1).state_dict()
    torch.save(both, tmp_path / "m.pt")
    with pytest.raises(InputError, match="which the model lacks"):
        load_into(net(2), tmp_path / "m.pt")


@pytest.mark.parametrize(
    "key", ["net", "model", "state_dict", "model_state_dict", "ema", "weights", "params_ema", "generator"]
)
def test_the_entry_that_fits_is_found_whatever_its_key(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.9, "rng": torch.get_rng_state(),
        "teacher": nn.Linear(2, 2).state_dict(),
    }  # fmt: skip
    torch.save(content, tmp_path / "m.pth.tar")
    assert same(load_into(net(1), tmp_path / "m.pth.tar"), model)
    assert any(f"from {key!r}" in said for said in caplog.messages)


@pytest.mark.parametrize("zipped", [True, False])
def test_figures_and_arguments_beside_the_weights_are_harmless(tmp_path: Path, zipped: bool) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    beside = {
        "best": np.float64(93.2), "count": np.int64(3), "right": np.bool_(True), "args": argparse.Namespace(lr=0.1, name="a"),
    }  # fmt: skip
    torch.save(
        {"net": net().state_dict(), **beside}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped
    )
    assert same(load_into(net(1), tmp_path / "m.pt"), net())
    assert set(torch.serialization.get_safe_globals()) == allowed  # for the reading alone
    torch.save({"net": net().state_dict(), "path": Path("x")}, tmp_path / "m.pt")
    with pytest.raises(IntegrityError, match="would run pathlib"):
        load_into(net(1), tmp_path / "m.pt")


def test_two_sets_that_fit_and_differ_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": net().state_dict(), "ema": {"shadow": net(1).state_dict()}}, tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"2 sets of weights .* differ: 'model' and 'ema\.shadow'\."
    ) as caught:
        load_into(net(2), tmp_path / "m.pt")
    one_line(caught.value)
    with pytest.raises(InputError, match=r"2 sets of weights: 'model', 'ema\.shadow'"):
        load_weights(tmp_path / "m.pt")
    torch.save(
        {"model": net().state_dict(), "ema": prefixed(net().state_dict(), "module.")}, tmp_path / "m.pt"
    )
    assert same(load_into(net(2), tmp_path / "m.pt"), net())
    torch.save(
        {"model": net().state_dict(), "old": mlp(4, 7, 3, batch_norm=True).state_dict()}, tmp_path / "m.pt"
    )
    assert same(load_into(net(2), tmp_path / "m.pt"), net())  # of the same names, but other shapes


def test_averaged_models_are_read(tmp_path: Path) -> None:
    model = net()
    torch.save(AveragedModel(model).state_dict(), tmp_path / "m.pt")
    assert same(load_into(net(1), tmp_path / "m.pt"), model)


def test_old_checkpoints_lack_counters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {n: v for n, v in net().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "m.pt")
    assert same(load_into(net(1), tmp_path / "m.pt"), net())
    assert "counters of batches left at 0" in caplog.messages[0]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_masks_of_torch_prune_are_applied(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[2], "bias", amount=1)
    torch.save({"state_dict": prefixed(model.state_dict(), prefix)}, tmp_path / "m.pth.tar")
    loaded = load_into(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), tmp_path / "m.pth.tar")
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert int((loaded[0].weight == 0).sum()) == 64
    assert torch.equal(loaded[2].bias, model[2].bias)
    assert "2 masks of torch.nn.utils.prune applied" in caplog.messages[0]


def test_a_mask_of_other_numbers_is_no_mask(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    state["weight_orig"], state["weight_mask"] = state.pop("weight"), torch.full((2, 2), 0.5)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(InputError, match="has .*weight_mask"):
        load_into(nn.Linear(2, 2), tmp_path / "m.pt")


def _sharded(folder: Path, kind: str) -> dict[str, str]:
    state = net().state_dict()
    end = "safetensors" if kind == "model.safetensors" else "bin"
    told = {name: f"part-{i % 2}.{end}" for i, name in enumerate(state)}
    for file in set(told.values()):
        part = {n: state[n].clone() for n in state if told[n] == file}
        save_file(part, folder / file) if end == "safetensors" else torch.save(part, folder / file)
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))
    return told


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_by_their_index(tmp_path: Path, kind: str) -> None:
    told = _sharded(tmp_path, kind)
    assert same(load_into(net(1), tmp_path), net())
    assert same(load_into(net(1), tmp_path / f"{kind}.index.json"), net())
    first = tmp_path / sorted(set(told.values()))[0]
    first.rename(tmp_path / "away")
    with pytest.raises(IntegrityError, match="which is missing"):
        load_into(net(1), tmp_path)
    (tmp_path / sorted(set(told.values()))[1]).rename(first)
    with pytest.raises(IntegrityError, match="which is missing|does not hold what"):
        load_into(net(1), tmp_path)


@pytest.mark.parametrize(
    "file", ["../out.safetensors", "/tmp/out.safetensors", "a/b.safetensors", "..", "", "a\\b"]
)
def test_no_index_leads_outside_its_folder(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    told = _sharded(folder, "model.safetensors")
    save_file(net().state_dict(), tmp_path / "out.safetensors")
    told[next(iter(told))] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": told}))
    with pytest.raises(IntegrityError, match="not a plain name beside it") as caught:
        load_into(net(1), folder)
    one_line(caught.value)


def test_an_index_of_other_tensors_is_refused(tmp_path: Path) -> None:
    told = _sharded(tmp_path, "model.safetensors")
    for wrong in ({**told, "more": "part-0.safetensors"}, dict(list(told.items())[1:])):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(IntegrityError, match="does not hold what"):
            load_into(net(1), tmp_path)
    for text in ("{", "[]", '{"weight_map": {"a": 1}}', "[" * 60_000):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(IntegrityError, match="is not a whole index"):
            load_into(net(1), tmp_path)


def test_which_of_two_files_was_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(net().state_dict(), tmp_path / "model.safetensors")
    torch.save(net(1).state_dict(), tmp_path / "pytorch_model.bin")
    assert same(load_into(net(2), tmp_path), net())
    assert "model.safetensors was read, and not pytorch_model.bin beside it" in caplog.messages[0]


def _adapter(folder: Path, base: Path | str) -> nn.Module:
    peft = pytest.importorskip("peft")
    base_model = net()
    wrapped = peft.get_peft_model(
        base_model, peft.LoraConfig(target_modules=["1"], modules_to_save=["4"], r=2, lora_alpha=4)
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    wrapped.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    whole: nn.Module = wrapped.merge_and_unload()
    return whole


def test_an_adapter_is_merged_into_its_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "base").mkdir()
    save_file(net().state_dict(), tmp_path / "base" / "model.safetensors")
    whole = _adapter(tmp_path / "a", "../base")
    loaded = load_into(net(5), tmp_path / "a")
    assert not same(loaded, net())
    assert loaded.state_dict().keys() == net().state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], value, atol=1e-6), name
    assert "merged into" in caplog.messages[-1]
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    for change, message in (
        (
            {"base_model_name_or_path": "google/vit"},
            "is an adapter of 'google/vit', which is no folder of whole weights",
        ),
        ({"target_modules": ["4"]}, "is no whole adapter of this"),
        ({"r": 3}, "is no whole adapter of this"),
        ({"peft_type": "NONE"}, "is no whole adapter of this"),
    ):
        (tmp_path / "a/adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message) as caught:
            load_into(net(5), tmp_path / "a")
        one_line(caught.value)
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "a/adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no adapter_model.safetensors or adapter_model.bin"):
        load_into(net(5), tmp_path / "a")


def _computed(kind: str) -> nn.Module:
    layer = nn.Linear(4, 3)
    if kind == "weight_norm":
        with pytest.warns(FutureWarning):
            weight_norm(layer)
    elif kind == "spectral_norm":
        spectral_norm(layer)
    elif kind == "prune":
        prune.l1_unstructured(layer, "weight", amount=0.5)
    else:
        layer.kept = layer.weight * 2
    return nn.Sequential(layer)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune", "graph"])
def test_computed_weights_are_refused_at_the_door(tmp_path: Path, kind: str) -> None:
    model = _computed(kind)
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "m.pt")
    expected = (
        "0.kept .* with the graph"
        if kind == "graph"
        else r"0\.weight of this Sequential is no parameter.*Take the"
    )
    for use in (
        lambda: copied(model),
        lambda: load_into(model, tmp_path / "m.pt"),
        lambda: Supervised(network=lambda: _computed(kind), epochs=1, lr=0.1).initial(seeded(0)),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            use()
        one_line(caught.value)


def test_parametrizations_are_no_hooks() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    assert torch.equal(copied(model)(torch.ones(2, 4)), model(torch.ones(2, 4)))


def test_a_checkpoint_of_a_hook_of_old_is_refused_with_the_cure(tmp_path: Path) -> None:
    torch.save(_computed("weight_norm").state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match="computed by a hook of old: take it off before saving"):
        load_into(nn.Sequential(nn.Linear(4, 3)), tmp_path / "m.pt")
