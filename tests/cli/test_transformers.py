"""A transformers folder and an image folder through the command line: a folder that transformers loads comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.projects import unweave

pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "swin", "resnet", "convnext"])
def test_a_class_of_images_is_forgotten(tmp_path: Path, kind: str) -> None:
    from tests.io.test_transformers_folder import make_images, make_model

    make_images(tmp_path / "pets")
    make_model(kind, tmp_path / "model")
    name = sorted(p.name for p in (tmp_path / "pets" / "train").iterdir())[0]
    done = unweave(
        "forget", "./model", "--data", "imagefolder:./pets", "--classes", name, "--method", "salun", "--epochs", "1",
        "--oracles", "1", "--holders", "1", "--jobs", "1", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert f"all of class {name}" in done.stdout
    report = (tmp_path / "run" / "report.md").read_text()
    assert "12 images to train on under train/, 12 images held out under test/, 0 passed over" in report
    from transformers import AutoModelForImageClassification

    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model") is not None
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    assert {"checkpoint", "training data", "held-out data"} <= set(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_shrunk_folder_is_read_again(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    from tests.io.test_transformers_folder import make_images, make_model
    from unweave.io.transformers_folder import load_model

    make_images(tmp_path / "pets")
    make_model(kind, tmp_path / "model")
    done = unweave(
        "prune", "./model", "--data", "imagefolder:./pets", "--pattern", "channel", "--sparsity", "0.25", "--budget",
        "uniform", "--shrink", "--onnx", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "answers as the one in memory" in done.stdout
    before, after = (
        sum(p.numel() for p in load_model(tmp_path / at).parameters()) for at in ("model", "run/model")
    )
    assert after < before
    assert (tmp_path / "run" / "model.onnx").is_file()
    by_record = (tmp_path / "run" / "model" / "structure.json").exists()
    assert by_record == (kind == "vit")  # both heads stay, so that the width is no multiple of theirs
    assert ("structure.json; from_pretrained refuses it" in done.stdout) == by_record
    assert ("no longer count the channels that were cut" in done.stdout) == (kind == "vit")


@pytest.mark.slow
def test_groups_of_four_leave_the_stem_dense_and_say_so(tmp_path: Path) -> None:
    from torch.nn import Linear

    from tests.io.test_transformers_folder import make_images, make_model
    from unweave.io.transformers_folder import load_model

    make_images(tmp_path / "pets")
    make_model("vit", tmp_path / "model")
    done = unweave(
        "prune", "./model", "--data", "imagefolder:./pets", "--method", "wanda", "--pattern", "2:4", "--skip",
        "classifier", "*.layers.1.*", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(4 does not divide its 3 inputs)" in done.stdout
    assert "Left dense: " in done.stdout
    assert "skipped" in done.stdout
    for name, layer in load_model(tmp_path / "run" / "model").named_modules():
        if isinstance(layer, Linear):
            most = int((layer.weight.view(len(layer.weight), -1, 4) != 0).sum(2).max())
            assert most == (4 if name == "classifier" or ".layers.1." in name else 2), name
