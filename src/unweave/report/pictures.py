"""The report's pictures, drawn without a plotting library; see `marks` for what they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from markupsafe import Markup

from ..audit.result import Audit
from ..audit.shown import number, place, ratio, seconds, value_text
from ..types import Measurement
from . import marks
from .marks import Scale

_MOST_ROWS = 24


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
            marks.band(scale, band, css, 36)
            for band, css in ((v.rejected, "holders"), (v.accepted, "oracle"))
            if band
        ]
        shapes += [
            marks.rule(scale.at(0), 36),
            marks.rule(scale.at(1), 36),
            marks.mark(scale, where, "edited", 18),
        ]
        says = f"{audit.method}: position {place(where)}, {v.outcome}"
        outcome = Markup('<span class="tag {}">{} {}</span>').format(
            marks.slug(v.outcome), audit.word.symbol, v.outcome
        )
        rows.append(
            marks.row(
                Markup("{} {}").format(marks.strong(audit.method), outcome),
                marks.svg(shapes, 36, says),
                place(where),
            )
        )
    rows.append(marks.axis([marks.tick_at(scale, v, text) for v, text in ((0.0, "0"), (1.0, "1"))]))
    key = marks.entries({"edited": "edited model"})
    bands = {
        "holders": "where 95 % of models that hold the data lie",
        "oracle": "where a model passes",
    }
    swatches = Markup("").join(
        Markup('<li><span class="swatch {}"></span>{}</li>').format(css, text)
        for css, text in bands.items()
        if any((a.verdict.rejected if css == "holders" else a.verdict.accepted) for a, _ in placed)
    )
    return Markup('<ul class="legend">{}{}</ul>{}').format(key, swatches, Markup("").join(rows))


def scores(values: Mapping[str, Sequence[float]]) -> Markup | None:
    """A histogram a model of the forget set's scores, one under the other; None without scores."""
    shown = {name: [v for v in values.get(name, ()) if math.isfinite(v)] for name in marks.SERIES}
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
            shapes = [marks.mark(scale, v, name, 26) for v in found]
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
        says = f"{marks.SERIES[name]}: scores of {len(found)} deleted examples, median {number(middle)}"
        label = Markup("{}<small>median {}</small>").format(marks.keyed(name), number(middle))
        rows.append(marks.row(label, marks.svg(shapes, 58, says), None))
    rows.append(marks.axis(marks.ticks(scale), "less sure of the right answer ← → surer"))
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
    chosen = _most_apart(kept, *apart)
    scale = Scale.around([*ends, *(v for k in chosen for v in kept[k].values())])
    ending = ".weight" if all(k.endswith(".weight") for k in chosen) else ""
    present = {s: words for s, words in names.items() if any(s in kept[k] for k in chosen)}
    out = [
        _dumbbell(scale, label, label.removesuffix(ending), kept[label], present, figure) for label in chosen
    ]
    out.append(marks.axis(marks.ticks(scale), unit))
    more = len(kept) - len(chosen)
    note = (
        Markup(
            "<p class=note>Shown: the {} of {} rows that differ most. The table below has all.</p>"
        ).format(len(chosen), len(kept))
        if more
        else ""
    )
    legend = Markup('<ul class="legend">{}</ul>').format(marks.entries(present))
    return Markup('{}<div class="tight">{}</div>{}').format(legend, Markup("").join(out), note)


def _dumbbell(
    scale: Scale, label: str, short: str, row: Mapping[str, float], present: Mapping[str, str], figure: str
) -> Markup:
    """One row of `dumbbells`."""
    spots = [scale.at(v) for v in row.values()]
    shapes = [
        Markup('<line class="track" x1="2%" x2="98%" y1="13" y2="13"/>'),
        Markup('<line class="link" x1="{:.2f}%" x2="{:.2f}%" y1="13" y2="13"/>').format(
            min(spots), max(spots)
        ),
    ]
    shapes += [marks.mark(scale, row[s], marks.style(s), 13) for s in present if s in row]
    says = f"{label}: " + ", ".join(f"{words} {number(row[s])}" for s, words in present.items() if s in row)
    return marks.row(marks.strong(short), marks.svg(shapes, 26, says), number(row.get(figure)))


def _most_apart(rows: Mapping[str, Mapping[str, float]], a: str, b: str) -> list[str]:
    """Labels of all rows, or of as many as a picture holds: those where series `a` and `b` differ most."""
    gap = {k: abs(row[a] - row[b]) if a in row and b in row else -1.0 for k, row in rows.items()}
    largest = set(sorted(rows, key=lambda k: -gap[k])[:_MOST_ROWS])
    return [label for label in rows if label in largest]


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
        text = (
            Markup("{}<small>{}</small>").format(marks.strong(label), less) if less else marks.strong(label)
        )
        rows.append(marks.row(text, marks.svg([shape], 28, says), seconds(took)))
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
            shapes.append(marks.rule(scale.at(0.0), 26))
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
        out.append(marks.row(marks.strong(label), marks.svg(shapes, 26, says), number(middle)))
    out.append(marks.axis(marks.ticks(scale), unit))
    return Markup('<div class="tight">{}</div>').format(Markup("").join(out))


def curve(values: Sequence[float], *, of: str, words: str, unit: str = "") -> Markup | None:
    """A line over steps or ranks; None with fewer than two finite values.

    Args:
        values: in order; averaged in groups where there are more than 240.
        of: what the values are.
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
    ).format(height, f"{of}, {words}: from {number(drawn[0])} to {number(drawn[-1])}", points)
    label = Markup("{}<small>begins {}</small><small>ends {}</small>").format(
        marks.strong(f"{of}{', ' + unit if unit else ''}"), number(drawn[0]), number(drawn[-1])
    )
    return marks.row(label, line, None) + marks.axis([], words)


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
        shapes.append(marks.band(scale, band, "oracle", 24))
    if len(ends) == 2:
        shapes.append(
            Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="12" y2="12"/>').format(
                *map(scale.at, ends)
            )
        )
    shapes += [marks.mark(scale, v, k, 12) for k, v in there.items()]
    return marks.svg(shapes, 24, f"{m.name}: edited {value_text(m)}")


def legend(names: Iterable[str] = ("original", "edited", "oracle")) -> Markup:
    """The marks of some series with their words."""
    return Markup('<ul class="legend">{}</ul>').format(marks.entries({n: marks.SERIES[n] for n in names}))
