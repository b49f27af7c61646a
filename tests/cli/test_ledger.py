"""`unweave ledger`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unweave.cli import main

PROJECT = """
import torch
from torch import nn
from unweave import Supervised, seeded
from unweave.embedded.digits import of_tensors

rng = seeded(0)
y = torch.arange(150) % 3
x = 1.2 * torch.randn(3, 8, generator=rng)[y] + torch.randn(150, 8, generator=rng)
train = of_tensors(x[:120], y[:120], classes=3, batch_size=16)
heldout = of_tensors(x[120:], y[120:], classes=3, batch_size=16)
train.examples.ids = [f"img-{i:03}.png" for i in range(120)]
columns = {"owner": [f"ann-{i // 10}" for i in range(120)]}
class_names = ("ash", "birch", "cedar")
def net(): return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
recipe = Supervised(network=net, epochs=3, lr=0.1)
"""


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    got = capsys.readouterr()
    return code, got.out, got.err


def test_from_the_first_request_to_the_proof(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNWEAVE_PROGRESS", "0")
    Path("project.py").write_text(PROJECT)
    Path("delete-ann.txt").write_text("img-004.png\nimg-017.png\n")
    code, out, _ = said(capsys, "ledger", "init", "d", "project.py", "--name", "trees", "--window", "0")
    assert code == 0
    assert "keeps the deletions of trees" in out

    code, out, _ = said(
        capsys, "ledger", "request", "d", "--ids", "delete-ann.txt", "--ground", "consent withdrawn"
    )
    assert (code, out.split(",")[0]) == (0, "r-00001")
    _, out, _ = said(capsys, "ledger", "request", "d", "--ids", "delete-ann.txt")
    assert "A repetition of r-00001 (entry 3), which is open" in out
    _, out, _ = said(capsys, "ledger", "request", "d", "--where", "owner=ann-1", "--verified", "--json")
    taken = json.loads(out)
    assert (taken["request"], taken["new"], taken["known"]) == ("r-00002", 9, {"r-00001": 1})

    code, out, _ = said(capsys, "ledger", "plan", "d")
    assert "trees: take the examples out" in out
    assert "whether whoever made r-00001 may ask" in out
    code, out, _ = said(capsys, "ledger", "amend", "d", "r-00002", "--hold", "--reason", "a court")
    assert (code, out[:15]) == (0, "r-00002 is held")

    code, out, _ = said(capsys, "forget", "--ledger", "d", "--json")
    served = json.loads(out)
    assert (code, served["requests"], served["level"]) == (0, ["r-00001"], "E4")
    code, out, _ = said(capsys, "ledger", "status", "d", "--all")
    assert code == 0
    assert "Requests: 1 held, 1 served" in out
    code, out, _ = said(capsys, "ledger", "status", "d", "--json")
    assert json.loads(out)["levels"] == {"E4": 1}
    assert said(capsys, "ledger", "verify", "d")[:2] == (0, "Nothing is wrong.\n")
    assert said(capsys, "ledger", "verify", "d/evidence/r-00001")[0] == 0
    code, out, _ = said(capsys, "ledger", "verify", "d", "--request", "r-00001", "--id", "img-017.png")
    assert (code, json.loads(out)["entry"]) == (0, 3)
    assert said(capsys, "ledger", "verify", "d", "--request", "r-00001", "--id", "img-018.png")[0] == 3

    said(capsys, "ledger", "amend", "d", "r-00002", "--lift", "--reason", "settled")
    code, out, _ = said(capsys, "ledger", "serve", "d", "--method", "retrain", "--purge")
    assert (code, "Served: r-00002" in out) == (0, True)
    (first, *_) = [
        v for v in json.loads(said(capsys, "ledger", "status", "d", "--json")[1])["models"].values()
    ]
    assert first["how"] == "retrain"
    code, _, err = said(capsys, "ledger", "use", "d", "trees", served["models"][0]["old"][:10])
    assert (code, "holds what r-00001 deleted" in err) == (2, True)

    for file in (f for f in Path("d").rglob("*") if f.is_file()):
        told = file.read_bytes()
        for secret in (b"img-0", b"ann-1", b"delete-ann"):
            assert secret not in told, file

    Path("d/evidence/r-00001/answer.md").write_text("All is well.")
    code, out, _ = said(capsys, "ledger", "verify", "d")
    assert (code, "answer.md was altered" in out) == (3, True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("nothing",), "unweave ledger has no 'nothing'. It has: init, add"),
        (("status", "nowhere"), "nowhere is no ledger"),
        (("init", "d", "--due", "soon"), "a term is written as '30 days'"),
        (("init", "d", "--window", "40"), "could be due (30 days) before it is served"),
        (("init", "d", "nothing.py"), "there is no project file"),
        (("add", "d", "child"), "nowhere"),
    ],
)
def test_wrong_use(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, "ledger", *argv)
    assert code == 2
    assert words in err or argv[0] == "add"
    assert not (tmp_path / "d").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    from unweave.cli.ledger import VERBS

    code, out, _ = said(capsys, "ledger", "--help")
    assert code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in out
        code, told, _ = said(capsys, "ledger", verb, "--help")
        assert (code, "Example:" in told) == (0, True)
