"""`unweave condense`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import find
from ..errors import InputError
from ..jobs.condense import CondenseJob
from ..jobs.tracking import Tracker
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, named_methods, parse

EXAMPLE = """  unweave condense ./moe --calibration texts.jsonl
  unweave condense ./moe --calibration texts.jsonl --memory 0.725 --recover light --out runs/small
  unweave condense ./moe --calibration texts.jsonl --cd-moe.layers 9 --cd-moe.k 6
  unweave condense ./moe --calibration code.jsonl --method reap --memory 0.6
  unweave condense ./moe --calibration task.jsonl --method uncurl --recover lora --options questions.jsonl
  unweave condense ./mixtral --calibration texts.jsonl --method naee --naee.experts 6

A method adds its flags: add --help. All of them: unweave list --family experts."""

TUNED: dict[str, Any] = {"none": "none", "light": "lm", "lora": "lora", "distil": "distil"}
NAMED = {"reap": "expert-pruning"}
"""Names of settings that people know as methods."""


@dataclass(frozen=True, kw_only=True)
class Condense:
    """Make a mixture of experts smaller, and measure what that cost beside two baselines at no more memory.

    Attributes:
        folder: of a causal language model of transformers with experts, and its tokenizer.
        calibration: texts: a .txt, or a .jsonl with "text", or "prompt" and "answer". Every tenth sequence is held out.
        heldout: texts to measure on instead.
        method: cd-moe (condense whole layers), reap or expert-pruning (drop experts), naee, hc-smoe, mc-smoe,
            uncurl (merge by a task's routing).
        memory: share of the parameters to end with, at most; the method's own (0.725) unless given.
        options: a .jsonl of {"prompt", "options", "answer"}: how many are answered right, before and after.
        recover: "light" tunes the experts that are left (cd-moe: of condensed layers; uncurl: every weight) on the
            calibration texts, "lora" a low-rank change of them, "distil" towards the original's predictions.
        length: tokens of the longest sequence.
        baselines: measure two baselines at no more memory.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print JSON.
    """

    folder: tyro.conf.Positional[Path]
    calibration: Path
    heldout: Path | None = None
    method: str = "cd-moe"
    memory: float | None = None
    options: Path | None = None
    recover: Literal["none", "light", "lora", "distil"] = "none"
    length: int = 256
    baselines: bool = True
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Condense."""
    named = [NAMED.get(name, name) for name in named_methods(argv, ("--method",), "cd-moe")]
    options = with_methods(Condense, named, skip=("memory", "recover"))
    asked: Any = parse(options, argv, command="condense", example=EXAMPLE)
    method = _method(asked)
    job = CondenseJob(
        folder=asked.folder, calibration=asked.calibration, heldout=asked.heldout, method=method, options=asked.options,
        length=asked.length, baselines=asked.baselines, seed=asked.seed,
        recover="none" if hasattr(method, "recover") else TUNED[asked.recover],
    )  # fmt: skip
    carried_out(job, asked, "condense", argv, asked.folder, asked.calibration, asked.seed)
    return 0


def _method(asked: Any) -> Any:
    method = find(NAMED.get(asked.method, asked.method))
    if method.family != "experts" or method.role != "Edit":
        raise InputError(f"{method.name} condenses no experts. See: unweave list --family experts.")
    given: dict[str, Any] = {} if asked.memory is None else {"memory": asked.memory}
    fields = {f.name for f in dataclasses.fields(method.cls)}
    if "recover" in fields and asked.recover != "none":
        given["recover"] = TUNED[asked.recover]
    own = {f.name: f.default for f in dataclasses.fields(method.cls) if f.name in ("memory", "recover")}
    return make(method, asked, own | given)
