"""`unweave uncertainty`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import find
from ..jobs.tracking import Tracker
from ..jobs.uncertainty import open_uncertainty
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, parse

METHOD = "uq-icl"
EXAMPLE = """  unweave uncertainty ./llm --demonstrations shown.jsonl --texts asked.jsonl
  unweave uncertainty ./llm --demonstrations shown.jsonl --texts asked.jsonl --uq-icl.sets 8 --uq-icl.orders 3
  unweave uncertainty ./llm --demonstrations shown.jsonl --texts asked.jsonl --verbaliser names --uq-icl.calibrate
  unweave uncertainty ./llm --demonstrations shown.jsonl --texts asked.jsonl --uq-icl.scoring samples

A line of --demonstrations is {"text": "what a day", "label": "joy"}; a line of --texts the same, or without a label.
Each text is asked about with several sets of demonstrations. What is within a set is the model's own doubt; what is
between sets comes from the examples it was shown: where that is large, better ones help. With labels the report says
whether the doubt tells errors, and how many are left when the least sure texts are passed on to somebody else."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Say what a language model that classifies by examples in its prompt is unsure of, and where that comes from.

    Attributes:
        model: folder of a causal language model of transformers, with its tokenizer.
        demonstrations: .jsonl file of labelled texts to draw examples from.
        texts: .jsonl file of texts to classify; with labels, errors are told as well.
        labels: all there are, in the order of their numbers; those of the demonstrations, sorted, unless given.
        instruction: first words of every prompt; must name each label as it is to be answered.
        verbaliser: whether the model answers by a label's number ("digits") or by its name.
        seed: governs the whole run.
        out: folder of the run, where the same command goes on; named by the settings unless given.
        tracker: also tell an experiment tracker: settings, and the figures at the end.
        json: print everything found as JSON.
    """

    model: tyro.conf.Positional[str]
    demonstrations: Path
    texts: Path
    labels: tuple[str, ...] = ()
    instruction: str | None = None
    verbaliser: Literal["digits", "names"] = "digits"
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Ask, divide, report."""
    asked: Any = parse(with_methods(Uncertainty, [METHOD]), argv, command="uncertainty", example=EXAMPLE)
    job = open_uncertainty(
        asked.model, demonstrations=asked.demonstrations, texts=asked.texts, labels=asked.labels,
        instruction=asked.instruction, verbaliser=asked.verbaliser, method=make(find(METHOD), asked), seed=asked.seed,
    )  # fmt: skip
    carried_out(job, asked, "uncertainty", argv, asked.model, asked.demonstrations, asked.texts, asked.seed)
    return 0
