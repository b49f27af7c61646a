"""The report's pictures: rows of a label, an SVG track and a figure, drawn without a plotting library.

Every horizontal position is a percentage and every vertical one a pixel, so that a track fills
a phone's width as well as a desk's without its text shrinking. Colours come from the page's style sheet; each
series also has its own shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup, escape

from ..audit.result import Audit
from ..types import Measurement
from .words import SYMBOL, number, place, ratio, seconds, value_text

SERIES = {
    "original": "original model",
    "holders": "models that hold the data",
    "edited": "edited model",
    "oracle": "retrained models",
}
"""Series name -> words in a legend."""

_MOST_ROWS = 24


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


def position(audits: Sequence[Audit]) -> Markup | None:
    """Each method between models that hold the data (0) and retrained ones (1); None without positions."""
    placed = [(a, a.verdict.position) for a in audits if a.verdict.position is not None]
    if not placed:
        return None
    ends = [e for a, _ in placed for band in (a.verdict.accepted, a.verdict.rejected) if band for e in band]
    values = [0.0, 1.0, *ends, *(p for _, p in placed)]
    finite = [v for v in values if math.isfinite(v)]
    scale = Scale(max(-2.0, min(-0.25, *finite)), min(3.0, max(1.25, *finite)))
    rows = []
    for audit, where in placed:
        v = audit.verdict
        shapes = [
            _band(scale, band, css, 36)
            for band, css in ((v.rejected, "holders"), (v.accepted, "oracle"))
            if band
        ]
        shapes += [_rule(scale.at(0), 36), _rule(scale.at(1), 36), _mark(scale, where, "edited", 18)]
        says = f"{audit.method}: position {place(where)}, {v.outcome}"
        outcome = Markup('<span class="tag {}">{} {}</span>').format(
            _slug(v.outcome), SYMBOL[v.outcome], v.outcome
        )
        rows.append(
            _row(
                Markup("{} {}").format(_strong(audit.method), outcome),
                _svg(shapes, 36, says),
                place(where),
            )
        )
    rows.append(_axis([_tick(scale, v, text) for v, text in ((0.0, "0"), (1.0, "1"))]))
    key = _legend({"edited": "edited model"})
    bands = {
        "holders": "where 95 % of models that hold the data lie",
        "oracle": "where 95 % of models retrained without it lie",
    }
    swatches = Markup("").join(
        Markup('<li><span class="swatch {}"></span>{}</li>').format(css, text)
        for css, text in bands.items()
        if any((a.verdict.rejected if css == "holders" else a.verdict.accepted) for a, _ in placed)
    )
    return Markup('<ul class="legend">{}{}</ul>{}').format(key, swatches, Markup("").join(rows))


def scores(values: Mapping[str, Sequence[float]]) -> Markup | None:
    """A histogram a model of the forget set's scores, one under the other; None without scores."""
    shown = {name: [v for v in values.get(name, ()) if math.isfinite(v)] for name in SERIES}
    shown = {name: found for name, found in shown.items() if found}
    if not shown:
        return None
    everything = sorted(v for found in shown.values() for v in found)
    edge = len(everything) // 200  # a few extreme scores would squeeze all others into one bar
    scale = Scale.around(everything[edge : len(everything) - edge])
    rows = []
    most = 0.0
    bars = {}
    few = max(map(len, shown.values())) < 20
    if not few:
        bins = 32
        for name, found in shown.items():
            counts = [0] * bins
            for v in found:
                place = (v - scale.low) / (scale.high - scale.low)
                counts[min(bins - 1, max(0, int(place * bins)))] += 1
            bars[name] = [c / len(found) for c in counts]
            most = max(most, *bars[name])
    for name, found in shown.items():
        middle = median(found)
        shapes = []
        if few:
            shapes = [_mark(scale, v, name, 26) for v in found]
        else:
            width = 96 / len(bars[name])
            for k, part in enumerate(bars[name]):
                tall = 46 * part / most
                if part:
                    shapes.append(
                        Markup(
                            '<rect class="fill {}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"/>'
                        ).format(name, 2 + k * width, 52 - tall, width * 0.86, tall)
                    )
        shapes.append(Markup('<line class="base" x1="2%" x2="98%" y1="52" y2="52"/>'))
        shapes.append(
            Markup('<line class="middle" x1="{0:.2f}%" x2="{0:.2f}%" y1="2" y2="56"/>').format(
                scale.at(middle)
            )
        )
        says = f"{SERIES[name]}: scores of {len(found)} deleted examples, median {number(middle)}"
        label = Markup("{}<small>median {}</small>").format(_keyed(name), number(middle))
        rows.append(_row(label, _svg(shapes, 58, says), None))
    rows.append(_axis(_ticks(scale), "less sure of the right answer ← → surer"))
    return Markup("").join(rows)


