"""The command line as a newcomer meets it: help that teaches, one clear line on every mistake, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.projects import make_project, unweave
from unweave.cli import COMMANDS, _packages, main

FORGET = (
    "forget",
    "project.py",
    "--model",
    "model.safetensors",
    "--oracles",
    "4",
    "--holders",
    "4",
    "--jobs",
    "1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"unweave {command}" in out.partition("Example:")[2]


def test_help_shows_the_flags_of_the_methods_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "forget", "--method", "unprune+salun", "--compare", "scrub", "--help")
    assert "--salun.density" in out
    assert "--unprune.mode" in out
    assert "--scrub.alpha" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frget",), "no command 'frget'"),
        (("forget", "absent.py"), "there is no project file absent.py"),
        (("forget", "absent-folder"), r"does not exist\. Give a project\.py"),
        (("forget", "--method", "saluun"), "Did you mean salun"),
        (
            ("forget", "--method", "salun", "--salun.density", "1.5"),
            r"SalUn.density must be above 0 and at most 1; got 1.5",
        ),
        (("forget", "--method", "magnitude"), "family prune"),
        (("forget", "--method", "fine-tune+salun"), "wraps no other method"),
        (("forget", "--classes", "eleven"), "eleven"),
        (("forget", "--where", "digit"), "COLUMN=VALUE"),
        (("forget", "--where", "colour=red"), "colour"),
        (("forget", "--random", "0"), "between 1 and 899"),
        (("forget", "--random", "900"), "between 1 and 899"),
        (("forget", "--ids", "absent.txt"), "absent.txt"),
        (("forget", "--ids", "a.txt", "--random", "3"), "several"),
        (("forget", "--oracles", "-1"), "--oracles must be a whole number at least 0; got -1"),
        (("audit", "--edited", "x.safetensors"), "--model is missing"),
        (("show", "."), "is not a run folder"),
        (("cite", "nothing-like-it"), "no method"),
        (("list", "--family", "cooking"), "no family"),
        (("prune", "--sparsity", "1.0"), "sparsity"),
        (("prune", "--pattern", "2:x"), "N:M"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not list(tmp_path.iterdir()), "left something behind"


def test_an_unknown_flag_is_refused_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "forget", "--method", "fine-tune", "--salun.density", "0.3")
    assert code == 2
    assert "Traceback" not in err


def test_a_bug_of_ours_shows_its_traceback_and_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import unweave.cli.list as module

    def broken() -> None:
        raise RuntimeError("wrong wiring")

    monkeypatch.setattr(module, "methods", broken)
    code, _, err = call(capsys, "list")
    assert code == 1
    assert "wrong wiring" in err
    assert "Traceback" in err


def test_list_and_cite(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "list", "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert rows["salun"]["family"] == "unlearn"
    assert rows["salun"]["claim"] in ("holds", "not shown", "contradicted", "not run")
    assert len(rows) == len(json.loads(out)), "two methods share a name"
    _, out, _ = call(capsys, "cite", "salun")
    assert "2310.12508" in out


def test_doctor_finds_a_broken_torchvision(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "needs_it.py").write_text("import torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the processes that import the packages
    monkeypatch.setattr(_packages, "CORE", ("numpy",))
    monkeypatch.setattr(_packages, "EXTRAS", {"needs_it": "vision", "nowhere": "optim"})
    code, out, _ = call(capsys, "doctor")
    assert code == 2
    assert [line.split()[:2] for line in out.splitlines()[1:5]] == [
        ["numpy", "ok"],
        ["needs_it", "broken"],
        ["nowhere", "absent"],
        ["torchvision", "broken"],
    ]
    assert "pip uninstall torchvision" in out


@pytest.mark.slow
def test_forget_writes_a_whole_run(folder: Path) -> None:
    (folder / "delete.txt").write_text("\n".join(str(i) for i in range(0, 150, 5)))
    done = unweave(
        *FORGET,
        "--ids",
        "delete.txt",
        "--method",
        "unprune+fine-tune",
        "--compare",
        "fine-tune",
        "--out",
        "run",
        cwd=folder,
    )
    assert done.returncode in (0, 3), done.stderr
    assert "30 of 150 training examples, by their ids" in done.stdout
    run = folder / "run"
    assert {p.name for p in run.iterdir()} >= {"run.json", "model", "audit.json", "report.html", "report.md"}
    record = json.loads((run / "run.json").read_text())
    assert all(stage["state"] == "finished" for stage in record["stages"].values())
    audits = json.loads((run / "audit.json").read_text())["audits"]
    assert [a["method"] for a in audits] == ["unprune+fine-tune", "fine-tune"]
    for name in ("show", "cite"):
        assert unweave(name, "run", cwd=folder).returncode == 0
    again = unweave(
        *FORGET,
        "--ids",
        "delete.txt",
        "--method",
        "unprune+fine-tune",
        "--compare",
        "fine-tune",
        "--out",
        "run",
        cwd=folder,
    )
    assert again.returncode == done.returncode
    other = unweave(*FORGET, "--ids", "delete.txt", "--method", "fine-tune", "--out", "run", cwd=folder)
    assert other.returncode == 2
    assert "other settings" in other.stderr


@pytest.mark.slow
def test_audit_judges_a_model_edited_elsewhere(folder: Path) -> None:
    done = unweave(
        "audit", "project.py", "--model", "model.safetensors", "--edited", "model.safetensors", "--classes", "birch",
        "--oracles", "4", "--holders", "4", "--jobs", "1", "--json", "--out", "check", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["audits"][0]["verdict"]["outcome"] == "not forgotten"


def test_without_an_oracle_nothing_is_concluded(folder: Path) -> None:
    done = unweave(
        *FORGET[:4],
        "--oracles",
        "0",
        "--holders",
        "0",
        "--where",
        "owner=3",
        "--method",
        "fine-tune",
        "--out",
        "blind",
        cwd=folder,
    )
    assert done.returncode == 3
    assert "inconclusive" in done.stdout.lower()


@pytest.mark.slow
def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = unweave(
        *FORGET, "--random", "20", "--seed", "5", "--method", "fine-tune", "--dry-run", "--json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"] > 0
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_two_requests_at_once_on_one_folder_are_refused(folder: Path) -> None:
    from unweave.io.runs import RunFolder

    with RunFolder.open(folder / "busy", settings={}, inputs={}, seed=0):
        done = unweave(*FORGET, "--random", "20", "--method", "fine-tune", "--out", "busy", cwd=folder)
    assert done.returncode == 2
    assert "another run is using" in done.stderr


@pytest.mark.slow
def test_prune_measures_before_and_after(folder: Path) -> None:
    done = unweave(
        "prune",
        "project.py",
        "--sparsity",
        "0.8",
        "--recover-epochs",
        "2",
        "--out",
        "pruned",
        "--json",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["matrix weights kept"][1] == pytest.approx(20, abs=1)
    assert (folder / "pruned" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_shrunk_model_is_smaller_and_loads_again(folder: Path) -> None:
    pytest.importorskip("torch_pruning")
    done = unweave(
        "prune", "project.py", "--model", "model.safetensors", "--pattern", "channel", "--budget", "uniform",
        "--sparsity", "0.5", "--shrink", "--recover-epochs", "2", "--out", "small", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after, _ = json.loads(done.stdout)["weights in all"]
    assert after < 0.7 * before
    audited = unweave(
        "audit", "project.py", "--model", "small/model", "--edited", "small/model", "--classes", "ash",
        "--oracles", "0", "--holders", "0", "--out", "small-check", cwd=folder,
    )  # fmt: skip
    assert audited.returncode == 3, audited.stderr


def test_the_list_says_which_requests_a_method_suits(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "list", "--family", "unlearn", "--json")
    suits = {row["method"]: row["suits"] for row in json.loads(out)}
    assert suits["retrain"] == ["class", "random", "small"]
    assert "random" not in suits["fine-tune"]
    _, out, _ = call(capsys, "list", "--family", "unlearn")
    assert "class, random, small" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--random", "90"), "chosen: short-retrain, about 0.76 of one retraining: a pruned model: exact"),
        (
            ("--classes", "3", "--compare", "fine-tune"),
            "chosen: short-retrain, about 0.26 of one retraining",
        ),
        (
            ("--random", "90", "--method", "fine-tune"),
            "warning: fine-tune does not suit scattered examples: it leaves",
        ),
        (
            ("--random", "9", "--method", "fine-tune"),
            "warning: fine-tune does not suit less than 60 scattered examples",
        ),
    ],
)
def test_forget_says_what_it_chose_and_doubts_what_it_was_told(
    given: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(
        capsys, "forget", *given, "--oracles", "0", "--holders", "0", "--jobs", "1", "--dry-run"
    )
    assert code == 0
    assert err.startswith(told)
    assert err.count("\n") == 1
