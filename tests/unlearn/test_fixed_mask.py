from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import world
from tests.unlearn.test_unprune import Add, line, request
from unweave import Mask, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.unlearn import FineTune, FixedMask


def test_exact() -> None:
    # the unlearner writes 3 into position 1, which is dead
    model = line(4.0, 0.0, 0.0, 3.0)
    edited = FixedMask(unlearn=Add(3.0)).apply(model, request(), rng=seeded(0))
    assert edited.weight.flatten().tolist() == [4, 0, 0, 3]


def test_limit_an_unlearner_that_keeps_zeros_is_left_as_it_is() -> None:
    model, data, unlearn = world.model(sparse=True), world.request(), FineTune(lr=0.05)
    held = FixedMask(unlearn=unlearn).apply(model, data, rng=seeded(0))
    free = unlearn.apply(model, data, rng=seeded(0))
    assert all(torch.equal(p, q) for p, q in zip(held.parameters(), free.parameters(), strict=True))
    assert Mask.of(held) == Mask.of(model)


def test_refuses() -> None:
    data, method = world.request(), FixedMask(unlearn=FineTune())
    with pytest.raises(InputError, match="nothing to un-prune"):
        method.apply(world.model(), data, rng=seeded(0))
    for empty in (replace(data, forget=data.forget.subset([])), replace(data, retain=data.retain.subset([]))):
        with pytest.raises(EmptyDataError):
            method.apply(world.model(sparse=True), empty, rng=seeded(0))
