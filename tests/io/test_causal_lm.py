from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import causal_world as world
from unweave import Mask
from unweave.errors import InputError, IntegrityError
from unweave.io import causal_lm
from unweave.io.causal_lm import files_beside, load_causal_lm, longest, save_causal_lm

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("kind", "dtype", "shard"), [("llama", torch.bfloat16, 12_000), ("gpt2", torch.float32, None)]
)
def test_what_lies_beside_the_weights_is_kept(
    tmp_path: Path, kind: str, dtype: torch.dtype, shard: int | None
) -> None:
    source = world.folder(tmp_path / "in", kind, dtype, shard)
    model = load_causal_lm(source)
    assert model.dtype == dtype
    with torch.no_grad():
        weight = next(p for n, p in model.named_parameters() if "layers" in n or ".h." in n if p.ndim == 2)
        weight[:, ::2] = 0
    save_causal_lm(model, tmp_path / "out", source=source, mask=Mask.of(model))
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "LICENSE.txt",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name
    again = load_causal_lm(tmp_path / "out")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {p.name for p in source.iterdir()} | {"mask.safetensors"} == names
    assert (len([n for n in names if n.startswith("model-")]) > 1) == (shard is not None)


def test_no_generation_settings_stay_none(tmp_path: Path) -> None:
    source = world.folder(tmp_path / "in")
    (source / "generation_config.json").unlink()
    save_causal_lm(load_causal_lm(source), tmp_path / "out", source=source)
    assert not (tmp_path / "out" / "generation_config.json").exists()
    assert longest(source) == world.LONGEST
    assert longest(source, 8) == 8
    assert "model.safetensors" not in files_beside(source)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_merged_and_written_whole(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    source = world.folder(tmp_path / "in")
    wrapped = peft.get_peft_model(
        world.model(), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    wrapped.peft_config["default"].base_model_name_or_path = str(source)
    wrapped.save_pretrained(tmp_path / "adapter")
    model = load_causal_lm(tmp_path / "adapter")
    save_causal_lm(model, tmp_path / "out", source=tmp_path / "adapter")
    again = load_causal_lm(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    ids = torch.arange(3, 12)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert not torch.equal(again(ids).logits, load_causal_lm(source)(ids).logits)


def test_what_is_read_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.folder(tmp_path / "in")
    model = load_causal_lm(source)
    read = causal_lm.load_model

    def damaged(folder: Path, auto_class: str) -> torch.nn.Module:
        again = read(folder, auto_class=auto_class)
        with torch.no_grad():
            again.model.norm.weight[0] += 1
        return again

    monkeypatch.setattr(causal_lm, "load_model", damaged)
    with pytest.raises(IntegrityError, match="other values of model.norm.weight, so it was not kept"):
        save_causal_lm(model, tmp_path / "out", source=source)
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


def test_refuses(tmp_path: Path) -> None:
    source = world.folder(tmp_path / "in")
    config = json.loads((source / "config.json").read_text())
    for changed, message in (
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "holds a LlamaForSequenceClassification, which is no",
        ),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "no causal language model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"are quantised \(gptq\)"),
    ):
        (source / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(InputError, match=message):
            load_causal_lm(source)
    with pytest.raises(InputError, match="no config.json"):
        load_causal_lm(tmp_path)
    with pytest.raises(InputError, match="is no transformers model"):
        save_causal_lm(torch.nn.Linear(2, 2), tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_the_edit_changed_is_written_anew(tmp_path: Path) -> None:
    source = world.folder(tmp_path / "in")
    model = load_causal_lm(source)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.config.layer_types = None
    save_causal_lm(model, tmp_path / "out", source=source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 1
    assert len(load_causal_lm(tmp_path / "out").model.layers) == 1
