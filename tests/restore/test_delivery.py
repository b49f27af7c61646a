"""A clip delivered and read again: the same bits, whole frames, honest sizes; and everything that may be wrong with files."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="the video extra is not installed")
from tests.faults import largest_file
from unweave import resumable, seeded
from unweave.embedded.clips import panned, write_clip
from unweave.errors import InputError, IntegrityError, StorageError
from unweave.jobs.play import play
from unweave.restore import NAS, STDO
from unweave.restore.delivery import Backbone, Clip, Container, Delivery, Encoding, read_clip
from unweave.restore.delivery import codec as codecs
from unweave.restore.delivery.backbones import Bicubic, folded
from unweave.restore.delivery.coding import (
    coded_labels,
    coded_weights,
    lengthened,
    read_labels,
    read_weights,
    shortened,
)
from unweave.restore.delivery.delivery import streamed
from unweave.restore.delivery.measures import Meter, bd_rate, psnr, rate_at, seam, ssim
from unweave.restore.delivery.packets import Packet, packed, unpacked
from unweave.restore.delivery.patches import Grid, by_quantile, padded_to, smaller, split_labels

TINY = Backbone(name="espcn", blocks=1, width=4, residual=True)
METHOD = STDO(k=2, cell=10, steps=6, lr=1e-3, backbone=TINY, halo=1)
PLAN = Encoding(crf=30, gop_seconds=0.2, precision="int8", preset="ultrafast")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Nine frames of odd sides at uneven times."""
    whole = panned(9, 47, 61)
    return Clip(whole.frames, (0, 40, 80, 130, 170, 200, 260, 300, 340), Fraction(1, 1000))


@pytest.fixture(scope="module")
def stream(clip: Clip):
    return streamed(clip, METHOD, PLAN)


@pytest.fixture(scope="module")
def made(clip: Clip, stream) -> Delivery:
    return Delivery.encode(clip, METHOD, PLAN, rng=seeded(0), stream=stream)


