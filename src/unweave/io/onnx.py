"""Models as ONNX files, run once to see that they answer the same."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, IntegrityError, require
from ..tasks import evaluating
from .files import written_beside


def export_onnx(
    model: Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Path:
    """Write a model as an ONNX file with a free batch dimension, whole or not at all.

    Args:
        model: takes one tensor; returns a tensor, or an object with `.logits`. Exported in eval mode.
        example: an input, [n, ...].
        path: file to write, usually *.onnx.
        opset: version of ONNX's operators; runtimes older than the file's cannot read it.
        check: run the file in ONNX Runtime on `example`, and on one example of it, and compare.
        tolerance: largest difference allowed, relative to the largest output, for float32.

    Returns:
        `path`.

    Raises:
        MissingExtraError: if onnx, onnxscript or (for `check`) onnxruntime is absent.
        InputError: if the model cannot be exported.
        IntegrityError: if ONNX Runtime answers otherwise; nothing is written.
        StorageError: if the file cannot be written.
    """
    for module in ("onnx", "onnxscript", *(("onnxruntime",) if check else ())):
        require(module, extra="onnx", purpose="exporting to ONNX")
    if example.ndim < 1 or len(example) < 1:
        raise InputError(f"export_onnx needs an example input [n, ...]; got shape {tuple(example.shape)}.")
    path = Path(path)
    wrapped = _Logits(model)
    several = example if len(example) > 1 else torch.cat([example, example])
    with evaluating(wrapped):
        expected = [wrapped(several), wrapped(several[:1])]
        with written_beside(path) as beside:
            _export(wrapped, several, beside, opset)
            if check:
                _compare(beside, several, expected, tolerance)
    return path


class _Logits(Module):
    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        logits: Tensor = out.logits if hasattr(out, "logits") else out
        return logits


def _export(model: Module, example: Tensor, path: Path, opset: int) -> None:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (example,), str(path), input_names=["input"], output_names=["output"], dynamo=True,
                dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}}, external_data=False, verbose=False,
                opset_version=opset,
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever the model's code led it to
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{type(model.model).__name__} cannot be exported to ONNX: {reason}.") from error
    finally:
        quiet.setLevel(level)


def _compare(path: Path, example: Tensor, expected: list[Tensor], tolerance: float) -> None:
    runtime: Any = require("onnxruntime", extra="onnx", purpose="checking an ONNX file")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for inputs, wanted in zip((example, example[:1]), expected, strict=True):
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.cpu().numpy()})
        gap = float((torch.from_numpy(found) - wanted.cpu()).abs().max()) / max(
            1.0, float(wanted.abs().max())
        )
        if not gap <= tolerance:
            raise IntegrityError(
                f"ONNX Runtime's answers differ from the model's by {gap:.2g} of the largest one, more than "
                f"{tolerance:g}. Nothing was written."
            )
