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
    method: str,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report on a pruned model as one self-contained page.

    Args:
        figures: name -> (before, after, unit); "held-out accuracy" and "density under the mask" are in the lead.
        layers: pruned layer -> % of its weights kept.
        method: that pruned it, in words.
        subject: what was pruned, in words.
        run: command, settings, versions, hashes.
    """
    named = next(name for name in figures if name.startswith("held-out "))
    before, after, unit = figures[named]
    lead = (
        f"{words.number(figures['density under the mask'][1] * 100)} % of the weights are left. {named.capitalize()} "
        f"went from {words.number(before)} to {words.number(after)} {unit}".rstrip()
        + "."
    )
    cells = [(n, words.number(b, digits=4), words.number(a, digits=4), u) for n, (b, a, u) in figures.items()]
    sections = [
        Section(heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells),
        *_layers(
            layers, "Weights kept, layer by layer", "The share of each layer's weights that is kept, in %.",
            "pruned model", ends=(0.0, 100.0),
        ),
    ]  # fmt: skip
    kicker = f"{method} on {subject}"
    return render_page("A pruned model", kicker=kicker, lead=[lead], sections=sections, run=run)


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
        layers: sparse layer -> % of its weights that live.
        losses: mean loss of each step's batch, in order.
        subject: what was trained, in words.
        run: command, settings, versions, hashes.
    """
    named = next(name for name in figures if name.startswith("held-out "))
    right, unit = figures[named]
    alive = words.number(figures["weights that live"][0])
    lead = (
        f"{named.capitalize()} {words.number(right)} {unit}".rstrip()
        + f", with {alive} % of the weights alive."
    )
    sections = [
        Section(
            heading="Figures", columns=("figure", "value", "unit"),
            rows=[(name, value_text(value), u) for name, (value, u) in figures.items()],
        ),
        *([
            Section(
                heading="The loss while it trained", caption="Mean loss of the batches, in order.",
                picture=pictures.curve(losses, words="steps"),
            )
        ] if losses else []),
        *_layers(
            layers, "Weights that live, layer by layer", "The share of each pruned layer's weights, in %.",
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
