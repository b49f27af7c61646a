"""A card beside an edited model: README.md as model hubs show it, with the verdict and what it does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..audit.result import Audit
from . import words
from .markdown import plain
from .models import value_text

FILE = "README.md"
MADE = "Made by unweave, which writes this card beside every model that it edits."
Library = Literal["pytorch", "transformers", "diffusers", "peft"]
STILL = "The model before still holds what was taken out of this one."


def audit_card(
    audit: Audit, *, library: Library, made: str = "", request: str = "", former: Path | None = None
) -> str:
    """The card of a model that something was taken out of.

    Args:
        audit: of this model.
        library: that reads it.
        made: what the model is, in a few words.
        request: what was taken out, in words that name nobody.
        former: folder of the model before; what its card says is kept below ours.
    """
    verdict = audit.verdict
    lines = [f"**{audit.word.symbol} {verdict.outcome.capitalize()}.** {plain(audit.word.meaning)}", ""]
    lines += [plain(verdict.why), ""]
    facts = {"taken out": request, "of": made, "by": audit.method}
    lines += ["| | |", "| --- | --- |", *(f"| {k} | {plain(v)} |" for k, v in facts.items() if v), ""]
    lines += ["### Why the verdict can, or cannot, be trusted", ""]
    lines += [f"- {symbol} {plain(sentence)}" for symbol, sentence in audit.tested] or [
        f"- {words.untested(audit)}"
    ]
    if audit.measurements:
        lines += ["", "### Figures", ""]
        lines += [
            "| measurement | this model | the model before | retrained without it |",
            "| --- | --- | --- | --- |",
        ]
    for m in audit.measurements:
        if m.name.startswith("time "):  # another on each machine, and no fact about the model
            continue
        before = "–" if m.original is None else words.number(m.original) + words.unit(m)
        cells = (m.name, words.value_text(m), before, words.oracle_text(m))
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    lines += ["", "### What this does not say", ""]
    lines += [f"- {plain(c)}" for c in (*words.caveats(audit), STILL)]
    kind = {
        "classifier": "machine-unlearning",
        "drawing": "concept-erasure",
        "language": "machine-unlearning",
    }[audit.kind]
    title = {
        "classifier": "A model that was asked to forget",
        "drawing": "A pipeline that concepts were taken out of",
        "language": "A language model that was asked to forget",
    }
    return _whole(title[audit.kind], lines, library, ("unweave", kind), former)


def library_of(model: Path) -> Library:
    """What reads a model's folder, by the file that describes it."""
    if (model / "model_index.json").is_file():
        return "diffusers"
    if (model / "adapter_config.json").is_file():
        return "peft"
    return "transformers" if (model / "config.json").is_file() else "pytorch"


def pruned_card(
    figures: Mapping[str, tuple[float, float, str]],
    *,
    library: Library,
    method: str,
    made: str = "",
    notes: Sequence[str] = (),
    former: Path | None = None,
) -> str:
    """The card of a pruned model.

    Args:
        figures: name -> before, after, unit.
        library: that reads it.
        method: by which weights were chosen.
        made: what the model is, in a few words.
        notes: sentences on what was passed over, and on how it is read.
        former: folder of the model before; what its card says is kept below ours.
    """
    lines = [f"Pruned by {plain(method)}." + (f" It was {plain(made)}." if made else ""), ""]
    lines += ["| measurement | before | after |", "| --- | --- | --- |"]
    for name, (before, after, unit) in figures.items():
        if name.startswith("time "):
            continue
        cells = (f"{words.number(v, digits=4)} {unit}".strip() for v in (before, after))
        lines.append(f"| {plain(name)} | {' | '.join(plain(c) for c in cells)} |")
    lines += ["", *(f"- {plain(sentence)}" for sentence in notes)]
    return _whole("A pruned model", lines, library, ("unweave", "pruning"), former)


def exact_card(
    title: str,
    lead: Sequence[str],
    figures: Mapping[str, tuple[float, str]],
    limits: Sequence[str],
    *,
    made: str = "",
) -> str:
    """The card of a model in shards that examples were deleted from.

    Args:
        title: what came out.
        lead: what was done, in sentences.
        figures: name -> (value, unit).
        limits: what is not covered, a sentence each.
        made: what the model is, in a few words.
    """
    lines = [f"**{title}.** " + " ".join(map(plain, lead)), ""]
    lines += [f"It is of {plain(made)}.", ""] if made else []
    lines += ["### Figures", "", "| measurement | value |", "| --- | --- |"]
    for name, (value, unit) in figures.items():
        if not name.startswith("time "):
            lines.append(f"| {plain(name)} | {plain(f'{value_text(value)} {unit}'.strip())} |")
    lines += ["", "### What this does not say", "", *(f"- {plain(one)}" for one in limits)]
    return _whole(
        "A model that was asked to forget", lines, "pytorch", ("unweave", "machine-unlearning"), None
    )


def _whole(
    title: str, lines: Sequence[str], library: Library, tags: Sequence[str], former: Path | None
) -> str:
    front, text = _former(former)
    head = front or "\n".join(
        ["---", f"library_name: {library}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    )
    body = "\n".join([f"# {title}", "", *lines, "", MADE, ""])
    rest = f"\n# The card of the model before\n\n{text.strip()}\n" if text.strip() else ""
    return f"{head}\n{body}{rest}"


def _former(folder: Path | None) -> tuple[str, str]:
    """Front matter and text of the card in a folder; a card that was written here is not repeated."""
    file = None if folder is None or not folder.is_dir() else folder / FILE
    if file is None or not file.is_file() or file.is_symlink():
        return "", ""
    text = file.read_text(encoding="utf-8", errors="replace")
    front = ""
    if text.startswith("---\n") and (end := text.find("\n---\n", 3)) > 0:
        front, text = text[: end + 5], text[end + 5 :]
    if MADE in text:
        _, _, text = text.partition("\n# The card of the model before\n")
    return front, text
