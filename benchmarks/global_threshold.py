"""One threshold over many scores: ours beside numpy.percentile and full sorts, in one run, interleaved.

python benchmarks/global_threshold.py [million scores ...]      (11 and 100 unless given)

Times are the fastest over rounds in which each contender runs in turn; memory is the peak above the scores
themselves, measured in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import torch

from unweave import seeded
from unweave.prune import kth_largest

DENSITY = 0.1


def layers(n: int) -> list[torch.Tensor]:
    """n scores in 20 layers of unlike spread, as a network's magnitudes have."""
    rng = seeded(0)
    return [torch.randn(n // 20, generator=rng).abs_().mul_(0.5 + i / 20) for i in range(20)]


def ours(scores: list[torch.Tensor]) -> float:
    return kth_largest(scores, round(DENSITY * sum(map(len, scores))))


def percentile(scores: list[torch.Tensor]) -> float:
    return float(np.percentile(torch.cat(scores).numpy(), 100 * (1 - DENSITY)))


def numpy_sort(scores: list[torch.Tensor]) -> float:
    flat = np.sort(torch.cat(scores).numpy())
    return float(flat[len(flat) - round(DENSITY * len(flat))])


def torch_sort(scores: list[torch.Tensor]) -> float:
    flat = torch.cat(scores).sort().values
    return float(flat[len(flat) - round(DENSITY * len(flat))])


CONTENDERS: dict[str, Callable[[list[torch.Tensor]], float]] = {
    "kth_largest": ours, "numpy.percentile": percentile, "numpy.sort": numpy_sort, "torch.sort": torch_sort,
}  # fmt: skip


def measure(million: float, rounds: int) -> None:
    scores = layers(int(million * 1e6))
    assert ours(scores) == numpy_sort(scores), "not exact"
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, run in CONTENDERS.items():
            for _ in range(3 if name == "kth_largest" else 1):
                began = time.perf_counter()
                run(scores)
                seconds[name].append(time.perf_counter() - began)
    own = min(seconds["kth_largest"])
    print(f"{million:g} million scores, {torch.get_num_threads()} threads, {rounds} rounds")
    for name, times in seconds.items():
        fastest = min(times)
        share = extra_memory(name, million)
        print(
            f"  {name:17} {1000 * fastest:9.1f} ms   {fastest / own:7.1f} x ours   extra memory "
            f"{share:5.2f} copies"
        )


def extra_memory(name: str, million: float) -> float:
    command = [sys.executable, __file__, "--memory", name, str(million)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_memory(name: str, million: float) -> None:
    CONTENDERS[name]([torch.rand(1000)])  # loads what is loaded once
    scores = layers(int(million * 1e6))
    before = peak = resident()
    worker = threading.Thread(target=CONTENDERS[name], args=(scores,))
    worker.start()
    while worker.is_alive():
        peak = max(peak, resident())
    print((peak - before) / (4e6 * million))


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_memory(sys.argv[2], float(sys.argv[3]))
    else:
        torch.set_num_threads(2)
        for millions in map(float, sys.argv[1:] or ["11", "100"]):
            measure(millions, rounds=5 if millions < 50 else 3)
