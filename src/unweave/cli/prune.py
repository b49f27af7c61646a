"""`unweave prune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..catalogue import find
from ..jobs.language import Texts
from ..jobs.opened import Folder
from ..jobs.tracking import Tracker
from ..masks.patterns import Heads
from ..masks.scope import Scope
from . import _prune_pipeline
from ._flags import with_methods
from ._parse import carried_out, named_methods, parse
from ._pruners import PRUNING
from ._scanning import Scanning, as_targeted, prune_job, scan_job

EXAMPLE = """  unweave prune --sparsity 0.9
  unweave prune project.py --model model.safetensors --sparsity 0.95 --recover-epochs 5 --out runs/small
  unweave prune ./vit-checkpoint --data imagefolder:./pets --method wanda --pattern 2:4 --out runs/vit-24
  unweave prune project.py --pattern channel --skip encoder.stem "decoder.*" --shrink
  unweave prune project.py --method gmp --gmp.epochs 30 --sparsity 0.95
  unweave prune ./pipeline --method laptop-diff --keep 0.5 --prompts prompts.txt   # whole layers
  unweave prune ./llama --calibration wikitext.txt --method sparse-gpt --sparsity 0.5 --recover lora --out runs/llama-50
  unweave prune project.py --model model.safetensors --scan                 # which layers are sensitive; prunes nothing
  unweave prune project.py --model model.safetensors --target latency=0.6   # or macs=, bytes=, parameters=

A method adds its flags: add --help. Those that train sparsely from the start: unweave train --help."""


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zero the weights a trained model needs least, train on under the mask, and measure before and after.

    Attributes:
        project: your project.py, a transformers folder (of a classifier, or with --calibration of a language model), or
            nothing for the embedded digits.
        model: weights of the trained model. Without it the model is trained first, by the recipe without its pruning.
        folder: for a classifier's transformers folder.
        texts: for a language model's.
        method: what says how much a weight matters (magnitude, snip, wanda, ...), or how to prune (gmp, sparse-gpt,
            ...); see `unweave list --family prune`.
        sparsity: share of the weights to remove, in [0, 1); 0.9 unless given, 0.5 of a language model. N:M patterns
            fix it themselves.
        pattern: "unstructured", "channel" (whole filters), or N:M such as "2:4" (where M divides the inputs).
        heads: of attention whose query heads share keys and values, what a channel is: "groups", a key-value head with
            all its queries, or "queries", as many query heads of each.
        budget: "global" ranks all layers together, "uniform" prunes each alike, "erk" spares small layers; "uniform" of
            channels unless given, or else "global".
        only: names of layers or weights, or patterns such as "encoder.*": just these are pruned. All, unless given.
        skip: the same; these stay dense.
        least: share of the matrix weights, apart from those named, that must be looked at; or nothing is pruned.
        recover_epochs: epochs of training under the mask afterwards, by the recipe, or by AdamW where the recipe can
            only train as a whole.
        recover_lr: peak learning rate of these; the recipe's own unless given, 1e-3 for AdamW.
        recover: recover in a way of its own, for one pass unless --recover-epochs says more: "full" trains all weights
            that are left, "lora" low-rank adapters, merged under the mask (needs peft), "distil" all on the unpruned
            model's answers.
        target: what the pruned model may cost at most, as a share of the dense one: macs=0.5, latency=0.6 (measured
            on this machine), bytes=0.3 or parameters=0.5; the sparsity is searched for. Channels are removed for the
            first two, weights packed for bytes, unless another pattern is named.
        scanning: what is measured instead.
        packed: write of sparse weights those alone that live, and a bit a position: few bytes, read by unweave alone.
        onnx: write model.onnx too, and check that ONNX Runtime answers the same.
        recalibrate: measure batch normalisation again on the training data after a pruning at once.
        shrink: remove dead channels, heads and units for real, so that the model is smaller (pattern "channel").
        width: with shrink, cut a transformer's width too; outputs change, so recover.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print JSON.
    """

    project: tyro.conf.Positional[str] = ""
    model: Path | None = None
    folder: Annotated[Folder, tyro.conf.arg(name="")] = Folder()
    texts: Annotated[Texts, tyro.conf.arg(name="")] = Texts()
    method: str = "magnitude"
    sparsity: float | None = None
    pattern: str = "unstructured"
    heads: Heads = "groups"
    budget: Literal["global", "uniform", "erk"] | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    least: float = Scope().least
    recover_epochs: int = 0
    recover_lr: float | None = None
    recover: Literal["full", "lora", "distil"] | None = None
    recalibrate: bool = True
    target: str | None = None
    scanning: Annotated[Scanning, tyro.conf.arg(name="")] = Scanning()
    packed: bool = False
    shrink: bool = False
    width: bool = True
    onnx: bool = False
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Prune."""
    chooser = (find("paser"),) if any(a.partition("=")[0] == "--instructions" for a in argv) else ()
    named = named_methods(argv, ("--method",), "magnitude")
    if _prune_pipeline.METHOD in named:
        return _prune_pipeline.run(argv)
    options = with_methods(Prune, named, also=chooser, skip=PRUNING)
    asked: Any = parse(options, argv, command="prune", example=EXAMPLE)
    job = scan_job(asked) if asked.scanning.scan else prune_job(as_targeted(asked))
    carried_out(job, asked, "prune", argv, asked.project, job.subject.model, asked.seed)
    return 0
