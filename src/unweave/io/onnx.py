"""Models as ONNX files, run once to see that they answer the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
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
    example: Tensor | Mapping[str, Tensor],
    path: Path,
    *,
    opset: int = 18,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Path:
    """Write a model as an ONNX file with a free batch dimension, whole or not at all.

    Args:
        model: takes one tensor, or keyword arguments; returns a tensor, or an object with `.logits`. Exported in eval
            mode.
        example: an input, [n, ...]; or a dictionary of keyword arguments, each [n, ...], whose names the file's inputs
            have.
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
    inputs = _inputs(example)
    path = Path(path)
    wrapped = _Logits(model, keywords=not isinstance(example, Tensor))
    several = {name: t if len(t) > 1 else torch.cat([t, t]) for name, t in inputs.items()}
    one = {name: t[:1] for name, t in several.items()}
    with evaluating(wrapped):
        expected = [(given, wrapped(given)) for given in (several, one)]
        with written_beside(path) as beside:
            _export(wrapped, several, beside, opset)
            if check:
                _compare(beside, expected, tolerance)
    return path


def _inputs(example: Any) -> dict[str, Tensor]:
    """Name -> input; those of a dictionary under their own names."""
    inputs = (
        {"input": example}
        if isinstance(example, Tensor)
        else dict(example)
        if isinstance(example, Mapping)
        else {}
    )
    shapes = {
        name: tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for name, t in inputs.items()
    }
    if not inputs or not all(isinstance(t, Tensor) and t.ndim and len(t) for t in inputs.values()):
        raise InputError(
            "export_onnx needs an example input [n, ...], or a dictionary of such tensors by the names of the model's "
            f"arguments; got {shapes or type(example).__name__}."
        )
    if len({len(t) for t in inputs.values()}) > 1:
        raise InputError(f"export_onnx needs inputs of one batch; got {shapes}.")
    return inputs


class _Logits(Module):
    def __init__(self, model: Module, keywords: bool) -> None:
        super().__init__()
        self.model, self.keywords = model, keywords

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        out = self.model(**inputs) if self.keywords else self.model(*inputs.values())
        logits: Tensor = out.logits if hasattr(out, "logits") else out
        return logits


def _export(model: Module, inputs: dict[str, Tensor], path: Path, opset: int) -> None:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (), str(path), kwargs={"inputs": inputs}, input_names=list(inputs), output_names=["output"],
                dynamo=True, dynamic_shapes={"inputs": {name: {0: batch} for name in inputs}}, external_data=False,
                verbose=False, opset_version=opset,
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever the model's code led it to
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{type(model.model).__name__} cannot be exported to ONNX: {reason}.") from error
    finally:
        quiet.setLevel(level)


def _compare(path: Path, expected: Sequence[tuple[dict[str, Tensor], Tensor]], tolerance: float) -> None:
    runtime: Any = require("onnxruntime", extra="onnx", purpose="checking an ONNX file")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    read = {entry.name for entry in session.get_inputs()}  # one that changes nothing is not part of the file
    for inputs, wanted in expected:
        (found,) = session.run(None, {name: t.cpu().numpy() for name, t in inputs.items() if name in read})
        gap = float((torch.from_numpy(found) - wanted.cpu()).abs().max()) / max(
            1.0, float(wanted.abs().max())
        )
        if not gap <= tolerance:
            raise IntegrityError(
                f"ONNX Runtime's answers differ from the model's by {gap:.2g} of the largest one, more than "
                f"{tolerance:g}. Nothing was written."
            )
