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
    assert load_pipeline(own).layout == "unet"


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
        (_index(_class_name="FluxPipeline"), InputError, "holds a FluxPipeline; supported are"),
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
