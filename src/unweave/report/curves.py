"""Lines of a figure over another, with intervals, and a band for what does not change along them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..statistics import Summary
from . import marks
from .marks import Scale
from .words import number

_HEIGHT = 260
_STYLES = ("oracle", "original", "edited", "holders")
_DASHES = ("", "7 4", "2 4")


@dataclass(frozen=True)
class Point:
    """A figure's mean over the seeds at one place.

    Attributes:
        x: where.
        mean: of the figure.
        interval: 95 % interval of that mean; NaN for one seed.
    """

    x: float
    mean: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, x: float, found: Summary) -> Point:
        """Of what the trials at `x` say together."""
        return cls(x, found.mean, found.interval)


def curves(
    lines: Mapping[str, Sequence[Point]], bands: Mapping[str, Point], *, unit: str, words: str
) -> Markup | None:
    """One line a method with a whisker at each point; bands over the whole width. None without two points.

    Args:
        lines: name -> points.
        bands: name -> mean and interval of what has no place along the lines; `x` is not read.
        unit: of the figure.
        words: below the axis.
    """
    kept = {
        n: sorted((p for p in points if math.isfinite(p.mean)), key=lambda p: p.x)
        for n, points in lines.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    everywhere = [p for points in kept.values() for p in points]
    if len({p.x for p in everywhere}) < 2:
        return None
    across = Scale.around(p.x for p in everywhere)
    up = Scale.around(v for p in (*everywhere, *bands.values()) for v in (p.mean, *p.interval))
    shapes = [part for name, p in bands.items() for part in _band(up, p)]
    for i, points in enumerate(kept.values()):
        shapes += _line(across, up, points, _STYLES[i % 4], _DASHES[i // 4 % 3])
    shapes += [_tick(up, v) for v in up.ticks(4)]
    says = "; ".join(
        f"{name}: " + ", ".join(f"{number(p.mean)} at {number(p.x)}" for p in points)
        for name, points in kept.items()
    )
    label = Markup("").join(_key(name, _STYLES[i % 4], _DASHES[i // 4 % 3]) for i, name in enumerate(kept))
    label += Markup("").join(
        Markup('<li><span class="swatch oracle"></span>{}</li>').format(name) for name in bands
    )
    picture = marks.row(marks.strong(unit), marks.svg(shapes, _HEIGHT, says), None)
    return Markup('<ul class="legend">{}</ul>{}{}').format(
        label, picture, marks.axis(marks.ticks(across), words)
    )


def _y(up: Scale, value: float) -> float:
    """Pixels from the top."""
    return _HEIGHT * (1 - up.at(value) / 100)


def _band(up: Scale, p: Point) -> list[Markup]:
    low, high = p.interval if math.isfinite(p.interval[0]) else (p.mean, p.mean)
    top, bottom = _y(up, high), _y(up, low)
    return [
        Markup('<rect class="band oracle" x="2%" width="96%" y="{:.1f}" height="{:.1f}"/>').format(
            top, max(1.0, bottom - top)
        ),
        Markup('<line class="rule" x1="2%" x2="98%" y1="{0:.1f}" y2="{0:.1f}"/>').format(_y(up, p.mean)),
    ]


def _line(across: Scale, up: Scale, points: Sequence[Point], css: str, dash: str) -> list[Markup]:
    stroke = Markup(
        '<line class="stroke {}" stroke-dasharray="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>'
    )
    spots = [(across.at(p.x), _y(up, p.mean)) for p in points]
    parts = [stroke.format(css, dash, *a, *b) for a, b in zip(spots, spots[1:], strict=False)]
    for p, (x, y) in zip(points, spots, strict=True):
        if math.isfinite(p.interval[0]):
            parts.append(stroke.format(css, "", x, _y(up, p.interval[0]), x, _y(up, p.interval[1])))
        parts.append(marks.shape(css, f"{x:.2f}%", y))
    return parts


def _tick(up: Scale, value: float) -> Markup:
    return Markup('<text class="tick" x="0" y="{:.1f}">{}</text>').format(
        _y(up, value) - 3, f"{value:g}".replace("-", "−")
    )


def _key(name: str, css: str, dash: str) -> Markup:
    line = Markup('<line class="stroke {}" stroke-dasharray="{}" x1="0" x2="28" y1="7" y2="7"/>').format(
        css, dash
    )
    return Markup('<li><svg width="28" height="14" aria-hidden="true">{}{}</svg> {}</li>').format(
        line, marks.shape(css, "14", 7), name
    )
