"""`unweave train --exact` and `unweave forget` on such a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.projects import make_project
from unweave.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNWEAVE_PROGRESS", "0")


@pytest.mark.slow
def test_the_embedded_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", "--exact", "sisa", "--sisa.shards", "2", "--sisa.slices", "2", "--epochs", "2"]) == 0
    )
    told = capsys.readouterr().out
    run = next((tmp_path / "runs").iterdir())
    assert f"Delete from it: unweave forget {Path('runs') / run.name} --ids FILE" in told
    (tmp_path / "ids.txt").write_text("3\n17\n")
    assert main(["forget", f"runs/{run.name}", "--ids", "ids.txt", "--out", "left"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"Exact: \d serving stages of \d shards were trained again without the data", told)
    assert main(["forget", "left", "--random", "5", "--retrain", "dead", "--json", "--out", "less"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["ids deleted"][0] >= 3
    assert main(["show", "less"]) == 0
    assert "Forgotten exactly" in capsys.readouterr().out
    assert main(["forget", "--model", "left", "--ids", "ids.txt", "--proof", "none", "--out", "same"]) == 0
    assert "2 of those asked for had been deleted before" in capsys.readouterr().out


@pytest.mark.slow
def test_a_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_project(tmp_path)
    command = [
        "train",
        "project.py",
        "--exact",
        "sisa",
        "--sisa.slices",
        "2",
        "--by",
        "owner",
        "--out",
        "run",
    ]
    assert main([*command, "--sisa.shards", "1"]) == 0
    capsys.readouterr()
    assert main(["forget", "run", "--where", "owner=3"]) == 2
    error = capsys.readouterr().err
    assert "Name them: unweave forget project.py --model run/model --ids FILE" in error
    assert main(["forget", "project.py", "--model", "run", "--where", "owner=3", "--out", "left"]) == 0
    assert "10 examples were deleted; they lay in 1 slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pretrained-on", "x"), "--pretrained-on would do nothing without --exact"),
        (("--by", "x"), "--by would do nothing without --exact"),
        (("--exact", "sisa", "--optimizer", "adamw"), "does not read --optimizer. Set them in the recipe"),
        (("--exact", "sisa", "--sparsity", "0.5"), "does not read --sparsity"),
        (("--exact", "s3t", "--epochs", "3"), "does not read --epochs. Give --s3t.epochs"),
        (("--exact", "s3t"), "S3T.pretrained_on is empty"),
        (("--exact", "s3t", "--pretrained-on", "x"), "scikit-learn digits.* brings none"),
        (("--exact", "sisa", "--by", "person"), "--by='person' is no column"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_the_folder_is_found_wherever_it_is_named(tmp_path: Path) -> None:
    from unweave.cli._forget_exact import exact_folder

    for name in ("run/model", "bare", "new"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "exact.json").write_text("{}")
    (tmp_path / "other").mkdir()
    assert exact_folder(["run", "--ids", "a.txt"]) == Path("run/model")
    assert exact_folder(["--out", "new", "--ids", "a.txt", "bare"]) == Path("bare")
    assert exact_folder(["project.py", "--model=run"]) == Path("run/model")
    assert exact_folder(["project.py", "--model", "bare", "--out", "new"]) == Path("bare")
    assert exact_folder(["other", "--out", "new", "--where", "a=" + "b" * 5000, "c\0d"]) is None
    assert exact_folder([]) is None


@pytest.mark.slow
def test_a_transformers_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="the language extra is not installed")
    from tests.io.test_transformers_folder import make_images, make_model

    make_images(tmp_path / "pets", each=12)
    make_model("vit", tmp_path / "vit")
    where = ["./vit", "--data", "imagefolder:./pets"]
    command = [
        "train",
        *where,
        "--exact",
        "s3t",
        "--pretrained-on",
        "nothing: random weights",
        "--out",
        "run",
    ]
    assert (
        main([*command, "--s3t.shards", "2", "--s3t.slices", "2", "--s3t.epochs", "1", "--s3t.rank", "2"])
        == 0
    )
    capsys.readouterr()
    from transformers import AutoModelForImageClassification

    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model" / "base") is not None
    assert main(["forget", *where, "--model", "run", "--random", "1", "--out", "left"]) == 0
    told = capsys.readouterr().out
    assert "Exact: " in told
    assert "stages trained anew" in told
    assert "nothing: random weights" in (tmp_path / "left" / "report.md").read_text()
    command[command.index("run")] = "other"
    assert main([*command, "--s3t.slices", "3"]) == 2
    assert "must divide the model's 2 blocks" in capsys.readouterr().err