def dumbbells(
    rows: Mapping[str, Mapping[str, float]],
    names: Mapping[str, str],
    *,
    unit: str,
    apart: tuple[str, str],
    figure: str,
    ends: Sequence[float] = (),
) -> Markup | None:
    """One row an entry with a mark a series on a common scale.

    Args:
        rows: label -> series -> value.
        names: series to draw -> words in the legend.
        unit: of every value, for the axis.
        apart: two series; if there are too many rows, those where these two differ most are drawn.
        figure: the series whose value stands at the right.
        ends: values the scale must reach.

    Returns:
        The picture; None without a row that holds any of the series.
    """
    kept = {
        label: {s: v for s, v in row.items() if s in names and math.isfinite(v)}
        for label, row in rows.items()
    }
    kept = {label: row for label, row in kept.items() if row}
    if not kept:
        return None
    chosen = list(kept)
    if len(chosen) > _MOST_ROWS:
        a, b = apart
        gap = {k: abs(row[a] - row[b]) if a in row and b in row else -1.0 for k, row in kept.items()}
        largest = set(sorted(chosen, key=lambda k: -gap[k])[:_MOST_ROWS])
        chosen = [k for k in chosen if k in largest]
    scale = Scale.around([*ends, *(v for k in chosen for v in kept[k].values())])
    ending = ".weight" if all(k.endswith(".weight") for k in chosen) else ""
    present = {s: words for s, words in names.items() if any(s in kept[k] for k in chosen)}
    out = []
    for label in chosen:
        row = kept[label]
        spots = [scale.at(v) for v in row.values()]
        shapes = [
            Markup('<line class="track" x1="2%" x2="98%" y1="13" y2="13"/>'),
            Markup('<line class="link" x1="{:.2f}%" x2="{:.2f}%" y1="13" y2="13"/>').format(
                min(spots), max(spots)
            ),
        ]
        shapes += [_mark(scale, row[s], _style(s), 13) for s in present if s in row]
        says = f"{label}: " + ", ".join(
            f"{words} {number(row[s])}" for s, words in present.items() if s in row
        )
        out.append(_row(_strong(label.removesuffix(ending)), _svg(shapes, 26, says), number(row.get(figure))))
    out.append(_axis(_ticks(scale), unit))
    more = len(kept) - len(chosen)
    note = (
        Markup(
            "<p class=note>Shown: the {} of {} rows that differ most. The table below has all.</p>"
        ).format(len(chosen), len(kept))
        if more
        else ""
    )
    legend = Markup('<ul class="legend">{}</ul>').format(_legend(present))
    return Markup('{}<div class="tight">{}</div>{}').format(legend, Markup("").join(out), note)


def costs(edits: Mapping[str, float], retrain: float | None) -> Markup | None:
    """Seconds of each edit and of one retraining as bars; None without any."""
    bars = [(method, took, "edited") for method, took in edits.items()]
    if retrain:
        bars.append(("one retraining from scratch", retrain, "oracle"))
    if not bars:
        return None
    longest = max(took for _, took, _ in bars) or 1.0
    rows = []
    for label, took, css in bars:
        shape = Markup('<rect class="fill {}" x="2%" y="5" width="{:.2f}%" height="18" rx="2"/>').format(
            css, max(0.4, 96 * took / longest)
        )
        less = ratio(took, retrain) if retrain and css == "edited" else ""
        says = f"{label}: {seconds(took)}{', ' + less if less else ''}"
        text = Markup("{}<small>{}</small>").format(_strong(label), less) if less else _strong(label)
        rows.append(_row(text, _svg([shape], 28, says), seconds(took)))
    return Markup("").join(rows)


