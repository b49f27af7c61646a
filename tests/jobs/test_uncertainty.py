"""From a language model's folder and two files to a report on what it is unsure of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import causal_world
from unweave.cli import main
from unweave.errors import InputError
from unweave.jobs import Unsure, open_uncertainty
from unweave.language import UQICL

SHOWN = [
    {"text": w, "label": y}
    for w, y in (("fox", "quick"), ("dog", "lazy"), ("the fox", "quick"), ("a dog", "lazy"))
]
ASKED = [{"text": f"the {w}", "label": y} for w, y in (("fox", "quick"), ("dog", "lazy"), ("jumps", "lazy"))]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    at = tmp_path_factory.mktemp("uncertainty")
    folder = causal_world.folder(at / "llm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    return (
        folder,
        causal_world.lines(at / "shown.jsonl", SHOWN),
        causal_world.lines(at / "asked.jsonl", ASKED),
    )


def test_a_folder_and_two_files(given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, shown, asked = map(str, given)
    words = [
        folder,
        "--demonstrations",
        shown,
        "--texts",
        asked,
        "--verbaliser",
        "names",
        "--uq-icl.sets",
        "2",
    ]
    assert main(["uncertainty", *words, "--uq-icl.shots", "2", "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("3 texts, each asked with 2 sets of demonstrations: of 0.")
    found = Unsure.read(tmp_path / "run")
    rows = found.found["texts"]
    assert [row["right"] for row in rows] == ["quick", "lazy", "lazy"]
    job = open_uncertainty(
        folder, demonstrations=shown, texts=asked, verbaliser="names", method=UQICL(sets=2, shots=2)
    )
    assert (job.names, job.right) == (("lazy", "quick"), (1, 0, 0))
    for row in rows:
        parts = row["within demonstrations"] + row["between demonstrations"]
        assert row["total"] == pytest.approx(parts)
    wrong = [row["says"] != row["right"] for row in rows]
    assert found.figures["errors"][0] == pytest.approx(100 * sum(wrong) / 3)
    assert found.found["scores"]["total"]["curve"][-1] == pytest.approx([1.0, sum(wrong) / 3])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What is answered, and how often wrongly" in page
    assert "semantic entropy" in page
    assert "<svg" in page
    assert "## How well each score tells errors" in (tmp_path / "run" / "report.md").read_text()
    assert main(["show", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"]["texts"] == rows


def test_without_labels_nothing_is_said_of_errors(given: Any, tmp_path: Path) -> None:
    folder, shown, _ = given
    asked = causal_world.lines(tmp_path / "asked.jsonl", [{"text": "the fox"}])
    how = UQICL(sets=2, shots=2)
    done = open_uncertainty(folder, demonstrations=shown, texts=asked, verbaliser="names", method=how).run(
        tmp_path / "run"
    )
    assert "errors" not in done.figures
    assert not done.found["scores"]
    assert "wrong" not in (tmp_path / "run" / "report.md").read_text()


def test_refuses(given: Any, tmp_path: Path) -> None:
    folder, shown, asked = given

    def file(*rows: Any) -> Path:
        return causal_world.lines(tmp_path / "x.jsonl", rows)

    for change, told in (
        (lambda: {"demonstrations": tmp_path / "none.jsonl"}, "there is no file"),
        (lambda: {"demonstrations": file({"text": "fox"})}, r'line 1, must be \{"text": ..., "label": ...\}'),
        (lambda: {"texts": file({"text": " "})}, "not empty"),
        (lambda: {"texts": file({"text": "a", "label": "quick"}, {"text": "b"})}, "1 of the 2 texts"),
        (
            lambda: {"texts": file({"text": "a", "label": "blue"})},
            "label 'blue', which is none of: lazy, quick",
        ),
        (lambda: {"labels": ("lazy",)}, "label 'quick', which is none of: lazy"),
        (lambda: {"demonstrations": file(SHOWN[0], SHOWN[1])}, "of class 0 of the pool, which has 1"),
        (lambda: {"verbaliser": "digits"}, "writes two of the labels 0, 1 alike"),
        (lambda: {"instruction": "Say."}, "does not name 'lazy'"),
    ):
        words: Any = {"demonstrations": shown, "texts": asked, "verbaliser": "names", **change()}
        with pytest.raises(InputError, match=told):
            open_uncertainty(folder, **words).prompts.variants()
    (tmp_path / "x.jsonl").write_text("{")
    with pytest.raises(InputError, match="line 1, is no JSON"):
        open_uncertainty(folder, demonstrations=tmp_path / "x.jsonl", texts=asked)
    long = causal_world.lines(tmp_path / "long.jsonl", [{"text": "fox jumps " * 200}])
    job = open_uncertainty(folder, demonstrations=shown, texts=long, verbaliser="names", method=UQICL(sets=1))
    with pytest.raises(InputError, match="the model reads 256"):
        job.method.decompose(job.model, job.pool, job.texts, job.prompts, rng=torch.Generator())
