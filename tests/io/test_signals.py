"""Pictures, cubes, stacks and sounds: what is read is what is written, and what would be lost is refused or said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from unweave import seeded
from unweave.errors import InputError
from unweave.io.signals import read_signal, write_signal

Image = pytest.importorskip("PIL.Image")


def numbers(*shape: int, most: int = 256, dtype: str = "uint8") -> np.ndarray:
    return torch.randint(most, shape, generator=seeded(0)).numpy().astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_picture_comes_back_bit_for_bit(tmp_path, suffix, shape) -> None:
    file, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    Image.fromarray(numbers(*shape)).save(file)
    signal = read_signal(file, "picture")
    assert signal.values.shape == (1, len(shape) * 2 - 3, 5, 7)
    assert write_signal(signal, again) == ""
    assert np.array_equal(np.asarray(Image.open(again)), numbers(*shape))


def test_sixteen_bits_stay_sixteen_bits_and_clipping_is_told(tmp_path) -> None:
    deep = numbers(4, 6, most=65536, dtype="uint16")
    Image.fromarray(deep).save(tmp_path / "a.png")
    signal = read_signal(tmp_path / "a.png", "picture")
    assert float(signal.values.max()) == pytest.approx(deep.max() / 65535)
    assert write_signal(signal, tmp_path / "b.png") == ""
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")).astype("uint16"), deep)
    over = signal.of(torch.where(signal.values > 0.5, 1.5, signal.values))
    share = 100 * float((signal.values > 0.5).float().mean())
    assert write_signal(over, tmp_path / "c.png") == f"{share:.2g} % of the values were clipped"


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_cube_keeps_its_axes_and_its_unit(tmp_path, last, suffix) -> None:
    cube = (
        numbers(5, 6, 4, most=5000, dtype="uint16") if last else numbers(4, 5, 6, most=5000, dtype="uint16")
    )
    file = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(file, scene=cube, scale=np.float64(1e-4))
    else:
        np.save(file, cube)
    signal = read_signal(file, "cube", channels=4, peak=5000.0)
    assert signal.values.shape == (1, 4, 5, 6)
    assert float(signal.values.max()) <= 1
    write_signal(signal, tmp_path / f"b{suffix}")
    held = np.load(tmp_path / f"b{suffix}")
    again = held["scene"] if suffix == ".npz" else held
    np.testing.assert_allclose(again, cube, rtol=1e-6)


def test_a_stack_is_the_pages_of_a_tif(tmp_path) -> None:
    frames = [Image.fromarray(numbers(6, 5, most=60000, dtype="uint16") // (k + 1)) for k in range(3)]
    frames[0].save(tmp_path / "s.tif", save_all=True, append_images=frames[1:])
    stack = read_signal(tmp_path / "s.tif", "stack").values
    assert stack.shape == (1, 3, 6, 5)
    torch.testing.assert_close(
        stack[0, 0], torch.from_numpy(np.asarray(frames[0]).astype(np.float32)) / 65535
    )
    with pytest.raises(InputError, match="has 3 pages; a picture has one"):
        read_signal(tmp_path / "s.tif", "picture")


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float32"])
def test_a_sound_comes_back_bit_for_bit(tmp_path, dtype) -> None:
    wave = (torch.rand(50, generator=seeded(0)) * 2 - 1).numpy() * 0.9
    scale = {"int16": 2**15, "int32": 2**20, "uint8": 100, "float32": 1}[dtype]
    samples = (wave * scale + (128 if dtype == "uint8" else 0)).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 8000, samples)
    signal = read_signal(tmp_path / "a.wav", "sound")
    assert (signal.rate, signal.values.shape) == (8000, (1, 50))
    assert float(signal.values.abs().max()) <= 1
    write_signal(signal, tmp_path / "b.wav")
    assert np.array_equal(wavfile.read(tmp_path / "b.wav")[1], samples)


def test_what_cannot_be_used_is_named(tmp_path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    np.save(tmp_path / "both.npy", np.zeros((4, 5, 4)))
    np.save(tmp_path / "ok.npy", np.full((4, 5, 6), 7.0))
    np.save(tmp_path / "nan.npy", np.full((4, 5, 6), np.nan))
    wavfile.write(tmp_path / "stereo.wav", 8000, np.zeros((9, 2), np.int16))
    wavfile.write(tmp_path / "empty.wav", 8000, np.zeros(0, np.int16))
    for name, kind, more, told in (
        ("none.png", "picture", {}, "there is no file"),
        ("clear.png", "picture", {}, "transparency, which would be lost"),
        ("broken.png", "picture", {}, "no picture that can be read"),
        ("ok.npy", "picture", {}, "no picture by its name"),
        ("broken.wav", "sound", {}, "no .wav that can be read"),
        ("stereo.wav", "sound", {}, "has 2 channels"),
        ("empty.wav", "sound", {}, "holds no sample"),
        ("flat.npy", "cube", {}, "three axes"),
        ("both.npy", "cube", {"channels": 4}, "first or the last axis"),
        ("ok.npy", "cube", {"channels": 9}, "neither its first nor its last axis has the 9"),
        ("ok.npy", "cube", {"channels": 4}, r"from 7 to 7; 0 to 1 is expected.*--peak"),
        ("nan.npy", "cube", {}, "NaN"),
        ("clear.png", "cube", {}, "is read from .npz"),
    ):
        with pytest.raises(InputError, match=told):
            read_signal(tmp_path / name, kind, **more)
    signal = read_signal(tmp_path / "ok.npy", "cube", peak=10.0)
    with pytest.raises(InputError, match="written to .npz or .npy, which keep every value; got 'x.jpg'"):
        write_signal(signal, tmp_path / "x.jpg")
