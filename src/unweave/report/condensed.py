"""A condensed mixture of experts, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import pictures, words
from .page import Section, render_page


def render_condensed(
    figures: Mapping[str, tuple[float, float, str]],
    layers: Mapping[str, str],
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
        layers: block -> what became of it.
        steps: replaced module -> distance of the final hidden state, in the order of their choice.
        beside: baseline -> (perplexity, share of the parameters), or why there is none.
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
    cells = [(n, words.number(b, digits=4), words.number(a, digits=4), u) for n, (b, a, u) in figures.items()]
    others = [
        (name, told, "")
        if isinstance(told, str)
        else (name, words.number(told[0], digits=4), f"{100 * told[1]:.1f} %")
        for name, told in beside.items()
    ]
    sections = [
        Section(heading="Before and after", columns=("figure", "before", "after", "unit"), rows=cells),
        Section(heading="Layer by layer", columns=("block", "what became of it"), rows=list(layers.items())),
    ]
    if others:
        sections.append(
            Section(
                heading="Baselines at no more memory",
                columns=("baseline", "held-out perplexity", "parameters left"),
                caption="On the same calibration texts, with no more parameters than the model above.",
                rows=others,
            )  # fmt: skip
        )
    if len(steps) > 1:
        sections.append(
            Section(
                heading="Layer after layer",
                picture=pictures.curve(list(steps.values()), of="distance", words="layers replaced"),
                caption="Distance of the final hidden state from the original's, as layers are replaced in the "
                f"order of their choice: {', '.join(steps)}.",
            )  # fmt: skip
        )
    kicker = f"{method} on {subject}"
    return render_page("A condensed model", kicker=kicker, lead=[lead, *notes], sections=sections, run=run)
