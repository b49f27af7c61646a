"""Sparse weights packed on disk: the same bits again, few bytes, and no damage that passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.faults import contents
from unweave import Mask, seeded
from unweave.errors import InputError, IntegrityError
from unweave.io.checkpoint import load_into, mask_beside, save_model
from unweave.io.packed import BITS, bytes_packed, pack, unpack
from unweave.io.weights import load_weights


def net(dtype: torch.dtype = torch.float32, seed: int = 0, sparsity: float = 0.9) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.Linear(512, 64)).to(dtype)
        for layer in (model[0], model[2]):
            with torch.no_grad():
                layer.weight[torch.rand(layer.weight.shape) < sparsity] = 0.0
    return model


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype
        and torch.equal(left[k].view(whole[left[k].itemsize]), right[k].view(whole[left[k].itemsize]))
        for k in left
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_a_tenth_of_its_weights_takes_less_than_three_twentieths(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = net(dtype)
    model[0].weight.data[0, 0] = -0.0  # another number than 0.0 to the bit
    mask = Mask.of(model)
    dense = save_model(model, tmp_path / "dense").stat().st_size
    written = save_model(model, tmp_path / "packed", mask=mask, packed=True)
    assert written.name == "packed.safetensors"
    assert [p.name for p in written.parent.iterdir()] == ["packed.safetensors"]  # the mask is in it
    assert written.stat().st_size < 0.15 * dense
    assert same_bits(load_into(net(dtype, seed=1), tmp_path / "packed"), model)
    found = mask_beside(tmp_path / "packed")
    assert found is not None
    assert found.keep.keys() == mask.keep.keys()
    alive = mask.keep["0.weight"].clone()
    alive[0, 0] = True  # -0.0 is kept as a value
    assert torch.equal(found.keep["0.weight"], alive)
    assert torch.equal(found.keep["2.weight"], mask.keep["2.weight"])


def test_any_place_and_any_reader(tmp_path: Path) -> None:
    model = net()
    file = save_model(model, tmp_path / "small.safetensors", packed=True)
    assert same_bits(load_into(net(seed=1), file), model)
    assert torch.equal(load_weights(file)["0.weight"], model[0].weight)
    assert mask_beside(file) is None  # none was given
    save_model(model, tmp_path / "there", mask=Mask.of(model))
    save_model(model, tmp_path / "there", packed=True)  # in place of the other kind
    assert list(contents(tmp_path / "there")) == ["packed.safetensors"]
    save_model(model, tmp_path / "there", mask=Mask.of(model))
    assert set(contents(tmp_path / "there")) == {"model.safetensors", "mask.safetensors"}
    for name in "ab":
        save_model(model, tmp_path / name, packed=True, mask=Mask.of(model))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_living_zero_stays_alive(tmp_path: Path) -> None:
    model = net()
    keep = {"0.weight": model[0].weight != 0}
    keep["0.weight"][3, :10] = True
    save_model(model, tmp_path, mask=Mask(keep), packed=True)
    found = mask_beside(tmp_path)
    assert found is not None
    assert torch.equal(found.keep["0.weight"], keep["0.weight"])
    assert same_bits(load_into(net(seed=1), tmp_path), model)


def test_what_does_not_pay_stays_as_it_is() -> None:
    dense = {"w": torch.randn(8, 8, generator=seeded(0)), "n": torch.arange(100) * 0, "e": torch.zeros(0, 3)}
    packed, record = pack(dense)
    assert packed.keys() == dense.keys()
    assert record == {"shapes": {}, "masked": []}
    assert bytes_packed(dense) == sum(t.nbytes for t in dense.values())
    half = torch.randn(64, 64, generator=seeded(0)).bfloat16().view(-1, 4)
    half[:, torch.tensor([0, 3])] = 0  # 2:4: half the values, and less than two bits for each
    assert bytes_packed({"w": half.view(64, 64)}) < 64 * 64 * (0.5 * 2 + 0.5 * 2 / 8)
    eighth = {"w": torch.tensor([[0.0, 1.5], [0.0, -2.0]] * 64).to(torch.float8_e4m3fn)}
    again = unpack(*pack(eighth))
    assert torch.equal(again["w"].view(torch.uint8), eighth["w"].view(torch.uint8))


def test_damage_is_seen(tmp_path: Path) -> None:
    file = save_model(net(), tmp_path, packed=True)
    whole = file.read_bytes()
    with safe_open(file, framework="pt") as opened:
        assert {"0.weight", "0.weight" + BITS} <= set(opened.keys())
    for at in (len(whole) // 3, len(whole) - 3, len(whole) // 2):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IntegrityError):
            load_into(net(seed=1), tmp_path)
    packed, record = pack({"w": torch.zeros(64, 64)})
    for wrong in ([64, 63], [-64, 64], ["a", 2], [2**40, 2**20], 7):
        with pytest.raises((ValueError, TypeError)):
            unpack(packed, {**record, "shapes": {"w": wrong}})
    with pytest.raises(ValueError, match="values for"):
        unpack(packed | {"w": torch.zeros(3)}, record)


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_model(net(), tmp_path, packed=True)
    with pytest.raises(InputError, match="does not fit"):
        load_into(nn.Sequential(nn.Linear(256, 100), nn.BatchNorm1d(100), nn.Linear(100, 64)), tmp_path)


@pytest.mark.parametrize(("kind", "dtype"), [("llama", torch.bfloat16), ("gpt2", torch.float32)])
def test_a_language_models_folder_is_packed_and_read_again(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    pytest.importorskip("transformers")
    from tests import causal_world as world
    from unweave.io.causal_lm import AUTO, load_causal_lm, save_causal_lm
    from unweave.io.transformers_folder import TransformersRecipe

    source = world.folder(tmp_path / "in", kind, dtype, None)
    model = load_causal_lm(source)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and ("layers" in name or ".h." in name):
                weight[torch.rand(weight.shape, generator=seeded(0)) < 0.9] = 0
    save_causal_lm(model, tmp_path / "out", source=source, mask=Mask.of(model), packed=True)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {p.name for p in source.iterdir()} - {"model.safetensors"} | {"packed.safetensors"}
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    again = load_causal_lm(tmp_path / "out")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert again.dtype == dtype
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    dense = tmp_path / "dense"
    save_causal_lm(
        again, dense, source=tmp_path / "out", mask=Mask.of(again)
    )  # a packed folder is a source too
    assert (dense / "model.safetensors").is_file()
    assert not (dense / "packed.safetensors").exists()
    # and training begins at it as at the same weights unpacked, whatever other width of vocabulary it is to have
    for change in ({}, {"vocab_size": world.VOCABULARY + 8}):
        wanted = TransformersRecipe(folder=_config(tmp_path / "at", source, change), base=dense, auto=AUTO)
        begun = replace(wanted, base=tmp_path / "out").initial(seeded(3))
        assert same_bits(begun, wanted.initial(seeded(3)))
    (tmp_path / "out" / "packed.safetensors").write_bytes(b"no")
    with pytest.raises(IntegrityError, match="packed.safetensors"):
        replace(wanted, base=tmp_path / "out").initial(seeded(3))
    (dense / "structure.json").write_text("{}")
    with pytest.raises(InputError, match="lost structure"):
        wanted.initial(seeded(3))


def _config(at: Path, source: Path, change: dict[str, int]) -> Path:
    """A folder of the configuration at `source` alone, changed."""
    at.mkdir(exist_ok=True)
    told = json.loads((source / "config.json").read_text())
    (at / "config.json").write_text(json.dumps({**told, **change}))
    return at
