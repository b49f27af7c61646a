"""What is told of the claims: a page a family with a forest plot, a summary, and the claim's part of a method's card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import escape

from claims.effects import CONTRADICTED, HOLDS, NOT_RUN, NOT_SHOWN, STATUSES, Finding
from claims.forest import SIGN, forest, legend
from claims.framework import Claim, claim_names, claim_status, findings, read_claim, read_result

DOCS = Path(__file__).parent.parent / "docs"
FAMILY = {
    "unlearn": "Forget data and classes",
    "erase": "Erase concepts",
    "prune": "Prune and train sparsely",
    "experts": "Condense, prune and merge mixtures of experts",
    "optim": "Optimisers and stabilisers",
    "augment": "Augment",
    "language": "Make language models forget texts",
    "generate": "Draw",
    "interpret": "Look inside",
    "restore": "Restore and deliver",
}
"""Family -> words for a heading; others are called by their own name."""

MEANING = {
    HOLDS: "the whole interval lies on the claim's side of the margin that the claim asks for",
    NOT_SHOWN: "the margin lies within the interval: these seeds cannot tell",
    CONTRADICTED: "the whole interval lies on the other side of the margin",
    NOT_RUN: "no result is stored",
}
BOX = {HOLDS: "success", NOT_SHOWN: "info", CONTRADICTED: "failure", NOT_RUN: "note"}
"""Status -> kind of the box on a card."""

READING = """A claim compares figures that were measured over at least three seeds, paired: both sides of a seed share its data and its
beginnings. An effect is the mean of the differences seed by seed, taken so that it is positive where the paper is right, with
its 95 % interval (Student's t). Some claims ask for a margin, or that every seed reach it; both were fixed before the first run.

{statuses}

A claim holds if all its headline effects hold, and is contradicted if one of them is; faint effects stand beside and decide
nothing. Most claims here have three seeds, whose intervals are wide: *not shown* is no verdict against a method, and
*contradicted* means that the margin was missed for sure, on this data, at this size; the direction may still be the paper's.
Where all seeds agree to the digit (often at 0 or 100 %) the interval is one value, which says that the seeds do not differ, not
that the effect is known exactly. Where a claim concerns one method at several settings, the best of them by its mean counts.
"""


def family_names() -> list[str]:
    """Families that have claims, in the order of `FAMILY`."""
    found = {name.partition("/")[0] for name in claim_names()}
    return [f for f in FAMILY if f in found] + sorted(found - FAMILY.keys())


def pages() -> dict[str, str]:
    """Path below docs/ -> text, of every page on claims."""
    return {"claims/index.md": index(), **{f"claims/{f}.md": family_page(f) for f in family_names()}}


def counts(names: Iterable[str]) -> dict[str, int]:
    """Status -> how many of these claims have it."""
    found = [claim_status(name) for name in names]
    return {status: found.count(status) for status in STATUSES}


def index() -> str:
    """The summary: how many claims have which status, and how to read the pages."""
    total = counts(claim_names())
    lines = [
        "# Claims",
        "",
        f"The headline claim of every method's paper, measured again on small real data: {len(claim_names())} claims. "
        f"{_tally(total)}. Nothing is left out.",
    ]
    for family in family_names():
        names = _of(family)
        lines += [
            "",
            f"## [{_title(family)}]({family}.md)",
            "",
            _bar(counts(names)),
            "",
            f"{_tally(counts(names))}.",
            "",
        ]
        for status in STATUSES:
            those = [n for n in names if claim_status(n) == status]
            links = ", ".join(f"[{title(n)}]({family}.md#{anchor(n)})" for n in those)
            lines += [f"- **{SIGN[status]} {status}:** {links}"] * bool(those)
    statuses = "\n".join(f"- **{SIGN[s]} {s}**: {MEANING[s]}." for s in STATUSES)
    lines += ["", "## How to read them", "", READING.format(statuses=statuses).rstrip(), ""]
    lines += [legend(f for name in claim_names() for f in findings(name)), ""]
    lines += [
        "Figures of papers marked *from memory* were quoted without the paper at hand. Measure a claim again with, for example,",
        "`python -m claims run unlearn/salun`; what is stored lies in `claims/results/`.",
    ]
    return "\n".join(lines) + "\n"


def family_page(family: str) -> str:
    """A forest plot for each unit, then one sentence a claim."""
    names = _of(family)
    lines = ["---", "hide: [toc]", "---", "", f"# Claims: {_title(family).lower()}", ""]
    lines += [
        f"{len(names)} claims. {_tally(counts(names))}. [How to read this](index.md#how-to-read-them)",
        "",
        legend(f for name in names for f in findings(name)),
    ]
    for unit, groups in _by_unit(names).items():
        lines += ["", f"## Effects in {unit}", "", forest(groups, unit)]
    lines += ["", "## In words", ""]
    for name in names:
        claim = read_claim(name)
        more = f" [Figures and settings](../{_card(name)})." if (DOCS / _card(name)).exists() else ""
        more += " *The paper's figure is quoted from memory.*" * claim.from_memory
        lines += [f"### {title(name)}", "", f"{signed_status(name)} {_sentence(claim.statement)}{more}", ""]
    return "\n".join(lines).rstrip() + "\n"


def card_text(name: str) -> str:
    """A claim as the method's card shows it: status, effects and figures."""
    result = read_result(name)
    if result is None:
        why = "It has no claim of its own."
        if name in claim_names():
            why = f"{_sentence(read_claim(name).statement)} No result is stored yet: `python -m claims run {name}`."
        return f'!!! note "{NOT_RUN}"\n    {why}'
    claim, found = read_claim(name), findings(name)
    status = claim_status(name)
    lines = [f'!!! {BOX[status]} "{status}"', f"    {_sentence(claim.statement)}"]
    for unit, effects in _units(found).items():
        lines += ["", forest({"": effects}, unit)]
    lines += ["", "| figure | measured, mean ± sd | unit and direction |", "| --- | --- | --- |"]
    lines += [
        f"| {_cell(k)} | {result.mean[k]:.3g} ± {result.spread[k]:.2g} | {_cell(meaning)} |"
        for k, meaning in claim.figures.items()
    ]
    lines += [
        "",
        *(f"- {key}: {_line(text)}" for key, text in _said(claim, len(result.rows), result.seconds) if text),
    ]
    lines.append(
        f"- Stored in `claims/results/{name}.json` (commit {result.commit}, "
        f"torch {result.versions['torch']}); measure again with `python -m claims run {name}`."
    )
    return "\n".join(lines)


def signed_status(name: str) -> str:
    """A claim's status with its sign, in a span."""
    status = claim_status(name)
    return f'<span class="status {status.replace(" ", "-")}">{SIGN[status]} {status}</span>'


def title(name: str) -> str:
    """The method's name as its card has it."""
    path = DOCS / _card(name)
    found = (
        re.search(r"^name: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else None
    )
    return found[1].strip("\"'") if found else name.partition("/")[2]


def anchor(name: str) -> str:
    """What the site calls the claim's heading on its family's page."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title(name)).strip().lower())


def _of(family: str) -> list[str]:
    names = [n for n in claim_names() if n.partition("/")[0] == family]
    return sorted(names, key=lambda n: title(n).lower())


def _by_unit(names: Sequence[str]) -> dict[str, dict[str, list[Finding]]]:
    """Unit -> heading of a claim -> its effects in that unit."""
    found: dict[str, dict[str, list[Finding]]] = {}
    for name in names:
        heading = f'<a href="#{anchor(name)}">{escape(title(name))}</a> {signed_status(name)}'
        for unit, effects in _units(findings(name)).items():
            found.setdefault(unit, {})[heading] = effects
    return dict(sorted(found.items(), key=lambda item: -sum(map(len, item[1].values()))))


def _units(found: Iterable[Finding]) -> dict[str, list[Finding]]:
    units: dict[str, list[Finding]] = {}
    for one in found:
        units.setdefault(one.effect.unit, []).append(one)
    return units


def _said(claim: Claim, seeds: int, seconds: float) -> list[tuple[str, str]]:
    reported = claim.reported or "the paper's figure is not known"
    return [
        ("Reported", reported),
        ("Asked here", f"{claim.criterion} ([how to read the plot](../../claims/index.md#how-to-read-them))"),
        ("Compared with", claim.baseline),
        ("Data", f"{claim.data}; {seeds} seeds, {seconds:.0f} s"),
        ("Note", claim.note),
    ]


def _tally(found: Mapping[str, int]) -> str:
    words = {s: "hold" if s == HOLDS and n != 1 else s for s, n in found.items()}
    return " · ".join(f"{SIGN[s]}\u00a0{n}\u00a0{words[s]}" for s, n in found.items() if n)


def _bar(found: Mapping[str, int]) -> str:
    total, at, parts = sum(found.values()), 0.0, []
    for status, n in found.items():
        width = 100 * n / total
        css = status.replace(" ", "-")
        parts.append(
            f'<rect class="share {css}" x="{at:.2f}%" y="0" width="{max(0.0, width - 0.4):.2f}%" height="10"/>'
            * bool(n)
        )
        at += width
    return f'<svg width="100%" height="10" role="img" aria-label="{_tally(found)}">{"".join(parts)}</svg>'


def _card(name: str) -> str:
    family, _, stem = name.partition("/")
    return f"methods/{family}/{stem.replace('_', '-')}.md"


def _title(family: str) -> str:
    return FAMILY.get(family, family.capitalize())


def _sentence(text: str) -> str:
    line = _line(text)
    return f"{line[0].upper()}{line[1:].rstrip('.')}."


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _cell(text: object) -> str:
    return _line(text).replace("|", "\\|")
