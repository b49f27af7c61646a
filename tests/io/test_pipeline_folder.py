from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.erase.pipelines import KINDS, folder, pipeline
from unweave import seeded
from unweave.errors import InputError, IntegrityError
from unweave.io.pipeline_folder import is_pipeline_folder, load_pipeline, save_pipeline


@pytest.fixture
def own(tmp_path):
    shutil.copytree(folder("sd"), tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_to_the_same_bits(kind, tmp_path) -> None:
    model = pipeline(kind)
    save_pipeline(model, tmp_path / "a")
    again = load_pipeline(tmp_path / "a")
    save_pipeline(again, tmp_path / "b")
    third = load_pipeline(tmp_path / "b")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, third.state_dict()[name]), name
    assert torch.equal(
        model.sample(["a cat"], steps=2, rng=seeded(0)), third.sample(["a cat"], steps=2, rng=seeded(0))
    )
    assert is_pipeline_folder(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "model_index.json").read_text()) == third.index
    assert not [p for p in tmp_path.iterdir() if p.name not in "ab"]


def test_half_precision_stays(own) -> None:
    model = load_pipeline(own, dtype=torch.float16)
    save_pipeline(model, own)
    assert load_pipeline(own).dtype == torch.float16
    assert load_pipeline(own, dtype=torch.float32).text_encoder.dtype == torch.float32


def test_weights_of_a_variant_are_read(own) -> None:
    for part in ("unet", "vae"):
        (own / part / "diffusion_pytorch_model.safetensors").rename(
            own / part / "diffusion_pytorch_model.fp16.safetensors"
        )
    (own / "text_encoder" / "model.safetensors").rename(own / "text_encoder" / "model.fp16.safetensors")
    model = load_pipeline(own)
    assert model.layout == "unet"
    save_pipeline(model.editable(), own.parent / "written")
    weights = {str(p.relative_to(own)) for p in own.rglob("*.safetensors")}
    assert weights == {
        str(p.relative_to(own.parent / "written")) for p in own.parent.glob("written/*/*.safetensors")
    }
    assert all(".fp16." in name for name in weights)
    save_pipeline(load_pipeline(own, dtype=torch.float32), own.parent / "wide")
    assert not [p for p in own.parent.glob("wide/*/*.safetensors") if ".fp16." in p.name]


@pytest.mark.parametrize("variant", ["fp16", None])
def test_shards_are_read_with_and_without_a_variant(own, variant) -> None:
    model = load_pipeline(own)
    shutil.rmtree(own / "unet")
    model.denoiser.half().save_pretrained(own / "unet", variant=variant, max_shard_size="20KB")
    assert len(list((own / "unet").glob("*.safetensors"))) > 1
    read = load_pipeline(own)
    assert read.dtype == torch.float16
    assert all(
        a.equal(b) for a, b in zip(read.denoiser.parameters(), model.denoiser.parameters(), strict=True)
    )


def test_the_plain_weights_are_read_where_there_is_a_variant_too(own) -> None:
    model = load_pipeline(own)
    model.denoiser.half().save_pretrained(own / "unet", variant="fp16")
    assert load_pipeline(own).dtype == torch.float32


