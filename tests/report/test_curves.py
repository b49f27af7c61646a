"""Curves of a figure over another: lines through their points, whiskers, bands."""

from __future__ import annotations

import math
import re

from unweave.report.curves import Point, curves

NO = (math.nan, math.nan)


def test_a_line_falls_where_its_figure_falls() -> None:
    line = [Point(50.0, 90.0, (85.0, 95.0)), Point(90.0, 60.0, (50.0, 70.0))]
    drawn = str(
        curves({"a": line}, {"dense": Point(0.0, 92.0, (91.0, 93.0))}, unit="accuracy, %", words="removed, %")
    )
    between, first, second = re.findall(
        r'stroke oracle" stroke-dasharray="" x1="([\d.]+)%" y1="([\d.]+)" x2="([\d.]+)%" y2="([\d.]+)"', drawn
    )
    x1, y1, x2, y2 = map(float, between)
    assert (x1, x2) == (2.0, 98.0)
    assert y1 < y2, "higher figures lie higher, which in pixels is less"
    assert float(first[1]) > y1 > float(first[3]), "the whisker holds the mean"
    band = re.search(r'band oracle" x="2%" width="96%" y="([\d.]+)" height="([\d.]+)"', drawn)
    assert band is not None
    assert float(band[1]) < y1
    assert "a: 90.0 at 50.0, 60.0 at 90.0" in drawn


def test_points_come_in_order_and_what_is_not_known_is_left_out() -> None:
    shuffled = [Point(90.0, 60.0, NO), Point(50.0, 90.0, NO), Point(70.0, math.nan, NO)]
    drawn = str(curves({"<b>": shuffled}, {}, unit="%", words=""))
    assert drawn.count('class="stroke oracle"') == 2, "the legend's and the line: no whisker for one seed"
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn


def test_one_place_is_no_curve() -> None:
    assert curves({"a": [Point(50.0, 90.0, NO)]}, {}, unit="%", words="") is None


def test_figures_of_a_delivery_are_told_with_their_units() -> None:
    from unweave.report.delivered import figure, pages

    names = ("psnr rgb", "psnr y", "ssim y", "seams", "kbit/s without sound", "seconds of training")
    assert [figure(name) for name in names] == [
        "PSNR in RGB, dB",
        "PSNR in luma, dB",
        "SSIM in luma",
        "seams, levels of 255",
        "rate without sound, kbit/s",
        "training, s",
    ]
    html, text = pages("clip.mp4", ["Sent."], {"net": 10}, {"psnr y": 31.25}, {}, {})
    assert "PSNR in luma, dB" in html
    assert "PSNR in luma, dB" in text
    assert "31.25" in html
