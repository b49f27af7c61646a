"""`unweave prune` towards a target, packed, by channels, and as a scan: what is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.projects import make_project
from unweave.cli import main
from unweave.io.checkpoint import load_into, mask_beside
from unweave.jobs import Pruned, Scanned
from unweave.jobs.opened import open_subject


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("pruning")) / "project.py"


def prune(project: Path, *flags: str) -> int:
    model = project.with_name("model.safetensors")
    return main(["prune", str(project), "--model", str(model), *flags])


@pytest.mark.slow
def test_a_scan_prunes_nothing(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(project, "--scan", "--scan-at", "0.5", "0.9", "--out", str(tmp_path / "scan")) == 0
    told = capsys.readouterr().out
    assert "with one layer alone pruned" in told
    found = Scanned.read(tmp_path / "scan")
    assert {s for row in found.layers.values() for s in row} == {0.5, 0.9}
    assert not (tmp_path / "scan" / "model").exists()
    assert main(["show", str(tmp_path / "scan")]) == 0
    assert found.ranked[0] in capsys.readouterr().out
    for flags, message in (
        (("--scan", "--sparsity", "0.5"), "--sparsity would do nothing with --scan"),
        (("--scan", "--shrink", "--packed"), "--shrink and --packed would do nothing with --scan"),
        (("--scan-at", "0.5"), "add --scan, or leave them out"),
        (("--scan", "--scan-at", "1.5"), "--scan-at must be different shares above 0 and below 1"),
        (("--scan", "--method", "gmp"), "gmp trains"),
    ):
        assert prune(project, *flags, "--out", str(tmp_path / "no")) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_target_implies_what_it_needs_and_says_so(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(project, "--target", "macs=0.6", "--out", str(tmp_path / "macs")) == 0
    told = capsys.readouterr()
    assert "--target macs=0.6 implies --pattern channel --shrink" in told.err
    assert "every layer loses the same share of its channels (--budget global" in told.err
    assert "Target macs=0.6: of" in told.out
    before, after, _ = Pruned.read(tmp_path / "macs").figures["multiplications an example"]
    assert 0.5 < after / before <= 0.6
    assert prune(project, "--target", "bytes=0.7", "--out", str(tmp_path / "bytes")) == 0
    assert "implies --packed" in capsys.readouterr().err
    network = open_subject(str(project)).architecture
    assert network is not None
    small = load_into(network(), tmp_path / "bytes" / "model")
    mask = mask_beside(tmp_path / "bytes" / "model")
    assert mask is not None
    assert 0.4 < float((small[1].weight != 0).float().mean()) < 0.8
    for flags, message in (
        (("--target", "macs=0.5", "--sparsity", "0.5"), "--sparsity would do nothing beside --target"),
        (("--target", "speed=0.5"), "a target is one of macs, latency, bytes, parameters"),
        (("--target", "macs=0.01"), "cannot be reached on this model: the nearest is"),
        (("--target", "macs=0.5", "--pattern", "2:4"), "removes whole channels"),
        (("--target", "parameters=0.5", "--method", "gmp"), "gmp trains. Give the sparsity"),
    ):
        assert prune(project, *flags, "--out", str(tmp_path / "no")) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_folders_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    from tests import causal_world
    from tests.io import test_text_folder
    from unweave.io.causal_lm import load_causal_lm

    monkeypatch.chdir(tmp_path)
    test_text_folder.bert(tmp_path / "bert")
    test_text_folder.write(tmp_path / "reviews.csv", test_text_folder.rows())
    causal_world.folder(tmp_path / "llama")
    causal_world.running(tmp_path / "texts.txt")
    reviews = ("bert", "--data", "reviews.csv")
    stories = ("llama", "--calibration", "texts.txt", "--length", "16")
    channels = ("--pattern", "channel", "--sparsity", "0.5", "--shrink")

    assert (
        main(["prune", *reviews, "--scan", "--scan-at", "0.5", "--pattern", "channel", "--out", "scan"]) == 0
    )
    found = Scanned.read(Path("scan"))
    assert {"bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"} <= found.layers.keys()
    assert "<svg" in found.page.read_text()

    assert main(["prune", *stories, "--target", "macs=0.7", "--out", "macs"]) == 0
    told = capsys.readouterr()
    assert "implies --pattern channel --shrink" in told.err
    before, after, _ = Pruned.read(Path("macs")).figures["multiplications an example"]
    assert 0.5 < after / before <= 0.7
    assert "answers as the one in memory" in told.out
    assert load_causal_lm(Path("macs/model")) is not None

    assert main(["prune", *stories, *channels, "--heads", "queries", "--packed", "--out", "queries"]) == 0
    config = transformers.AutoConfig.from_pretrained("queries/model")
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 2)
    told = capsys.readouterr()
    assert "no other library" in told.out
    assert "from_pretrained reads" not in told.out

    for flags, message in (
        ((*reviews, *channels, "--heads", "queries"), "no query heads of this model share keys and values"),
        ((*reviews, "--heads", "queries"), "nothing without --pattern channel"),
        ((*reviews, "--target", "macs=0.5", "--method", "sparse-gpt"), "sparse-gpt prunes single weights"),
        ((*reviews, "--scan", "--scan-examples", "0"), "--scan-examples must be a whole number"),
        ((*reviews, "--scan", "--method", "prosparse"), "prosparse trains"),
        ((*reviews, "--target", "macs=1.5"), "above 0 and below 1; got 1.5"),
    ):
        assert main(["prune", *flags, "--out", "no"]) == 2
        assert message in capsys.readouterr().err
