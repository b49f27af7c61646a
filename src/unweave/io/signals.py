"""Pictures, cubes, stacks and sounds as tensors, and back into files that are read again before they count."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, IntegrityError, require
from .files import written_beside
from .loading import short

Kind = Literal["picture", "cube", "stack", "sound"]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_LOSSLESS = (".png", ".tif", ".tiff")
_LARGEST = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Signal:
    """What a file holds, in [0, 1] (a sound in [-1, 1]).

    Attributes:
        kind: "picture" [1, c, h, w], "cube" [1, bands, h, w], "stack" [1, frames, h, w] or "sound" [1, samples].
        values: float32.
        dtype: of the file's numbers, numpy's name.
        peak: what 1 stands for in the file's unit.
        rate: of a sound, in Hz.
        last: whether a cube's bands lie along its last axis.
        name: of the array in an .npz.
    """

    kind: Kind
    values: Tensor
    dtype: str
    peak: float
    rate: int = 0
    last: bool = False
    name: str = "restored"

    def of(self, values: Tensor) -> Signal:
        """Another signal of the same kind and unit."""
        return replace(self, values=values.detach().cpu())


def read_signal(path: Path, kind: Kind, *, channels: int | None = None, peak: float | None = None) -> Signal:
    """Read a file.

    Args:
        path: a picture (png, jpg, tif ...); a cube (npz of one array, npy, or a tif of one page a band); a stack (tif
            of one page a frame, npz or npy); a sound (wav).
        kind: what it is taken for.
        channels: bands or frames that are expected, to tell which axis of an array they lie along.
        peak: largest value that can occur, of which 1 is made; that of whole numbers' type unless given.

    Raises:
        InputError: if there is no such file, it cannot be read as that kind, or holds NaN, transparency, two channels
            of sound, or values above 1 whose peak is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    suffix = path.suffix.lower()
    if kind == "sound":
        return _sound(path)
    if kind == "picture":
        if suffix not in PICTURES:
            raise InputError(f"{path} is no picture by its name; known are {', '.join(PICTURES)}.")
        pages = _pages(path)
        if len(pages) > 1:
            raise InputError(f"{path} has {len(pages)} pages; a picture has one.")
        return _in_unit(pages[0][None], "picture", path, peak)
    if suffix in (".tif", ".tiff"):
        pages = _pages(path)
        if any(page.shape != pages[0].shape or len(page) != 1 for page in pages):
            raise InputError(f"{path}: its pages must be grey and of one size, one a band or frame.")
        return _in_unit(np.concatenate(pages)[None], kind, path, peak)
    if suffix in (".npz", ".npy"):
        return _array(path, kind, channels, peak)
    raise InputError(f"{path}: a {kind} is read from .npz, .npy, .tif or .tiff; got {suffix or 'no suffix'}.")


def write_signal(signal: Signal, path: Path) -> str:
    """Write a file whole or not at all, read it back, and compare.

    Returns:
        A sentence on what was lost by rounding and clipping; "" where nothing was.

    Raises:
        InputError: if the suffix is not one that keeps every value.
        IntegrityError: if what is read back differs.
        StorageError: if it cannot be written.
    """
    path = Path(path)
    suffix, wanted = path.suffix.lower(), suffixes(signal.kind)
    if suffix not in wanted:
        raise InputError(
            f"a {signal.kind} is written to {' or '.join(wanted)}, which keep every value; got {path.name!r}."
        )
    numbers, told = _numbers(signal, suffix)
    with written_beside(path) as beside:
        _put(numbers, signal, beside, suffix)
        again = _get(beside, suffix, signal)
        if again.shape != numbers.shape or not np.array_equal(again, numbers):
            raise IntegrityError(f"{path} was read back and differs from what was written; nothing was kept.")
    return told


def suffixes(kind: Kind) -> tuple[str, ...]:
    """What a kind is written to, the usual one first."""
    return {
        "picture": _LOSSLESS,
        "stack": (".tif", ".tiff", ".png"),
        "cube": (".npz", ".npy"),
        "sound": (".wav",),
    }[kind]


def _pages(path: Path) -> list[np.ndarray[Any, Any]]:
    """Pages as arrays [c, h, w]."""
    pillow = require("PIL.Image", extra="vision", purpose="reading a picture")
    sequence = require("PIL.ImageSequence", extra="vision", purpose="reading a picture")
    found = []
    try:
        with pillow.open(path) as opened:
            for page in sequence.Iterator(opened):
                if page.mode in ("RGBA", "LA", "PA") or "transparency" in page.info:
                    raise InputError(f"{path} has transparency, which would be lost. Flatten it first.")
                page = page.convert("RGB") if page.mode in ("P", "CMYK", "YCbCr") else page
                page = page.convert("L") if page.mode == "1" else page
                array = np.asarray(page)
                found.append(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f"{path} is no picture that can be read ({short(error)}).") from error
    return found


