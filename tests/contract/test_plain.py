"""What every method that is neither an edit nor an optimiser promises."""

from __future__ import annotations

from time import process_time

import pytest
import torch

from tests.contract.plain import PLAIN, PlainRow
from unweave import seeded
from unweave.errors import InputError

EVERY = pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@EVERY
def test_the_same_seed_gives_the_same_bits(row: PlainRow) -> None:
    before = torch.get_rng_state()
    began = process_time()
    first = row.run(seeded(3))
    assert process_time() - began < 5, "more than five seconds of one core"
    assert torch.equal(before, torch.get_rng_state()), "drew from torch's global generator"
    assert first
    assert all(torch.isfinite(t).all() for t in first.values() if t.is_floating_point())
    assert same(first, row.run(seeded(3)))
    if row.random:
        assert not same(first, row.run(seeded(4))), "another seed changed nothing"


@EVERY
def test_acts(row: PlainRow) -> None:
    if row.off is not None:
        assert not same(row.run(seeded(3)), row.off(seeded(3)))


@EVERY
def test_refuses_bad_input(row: PlainRow) -> None:
    assert row.bad, "every method documents at least one error"
    for call, pattern in row.bad:
        with pytest.raises(InputError, match=pattern):
            call()
