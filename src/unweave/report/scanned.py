"""How sensitive the layers of a model are, as a page with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import pictures, words
from .curves import Point, curves
from .page import Section, render_page

_LINES = 8


def render_scanned(
    figure: str,
    unit: str,
    dense: tuple[float, float],
    layers: Mapping[str, Mapping[float, tuple[float, float]]],
    ranked: Sequence[str],
    shares: Mapping[str, float],
    *,
    notes: Sequence[str] = (),
    left: Mapping[str, str] | None = None,
    method: str,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report on a scan as one self-contained page.

    Args:
        figure: name of the held-out figure.
        unit: of it.
        dense: the figure and the loss of the unpruned model.
        layers: layer -> sparsity -> figure and loss with that layer alone pruned.
        ranked: layers, the most sensitive first.
        shares: layer -> % of the matrix weights that it holds.
        notes: sentences on what was measured.
        left: layer -> why it could not be pruned.
        method: that pruned, in words.
        subject: what was pruned, in words.
        run: command, settings, versions, hashes.
    """
    at = sorted({s for row in layers.values() for s in row})
    lead = [f"Unpruned, held-out {figure} is {words.number(dense[0], digits=4)} {unit}".rstrip() + "."]
    if ranked:
        lead.append(
            f"The most sensitive of {len(ranked)} layers is {ranked[0]}, the least {ranked[-1]}: by the rise of the "
            "held-out loss, on average over the sparsities. To spare a layer name it with --skip (Scope's skip)."
        )
    shown = list(ranked[:_LINES])
    lines = {n: [Point(100 * s, f, (math.nan, math.nan)) for s, (f, _) in layers[n].items()] for n in shown}
    named = f"held-out {figure}{', ' + unit if unit else ''}"
    more = f" Drawn are the {_LINES} most sensitive." if len(ranked) > _LINES else ""
    columns = ("layer", "weights", *(f"{figure} at {s:g}" for s in at), *(f"loss at {s:g}" for s in at))
    sections = [
        Section(
            heading=f"{figure.capitalize()} over sparsity, one layer alone",
            caption=f"The band is the unpruned model.{more}",
            picture=curves(
                lines, {"unpruned": Point(0.0, dense[0], (math.nan, math.nan))}, unit=named,
                words="of the layer removed, %",
            ),
        ),
        *_each(layers, ranked, dense, at, named),
        Section(
            heading="Layer by layer", columns=columns,
            caption=f"The most sensitive first; the loss of the unpruned model is {words.number(dense[1], digits=4)}.",
            rows=[(n, f"{words.number(shares.get(n, math.nan))} %", *_cells(layers[n], at)) for n in ranked],
        ),
        *([Section(heading="Not pruned", columns=("layer", "why"), rows=list(left.items()))] if left else []),
    ]  # fmt: skip
    title, kicker = "How sensitive each layer is", f"{method} on {subject}"
    return render_page(title, kicker=kicker, lead=[*lead, *notes], sections=sections, run=run)


def _cells(row: Mapping[float, tuple[float, float]], at: Sequence[float]) -> list[str]:
    """The figures, then the losses."""
    return [words.number(row[s][k], digits=4) if s in row else "" for k in (0, 1) for s in at]


def _each(
    layers: Mapping[str, Mapping[float, tuple[float, float]]],
    ranked: Sequence[str],
    dense: tuple[float, float],
    at: Sequence[float],
    unit: str,
) -> list[Section]:
    """Every layer at the middle sparsity."""
    if not at:
        return []
    middle = at[len(at) // 2]
    rows = {n: {"original": dense[0], "edited": layers[n][middle][0]} for n in ranked if middle in layers[n]}
    picture = pictures.dumbbells(
        rows, {"original": "unpruned", "edited": f"{100 * middle:g} % of the layer removed"}, unit=unit,
        apart=("original", "edited"), figure="edited",
    )  # fmt: skip
    heading = f"Every layer at {100 * middle:g} %"
    return [Section(heading=heading, caption="The most sensitive first.", picture=picture)]
