"""Forest plots of effects: a row of words, an SVG track and figures an effect, drawn without a plotting library.

Every horizontal position is a percentage and every vertical one a pixel, so that a track fills a phone's width as well as a
desk's. The axis is a square-root one: effects of half a point and of fifty stand on the same page. Colours come from
docs/style.css; each status has its own sign beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from claims.effects import CONTRADICTED, HOLDS, NOT_RUN, NOT_SHOWN, Finding

SIGN = {HOLDS: "✓", NOT_SHOWN: "○", CONTRADICTED: "✕", NOT_RUN: "–"}
TALL = 26  # pixels of a track
DIAMOND = "M0,-6 L6,0 L0,6 L-6,0 Z"


@dataclass(frozen=True)
class Axis:
    """A stretch of the number line, by square roots away from 0.

    low, high: its ends; 0 lies between them.
    """

    low: float
    high: float

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Axis:
        """Just wide enough for intervals, margins, floors and the papers' effects."""
        ends = [0.0]
        for f in findings:
            ends += [f.mean, *f.interval, f.margin, *((f.floor, -f.floor) if f.floor else ())]
            ends += [] if f.effect.paper is None else [f.effect.paper]
        low, high = min(ends), max(ends)
        least = 0.1 * max(high, -low) or 1.0  # room on both sides of 0
        return cls(min(low, -least), max(high, least))

    def at(self, value: float) -> float:
        """Percentage of the width, between 3 and 97."""
        low, high, x = (math.copysign(math.sqrt(abs(v)), v) for v in (self.low, self.high, value))
        return 3 + 94 * (x - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values at least a tenth of the width apart, 0 among them."""
        kept = [0.0]
        for sign in (1, -1):
            end = self.high if sign > 0 else -self.low
            top = math.floor(math.log10(end))
            rounds = [k * 10.0**p for p in range(top - 3, top + 1) for k in (1, 2, 5) if k * 10.0**p <= end]
            for value in (sign * r for r in reversed(rounds)):
                if all(abs(self.at(value) - self.at(other)) >= 11 for other in kept):
                    kept.append(value)
        return sorted(kept)


def forest(groups: Mapping[str, Sequence[Finding]], unit: str) -> str:
    """The plot of effects in one unit, as HTML without a blank line.

    Args:
        groups: heading, as HTML -> effects below it; "" for none.
        unit: of all of them.
    """
    axis = Axis.of(f for found in groups.values() for f in found)
    parts = [_scale(axis, unit)]
    for heading, found in groups.items():
        if heading:
            parts.append(Markup('<div class="forest-group">{}</div>').format(Markup(heading)))
        parts += [_row(f, axis) for f in found]
    return "\n".join(['<div class="forest">', *parts, "</div>"])


def legend(findings: Iterable[Finding]) -> str:
    """What the marks mean that these effects are drawn with."""
    found = list(findings)
    keys = [
        ('<line class="whisker" x1="2" x2="34" y1="9" y2="9"/><circle class="dot holds" cx="18" cy="9" r="5"/>',
         "mean difference over the seeds, with its 95 % interval", True),
        ('<line class="margin" x1="18" x2="18" y1="1" y2="17"/>',
         "margin that the claim asks for, where it is not 0", any(f.margin for f in found)),
        (f'<g transform="translate(18 9)"><path class="paper" d="{DIAMOND}"/></g>',
         "the paper's own difference, on its own data", any(f.effect.paper is not None for f in found)),
        ('<rect class="floor" x="4" y="1" width="28" height="16"/>',
         "noise floor: how far two retrained models differ", any(f.floor for f in found)),
        ('<circle class="dot faint" cx="18" cy="9" r="5"/>',
         "faint: stands beside, decides nothing", any(not f.effect.headline for f in found)),
    ]  # fmt: skip
    items = [
        f'<li><svg width="36" height="18" aria-hidden="true">{shape}</svg> <span>{words}</span></li>'
        for shape, words, drawn in keys
        if drawn
    ]
    return "\n".join(['<ul class="forest-legend">', *items, "</ul>"])


def figures(finding: Finding) -> str:
    """Mean difference and interval to like precision: "+0.49 [−1.45, +2.43]"."""
    values = (finding.mean, *finding.interval)
    mean, low, high = (signed(v, max(map(abs, values))) for v in values)
    return f"{mean} [{low},\u00a0{high}]"


def signed(value: float, largest: float | None = None) -> str:
    """With its sign, to three digits of the largest value beside it (two below 1)."""
    largest = abs(value) if largest is None else largest
    if largest and not 1e-3 <= largest < 1e5:
        return f"{value:+.2g}".replace("-", "−")
    places = max(0, (2 if largest >= 1 else 1) - math.floor(math.log10(largest))) if largest else 0
    rounded = round(value, places) + 0.0  # no minus before a zero
    return (f"{rounded:+.{places}f}" if rounded else "0").replace("-", "−")


def _row(f: Finding, axis: Axis) -> Markup:
    low, high = map(axis.at, f.interval)
    zero, middle = axis.at(0.0), TALL // 2
    shapes = []
    if f.floor:
        left, right = axis.at(-f.floor), axis.at(f.floor)
        shapes.append(
            f'<rect class="floor" x="{left:.2f}%" y="0" width="{right - left:.2f}%" height="{TALL}"/>'
        )
    shapes.append(f'<line class="zero" x1="{zero:.2f}%" x2="{zero:.2f}%" y1="0" y2="{TALL}"/>')
    if f.margin:
        at = axis.at(f.margin)
        shapes.append(f'<line class="margin" x1="{at:.2f}%" x2="{at:.2f}%" y1="3" y2="{TALL - 3}"/>')
    shapes.append(f'<line class="whisker" x1="{low:.2f}%" x2="{high:.2f}%" y1="{middle}" y2="{middle}"/>')
    css = f.status.replace(" ", "-")
    shapes.append(f'<circle class="dot {css}" cx="{axis.at(f.mean):.2f}%" cy="{middle}" r="5"/>')
    if f.effect.paper is not None:  # a nested svg can be placed by percentage, a path cannot
        at = axis.at(f.effect.paper)
        shapes.append(
            f'<svg x="{at:.2f}%" y="{middle}" overflow="visible"><path class="paper" d="{DIAMOND}"/></svg>'
        )
    says = f"{f.effect.name}: {figures(f)} {f.effect.unit}, {f.status}"
    if f.effect.paper is not None:
        says += f"; the paper {signed(f.effect.paper)}"
    return Markup(
        '<div class="forest-row{}"><div class="forest-name">{}</div>'
        '<div class="forest-track"><svg width="100%" height="{}" role="img" aria-label="{}">{}</svg></div>'
        '<div class="forest-figures"><span class="{}">{}</span> {}</div></div>'
    ).format(
        "" if f.effect.headline else " beside", f.effect.name, TALL, says, Markup("".join(shapes)), css, SIGN[f.status],
        figures(f),
    )  # fmt: skip


def _scale(axis: Axis, unit: str) -> Markup:
    marks = []
    for value in axis.ticks():
        at = axis.at(value)
        words = f"{value:g}".replace("-", "−")
        marks.append(
            f'<line class="zero" x1="{at:.2f}%" x2="{at:.2f}%" y1="16" y2="22"/>'
            f'<text x="{at:.2f}%" y="12" text-anchor="middle">{words}</text>'
        )
    return Markup(
        '<div class="forest-row forest-axis"><div class="forest-name">{}<br/>square-root axis</div>'
        '<div class="forest-track"><svg width="100%" height="22" aria-hidden="true">{}</svg>'
        '<div class="forest-ends"><span>← worse</span><span>better →</span></div></div>'
        '<div class="forest-figures">mean [95 % interval]</div></div>'
    ).format(unit, Markup("".join(marks)))