@pytest.mark.parametrize("name", ["../../private", "/etc", "a/b", "..", ""])
def test_an_index_that_leads_outside_is_refused(own, tmp_path, name) -> None:
    model = load_pipeline(own)
    index = json.loads((own / "model_index.json").read_text()) | {name: ["diffusers", "AutoencoderKL"]}
    (own / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="folders with plain names inside"):
        load_pipeline(own)
    model.index = index
    with pytest.raises(InputError, match="folders with plain names inside"):
        save_pipeline(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layers", [["to_q"], ["ff.net.2"]])
def test_lora_on_any_layer_is_refused_on_saving_and_on_editing(layers, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    model = pipeline()
    state = torch.get_rng_state()
    model.editable()
    assert torch.equal(state, torch.get_rng_state())
    model.denoiser.add_adapter(peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    for use in (lambda: save_pipeline(model, tmp_path / "out"), model.editable):
        with pytest.raises(InputError, match="is of LoRA or quantised. Merge LoRA layers"):
            use()
    assert not (tmp_path / "out").exists()


def test_what_does_not_read_back_is_not_kept(own, tmp_path, monkeypatch) -> None:
    model = load_pipeline(own)
    save_pipeline(model, tmp_path / "out")
    before = sorted(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    write = type(model.denoiser).save_pretrained

    def damaged(self, folder, **more):
        with torch.no_grad():
            self.conv_in.weight[0, 0, 0, 0] += 1
        write(self, folder, **more)
        with torch.no_grad():
            self.conv_in.weight[0, 0, 0, 0] -= 1

    monkeypatch.setattr(type(model.denoiser), "save_pretrained", damaged)
    with pytest.raises(IntegrityError, match=r"denoiser.conv_in.weight does not read back"):
        save_pipeline(model, tmp_path / "out")
    assert sorted(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()) == before
    assert [p.name for p in tmp_path.iterdir() if p.name != "pipeline"] == ["out"]


def test_the_record_of_what_was_erased_goes_with_the_folder(own, tmp_path) -> None:
    model = load_pipeline(own)
    assert model.erased == ()
    model.erased = ({"method": "UCE", "request": {"erase": ["cat"]}},)
    save_pipeline(model, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "unweave_erased.json").read_text())
    assert (told["format"], told["version"]) == ("unweave erased", 1)
    assert load_pipeline(tmp_path / "out").erased == model.erased
    for text, message in (
        ("{", "cannot be read"),
        ('{"version": 2, "erased": []}', "version 2"),
        ('{"version": 1, "erased": 3}', "version 1"),
    ):
        (tmp_path / "out" / "unweave_erased.json").write_text(text)
        with pytest.raises(IntegrityError, match=message):
            load_pipeline(tmp_path / "out")


def test_an_unknown_device_is_refused(own) -> None:
    with pytest.raises(InputError, match="no device nowhere here"):
        load_pipeline(own, device="nowhere")
    assert load_pipeline(own, device="cpu").device == torch.device("cpu")


def test_parts_that_were_not_read_are_copied(own, tmp_path) -> None:
    index = json.loads((own / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (own / "model_index.json").write_text(json.dumps(index))
    (own / "safety_checker").mkdir()
    (own / "safety_checker" / "config.json").write_text("{}")
    save_pipeline(load_pipeline(own), tmp_path / "out")
    assert (tmp_path / "out" / "safety_checker" / "config.json").read_text() == "{}"
    model = load_pipeline(own)
    shutil.rmtree(own / "safety_checker")
    with pytest.raises(InputError, match="safety_checker was not read"):
        save_pipeline(model, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def _index(**changes):
    def change(path):
        index = json.loads((path / "model_index.json").read_text())
        (path / "model_index.json").write_text(json.dumps(index | changes))

    return change


def _only_pickle(path) -> None:
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def _config(**changes):
    def change(path):
        file = path / "unet" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _nan(path) -> None:
    model = load_pipeline(path)
    with torch.no_grad():
        model.denoiser.conv_in.weight[0] = torch.nan
    model.denoiser.save_pretrained(path / "unet")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (shutil.rmtree, InputError, "there is no pipeline folder"),
        (lambda p: (p / "model_index.json").unlink(), InputError, "no model_index.json"),
        (lambda p: (p / "model_index.json").write_text("{"), IntegrityError, "is no JSON"),
        (_index(_class_name="SanaPipeline"), InputError, "holds a SanaPipeline; supported are"),
        (_index(unet=["diffusers", "UNet3DConditionModel"]), InputError, "is a UNet3DConditionModel"),
        (_index(tokenizer=["evil", "Tokenizer"]), InputError, "is a Tokenizer; supported"),
        (_index(scheduler=["diffusers", "NoSuchScheduler"]), InputError, "is a NoSuchScheduler"),
        (lambda p: shutil.rmtree(p / "tokenizer"), InputError, "lacks tokenizer"),
        (lambda p: shutil.rmtree(p / "vae"), InputError, "lacks vae"),
        (lambda p: (p / "unet" / "config.json").unlink(), InputError, "no config.json"),
        (_only_pickle, IntegrityError, "would run code"),
        (_config(quantization_config={}), InputError, "is quantised"),
        (_config(class_embed_type="timestep"), InputError, "do not fit its config"),
        (
            lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            IntegrityError,
            "cannot be read",
        ),
        (_nan, IntegrityError, "hold NaN or infinity in conv_in.weight"),
    ],
)
def test_refuses_what_is_damaged_or_unknown(own, damage, error, message) -> None:
    damage(own)
    with pytest.raises(error, match=message):
        load_pipeline(own)


def test_a_failed_write_leaves_the_old_folder(own, monkeypatch) -> None:
    model = load_pipeline(own)
    monkeypatch.setattr(
        model.denoiser, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="could not be written"):
        save_pipeline(model, own)
    assert load_pipeline(own).layout == "unet"
