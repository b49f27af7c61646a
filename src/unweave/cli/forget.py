"""`unweave forget`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ..jobs.forget import ForgetJob, UnsuitedWarning
from ..jobs.texts import with_adapters
from ._flags import with_methods
from ._forget_exact import exact_folder, forget_exact
from ._judged import carry_out, judged
from ._ledger_serve import serve
from ._named import unlearner
from ._parse import named_methods, parse
from ._selection import Selection, subject_of

EXAMPLE = """  unweave forget
  unweave forget project.py --model model.safetensors --ids delete.txt --out runs/req-17
  unweave forget ./vit-checkpoint --data imagefolder:./pets --classes beagle
  unweave forget --classes 3 --method short-retrain --short-retrain.fraction 0.5 --compare fine-tune scrub
  unweave forget project.py --model model.safetensors --where user=4711 --dry-run
  unweave forget ./llm --data qa.jsonl --base ./base --epochs 5 --where author="J. Doe" --method npo --npo.lr 2e-5
  unweave forget runs/train-1a2b3c4d --ids delete.txt       (trained with --exact: switched off, not edited)
  unweave forget --ledger ./deletions                       (what is open there, all that went before kept out)

Without --method one is chosen by the request, and it is said why. `--method a+b` puts b inside a: `unprune+scrub`
un-prunes around SCRUB. Each method named adds its flags: add --help."""
EMBEDDED = ("--classes", "3", "--compare", "unprune+continue", "salun")
"""What `unweave forget` alone stands for."""
NAMED = {
    "--method", "--compare", "--ids", "--classes", "--where", "--random", "--model", "--data", "-h", "--help"
}  # fmt: skip
"""Flags beside which it does not."""


@dataclass(frozen=True, kw_only=True)
class Forget(Selection):
    """Take data out of a trained model: edit it, retrain without the data to compare, audit, report.

    Attributes:
        method: how to forget; see `unweave list --family unlearn`. Chosen by the request unless given.
        compare: further methods to run and report beside it.
        edits: edited models of each method, from as many models that hold the data, whose mean is judged: what a
            request of a few examples needs.
    """

    method: str = ""
    compare: tuple[str, ...] = ()
    edits: int = 1


Forget.__doc__ = f"{Forget.__doc__}".rstrip() + "\n" + (Selection.__doc__ or "").partition("Attributes:\n")[2]


def run(argv: Sequence[str]) -> int:
    """Forget. Exit code 0 if the verdict is `forgotten` (of an exact model: if no bit differs), else 3."""
    if any(a.partition("=")[0] == "--ledger" for a in argv):
        return serve(_ledger_first(argv))
    if (folder := exact_folder(argv)) is not None:
        return forget_exact(folder, argv)
    alone = _nothing_named(argv)
    argv = [*EMBEDDED, *argv] if alone else argv
    chains = [*named_methods(argv, ("--method",), ""), *named_methods(argv, ("--compare",), "")]
    options = with_methods(Forget, [chain for chain in chains if chain])
    asked = parse(options, argv, command="forget", example=EXAMPLE)
    subject = subject_of(asked)
    names = dict.fromkeys((asked.method, *asked.compare) if asked.method else asked.compare)
    edits = {chain: unlearner(chain, asked, subject) for chain in names}
    subject = with_adapters(subject, edits) if asked.text_files.output == "lora" else subject
    how: dict[str, Any] = {"edits": edits} if asked.method else {"compare": edits}
    job = ForgetJob(**how, several=asked.edits, **judged(asked, subject))
    said = [f"unweave forget {' '.join(argv)}"] if alone and not asked.json else []
    said += [f"chosen: {job.choice}"] if job.choice is not None else []
    said += [f"deleted before: {subject.before}"] if subject.before.requests else []
    said += [f"warning: {doubt}" for doubt in job.doubts]
    for line in said:
        Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsuitedWarning)  # said above
        return carry_out(job, asked, "forget", argv)


def _ledger_first(argv: Sequence[str]) -> list[str]:
    """The arguments of `unweave ledger serve`: the folder that --ledger names, then the rest."""
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag == "--ledger":
            given = [value] if equals else list(argv[i + 1 : i + 2])
            return [*given, *argv[:i], *argv[i + (1 if equals else 2) :]]
    return list(argv)


def _nothing_named(argv: Sequence[str]) -> bool:
    """Whether neither a project nor a request nor a method is named: then the embedded example runs."""
    flags = {argument.partition("=")[0] for argument in argv}
    values = [
        a
        for before, a in zip(["", *argv], argv, strict=False)
        if not before.startswith("--") or "=" in before
    ]
    return not flags & NAMED and not any(not a.startswith("-") for a in values)
