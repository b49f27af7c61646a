"""A delivery as a page and as Markdown: what it costs, how good it is, and how it stands beside codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from . import words
from .curves import Point, curves
from .explained import Pages, render_explained
from .page import Section

_QUALITY = {
    "psnr y": ("dB", "PSNR in luma"),
    "psnr rgb": ("dB", "PSNR in RGB"),
    "ssim y": ("", "SSIM in luma"),
}
_FIGURES = {
    "psnr rgb, paper's protocol": "PSNR in RGB by the paper's protocol, dB",
    "seams": "seams, levels of 255",
    "kbit/s without sound": "rate without sound, kbit/s",
    "crf of the stream": "constant rate factor of the stream",
    "seconds of training": "training, s",
}


def figure(name: str) -> str:
    """What a figure is called beside its number, with its unit."""
    if name in _QUALITY:
        unit, what = _QUALITY[name]
        return f"{what}, {unit}" if unit else what
    return _FIGURES.get(name, name)


def pages(
    name: str, lead: Sequence[str], sizes: Mapping[str, int], figures: Mapping[str, float | None],
    compared: Mapping[str, Any], facts: Mapping[str, Any],
) -> Pages:  # fmt: skip
    """Both pages of a delivery.

    Args:
        name: of the clip.
        lead: what came out, in sentences.
        sizes: bytes of each kind of part.
        figures: name -> number.
        compared: what the comparison with codecs found; empty without.
        facts: command, settings, versions.
    """
    total = sum(size for kind, size in sizes.items() if kind != "audio")
    sections = [
        Section(
            heading="What is sent",
            caption="Sound is handed on as it was, and counted in no rate.",
            columns=("part", "bytes", "of all but sound"),
            rows=[
                (kind, f"{size:,}", "" if kind == "audio" else f"{100 * size / total:.1f} %")
                for kind, size in sizes.items()
            ],
        ),
        Section(
            heading="How good it is",
            caption="PSNR over whole frames is the mean of every frame's; the paper's protocol leaves out scale "
            "+ 4 pixels "
            "inside each patch's border and pools the error. Seams: steps of luma across patches' borders "
            "beyond the original's.",
            columns=("figure", "value"),
            rows=[(figure(n), words.number(v, digits=4)) for n, v in figures.items()],
        ),
        *(_compared(compared) if compared else ()),
    ]
    return render_explained(
        "A delivery", kicker=name, lead=[*lead, *compared.get("lead", ())], sections=sections, run=facts
    )


def _compared(found: Mapping[str, Any]) -> list[Section]:
    parts = []
    for quality, (_, what) in _QUALITY.items():
        lines = {
            arm: [Point(p["kbit/s"], p[quality], (float("nan"), float("nan"))) for p in points]
            for arm, points in found["curves"].items()
        }
        picture = curves(lines, {}, unit=figure(quality), words="kbit/s, everything that is sent")
        parts.append(Section(heading=what, picture=picture))
    rows = [(arm, *(_percent(found["bd"][arm][q]) for q in _QUALITY)) for arm in found["bd"]]
    parts.append(
        Section(
            heading=f"Bits at equal quality, beside {found['codec']} at full size",
            caption="Bjontegaard's difference in rate; negative takes fewer bits. Where the curves share no "
            "quality there is none.",
            columns=("arm", *(what for _, what in _QUALITY.values())),
            rows=rows,
        )
    )
    parts.append(Section(heading="Beside one another", picture=_crops(found["crops"])))
    points = [
        (arm, f"{p['crf']:g}", f"{p['kbit/s']:.1f}", *(words.number(p[q], digits=4) for q in _QUALITY))
        for arm, line in found["curves"].items()
        for p in line
    ]
    parts.append(
        Section(heading="All points", columns=("arm", "crf", "kbit/s", *map(figure, _QUALITY)), rows=points)
    )
    return parts


def _percent(value: float | None) -> str:
    return "no overlap" if value is None else f"{value:+.1f} %"


def _crops(crops: Mapping[str, str]) -> Markup:
    cells = Markup("").join(
        Markup('<figure><figcaption>{0}</figcaption><img alt="{0}" src="{1}" width="256"></figure>').format(
            caption, f"data:image/png;base64,{data}"
        )
        for caption, data in crops.items()
    )
    return Markup("<div class=pictures>{}</div>").format(cells)
