"""Looking inside, from a folder to a report: a language model's layer, a classifier's picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.interpret import world
from unweave import seeded
from unweave.errors import InputError
from unweave.interpret import GSAE, SMDL, ChoiceSAE, fidelity, load
from unweave.jobs import LatentsJob, RegionsJob, open_latents, open_regions
from unweave.jobs.explain import Explained
from unweave.random import global_seed

HOW = ChoiceSAE(latents=32, k=3, batch_size=64, buffer=256, epochs=3, lr=5e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentsJob, Path, Explained]:
    model, train, _ = world.trained()
    job = LatentsJob(model=model, data=train, layer=world.LAYER, method=HOW, latents=4, top=2)
    folder = tmp_path_factory.mktemp("latents") / "run"
    return job, folder, job.run(folder)


def test_latents_of_a_layer_in_six_lines(run: tuple[LatentsJob, Path, Explained]) -> None:
    job, folder, done = run
    model, train, _ = world.trained()
    sae, record = load(folder / "autoencoder")
    assert (sae.width, sae.latents, record["hook_name"]) == (24, 32, world.LAYER)
    told = fidelity(sae, model, train.subset(range(810, 900)), world.LAYER)
    assert done.figures["unexplained variance"][0] == pytest.approx(100 * told.fvu)
    assert done.figures["KL of answers"] == (pytest.approx(told.kl), "nats")
    assert [len(one["examples"]) for one in done.found["latents"]] == [2] * 4
    text = (folder / "report.md").read_text()
    assert f"## Latent {done.found['latents'][0]['latent']}" in text
    pages = sorted(p.name for p in (folder / "latents").iterdir())
    assert pages == sorted(f"latent-{one['latent']}.html" for one in done.found["latents"])
    assert "more with the dictionary in its place" in str(done)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    again = job.run(folder)
    assert again.found == done.found
    assert all(p.read_bytes() == held for p, held in before.items())


def test_another_run_gives_the_same_bits(run: tuple[LatentsJob, Path, Explained], tmp_path: Path) -> None:
    job, folder, _ = run
    job.run(tmp_path / "again")
    for file in ("explain.json", "autoencoder/sae_weights.safetensors", "latents"):
        a, b = folder / file, tmp_path / "again" / file
        assert a.is_dir() or a.read_bytes() == b.read_bytes()


def test_bad_input_leaves_no_folder(tmp_path: Path) -> None:
    model, train, _ = world.trained()
    with pytest.raises(InputError, match="no layer 'five'"):
        LatentsJob(model=model, data=train, layer="five")
    with pytest.raises(InputError, match="810 activations cannot train 1024 latents"):
        LatentsJob(model=model, data=train, layer=world.LAYER).run(tmp_path / "run")
    with pytest.raises(InputError, match="needs two examples"):
        LatentsJob(model=model, data=train.subset([0]), layer=world.LAYER)
    image = torch.rand(1, 8, 8, generator=seeded(0))
    for bad, words in (
        ({"target": 10}, "target must be a class from 0 to 9"),
        ({"image": image[0]}, "an image is floating point"),
        ({"method": SMDL(pieces=99)}, "99 regions were asked of an image of 8 x 8 pixels"),
    ):
        with pytest.raises(InputError, match=words):
            RegionsJob(**{"model": model, "image": image, **bad}).run(tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_regions_of_a_picture(tmp_path: Path) -> None:
    model, train, _ = world.trained()
    image, label = train.examples.tensors[0][3].view(1, 8, 8), int(train.examples.tensors[1][3])  # type: ignore[attr-defined]
    image = image.clamp(0, 1)
    wrong = (label + 1) % 10
    names = tuple(f"digit {i}" for i in range(10))
    job = RegionsJob(
        model=model, image=image, method=SMDL(division="grid", pieces=16), target=wrong, class_names=names
    )
    done = job.run(tmp_path / "run")
    assert done.found["target"] == wrong
    assert len(done.found["steps"]) == 16
    assert f"digit {wrong}" in done.lead[0]
    assert any("regions alone make the model say" in line for line in done.lead)
    assert sorted(p.name for p in (tmp_path / "run/pictures").iterdir()) == [
        "hidden.png", "image.png", "saliency.png", "shown.png",
    ]  # fmt: skip
    html, text = ((tmp_path / f"run/report.{end}").read_text() for end in ("html", "md"))
    assert html.count("data:image/png;base64,") == 4
    assert "](pictures/saliency.png)" in text
    assert (
        done.figures["insertion, area under the curve"][0]
        >= done.figures["insertion in the order of occlusion"][0]
    )
    first = json.loads((tmp_path / "run/explain.json").read_text())
    job.run(tmp_path / "more")
    assert json.loads((tmp_path / "more/explain.json").read_text()) == first


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A character-level Llama with its tokenizer and texts; a ViT with its processor and a picture."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pillow = pytest.importorskip("PIL.Image")
    at = tmp_path_factory.mktemp("folders")
    letters = {c: i for i, c in enumerate(" abcdefgh.")}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token=" "))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=" ").save_pretrained(at / "llm")
    llama = transformers.LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    vit = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "lynx"},
    )  # fmt: skip
    with global_seed(0):
        transformers.LlamaForCausalLM(llama).save_pretrained(at / "llm")
        transformers.ViTForImageClassification(vit).save_pretrained(at / "vit")
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(at / "vit")
    rng = seeded(0)
    text = "".join(" abcdefgh."[i] for i in torch.randint(10, (2000,), generator=rng).tolist())
    (at / "texts.txt").write_text(text)
    pixels = torch.randint(256, (20, 24, 3), generator=rng, dtype=torch.uint8)
    pillow.fromarray(pixels.numpy()).save(at / "x.png")
    for i in range(24):
        side = at / "pets" / ("train", "test")[i % 4 == 3] / ("cat", "dog", "lynx")[i % 3]
        side.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (16, 16, 3), generator=rng, dtype=torch.uint8)
        pillow.fromarray(pixels.numpy()).save(side / f"{i}.png")
    return {name: at / name for name in ("llm", "vit", "texts.txt", "x.png", "pets")}


@pytest.mark.slow
def test_from_folders_by_command(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    from unweave.cli import main

    out = tmp_path / "out"
    flags = ["--g-sae.latents", "24", "--g-sae.k", "2", "--g-sae.batch-size", "128", "--g-sae.buffer", "512"]
    llm = ["explain", str(folders["llm"]), "--texts", str(folders["texts.txt"]), "--length", "16"]
    assert main([*llm, "--layer", "model.layers.0", "--method", "g-sae", *flags, "--out", str(out)]) == 0
    assert load_file(out / "autoencoder/sae_weights.safetensors")["W_dec"].shape == (24, 16)
    rows = Explained.read(out).found["latents"][0]["examples"]
    assert all(text.count("«") == 1 for *_, text in rows)
    assert main(["show", str(out)]) == 0
    assert "Latent" in capsys.readouterr().out
    assert main([*llm, "--layer", "model.layer.0", "--method", "g-sae", *flags]) == 2
    assert "Did you mean model.layers.0" in capsys.readouterr().err
    vit = ["explain", str(folders["vit"]), "--image", str(folders["x.png"])]
    assert main([*vit, "--target", "lynx", "--smdl.pieces", "4", "--out", str(tmp_path / "vit")]) == 0
    assert "lynx has" in capsys.readouterr().out
    look = ["explain", str(folders["vit"]), "--images", str(folders["pets"]), "--method", "g-sae"]
    look += ["--g-sae.latents", "12", "--g-sae.k", "2", "--g-sae.batch-size", "16", "--g-sae.buffer", "32"]
    assert main([*look, "--layer", "vit.layers.0", "--out", str(tmp_path / "pets")]) == 0
    capsys.readouterr()
    told = [text for _, _, _, text in Explained.read(tmp_path / "pets").found["latents"][0]["examples"]]
    assert all(t.split("/")[0] == "train" and t.split(", ")[1].startswith(("row", "the whole")) for t in told)
    assert (tmp_path / "pets/report.html").read_text().count("data:image/png") >= len(told)
    assert main([*look, "--layer", "vit.layer"]) == 2
    assert "has no layer 'vit.layer'" in " ".join(capsys.readouterr().err.split())
    for bad, words in (
        ([*look, "--length", "16"], "--length would do nothing beside --images"),
        ([*vit, "--target", "linx"], "no class 'linx'. It has lynx"),
        ([*vit, "--layer", "x"], "--layer would do nothing beside --image"),
        ([*vit, "--method", "g-sae"], "--method g-sae is for --texts and --images"),
        ([*llm, "--image", str(folders["x.png"])], "either --texts"),
        ([*llm, "--target", "1"], "--target would do nothing beside --texts"),
        (["explain", str(folders["vit"]), "--image", str(folders["texts.txt"])], "is no picture"),
        (["explain", str(folders["vit"]), "--texts", str(folders["texts.txt"]), "--layer", "x"], "tokenizer"),
    ):
        assert main(bad) == 2, bad
        assert words in " ".join(capsys.readouterr().err.split()), bad


@pytest.mark.slow
def test_from_folders_in_python(folders: dict[str, Path]) -> None:
    job = open_latents(
        folders["llm"],
        layer="model.layers.0",
        texts=folders["texts.txt"],
        method=GSAE(latents=24, k=2),
        length=16,
    )
    assert len(job.data) == 125
    shown = job.show(job.data.examples[3], 5)  # type: ignore[misc]
    assert shown.count("«") == shown.count("»") == 1
    seen = open_regions(folders["vit"], image=folders["x.png"], target=2)
    assert tuple(seen.image.shape) == (3, 16, 16)
    assert 0 <= float(seen.image.min()) <= float(seen.image.max()) <= 1
    assert (seen.target, seen.class_names) == (2, ("cat", "dog", "lynx"))
    import transformers
    from PIL import Image

    ready = transformers.AutoImageProcessor.from_pretrained(folders["vit"], backend="pil")(
        images=Image.open(folders["x.png"]), return_tensors="pt"
    )
    prepared = seen.prepare(seen.image[None])  # type: ignore[misc]
    assert torch.allclose(prepared, ready["pixel_values"], atol=1e-5)
    assert isinstance(seen.model, nn.Module)
