from __future__ import annotations

from inspect import isclass

from torch import nn

from unweave.masks.layers import BATCH_NORMS, CONVS, RUNNING_NORMS, TRANSPOSED


def test_kinds_are_all_that_torch_has() -> None:
    """A kind that a later torch adds is seen here. Lazy layers become plain ones when they are first called."""
    classes = [c for c in vars(nn).values() if isclass(c) and not c.__name__.startswith("Lazy")]
    of = lambda base: {c for c in classes if issubclass(c, base)}  # noqa: E731
    assert of(nn.BatchNorm1d.__base__) == set(BATCH_NORMS)
    assert of(nn.BatchNorm1d.__base__.__base__) == set(RUNNING_NORMS)
    assert of(nn.Conv1d.__base__) == set(CONVS)
    assert of(nn.ConvTranspose1d.__base__) == set(TRANSPOSED)