def _in_unit(array: np.ndarray[Any, Any], kind: Kind, path: Path, peak: float | None, **more: Any) -> Signal:
    dtype = str(array.dtype)
    if array.dtype.kind not in "uif" or not array.size:
        raise InputError(f"{path} holds {dtype} {array.shape}; expected are real numbers.")
    values = torch.from_numpy(np.ascontiguousarray(array).astype(np.float32))
    if not torch.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinity. Mask or fill such values first.")
    whole = dtype == "int32" and kind in ("picture", "stack")  # Pillow's reading of 16-bit pictures
    known = _LARGEST.get("uint16" if whole else dtype, 1.0 if array.dtype.kind == "f" else None)
    top = peak or known
    low, high = float(values.min()), float(values.max())
    if top is None or low < 0 or high > top * (1 + 1e-6):
        raise InputError(
            f"{path} holds {dtype} from {low:g} to {high:g}; 0 to {'?' if top is None else f'{top:g}'} is expected. "
            "Give the largest possible value (--peak)."
        )
    return Signal(kind, values / top, "uint16" if whole else dtype, top, **more)


def _array(path: Path, kind: Kind, channels: int | None, peak: float | None) -> Signal:
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            name, array = "restored", held
        else:
            deep = [n for n in held.files if held[n].ndim == 3]
            if len(deep) != 1:
                raise InputError(
                    f"{path} must hold one array of three axes; it has {', '.join(deep) or 'none'}."
                )
            name, array = deep[0], held[deep[0]]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read ({short(error)}).") from error
    if array.ndim != 3:
        raise InputError(f"{path} must hold an array of three axes; got {array.shape}.")
    last = channels is not None and array.shape[-1] == channels
    if channels is not None and channels not in (array.shape[0], array.shape[-1]):
        raise InputError(
            f"{path} is {array.shape}; neither its first nor its last axis has the {channels} {kind} bands."
        )
    if last and array.shape[0] == channels and kind == "cube":
        raise InputError(
            f"{path} is {array.shape}: the bands may lie along the first or the last axis. Crop it to tell."
        )
    array = np.moveaxis(array, -1, 0) if last else array
    return _in_unit(array[None], kind, path, peak, last=last, name=name)


def _sound(path: Path) -> Signal:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of players' own
            rate, samples = wavfile.read(path)
    except Exception as error:
        raise InputError(f"{path} is no .wav that can be read ({short(error)}).") from error
    if samples.ndim != 1:
        raise InputError(f"{path} has {samples.shape[1]} channels; give one of them, or their mean, as mono.")
    if not len(samples):
        raise InputError(f"{path} holds no sample.")
    dtype = str(samples.dtype)
    middle, peak = {"uint8": (128, 128), "int16": (0, 2**15), "int32": (0, 2**31)}.get(dtype, (0, 1))
    values = (torch.from_numpy(samples.astype(np.float64)) - middle) / peak
    if not torch.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinity.")
    return Signal("sound", values.float()[None], dtype, float(peak), rate=int(rate))


def _numbers(signal: Signal, suffix: str) -> tuple[np.ndarray[Any, Any], str]:
    """What is written, and what is lost."""
    values = signal.values[0].double().numpy()
    if signal.kind == "cube":
        values = (np.moveaxis(values, 0, -1) if signal.last else values) * signal.peak
        return values.astype(np.float32), ""
    if signal.kind == "sound" and signal.dtype.startswith("float"):
        return values.astype(signal.dtype), ""
    if signal.kind == "sound":
        low, high = {"uint8": (0, 255), "int16": (-(2**15), 2**15 - 1)}.get(
            signal.dtype, (-(2**31), 2**31 - 1)
        )
        scaled = np.round(values * signal.peak) + (128 if signal.dtype == "uint8" else 0)
    else:
        deep = signal.dtype in ("uint16",) or signal.kind == "stack" or signal.dtype.startswith("float")
        low, high = 0, 65535 if deep and values.shape[0] == 1 else 255
        scaled = np.round(values * high)
    lost = int(((scaled < low) | (scaled > high)).sum())
    kind = signal.dtype if signal.kind == "sound" else "uint16" if high > 255 else "uint8"
    share = f"{100 * lost / max(1, scaled.size):.2g} % of the values were clipped" if lost else ""
    return np.clip(scaled, low, high).astype(kind), share


def _put(numbers: np.ndarray[Any, Any], signal: Signal, path: Path, suffix: str) -> None:
    if signal.kind == "sound":
        from scipy.io import wavfile

        wavfile.write(path, signal.rate, numbers)
    elif suffix == ".npz":
        with open(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{signal.name: numbers})
    elif suffix == ".npy":
        with open(path, "wb") as file:
            np.save(file, numbers)
    else:
        pillow = require("PIL.Image", extra="vision", purpose="writing a picture")
        plain = numbers[0] if len(numbers) == 1 else np.moveaxis(numbers, 0, -1)
        pillow.fromarray(plain).save(path, "PNG" if suffix == ".png" else "TIFF")


def _get(path: Path, suffix: str, signal: Signal) -> np.ndarray[Any, Any]:
    if signal.kind == "sound":
        from scipy.io import wavfile

        return np.asarray(wavfile.read(path)[1])
    if suffix in (".npz", ".npy"):
        held = np.load(path, allow_pickle=False)
        return np.asarray(held if isinstance(held, np.ndarray) else held[signal.name])
    page = _pages(path)[0]
    return page.astype(np.uint16) if page.dtype == np.int32 else page
