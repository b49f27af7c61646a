from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unweave import seeded
from unweave.errors import InputError
from unweave.masks import threshold
from unweave.prune import kth_largest

SOME = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False))
FEW_VALUES = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, math.inf])
)


@given(arrays=st.lists(st.one_of(SOME, FEW_VALUES), min_size=1, max_size=4), at=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_equals_a_sort(arrays: list[np.ndarray], at: float) -> None:
    ordered = np.sort(np.concatenate(arrays))[::-1]
    k = 1 + round(at * (len(ordered) - 1))
    assert kth_largest([torch.from_numpy(a) for a in arrays], k) == ordered[k - 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["normal", "sorted", "periodic", "ties", "two values", "far below zero"])
def test_equals_a_sort_when_the_sample_is_a_poor_one(
    dtype: torch.dtype, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "_SAMPLE", 64)
    monkeypatch.setattr(threshold, "_HELD", 100)  # so that the bisection is taken too
    monkeypatch.setattr(threshold, "_CHUNK", 1000)
    n = 20_000
    x = torch.randn(n, generator=seeded(0)).double()
    if shape == "sorted":
        x = x.sort().values
    if shape == "periodic":  # the strided sample meets one phase only
        stride = max(1, n // 64) | 1
        x = torch.arange(n).remainder(stride).double() + 0.001 * x
    if shape == "ties":
        x = (4 * x).round()
    if shape == "two values":
        x = (x > 0).double() / 3
    if shape == "far below zero":
        x = 10 * x - 100
    x = x.to(dtype)
    ordered = x.sort(descending=True).values
    for k in (1, 2, 77, n // 2, n - 1, n):
        assert kth_largest([x[:8], x[8:5000].reshape(-1, 3), x[5000:]], k) == float(ordered[k - 1])


def test_types_may_be_mixed() -> None:
    assert kth_largest([torch.tensor([1.0]), torch.tensor([1.5], dtype=torch.float64)], 1) == 1.5


def test_extra_memory_is_a_small_share_of_the_scores() -> None:
    scores = np.random.default_rng(0).standard_normal(4_000_000, dtype=np.float32)
    tensor = torch.from_numpy(scores)
    tracemalloc.start()
    try:
        kth_largest([tensor], 400_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < scores.nbytes / 4


@pytest.mark.parametrize("k", [0, 4])
def test_refuses_k_out_of_range(k: int) -> None:
    with pytest.raises(InputError, match="k from 1 to 3"):
        kth_largest([torch.ones(3)], k)
