"""`unweave erase` on tiny pipelines of random weights, with a judge of the user's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.erase.pipelines import folder
from unweave import seeded
from unweave.cli import main
from unweave.erase import UCE, Concepts
from unweave.io.pipeline_folder import load_pipeline

JUDGE = """
def names(images):
    return ["cat"] * len(images)
def features(images):
    return images.flatten(1)[:, :4]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def test_writes_a_pipeline_an_audit_and_a_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "erase", str(folder()), "--concepts", "cat", "--preserve", "dog", "--method", "uce", "--uce.strength", "0.3",
        "--judge", "judge.py", "--images", "1", "--steps", "2", "--soft-vector.steps", "2", "--out", "run",
        "--slim", "--dtype", "float32", "--json",
    )  # fmt: skip
    assert main(command) == 3  # the judge calls everything a cat
    told = json.loads(capsys.readouterr().out)
    assert told["audits"][0]["verdict"]["outcome"] == "not erased"
    assert {f.name for f in (here / "run").iterdir()} == {
        "model",
        "audit.json",
        "report.html",
        "report.md",
        "attacks.json",
        "run.json",
        "costs",
    }
    edited, original = load_pipeline(here / "run" / "model"), load_pipeline(folder())
    assert any((a != b).any() for a, b in zip(edited.parameters(), original.parameters(), strict=True))
    import diffusers

    diffusers.StableDiffusionPipeline.from_pretrained(here / "run" / "model", local_files_only=True)
    before = (here / "run" / "run.json").read_bytes()
    assert main(command[:-1]) == 3
    printed, report = capsys.readouterr().out, (here / "run" / "report.md").read_text()
    assert printed.startswith(report.partition("## Concept by concept")[0].rstrip())
    assert main(("show", "run")) == 0
    assert capsys.readouterr().out == report
    (here / "run" / "report.md").unlink()
    assert main(("show", "run")) == 2
    assert "report.md is gone" in capsys.readouterr().err
    (here / "run" / "report.md").write_text(report)
    assert (here / "run" / "run.json").read_bytes() == before


LATER = """
import torch
calls = [0]
def names(images):
    # the original's images are seen first; of the rest only every fourth set
    calls[0] += 1
    return ["cat" if calls[0] == 1 or images.sum() % 4 < 1 else "" for image in images]
def features(images):
    return images.flatten(1)[:, :4]
"""


def test_attacks_all_three_pipelines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "later.py").write_text(LATER)
    command = (
        "erase", str(folder()), "--concepts", "cat", "--preserve", "dog", "--judge", "later.py", "--images", "1",
        "--steps", "1", "--oracle", str(folder()), "--attack", "unlearn-diff-atk", "--attack-prompts", "3",
        "--unlearn-diff-atk.levels", "2", "--unlearn-diff-atk.iterations", "2", "--unlearn-diff-atk.tokens", "1",
        "--soft-vector.steps", "2",
        "--out", "run",
    )  # fmt: skip
    assert main((*command, "--json")) in (0, 3)
    told = json.loads(capsys.readouterr().out)
    figures = {m["name"]: m for m in told["audits"][0]["measurements"]}
    names = (
        "prompts that draw it alone",
        "attack success: unlearn-diff-atk",
        "attack success: as many random tokens",
    )
    record = json.loads((here / "run" / "attacks.json").read_text())
    for name in names:
        figure = figures[name]
        assert figure["n"] == 4  # of each concept, at least
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
        assert figure["original"] is not None
        assert figure["oracle_mean"] is not None
        assert name in (here / "run" / "report.html").read_text()
    assert list(record["controls"].items()) == [
        ("attack success: soft-vector", "attack success: a random vector"),
        ("attack success: unlearn-diff-atk", "attack success: as many random tokens"),
    ]
    for name in names[1:]:
        told = record["attacks"][name]
        assert set(told) == {"original", "retrained 0", "uce"}
        assert figures[name]["value"] == told["uce"]["ASR"]
        for attempt in told["uce"]["attempts"]:
            assert attempt["judged"] <= 2
            assert attempt["before"] or len(attempt["ids"]) == 1
    assert main(command) in (0, 3)  # reads what was finished
    out = capsys.readouterr().out
    assert "attack success: unlearn-diff-atk" in out
    assert "as many random tokens" in out


