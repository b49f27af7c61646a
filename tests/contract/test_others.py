"""What every method that is neither an edit nor an optimiser promises."""

from __future__ import annotations

from time import process_time

import pytest
import torch

from tests.contract.erasers import ERASERS
from tests.contract.generators import GENERATORS
from tests.contract.language import LANGUAGE
from tests.contract.others import OTHERS, PlainRow
from tests.contract.restorers import RESTORERS
from unweave import seeded
from unweave.errors import InputError

EVERY = pytest.mark.parametrize(
    "row", [*OTHERS, *ERASERS, *LANGUAGE, *GENERATORS, *RESTORERS], ids=lambda row: row.name
)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Distance of what both computed, as a share of the first's size; 1 where shapes or names differ."""
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return 1.0
    apart = sum(float((a[k].double() - b[k].double()).square().sum()) for k in a)
    return (apart / sum(float(t.double().square().sum()) for t in a.values())) ** 0.5


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
def test_acts_by_more_than_noise(row: PlainRow) -> None:
    if row.off is not None:
        assert difference(row.run(seeded(3)), row.off(seeded(3))) > row.least


@EVERY
def test_refuses_bad_input(row: PlainRow) -> None:
    assert row.bad, "every method documents at least one error"
    for call, pattern in row.bad:
        with pytest.raises(InputError, match=pattern):
            call()