def spreads(
    rows: Mapping[str, Sequence[float]],
    *,
    unit: str,
    intervals: Mapping[str, tuple[float, float]],
    zero: bool = False,
) -> Markup | None:
    """One row an entry: a dot a run, a bar at their mean, a whisker over its 95 % interval; None without values.

    Args:
        rows: label -> values.
        unit: of all of them, for the axis.
        intervals: label -> 95 % interval of the mean, where it is known.
        zero: draw a line at zero, for differences.
    """
    kept = {label: [v for v in values if math.isfinite(v)] for label, values in rows.items()}
    kept = {label: values for label, values in kept.items() if values}
    if not kept:
        return None
    ends = [e for label in kept for e in intervals.get(label, ()) if math.isfinite(e)]
    scale = Scale.around([*(v for values in kept.values() for v in values), *ends, *((0.0,) if zero else ())])
    out = []
    for label, values in kept.items():
        middle = sum(values) / len(values)
        shapes = [Markup('<line class="track" x1="2%" x2="98%" y1="13" y2="13"/>')]
        if zero:
            shapes.append(_rule(scale.at(0.0), 26))
        shapes += [
            Markup('<circle class="spread" cx="{:.2f}%" cy="13" r="3.5"/>').format(scale.at(v))
            for v in values
        ]
        if all(math.isfinite(e) for e in intervals.get(label, (math.nan,))):
            low, high = map(scale.at, intervals[label])
            shapes.append(
                Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="13" y2="13"/>').format(low, high)
            )
        shapes.append(
            Markup('<line class="centre" x1="{0:.2f}%" x2="{0:.2f}%" y1="5" y2="21"/>').format(
                scale.at(middle)
            )
        )
        says = f"{label}: {len(values)} runs, mean {number(middle)}"
        out.append(_row(_strong(label), _svg(shapes, 26, says), number(middle)))
    out.append(_axis(_ticks(scale), unit))
    return Markup('<div class="tight">{}</div>').format(Markup("").join(out))


def curve(values: Sequence[float], *, words: str, unit: str = "") -> Markup | None:
    """A line over the steps of a training; None with fewer than two finite values.

    Args:
        values: in order; averaged in groups where there are more than 240.
        words: below the axis.
        unit: of the values.
    """
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return None
    size = -(-len(finite) // 240)
    drawn = [sum(finite[i : i + size]) / len(finite[i : i + size]) for i in range(0, len(finite), size)]
    scale = Scale.around([0.0, *drawn])
    height = 180
    points = " ".join(
        f"{2 + 96 * i / (len(drawn) - 1):.2f},{height - 4 - (height - 12) * (scale.at(v) - 2) / 96:.1f}"
        for i, v in enumerate(drawn)
    )
    line = Markup(
        '<svg width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none" role="img" aria-label="{1}">'
        '<polyline class="curve" points="{2}"/></svg>'
    ).format(height, f"{words}: from {number(drawn[0])} to {number(drawn[-1])}", points)
    label = Markup("{}<small>begins {}</small><small>ends {}</small>").format(
        _strong(f"loss{', ' + unit if unit else ''}"), number(drawn[0]), number(drawn[-1])
    )
    return _row(label, line, None) + _axis([], words)


def strip(m: Measurement) -> Markup:
    """A measurement's figures on a line: original, retrained mean with twice its spread, edited."""
    values = {"original": m.original, "oracle": m.oracle_mean, "edited": m.value}
    there = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
    if "edited" not in there or len(there) < 2:
        return Markup("")
    ends = [e for e in m.interval or () if math.isfinite(e)]
    band = None
    if "oracle" in there and m.oracle_spread is not None and math.isfinite(m.oracle_spread):
        band = (there["oracle"] - 2 * m.oracle_spread, there["oracle"] + 2 * m.oracle_spread)
    scale = Scale.around([*there.values(), *ends, *(band or ())])
    shapes = [Markup('<line class="track" x1="2%" x2="98%" y1="12" y2="12"/>')]
    if band:
        shapes.append(_band(scale, band, "oracle", 24))
    if len(ends) == 2:
        shapes.append(
            Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="12" y2="12"/>').format(
                *map(scale.at, ends)
            )
        )
    shapes += [_mark(scale, v, k, 12) for k, v in there.items()]
    return _svg(shapes, 24, f"{m.name}: edited {value_text(m)}")


