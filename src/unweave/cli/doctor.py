"""`unweave doctor`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

from rich.console import Console

from ._parse import parse

CORE = (
    "torch", "numpy", "scipy", "sklearn", "joblib", "cloudpickle", "safetensors", "matplotlib", "jinja2", "tyro",
    "rich",
)  # fmt: skip
EXTRAS = {
    "accelerate": "distributed", "transformers": "vision", "PIL": "vision",
    "torch_pruning": "prune", "pyarrow": "parquet", "diffusers": "diffusion", "peft": "language",
    "pytorch_optimizer": "optim", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "ray": "ray",
    "cryptography": "ledger", "tensorboard": "track",
}  # fmt: skip


@dataclass(frozen=True)
class Doctor:
    """Check Python, the packages unweave uses, and the machine; say how to mend what is broken.

    Attributes:
        json: print JSON instead of text.
    """

    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Check this machine. Exit code 2 if something needed is absent or broken."""
    asked: Doctor = parse(Doctor, argv, command="doctor", example="  unweave doctor")
    checks = [
        *(_package(name, None) for name in CORE),
        *(_package(n, extra) for n, extra in EXTRAS.items()),
        _torchvision(),
    ]
    broken = [c for c in checks if c["state"] in ("broken", "absent, needed")]
    if asked.json:
        report = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "checks": checks,
            "healthy": not broken,
        }
        Console(highlight=False, soft_wrap=True).print(json.dumps(report, indent=1), markup=False)
        return 2 if broken else 0
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {_accelerator()}", markup=False)
    for check in checks:
        out.print(f"  {check['name']:14} {check['state']:16} {check['detail']}", markup=False)
    out.print(
        "All that unweave needs is here." if not broken else "Mend what is marked broken or needed.",
        markup=False,
    )
    return 2 if broken else 0


def _package(name: str, extra: str | None) -> dict[str, str]:
    if util.find_spec(name) is None:
        cure = "pip install unweave" if extra is None else f"optional: pip install 'unweave[{extra}]'"
        return {"name": name, "state": "absent, needed" if extra is None else "absent", "detail": cure}
    return _imported(name)


def _torchvision() -> dict[str, str]:
    if util.find_spec("torchvision") is None:
        return {"name": "torchvision", "state": "absent", "detail": "good: unweave never needs it"}
    check = _imported("torchvision")
    if check["state"] == "broken":
        check["detail"] += (
            ". It breaks transformers and others at import: pip uninstall torchvision, "
            "or install the one made for this torch"
        )
    return check


def _imported(name: str) -> dict[str, str]:
    # In a process of its own: a broken package can take the interpreter down.
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"name": name, "state": "broken", "detail": last}
    distribution = {"sklearn": "scikit-learn", "PIL": "pillow", "torch_pruning": "torch-pruning"}.get(
        name, name
    )
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = "?"
    return {"name": name, "state": "ok", "detail": version}


def _accelerator() -> str:
    try:
        import torch
    except Exception:
        return "torch does not import"
    return f"{torch.cuda.device_count()} GPU" if torch.cuda.is_available() else "no GPU"
