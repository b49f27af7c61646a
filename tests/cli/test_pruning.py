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
        (("--scan", "--scan-at", "1.5"), "different shares above 0 and below 1"),
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
