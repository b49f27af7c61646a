"""A condensed mixture of experts, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import pictures, words
from .page import Section, render_page


def render_condensed(
    figures: Mapping[str, tuple[float, float, str]],
    spread: Mapping[str, tuple[float, float]],
    layers: Mapping[str, str],
    distances: Mapping[str, float],
    steps: Mapping[str, float],
    beside: Mapping[str, Any],
    *,
    notes: Sequence[str],
    method: str,
    subject: str,
    run: Mapping[str, Any],
) -> str:
    """The report on a model whose experts were condensed, pruned or merged, as one self-contained page.

    Args:
        figures: name -> (before, after, unit); "held-out perplexity" and "parameters" are in the lead.
        spread: figure -> half of its range over repeats, before and after.
        layers: block -> what became of it.
        distances: block -> divergence of its decoder layer's output from the original's, in nats.
        steps: replaced module -> distance of the final hidden state, in the order of their choice.
        beside: baseline -> its figures, or why there is none.
        notes: sentences on how the model is read again.
        method: in words.
        subject: what was condensed, in words.
        run: command, settings, versions, hashes.
    """
    was, now, _ = figures["held-out perplexity"]
    share = 100 * figures["parameters"][1] / figures["parameters"][0]
    lead = (
        f"{words.number(share)} % of the parameters are left. Held-out perplexity went from {words.number(was)} to "
        f"{words.number(now)}."
    )
    cells = [(name, *row) for name, row in shown(figures, spread).items()]
    sections = [
        Section(
            heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells,
            caption="Speed is that of one forward pass: the median of four, and half of their range.",
        ),
        Section(
            heading="Layer by layer",
            columns=("block", "what became of it", "divergence, nats"),
            rows=[(n, told, words.number(distances.get(n, 0.0), digits=3)) for n, told in layers.items()],
            picture=pictures.dumbbells(
                {n: {"edited": v} for n, v in distances.items()}, {"edited": "smaller model"}, unit="nats",
                apart=("edited", "edited"), figure="edited", ends=(0.0,),
            ),
            caption="Jensen-Shannon divergence of each decoder layer's output from the original's on the held-out "
            "texts (softmax over the hidden dimension, mean over tokens): what has gathered up to that layer.",
        ),
    ]  # fmt: skip
    if beside:
        sections.append(_baselines(beside))
    if len(steps) > 1:
        sections.append(_in_turn(steps))
    kicker = f"{method} on {subject}"
    return render_page("A condensed model", kicker=kicker, lead=[lead, *notes], sections=sections, run=run)


def _baselines(beside: Mapping[str, Any]) -> Section:
    found = [told for told in beside.values() if not isinstance(told, str)]
    columns = list(found[0]) if found else ["why not"]
    rows = [
        (name, told, *[""] * (len(columns) - 1))
        if isinstance(told, str)
        else (name, *(words.number(told[c], digits=4) for c in columns))
        for name, told in beside.items()
    ]
    caption = "On the same calibration texts, with no more parameters than the model above."
    return Section(
        heading="Baselines at no more memory", columns=("baseline", *columns), caption=caption, rows=rows
    )


def _in_turn(steps: Mapping[str, float]) -> Section:
    return Section(
        heading="Layer after layer",
        picture=pictures.curve(list(steps.values()), of="distance", words="layers replaced"),
        caption="Distance of the final hidden state from the original's, as layers are replaced in the "
        f"order of their choice: {', '.join(steps)}.",
    )


def shown(
    figures: Mapping[str, tuple[float, float, str]], spread: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[str, str, str]]:
    """Figure -> before, after and unit as they are printed, with the spread beside the number where it was repeated."""
    found = {}
    for name, (before, after, unit) in figures.items():
        around = [f" ± {words.number(s, digits=2)}" for s in spread[name]] if name in spread else ["", ""]
        old, new = (words.number(v, digits=4) + s for v, s in zip((before, after), around, strict=True))
        found[name] = (old, new, unit)
    return found
