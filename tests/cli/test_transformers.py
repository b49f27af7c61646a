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
