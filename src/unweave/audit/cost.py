"""What the edit cost, beside training anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from ..types import Measurement


def cost(seconds: Mapping[str, float] | None) -> tuple[Measurement, ...]:
    """Measurements of time.

    Args:
        seconds: "edit" and "retrain" (one retraining), wall clock, on the same machine; either may be
            missing.

    Raises:
        InputError: if a time is negative.
    """
    seconds = seconds or {}
    edit, retrain = seconds.get("edit"), seconds.get("retrain")
    for name, value in (("edit", edit), ("retrain", retrain)):
        if value is not None and value < 0:
            raise InputError(f"seconds[{name!r}] must not be negative; got {value}.")
    if edit is None:
        return ()
    found = [
        Measurement(
            name="time of the edit",
            value=edit,
            unit="s",
            direction="lower is better",
            n=1,
            oracle_mean=retrain,
            note="the retrained column is one retraining" if retrain is not None else "",
        )
    ]
    if retrain:
        found.append(
            Measurement(
                name="time of the edit over one retraining",
                value=edit / retrain,
                unit="",
                n=1,
                oracle_mean=1.0,
                direction="lower is better; at 1 retraining would have been as quick",
            )
        )
    return tuple(found)


def memory_cost(peak: int | None) -> Measurement:
    """Measurement of the memory that an edit needed beyond the model itself, in bytes; None where it is not known."""
    return Measurement(
        name="peak memory of the edit",
        value=None if peak is None else peak / 2**20,
        unit="MiB",
        direction="lower is better",
        n=1,
        note="beyond the model itself" if peak is not None else "read on Linux and on GPUs only",
    )


@dataclass
class Peak:
    """What a block of work needed.

    Attributes:
        bytes: memory at its highest over that at the beginning; None where it cannot be read (not Linux, no GPU).
    """

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that a block needs beyond what was in use: the GPU's, or this process's resident memory.

    Read `.bytes` after the block.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = max(0, torch.cuda.max_memory_allocated(device) - before)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest so far
        start = _resident("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak.bytes = max(0, _resident("VmHWM") - start)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