def test_without_a_judge_it_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(("erase", str(folder()), "--concepts", "cat", "--images", "1", "--steps", "1", "--out", "run"))
        == 3
    )
    assert "Give --judge" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concepts", ""), "Concepts.erase is empty"),
        (("--concepts", "cat", "--preserve", "cat"), "both erased and preserved"),
        (("--concepts", "cat, cat"), "more than once"),
        (("--concepts", "cat", "--method", "salun"), "does not erase concepts"),
        (("--concepts", "cat", "--judge", "absent.py"), "there is no judge file"),
        (("--concepts", "cat", "--judge", "half.py"), r"does not define features\(images\)"),
        (("--concepts", "cat", "--judge", "broken.py"), "ZeroDivisionError"),
        (("--concepts", "cat", "--oracle", "absent"), "there is no pipeline folder absent|no absent"),
        (("--concepts", "cat, bird", "--guide", "dog, fox, red"), "2 concepts to erase and 3 guides"),
        (("--concepts", "cat=dog", "--guide", "fox"), "guides are given twice"),
        (
            ("--concepts", "cat", "--templates", "absent.txt"),
            "a file of prompts; there is no file absent.txt",
        ),
        (("--concepts", "cat", "--prompts", "absent.txt"), "a prompt a line; there is no file absent.txt"),
        (
            ("--concepts", "cat", "--prompts", "x", "--templates", "style"),
            "--templates and --prompts both say",
        ),
        (("--concepts", "cat", "--cache", "kept"), "--cache is for the small world"),
        (("--concepts", "cat", "--device", "nowhere"), "there is no device nowhere here"),
        (("--concepts", "cat", "--images-at-once", "0"), "must be a whole number at least 1; got 0"),
        (("--concepts", "cat", "--images", "0"), "--images must be a whole number at least 1; got 0"),
        (("--concepts", "cat", "--attack", "token-search"), "--attack needs --judge"),
        (
            ("--concepts", "cat", "--judge", "judge.py", "--attack", "token-search", "--attack-prompts", "0"),
            "--attack-prompts must be a whole number at least 1; got 0",
        ),
        (
            (
                "--concepts",
                "cat",
                "--judge",
                "judge.py",
                "--attack",
                "token-search",
                "--token-search.tokens",
                "0",
            ),
            "TokenSearch.tokens must be a whole number at least 1",
        ),
    ],
)
def test_wrong_use_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    import re

    (here / "half.py").write_text("def names(images):\n    return []\n")
    (here / "broken.py").write_text("1 / 0\n")
    assert main(("erase", str(folder()), *arguments, "--out", "run")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (here / "run").exists()


def test_unusable_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("erase", "absent", "--concepts", "cat")) == 2
    assert "there is no pipeline folder absent" in capsys.readouterr().err
    partial = here / "partial"
    shutil.copytree(folder(), partial)
    shutil.rmtree(partial / "unet")
    assert main(("erase", str(partial), "--concepts", "cat", "--out", "run")) == 2
    assert "partial lacks unet" in capsys.readouterr().err
    assert not (here / "run").exists()


