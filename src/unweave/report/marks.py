"""What pictures are made of: a scale, marks on it, and rows of a label, an SVG track and a figure.

Every horizontal position is a percentage and every vertical one a pixel, so that a track fills
a phone's width as well as a desk's without its text shrinking. Colours come from the page's style sheet; each
series also has its own shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES = {
    "original": "original model",
    "holders": "models that hold the data",
    "edited": "edited model",
    "oracle": "retrained models",
}
"""Series name -> words in a legend."""


@dataclass(frozen=True)
class Scale:
    """A stretch of the number line laid over a track's width.

    Attributes:
        low: value near the left edge.
        high: value near the right edge.
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], *, least: float = 1e-9) -> Scale:
        """Just wide enough for all finite values."""
        finite = [v for v in values if math.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        if high - low < least:
            middle, half = (low + high) / 2, max(least, abs(low) * 0.05, 0.5) / 2
            return cls(middle - half, middle + half)
        return cls(low, high)

    def at(self, value: float) -> float:
        """Percentage of the width, between 2 and 98; values outside land on the edge."""
        share = (value - self.low) / (self.high - self.low)
        return 2 + 96 * min(1.0, max(0.0, share))

    def holds(self, value: float) -> bool:
        """Whether `value` lies on the track."""
        slack = 1e-9 * (self.high - self.low)
        return self.low - slack <= value <= self.high + slack

    def ticks(self, about: int = 5) -> list[float]:
        """Round values that cut the stretch in about `about` parts."""
        raw = (self.high - self.low) / about
        base = 10.0 ** math.floor(math.log10(raw))
        step = next(base * k for k in (1, 2, 2.5, 5, 10) if base * k >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def style(series: str) -> str:
    """The series whose mark and colour another takes: overlaps look like what they are overlaps with."""
    return {"iou_original": "original", "iou_oracle": "oracle"}.get(series, series)


def slug(outcome: str) -> str:
    """An outcome as a class of the style sheet."""
    return outcome.replace(" ", "-")


def strong(text: str) -> Markup:
    """A row's name."""
    return Markup("<span class=name>{}</span>").format(text)


def keyed(series: str) -> Markup:
    """A row's name that is a series, with its mark."""
    return Markup("<span class=name>{} {}</span>").format(symbol(series), SERIES[series])


def symbol(series: str) -> Markup:
    """A series' mark beside a word."""
    return Markup('<svg class="key" width="14" height="14" aria-hidden="true">{}</svg>').format(
        shape(style(series), "7", 7)
    )


def entries(names: Mapping[str, str]) -> Markup:
    """Series -> words as the entries of a legend."""
    return Markup("").join(Markup("<li>{} {}</li>").format(symbol(s), words) for s, words in names.items())


def shape(series: str, x: str, y: float) -> Markup:
    """A series' mark in an SVG; `x` may be a percentage."""
    inner = {
        "original": '<rect class="mark original" x="-5" y="-5" width="10" height="10"/>',
        "holders": '<path class="mark holders" d="M-5,5 L0,-5 L5,5 Z"/>',
        "oracle": '<path class="mark oracle" d="M0,-7 L7,0 L0,7 L-7,0 Z"/>',
        "edited": '<circle class="mark edited" r="5.5"/>',
    }[series]
    # a nested svg can be placed by percentage, a path cannot
    return Markup('<svg class="spot" x="{}" y="{}" overflow="visible">{}</svg>').format(x, y, Markup(inner))


def mark(scale: Scale, value: float, series: str, y: float) -> Markup:
    """A series' mark where its value is; an arrow at the edge where the value lies outside."""
    x = f"{scale.at(value):.2f}%"
    if scale.holds(value):
        return shape(series, x, y)
    turn = "M-7,-6 L5,0 L-7,6 Z" if value > scale.high else "M7,-6 L-5,0 L7,6 Z"
    return Markup(
        '<svg class="spot" x="{}" y="{}" overflow="visible"><path class="mark {}" d="{}"/></svg>'
    ).format(x, y, series, turn)


def band(scale: Scale, ends: tuple[float, float], css: str, height: int) -> Markup:
    """A stretch between two values."""
    low, high = scale.at(ends[0]), scale.at(ends[1])
    return Markup('<rect class="band {}" x="{:.2f}%" y="3" width="{:.2f}%" height="{}" rx="3"/>').format(
        css, low, max(0.5, high - low), height - 6
    )


def rule(x: float, height: int) -> Markup:
    """A dashed line across the track, `x` in % of its width."""
    return Markup('<line class="rule" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}"/>').format(x, height)


def tick_at(scale: Scale, value: float, text: str) -> Markup:
    """A tick of an axis with its text."""
    x = scale.at(value)
    anchor = "start" if x < 12 else "end" if x > 88 else "middle"
    return Markup(
        '<line class="base" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="4"/>'
        '<text x="{0:.2f}%" y="17" text-anchor="{1}">{2}</text>'
    ).format(x, anchor, text)


def ticks(scale: Scale) -> list[Markup]:
    """Ticks at round values."""
    return [tick_at(scale, v, f"{v:g}".replace("-", "−")) for v in scale.ticks(4)]


def axis(ticks: Sequence[Markup], words: str = "") -> Markup:
    """The last row of a picture: ticks, and words under them."""
    note = Markup("<div class=words>{}</div>").format(words) if words else ""
    line = Markup('<line class="base" x1="2%" x2="98%" y1="0" y2="0"/>')
    svg = Markup('<svg width="100%" height="22" aria-hidden="true">{}{}</svg>').format(
        line, Markup("").join(ticks)
    )
    return Markup('<div class="row axis"><div></div><div>{}{}</div><div></div></div>').format(svg, note)


def row(label: str | Markup, track: Markup, figure: str | None) -> Markup:
    """A label, its track and a figure at the right."""
    last = (
        Markup('<div class="figure">{}</div>').format(figure) if figure is not None else Markup("<div></div>")
    )
    return Markup('<div class="row"><div class="label">{}</div><div>{}</div>{}</div>').format(
        label, track, last
    )


def svg(shapes: Sequence[Markup], height: int, says: str) -> Markup:
    """Shapes on a track as wide as the page, with words for those who cannot see it."""
    return Markup('<svg width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, escape(says), Markup("").join(shapes)
    )
