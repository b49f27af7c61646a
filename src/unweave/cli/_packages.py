"""Which packages import, which are absent or broken, and how to mend them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util

CORE = (
    "torch", "numpy", "scipy", "sklearn", "joblib", "cloudpickle", "safetensors", "matplotlib", "jinja2", "tyro",
    "rich",
)  # fmt: skip
EXTRAS = {
    "accelerate": "distributed", "transformers": "vision", "PIL": "vision",
    "torch_pruning": "prune", "pyarrow": "parquet", "diffusers": "diffusion", "peft": "language",
    "pytorch_optimizer": "optim", "av": "video", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx",
    "ray": "ray", "cryptography": "ledger", "tensorboard": "track",
}  # fmt: skip

CALLED = {"sklearn": "scikit-learn", "PIL": "pillow", "torch_pruning": "torch-pruning"}
TOGETHER = """
for name in {names}:
    try: __import__(name); print("fine", name, flush=True)
    except Exception: pass
"""


def checked() -> list[dict[str, str]]:
    """Name, state (ok, absent, "absent, needed" or broken) and detail of every package that unweave can use."""
    names = [*CORE, *EXTRAS, "torchvision"]
    fine = _import_together([name for name in names if util.find_spec(name) is not None])
    return [
        *(_package(name, EXTRAS.get(name), name in fine) for name in names[:-1]),
        _torchvision("torchvision" in fine),
    ]


def _package(name: str, extra: str | None, fine: bool) -> dict[str, str]:
    if util.find_spec(name) is None:
        cure = "pip install unweave" if extra is None else f"optional: pip install 'unweave[{extra}]'"
        return {"name": name, "state": "absent, needed" if extra is None else "absent", "detail": cure}
    return _imported(name, fine)


def _torchvision(fine: bool) -> dict[str, str]:
    if util.find_spec("torchvision") is None:
        return {"name": "torchvision", "state": "absent", "detail": "good: unweave never needs it"}
    check = _imported("torchvision", fine)
    if check["state"] == "broken":
        check["detail"] += (
            ". It breaks transformers and others at import: pip uninstall torchvision, "
            "or install the one made for this torch"
        )
    return check


def _import_together(names: Sequence[str]) -> set[str]:
    """Which of the packages import, one after another in one process; an end of it leaves the rest unknown."""
    done = _python(TOGETHER.format(names=[*names]))
    return {line.split()[1] for line in done.stdout.splitlines() if line.startswith("fine ")}


def _imported(name: str, fine: bool) -> dict[str, str]:
    # Alone, if it did not import among the others: what is broken beside it is no fault of its own.
    if not fine and (done := _python(f"import {name}")).returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"name": name, "state": "broken", "detail": last}
    try:
        version = metadata.version(CALLED.get(name, name))
    except metadata.PackageNotFoundError:
        version = "?"
    return {"name": name, "state": "ok", "detail": version}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: a broken package can take the interpreter down.
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