@pytest.fixture(scope="module")
def file(made: Delivery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("delivery") / "clip.uwv"
    made.save(path)
    return path


def test_the_reader_has_the_encoders_own_frames_whole_and_at_their_times(clip, made, file, tmp_path) -> None:
    report = made.report
    assert report is not None
    told = play(file, out=tmp_path / "up.mkv", frames=tmp_path / "frames", crf=0)
    assert told.exact
    assert told.frames == 9
    restored = read_clip(tmp_path / "up.mkv")
    assert restored.frames.shape == clip.frames.shape
    assert [t * restored.time_base for t in restored.times] == [t * clip.time_base for t in clip.times]
    again = torch.stack(list(Delivery.open(file).decode()))
    assert torch.equal(restored.frames, again)
    meter = Meter()
    for a, b in zip(again, clip.frames, strict=True):
        meter.add(a, b)
    assert meter.figures()["psnr rgb"] == pytest.approx(report.figures["psnr rgb"])
    assert len(list((tmp_path / "frames").glob("*.png"))) == 9


def test_sizes_are_those_of_the_file_and_playing_begins_before_its_end(made, file) -> None:
    report = made.report
    assert report is not None
    assert sum(report.sizes.values()) == report.total == file.stat().st_size
    names = list(made.container.parts)
    assert names.index("net/1") < names.index("labels/0") < names.index("stream/0") < names.index("stream/1")
    upto = file.read_bytes()[: report.startup]
    first = names.index("stream/0") + 1
    held = {n: made.container.parts[n] for n in names[:first]}
    assert len(upto) == len(made.container.head()) + sum(map(len, held.values()))


def test_the_first_frame_comes_out_of_the_first_segments_alone(made) -> None:
    from unweave.restore.delivery.reader import Reader

    taken = []

    def parts():
        for name, data in made.container.parts.items():
            taken.append(name)
            yield name, data

    next(iter(Reader(made.container.manifest, parts())))
    assert len(taken) < len(made.container.parts)


def test_a_killed_training_goes_on_to_the_same_bits(clip, stream, made, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNWEAVE_CHECKPOINT_SECONDS", "0")
    from unweave.fit import training

    real, steps = training.Training.step_, []

    def dying(self):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step_", dying)
        with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
            Delivery.encode(clip, METHOD, PLAN, rng=seeded(0), stream=stream)
    with resumable(tmp_path):
        again = Delivery.encode(clip, METHOD, PLAN, rng=seeded(0), stream=stream)
    assert again.container == made.container


def test_a_budget_counts_everything_that_is_sent(clip) -> None:
    plan = replace(PLAN, crf=None, bits=200_000)
    made = Delivery.encode(clip, replace(METHOD, steps=2), plan, rng=seeded(0))
    assert made.report is not None
    assert 0.5 * plan.bits < made.report.bits <= plan.bits
    with pytest.raises(InputError, match="leave nothing for the stream"):
        Delivery.encode(clip, METHOD, replace(plan, bits=30_000), rng=seeded(0))
    with pytest.raises(InputError, match="the coarsest h264 takes"):
        Delivery.encode(clip, METHOD, replace(plan, bits=56_000), rng=seeded(0))


def test_only_what_differs_from_a_general_network_is_sent_and_the_reader_must_have_it(clip) -> None:
    general = folded(TINY.build(2))
    with torch.no_grad():
        for tensor in general.parameters():  # a layer of zeros has no step to which a change could be rounded
            tensor.uniform_(-0.5, 0.5, generator=seeded(1))
    upon = Delivery.encode(clip, replace(METHOD, steps=2, lr=1e-9), PLAN, rng=seeded(0), general=general)
    assert upon.report is not None
    nets = {name: lengthened(part) for name, part in upon.container.parts.items() if name.startswith("net")}
    tensors = len(general.state_dict())
    assert nets == {"net/0": bytes(tensors), "net/1": bytes(tensors)}  # one byte each: the same
    assert len(list(upon.decode(general=general))) == 9
    with pytest.raises(InputError, match="differ from a general one"):
        next(upon.decode())
    with pytest.raises(InputError, match="differ from a general one"):
        next(upon.decode(general=folded(TINY.build(2))))


@pytest.mark.slow
def test_onnx_runtime_restores_the_same_pictures(made) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ours, theirs = list(made.decode()), list(made.decode(backend="onnxruntime"))
    assert max(int((a.int() - b.int()).abs().max()) for a, b in zip(ours, theirs, strict=True)) <= 1


def test_every_part_that_is_changed_or_cut_off_is_named(made, file, tmp_path) -> None:
    data, at = file.read_bytes(), len(made.container.head())
    bad = tmp_path / "bad.uwv"
    for name, part in made.container.parts.items():
        bad.write_bytes(
            data[: at + len(part) // 2]
            + bytes([data[at + len(part) // 2] ^ 1])
            + data[at + len(part) // 2 + 1 :]
        )
        with pytest.raises(IntegrityError, match=f"part '{name}' was changed"):
            Delivery.open(bad)
        bad.write_bytes(data[: at + len(part) - 1])
        with pytest.raises(IntegrityError, match=f"ends within part '{name}'"):
            play(bad)
        at += len(part)
    for wrong, error, says in (
        (data + b"x", IntegrityError, "goes on after its last part"),
        (data[:10], IntegrityError, "within its first"),
        (data[:40], IntegrityError, "within its manifest"),
        (data[:40] + b"\0\1\2" + data[43:], IntegrityError, "the manifest was changed"),
        (b"RIFF" + data, InputError, "is no delivery"),
    ):
        bad.write_bytes(wrong)
        with pytest.raises(error, match=says):
            Container.read(bad)
    with pytest.raises(InputError, match="there is no file"):
        play(tmp_path / "absent.uwv")
    with pytest.raises(InputError, match="must end in"):
        play(file, out=tmp_path / "up.avi")
    with pytest.raises(InputError, match="is a delivery already"):
        read_clip(file)


def test_a_full_disk_leaves_nothing(made, tmp_path) -> None:
    with largest_file(1000), pytest.raises(StorageError, match="are needed"):
        made.save(tmp_path / "clip.uwv")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    """A file with sound."""
    return write_clip(panned(10, 48, 64), tmp_path_factory.mktemp("camera") / "camera.mp4")


def test_a_file_is_read_with_its_sound_which_comes_out_untouched(camera, tmp_path) -> None:
    clip = read_clip(camera)
    assert (len(clip), clip.size, round(clip.rate, 6)) == (10, (48, 64), 25)
    made = Delivery.encode(clip, NAS(backbone=TINY, steps=2, cell=12), PLAN, rng=seeded(0))
    made.save(tmp_path / "c.uwv")
    play(tmp_path / "c.uwv", out=tmp_path / "up.mp4")
    again = read_clip(tmp_path / "up.mp4")
    assert clip.audio is not None
    assert again.audio is not None
    assert [p.data for p in again.audio.packets] == [p.data for p in clip.audio.packets]
    apart = [
        float(a.time * again.audio.time_base - b.time * clip.audio.time_base)
        for a, b in zip(again.audio.packets, clip.audio.packets, strict=True)
    ]
    assert max(apart) - min(apart) < 2e-3
    assert made.report is not None
    assert made.report.total == sum(v for k, v in made.report.sizes.items() if k != "audio")


def test_rotation_in_the_file_is_carried_out(camera, tmp_path) -> None:
    data = bytearray(camera.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[at : at + 36])[:5] == (65536, 0, 0, 0, 65536)
    data[at : at + 36] = struct.pack(
        ">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30
    )  # clockwise by a quarter
    (tmp_path / "turned.mp4").write_bytes(data)
    upright, turned = read_clip(camera), read_clip(tmp_path / "turned.mp4")
    assert torch.equal(turned.frames, torch.rot90(upright.frames, -1, (2, 3)))


def test_files_that_cannot_be_delivered_are_refused_by_name(camera, tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(InputError, match="not a video that FFmpeg can read"):
        read_clip(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="there is no file"):
        read_clip(tmp_path / "absent.mp4")
    deep = write_clip(panned(4, 48, 64), tmp_path / "deep.mkv", pix_fmt="yuv420p10le", sound=False)
    with pytest.raises(InputError, match="10 bits a channel"):
        read_clip(deep)
    with pytest.raises(InputError, match="1 frame"):
        read_clip(camera, most=1)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(camera.read_bytes()[:2000])
    with pytest.raises(InputError, match="not a video that FFmpeg can read"):
        read_clip(cut)
    with pytest.raises(InputError, match="at least two frames"):
        Clip.of(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="increasing"):
        Clip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (1, 1), Fraction(1, 25))
    with pytest.raises(InputError, match="no codec 'mpeg7'"):
        codecs.codec_of("mpeg7")
    with pytest.raises(InputError, match="even sides"):
        codecs.encode([torch.zeros(3, 5, 8, dtype=torch.uint8)], "h264", crf=30, gop=2, rate=25)


@pytest.mark.parametrize("codec", ["h265", "av1"])
def test_other_codecs_give_segments_that_begin_with_key_frames(codec) -> None:
    low = smaller(panned(6, 160, 160).frames, 2)
    made = [
        codecs.encode(low, codec, crf=30, gop=3, rate=25, preset={"av1": "12"}.get(codec, "ultrafast"))
        for _ in range(2)
    ]
    assert made[0] == made[1] or codec == "h265"
    assert [len(s) for s in made[0]] == [3, 3]
    whole = list(codecs.decode(made[0], codec))
    assert len(whole) == 6
    second = list(codecs.decode(made[0][1:], codec))
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], second, strict=True))


def test_packets_weights_and_labels_come_back_to_the_bit() -> None:
    held = (Packet(b"abc", 5, 4, 2), Packet(b"", 7, 9, 0))
    assert unpacked(packed(held)) == held
    with pytest.raises(IntegrityError, match="packets"):
        unpacked(packed(held) + b"x")
    for data in (b"", bytes(5000), np.random.default_rng(0).bytes(300)):
        assert lengthened(shortened(data)) == data
        assert len(shortened(data)) <= len(data) + 1
    rng = seeded(0)
    labels = torch.randint(6, (4, 3, 5), generator=rng, dtype=torch.uint8)
    whole = coded_labels(labels[2:], labels[1])
    assert torch.equal(read_labels(whole, (2, 3, 5), labels[1]), labels[2:])
    with pytest.raises(IntegrityError, match="30 labels"):
        read_labels(whole, (3, 3, 5))
    state = {"w": torch.randn(4, 3, 3, 3, generator=rng), "b": torch.zeros(4)}
    shapes = {n: tuple(t.shape) for n, t in state.items()}
    for precision, error in (
        ("fp32", 0.0),
        ("fp16", 2e-3),
        ("int8", float(state["w"].abs().max()) / 254 + 1e-6),
    ):
        data, back = coded_weights(state, precision)
        assert float((back["w"] - state["w"]).abs().max()) <= error
        again = read_weights(data, shapes, precision)
        assert all(torch.equal(again[n], back[n]) for n in state)
        moved = {n: t.clone() for n, t in back.items()}
        moved["w"][0, 0, 0, 0] += 0.5
        less, new = coded_weights(moved, precision, back)
        assert len(less) < len(data) / 2
        read = read_weights(less, shapes, precision, back)
        assert all(torch.equal(read[n], new[n]) for n in state)
        assert float((read["w"] - moved["w"]).abs().max()) < 0.5 / 200
        same, _ = coded_weights(back, precision, back)
        assert len(same) <= 4
    with pytest.raises(IntegrityError, match="weights"):
        read_weights(data, {"w": (2, 2)}, "int8")


def test_int8_has_a_scale_an_output_channel() -> None:
    weight = torch.tensor([[1.0, -0.5], [0.01, 0.004]])
    _, back = coded_weights({"w": weight}, "int8")
    assert torch.allclose(back["w"], torch.tensor([[1.0, -64 / 127], [0.01, 51 / 127 * 0.01]]), atol=1e-7)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bicubic_convolution_is_interpolation(scale) -> None:
    x = torch.rand(2, 3, 7, 9, generator=seeded(0))
    wanted = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bicubic")
    assert torch.allclose(Bicubic(scale)(x), wanted, atol=1e-5)
    start = Backbone(name="espcn", blocks=1, width=4, residual=True).build(scale)
    assert torch.allclose(start(x), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("wdsr", 1_187_484),
        ("espcn", 60_652),
        ("srcnn", 69_251),
        ("vdsr", 10_955),
        ("edsr", 1_369_859),
        ("sesr", 17_708),
    ],
)
def test_backbones_have_the_published_number_of_weights(name, numbers) -> None:
    assert sum(p.numel() for p in folded(Backbone(name=name).build(2)).parameters()) == numbers


def test_folding_keeps_answers_and_unknown_backbones_are_refused() -> None:
    net, x = Backbone(name="wdsr", blocks=2, width=4).build(3), torch.rand(1, 3, 6, 5)
    before = net(x)
    keys = set(net.state_dict())
    assert torch.allclose(folded(net)(x), before, atol=1e-6)
    assert before.shape == (1, 3, 18, 15)
    assert keys != set(net.state_dict())
    for bad, says in (
        (lambda: Backbone(name="wdrs"), "Did you mean 'wdsr'"),
        (lambda: Backbone(name="vdsr", residual=True), "would do nothing"),
        (lambda: Backbone(name="vdsr", blocks=1), "at least 2"),
        (lambda: Backbone().build(5), "scale must be 2, 3 or 4"),
        (lambda: Backbone(name="sesr").build(3), "by 2 or 4"),
    ):
        with pytest.raises(InputError, match=says):
            bad()


def test_quality_by_both_protocols_against_numpy() -> None:
    rng = seeded(0)
    a, b = (torch.randint(256, (3, 24, 20), generator=rng, dtype=torch.uint8) for _ in range(2))
    meter = Meter(patch=(12, 20), scale=1)
    meter.add(a, b)
    meter.add(b, b)
    x, y = a.numpy().astype(float) / 255, b.numpy().astype(float) / 255
    error = ((x - y) ** 2).mean(0)
    inner = np.concatenate([error[5:7, 5:15].ravel(), error[17:19, 5:15].ravel()])
    told = meter.figures()
    assert told["psnr rgb, paper's protocol"] == pytest.approx(-10 * math.log10(inner.mean() / 2))
    assert meter.rgb == [pytest.approx(-10 * math.log10(error.mean())), math.inf]
    assert psnr(0.0) == math.inf
    p = torch.from_numpy((x * np.array([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0))
    q = torch.from_numpy((y * np.array([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0))
    g = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(g, g) / np.outer(g, g).sum()
    found = []
    for i in range(14):
        for j in range(10):
            u, v = p.numpy()[i : i + 11, j : j + 11], q.numpy()[i : i + 11, j : j + 11]
            mu, mv = (window * u).sum(), (window * v).sum()
            vu, vv, c = (
                (window * u * u).sum() - mu**2,
                (window * v * v).sum() - mv**2,
                (window * u * v).sum() - mu * mv,
            )
            found.append((2 * mu * mv + 1e-4) * (2 * c + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (vu + vv + 9e-4)))
    assert ssim(p, q) == pytest.approx(np.mean(found))
    step = torch.zeros(8, 8, dtype=torch.float64)
    step[4:] = 0.5
    assert seam(step, (4, 8)) == 0.5
    assert seam(step, (8, 8)) == 0.0


def test_rates_are_compared_over_what_both_reach() -> None:
    line = [(100.0, 30.0), (200.0, 33.0), (400.0, 36.0)]
    assert bd_rate(line, [(r * 1.25, q) for r, q in line]) == pytest.approx(25)
    assert bd_rate(line, [(r, q + 20) for r, q in line]) is None
    assert bd_rate(line, line[:1]) is None
    assert bd_rate([*line, (500.0, 20.0)], line) == pytest.approx(0), "a point beaten by another is left out"
    assert rate_at(line, 33) == pytest.approx(200)
    assert rate_at(line, 40) is None


def test_cells_cover_frames_that_they_do_not_divide() -> None:
    grid = Grid(7, 9, 4, 4)
    assert grid.shape == (2, 3)
    frame = torch.arange(63.0).view(1, 7, 9)
    whole = grid.extended(frame, 1)
    assert whole.shape == (1, 10, 14)
    assert whole[0, 1, 1] == whole[0, 0, 0] == 0
    assert whole[0, -1, -1] == 62
    assert padded_to(frame, 4).shape == (1, 8, 12)


def test_groups_by_quantile() -> None:
    q = torch.tensor([4.0, math.inf, 1.0, 2.0, 3.0, math.inf])
    assert by_quantile(q, 3).tolist() == [1, 2, 0, 0, 1, 2]
    for values, k, says in (
        (q, 7, "6 patches cannot be split into k=7"),
        (torch.ones(8), 2, "nothing to split"),
    ):
        with pytest.raises(InputError, match=says):
            by_quantile(values, k)
    time = split_labels("time", 2, (5, 1, 1), None, seeded(0))
    assert time.flatten().tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(InputError, match="5 frames cannot be split"):
        split_labels("time", 6, (5, 1, 1), None, seeded(0))
    drawn = split_labels("random", 2, (5, 2, 2), None, seeded(0))
    assert drawn.sum() == 10
    with pytest.raises(InputError, match="nothing beside bits"):
        Encoding(bits=1e5, crf=30)
