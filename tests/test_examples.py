"""Every script in examples/ runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CIFAR = ROOT.parent / "shared" / "data" / "cifar10"


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )


def test_digits(tmp_path: Path) -> None:
    done = run(sys.executable, str(ROOT / "examples" / "digits.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy on forgotten examples" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="the shared data folder is not there")
def test_cifar10_project_with_a_pruned_resnet(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    project = str(ROOT / "examples" / "cifar10" / "project.py")
    small = {"SPARSITY": "0.9", "EXAMPLES": "200", "EPOCHS": "1", "UNWEAVE_CACHE": str(tmp_path / "cache")}
    done = run(
        sys.executable, "-m", "unweave", "forget", project, "--classes", "dog", "--method", "unprune+continue",
        "--unprune.scout-epochs", "1", "--continue.epochs", "1", "--oracles", "1", "--holders", "1", "--out", "run",
        cwd=tmp_path, **small,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "20 of 200 training examples, all of class dog" in done.stdout
    assert (tmp_path / "run" / "model" / "mask.safetensors").is_file()
