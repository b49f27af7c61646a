"""`unweave deliver` and `unweave play` from end to end, the comparison's verdict in both directions, wrong arguments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the video extra is not installed")
from unweave.cli import main
from unweave.embedded.clips import panned
from unweave.errors import InputError
from unweave.jobs.against_codecs import BICUBIC, LANCZOS, NATIVE, OURS, Arms, _break_even
from unweave.jobs.deliver import Delivered, DeliverJob
from unweave.jobs.delivered import spoken_backbone, spoken_bits
from unweave.restore import STDO
from unweave.restore.delivery import Backbone, Encoding

METHOD = STDO(
    k=2, cell=12, steps=4, lr=1e-3, backbone=Backbone(name="espcn", blocks=1, width=4, residual=True)
)


@pytest.mark.slow  # encodes along a ladder, four arms
def test_a_job_compares_and_is_read_again(tmp_path: Path) -> None:
    job = DeliverJob(
        clip=panned(5, 96, 128), method=METHOD, encoding=Encoding(crf=30), compare=True, points=(24.0, 36.0)
    )
    done = job.run(tmp_path / "run")
    assert set(done.compared["curves"]) == {NATIVE, BICUBIC, LANCZOS, OURS}
    for points in done.compared["curves"].values():
        assert [p["crf"] for p in points] == sorted(p["crf"] for p in points)
        assert points[0]["kbit/s"] > points[1]["kbit/s"]
        assert points[0]["psnr y"] > points[1]["psnr y"]
    small, ours = done.compared["curves"][BICUBIC][0], done.compared["curves"][OURS][0]
    assert ours["stream"] == small["bytes"] < ours["bytes"]
    page = done.page.read_text()
    assert all(arm in page for arm in (NATIVE, BICUBIC, LANCZOS, OURS))
    assert page.count("data:image/png") == 5
    assert json.loads(done.json())["sizes"]["net"] > 0
    assert Delivered.read(tmp_path / "run") == done
    assert job.run(tmp_path / "run") == done


def test_the_verdict_is_said_plainly() -> None:
    points = [
        {"kbit/s": r, "psnr y": q, "stream": 1000 * r, "bytes": 1000 * r}
        for r, q in ((100.0, 30.0), (200.0, 34.0))
    ]
    half = [
        {**p, "kbit/s": p["kbit/s"] * 0.6, "stream": p["stream"] * 0.4, "bytes": p["stream"] * 0.6}
        for p in points
    ]
    curves = {NATIVE: points, BICUBIC: points, LANCZOS: points, OURS: half}
    # at 32 dB: full 141.4 kbit/s, small stream 56.6; networks 40,000 bytes = 320 kbit over the difference of 84.9 kbit/s
    assert _break_even(curves, 8.0) == pytest.approx(320 / (100 * 2**0.5 * 0.6), rel=1e-6)
    assert _break_even({**curves, NATIVE: half, OURS: points}, 8.0) is None
    arms = Arms("h264", 8.0, curves, {OURS: {"psnr y": -12.0}, BICUBIC: {"psnr y": 3.0}}, 4.0, {})
    assert "12.0 % fewer bits than h264 at full size" in arms.lead()[0]
    worse = replace(arms, bd={**arms.bd, OURS: {"psnr y": 20.0}})
    assert "h264 alone at full size wins" in worse.lead()[0]
    assert "pay off from 4 s" in worse.lead()[1]
    assert "never pay off" in replace(worse, break_even=None).lead()[1]
    assert "no quality is reached by both" in replace(arms, bd={**arms.bd, OURS: {"psnr y": None}}).lead()[0]


def test_the_commands_make_and_play_a_delivery(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--most", "6", "--steps", "4", "--net", "espcn:1:4", "--crf", "30"]
    assert main(["deliver", "--method", "jstdo", "--stdo.cell", "12", *short]) == 0
    assert (tmp_path / "clip.uwv").read_bytes() == (tmp_path / "clip.run" / "clip.uwv").read_bytes()
    assert "Playing can begin after" in capsys.readouterr().out
    assert main(["play", "clip.uwv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exact"] is True
    assert told["frames"] == 6
    for argv, says in (
        (["play", "absent.uwv"], "there is no file absent.uwv"),
        (["play", "clip.uwv", "--crf", "99"], "--crf from 0 to 51"),
        (["deliver", "clip.uwv"], "is a delivery already"),
        (["deliver", "--method", "salun"], "delivers no video"),
        (["deliver", "--method", "sdto"], "Did you mean stdo"),
        (["deliver", "--out", "clip.mp4"], "must end in .uwv"),
        (["deliver", "--bits", "8q"], "as in 800k"),
        (["deliver", "--bits", "800k", "--crf", "20"], "beside bits"),
        (["deliver", "--net", "espcn:2"], "NAME:LAYERS:WIDTH"),
        (["deliver", "--most", "1"], "at least 2 frames"),
    ):
        assert main(argv) == 2
        assert says in " ".join(capsys.readouterr().err.split())


def test_words_of_the_command_line() -> None:
    assert (spoken_bits("800k"), spoken_bits("1.5M"), spoken_bits("9000"), spoken_bits("")) == (
        8e5,
        1.5e6,
        9e3,
        None,
    )
    assert spoken_backbone("espcn:1:4") == Backbone(name="espcn", blocks=1, width=4, residual=True)
    assert spoken_backbone("wdsr:4:16").residual is False
    with pytest.raises(InputError, match="points must be at least two"):
        DeliverJob(clip=panned(3), method=METHOD, compare=True, points=(30.0,))
