"""Audits of concept erasure as a page with pictures, and as strict JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from ..audit.drawing.erasure import MEANING, Drawn, Erasure
from ..errors import require
from ..io.files import strict_json
from ..types import Measurement
from . import pictures, words
from .page import Section, render_page

LIMITS = (
    "What is measured is what these prompts draw, as the judge named it. Other words, languages or attacks may still "
    "draw an erased concept; an attack success rate, where there is one, says how easily.",
    "This is technical evidence, not a finding of legal compliance.",
)


def render_erasure(
    audits: Sequence[Erasure],
    drawn: Mapping[str, Drawn],
    *,
    request: str,
    run: Mapping[str, Any],
    turns: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The report as one self-contained page.

    Args:
        audits: the pipeline that is handed out first, then the methods it is compared with.
        drawn: column of the image grids ("before", a method, "retrained") -> its images.
        request: in words.
        run: command, settings, versions, hashes.
        turns: after which erasure -> concept -> % drawn, where concepts were erased one after the other.
    """
    first = audits[0]
    lead = [f"{first.verdict.capitalize()}. {MEANING[first.verdict]}", first.reason, *LIMITS]
    sections = [_controls(first), *_grids(drawn), *_by_concept(audits), *(_turns(turns) if turns else ())]
    sections += [_table(audit) for audit in audits]
    return render_page(
        f"Concepts {first.verdict}" if first.verdict != "inconclusive" else "Erasure: inconclusive",
        kicker=request,
        lead=lead,
        sections=sections,
        run=run,
    )


def erasure_json(audits: Sequence[Erasure], turns: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """All figures as strict JSON."""
    record = {
        "format": "unweave erasure",
        "version": 1,
        "audits": [asdict(a) for a in audits],
        "in turn": turns,
    }
    return strict_json(record)


def erasure_from_json(text: str) -> list[Erasure]:
    """Read back what `erasure_json` wrote."""
    found = []
    for entry in json.loads(text)["audits"]:
        measured = tuple(
            Measurement(**{**m, "interval": tuple(m["interval"]) if m["interval"] else None})
            for m in entry["measurements"]
        )
        controls = tuple((text, passed) for text, passed in entry["controls"])
        found.append(Erasure(**{**entry, "measurements": measured, "controls": controls}))
    return found


def _controls(first: Erasure) -> Section:
    rows = [
        (text.capitalize(), "✓ as it must be" if passed else "✕ failed") for text, passed in first.controls
    ]
    return Section(
        heading="Can this be trusted?",
        columns=("control", "outcome"),
        rows=rows,
        caption="Checked before the edited pipeline was looked at."
        if rows
        else "No control was run: there is no judge.",
    )


def _grids(drawn: Mapping[str, Drawn], most: int = 8) -> list[Section]:
    first = next(iter(drawn.values()))
    rows = []
    for concept in first.images:
        cells = Markup("").join(
            Markup('<figure><figcaption>{}</figcaption><img alt="{}" src="{}" width="{}"></figure>').format(
                name,
                f"{len(d.images[concept][:most])} images of {concept}, {name}",
                *_strip(d.images[concept][:most]),
            )
            for name, d in drawn.items()
            if concept in d.images
        )
        rows.append(Markup("<h3>{}</h3><div class=pictures>{}</div>").format(concept, cells))
    return [
        Section(
            heading="What it draws",
            caption="The same prompts from the same noise, before and after.",
            picture=Markup("").join(rows),
        )
    ]


def _by_concept(audits: Sequence[Erasure]) -> list[Section]:
    first = audits[0]
    if not first.concepts:
        return []
    drawn = pictures.dumbbells(
        first.concepts,
        {"original": "original pipeline", "oracle": "retrained without them", "edited": "edited pipeline"},
        unit="images that show the concept asked for, %",
        apart=("edited", "original"),
        figure="edited",
        ends=(0.0, 100.0),
    )
    columns = ("concept", "original, %", *(f"{a.method}, %" for a in audits), "retrained, %")
    rows = [
        (
            concept,
            words.number(row.get("original")),
            *(words.number(a.concepts[concept].get("edited")) for a in audits),
            words.number(row.get("oracle")),
        )
        for concept, row in first.concepts.items()
    ]
    return [
        Section(
            heading="Concept by concept",
            caption="As the judge named the images.",
            picture=drawn,
            columns=columns,
            rows=rows,
        )
    ]


def _turns(turns: Mapping[str, Mapping[str, float]]) -> list[Section]:
    concepts = list(next(iter(turns.values())))
    rows = [(f"after {step}", *(words.number(row[c]) for c in concepts)) for step, row in turns.items()]
    return [
        Section(
            heading="One after the other",
            columns=("erased so far", *(f"{c}, %" for c in concepts)),
            rows=rows,
            caption="Images that show the concept asked for, after each erasure: does the first stay forgotten?",
        )
    ]


def _table(audit: Erasure) -> Section:
    rows = [
        (
            f"{m.name} ({m.direction})",
            words.value_text(m),
            words.number(m.original),
            words.oracle_text(m),
            f"{m.n:,}",
        )
        for m in audit.measurements
    ]
    return Section(
        heading=f"All measurements: {audit.method}",
        caption=f"{audit.verdict.capitalize()}: {audit.reason}",
        columns=("measurement", "edited (95 % interval)", "original", "retrained", "n"),
        rows=rows,
    )


def _strip(images: Tensor) -> tuple[str, int]:
    """Images beside one another as a PNG data address, and its width in pixels on the page."""
    image = require("PIL.Image", extra="diffusion", purpose="the report's pictures")
    n, channels, height, width = images.shape
    scale = max(1, 48 // height)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = torch.nn.functional.pad(pixels, (0, 1, 0, 1), value=255)
    row = pixels.permute(1, 2, 0, 3).reshape(channels, height + 1, n * (width + 1))
    array = row[0].numpy() if channels == 1 else row[:3].permute(1, 2, 0).contiguous().numpy()
    held = io.BytesIO()
    image.fromarray(array).save(held, "PNG")
    shown = min(n * (width + 1) * scale, 700)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}", shown
