"""Generators handed down: independent of one another, the same for a seed, and torch's global state left as it was."""

from __future__ import annotations

import pytest
import torch

from unweave.errors import InputError
from unweave.random import child, draw_seed, global_seed, seeded


def test_children_of_one_generator_differ_and_follow_from_its_seed() -> None:
    rng, again = seeded(5), seeded(5)
    first, second = (torch.rand(4, generator=child(rng)) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.rand(4, generator=child(again)))
    assert torch.equal(second, torch.rand(4, generator=child(again)))
    assert not torch.equal(first, torch.rand(4, generator=child(seeded(6))))


def test_a_child_costs_its_parent_one_draw_and_is_not_its_parent() -> None:
    rng, other = seeded(5), seeded(5)
    made = child(rng)
    seed = draw_seed(other)
    assert 0 <= seed < 2**62
    assert made.initial_seed() == seed
    assert torch.equal(rng.get_state(), other.get_state())
    torch.rand(9, generator=made)
    assert torch.equal(rng.get_state(), other.get_state())
    with pytest.raises(InputError, match="rng must be a torch.Generator; got None"):
        child(None)  # type: ignore[arg-type]


def test_the_global_generator_is_seeded_inside_and_goes_on_after() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with global_seed(7):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(inside, torch.rand(3))