def legend(names: Iterable[str] = ("original", "edited", "oracle")) -> Markup:
    """The marks of some series with their words."""
    return Markup('<ul class="legend">{}</ul>').format(_legend({n: SERIES[n] for n in names}))


def _style(series: str) -> str:
    return {"iou_original": "original", "iou_oracle": "oracle"}.get(series, series)


def _slug(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _strong(text: str) -> Markup:
    return Markup("<span class=name>{}</span>").format(text)


def _keyed(series: str) -> Markup:
    return Markup("<span class=name>{} {}</span>").format(_symbol(series), SERIES[series])


def _symbol(series: str) -> Markup:
    return Markup('<svg class="key" width="14" height="14" aria-hidden="true">{}</svg>').format(
        _shape(_style(series), "7", 7)
    )


def _legend(names: Mapping[str, str]) -> Markup:
    return Markup("").join(Markup("<li>{} {}</li>").format(_symbol(s), words) for s, words in names.items())


def _shape(series: str, x: str, y: float) -> Markup:
    inner = {
        "original": '<rect class="mark original" x="-5" y="-5" width="10" height="10"/>',
        "holders": '<path class="mark holders" d="M-5,5 L0,-5 L5,5 Z"/>',
        "oracle": '<path class="mark oracle" d="M0,-7 L7,0 L0,7 L-7,0 Z"/>',
        "edited": '<circle class="mark edited" r="5.5"/>',
    }[series]
    # a nested svg can be placed by percentage, a path cannot
    return Markup('<svg class="spot" x="{}" y="{}" overflow="visible">{}</svg>').format(x, y, Markup(inner))


def _mark(scale: Scale, value: float, series: str, y: float) -> Markup:
    x = f"{scale.at(value):.2f}%"
    if scale.holds(value):
        return _shape(series, x, y)
    turn = "M-7,-6 L5,0 L-7,6 Z" if value > scale.high else "M7,-6 L-5,0 L7,6 Z"
    return Markup(
        '<svg class="spot" x="{}" y="{}" overflow="visible"><path class="mark {}" d="{}"/></svg>'
    ).format(x, y, series, turn)


def _band(scale: Scale, ends: tuple[float, float], css: str, height: int) -> Markup:
    low, high = scale.at(ends[0]), scale.at(ends[1])
    return Markup('<rect class="band {}" x="{:.2f}%" y="3" width="{:.2f}%" height="{}" rx="3"/>').format(
        css, low, max(0.5, high - low), height - 6
    )


def _rule(x: float, height: int) -> Markup:
    return Markup('<line class="rule" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}"/>').format(x, height)


def _tick(scale: Scale, value: float, text: str) -> Markup:
    x = scale.at(value)
    anchor = "start" if x < 12 else "end" if x > 88 else "middle"
    return Markup(
        '<line class="base" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="4"/>'
        '<text x="{0:.2f}%" y="17" text-anchor="{1}">{2}</text>'
    ).format(x, anchor, text)


def _ticks(scale: Scale) -> list[Markup]:
    return [_tick(scale, v, f"{v:g}".replace("-", "−")) for v in scale.ticks(4)]


def _axis(ticks: Sequence[Markup], words: str = "") -> Markup:
    note = Markup("<div class=words>{}</div>").format(words) if words else ""
    line = Markup('<line class="base" x1="2%" x2="98%" y1="0" y2="0"/>')
    svg = Markup('<svg width="100%" height="22" aria-hidden="true">{}{}</svg>').format(
        line, Markup("").join(ticks)
    )
    return Markup('<div class="row axis"><div></div><div>{}{}</div><div></div></div>').format(svg, note)


def _row(label: str | Markup, track: Markup, figure: str | None) -> Markup:
    last = (
        Markup('<div class="figure">{}</div>').format(figure) if figure is not None else Markup("<div></div>")
    )
    return Markup('<div class="row"><div class="label">{}</div><div>{}</div>{}</div>').format(
        label, track, last
    )


def _svg(shapes: Sequence[Markup], height: int, says: str) -> Markup:
    return Markup('<svg width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, escape(says), Markup("").join(shapes)
    )