def test_one_after_the_other_with_methods_that_train(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "erase", str(folder()), "--concepts", "cat, bird", "--preserve", "dog", "--in-turn",
        "--method", "esd", "--esd.steps", "2", "--esd.sampler-steps", "3", "--esd.train", "cross_kv",
        "--compare", "concept-ablation", "--concept-ablation.steps", "2", "--concept-ablation.images", "2",
        "--concept-ablation.sampler-steps", "2",
        "--judge", "judge.py", "--images", "1", "--steps", "2", "--attack", "none", "--out", "run", "--json",
    )  # fmt: skip
    assert main(command) == 3
    told = json.loads(capsys.readouterr().out)
    turns = {p["name"]: p["rows"] for p in told["audits"][0]["panels"]}["turns"]
    assert turns == {"cat": {"cat": 100.0, "bird": 0.0}, "bird": {"cat": 100.0, "bird": 0.0}}
    memory = {m["name"]: m for m in told["audits"][0]["measurements"]}["peak memory of the edit"]
    assert memory["unit"] == "MiB"
    assert [a["method"] for a in told["audits"]] == ["esd", "concept-ablation"]
    model, original = load_pipeline(here / "run" / "model"), load_pipeline(folder())
    moved = {n for n, p in model.named_parameters() if not p.equal(original.get_parameter(n))}
    assert moved
    assert all("attn2.to_k" in n or "attn2.to_v" in n for n in moved)


def test_one_guide_each_and_templates_from_a_file(here: Path) -> None:
    (here / "prompts.txt").write_text("a {} at sunset\ta sunset\n")
    few = ("--method", "uce", "--templates", "prompts.txt", "--images", "1", "--steps", "1")
    main(
        ("erase", str(folder()), "--concepts", "cat, golf ball", "--guide", "dog, church", *few, "--out", "a")
    )
    (here / "own.txt").write_text("a Golf  ball at sunset\n")
    own = ("--method", "uce", "--prompts", "own.txt", "--images", "1", "--steps", "1")
    main(("erase", str(folder()), "--map", "cat=dog, golf ball=church", *own, "--out", "b"))
    asked = Concepts(
        erase=("cat", "golf ball"), guide={"cat": "dog", "golf ball": "church"}, templates=("a {} at sunset",),
        bases=("a sunset",),
    )  # fmt: skip
    expected = UCE().apply(load_pipeline(folder()), asked, rng=seeded(0))
    for run in ("a", "b"):
        made = load_pipeline(here / run / "model")
        assert all(x.equal(y) for x, y in zip(made.parameters(), expected.parameters(), strict=True))


SECOND = """
labels = ("cat", "bird", "dog", "church")
seen = []
def names(images):
    return ["bird"] * len(images)
def features(images):
    return images.flatten(1)[:, :4]
"""


def test_the_next_request_looks_at_what_was_erased_before(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "second.py").write_text(SECOND)
    few = ("--images", "1", "--steps", "1", "--attack", "none", "--json")
    main(("erase", str(folder()), "--concepts", "cat", *few, "--out", "a"))
    assert [e["request"]["erase"] for e in load_pipeline(here / "a" / "model").erased] == [["cat"]]
    capsys.readouterr()
    main(
        (
            "erase",
            "a/model",
            "--concepts",
            "bird",
            "--preserve",
            "dog",
            "--judge",
            "second.py",
            *few,
            "--out",
            "b",
        )
    )
    (audit,) = json.loads(capsys.readouterr().out)["audits"]
    rows = {p["name"]: p["rows"] for p in audit["panels"]}["concepts"]
    assert list(rows) == ["bird", "dog", "church", "cat"]  # church is a neighbour
    assert "concepts erased earlier, drawn" in {m["name"] for m in audit["measurements"]}
    assert [e["request"]["erase"] for e in load_pipeline(here / "b" / "model").erased] == [["cat"], ["bird"]]
    assert "cat" in (here / "b" / "report.md").read_text()
    assert main(("erase", "a/model", "--concepts", "bird", "--preserve", "cat", *few, "--out", "c")) == 2
    assert "'cat' was erased from this pipeline before" in capsys.readouterr().err


def test_what_cannot_be_attacked_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "erase", str(folder("sdxl")), "--concepts", "cat", "--preserve", "dog", "--judge", "judge.py", "--images", "1",
        "--steps", "1",
    )  # fmt: skip
    assert main((*command, "--soft-vector.tokens", "9", "--out", "a")) in (0, 3)
    assert "The pipelines could not be attacked." in capsys.readouterr().out
    assert main((*command, "--attack", "token-search", "--out", "b")) == 2
    assert "several text encoders" in capsys.readouterr().err
    assert not (here / "b" / "model").exists()  # before anything was edited
