"""A pruned or a trained model, as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import pictures, words
from .page import Section, render_page


def render_pruned(
    figures: Mapping[str, tuple[float, float, str]],
    layers: Mapping[str, float],
    *,
    notes: Sequence[str] = (),
    left: Mapping[str, str] | None = None,
    uncut: Mapping[str, str] | None = None,
    method: str,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report on a pruned model as one self-contained page.

    Args:
        figures: name -> (before, after, unit); "held-out accuracy" and "matrix weights kept" are in the lead.
        layers: matrix weight -> % of it that is kept, those left dense included.
        notes: sentences on what was looked at and on how the model is read again.
        left: matrix weight -> why it was left dense.
        uncut: layer -> why its dead channels could not be removed.
        method: that pruned it, in words.
        subject: what was pruned, in words.
        run: command, settings, versions, hashes.
    """
    named = next(name for name in figures if name.startswith("held-out "))
    before, after, unit = figures[named]
    lead = (
        f"{words.number(figures['matrix weights kept'][1])} % of the matrix weights are left. {named.capitalize()} "
        f"went from {words.number(before)} to {words.number(after)} {unit}".rstrip()
        + "."
    )
    cells = [(n, words.number(b, digits=4), words.number(a, digits=4), u) for n, (b, a, u) in figures.items()]
    sections = [
        Section(heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells),
        *(
            Section(heading=heading, columns=("layer", "why"), rows=list(reasons.items()))
            for heading, reasons in (("Left dense", left), ("Not cut", uncut))
            if reasons
        ),
        *_layers(
            layers, "Weights kept, layer by layer",
            "The share of each matrix weight that is kept, in %, those left dense included.",
            "pruned model", ends=(0.0, 100.0),
        ),
    ]  # fmt: skip
    kicker = f"{method} on {subject}"
    return render_page("A pruned model", kicker=kicker, lead=[lead, *notes], sections=sections, run=run)


def render_trained(
    figures: Mapping[str, tuple[float, str]],
    layers: Mapping[str, float],
    losses: Sequence[float],
    *,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report on a trained model as one self-contained page.

    Args:
        figures: name -> (value, unit); "held-out accuracy" and "weights that live" are in the lead.
        layers: matrix weight -> % of it that lives, dense ones included; empty for a dense model.
        losses: mean loss of each step's batch, in order.
        subject: what was trained, in words.
        run: command, settings, versions, hashes.
    """
    named = next(name for name in figures if name.startswith("held-out "))
    right, unit = figures[named]
    alive = words.number(figures["weights that live"][0])
    lead = (
        f"{named.capitalize()} {words.number(right)} {unit}".rstrip()
        + f", with {alive} % of the matrix weights alive."
    )
    sections = [
        Section(
            heading="Figures", columns=("figure", "value", "unit"),
            rows=[(name, value_text(value), u) for name, (value, u) in figures.items()],
        ),
        *([
            Section(
                heading="The loss while it trained", caption="Mean loss of the batches, in order.",
                picture=pictures.curve(losses, of="loss", words="steps"),
            )
        ] if losses else []),
        *_layers(
            layers, "Weights that live, layer by layer",
            "The share of each matrix weight, in %, those left dense included.",
            "trained model", ends=(0.0,),
        ),
    ]  # fmt: skip
    kicker = f"Training of {subject}"
    return render_page("A trained model", kicker=kicker, lead=[lead], sections=sections, run=run)


def value_text(value: float) -> str:
    """A figure with four significant digits; a count in full."""
    return f"{value:,}" if isinstance(value, int) else words.number(value, digits=4)


def _layers(
    layers: Mapping[str, float], heading: str, caption: str, model: str, ends: tuple[float, ...]
) -> list[Section]:
    if not layers:
        return []
    picture = pictures.dumbbells(
        {name: {"edited": share} for name, share in layers.items()}, {"edited": model},
        unit="weights kept, %", apart=("edited", "edited"), figure="edited", ends=ends,
    )  # fmt: skip
    return [Section(heading=heading, caption=caption, picture=picture)]
