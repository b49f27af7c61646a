from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contract import world
from tests.prune.dynamic import (
    assert_dead_weights_are_zero,
    assert_resumes,
    assert_state_is_reset,
    changes,
    counts,
    train,
)
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.fit import Step
from unweave.prune import DSR, ERK, Uniform
from unweave.prune.dsr import _grow, _shares
from unweave.prune.dynamic import Moment

METHOD = DSR(budget=Uniform(0.7), every=4, rate=0.3)


def test_keeps_the_total_and_moves_weights_between_layers() -> None:
    model, masks = train(METHOD)
    totals = {sum(counts(m).values()) for m in masks}
    assert len(totals) == 1
    assert any(counts(m) != counts(masks[0]) for m in masks)
    assert all(n > 0 for m in masks for n in counts(m).values())
    assert_dead_weights_are_zero(model, masks[-1])


def test_one_threshold_drops_in_all_layers() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    _, masks = train(
        METHOD,
        watch=lambda s: seen.append({n: w.detach().abs().clone() for n, w, _ in s.hold.match(s.model)}),
    )
    i = changes(masks)[0]
    # just after the exchange the dropped are zeroed only later, so sizes are those before it
    sizes = seen[i - 1]
    dropped = torch.cat([sizes[n][masks[i - 1].keep[n] & ~masks[i].keep[n]] for n in sizes])
    kept = torch.cat([sizes[n][masks[i - 1].keep[n] & masks[i].keep[n]] for n in sizes])
    assert len(dropped) == int(0.3 * sum(counts(masks[0]).values()))
    assert dropped.max() <= kept.min()


def test_an_exchange_by_hand() -> None:
    # of the six living weights the smallest half are 0.1, 0.2 and 0.3: both of the first layer, which keeps its last
    model = torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.2, -0.1, 0.0, 0.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, -0.3, 1.0, -2.0, 0.0, 0.0, 0.0, 0.0]]))
    hold = Mask(
        {
            "0.weight": torch.tensor([[True, True, False, False]]),
            "1.weight": torch.tensor([[True] * 4 + [False] * 4]),
        }
    )
    method = DSR(budget=Uniform(0.5), every=4, rate=0.5)
    step = Step(model, torch.optim.SGD(model.parameters(), 0.1), 4, 0, 0.0, False, hold, dict)
    method.begin(torch.nn.Linear(4, 4), world.points()[0], steps=40, rng=seeded(0))[1](step)
    first, second = (step.hold.keep[f"{i}.weight"][0] for i in (0, 1))
    assert first[:2].tolist() == [False, True]
    assert second[:4].tolist() == [True, False, True, True]
    # two died; survivors are 1 and 3, so of two grown the second gets one and then, having more, the other
    assert (int(first[2:].sum()), int(second[4:].sum())) == (0, 2)


def test_layers_grow_in_proportion_to_what_they_kept() -> None:
    # 2 and 10 are kept and 8 died: shares 1 and 6, and the one left over goes to the second
    model = torch.nn.Sequential(torch.nn.Linear(20, 1, bias=False), torch.nn.Linear(20, 1, bias=False))
    alive = (torch.arange(20) < 10)[None]
    hold = Mask({"0.weight": alive, "1.weight": alive})
    step = Step(model, torch.optim.SGD(model.parameters(), 0.1), 4, 0, 0.0, False, hold, dict)
    dropped = {"0.weight": (torch.arange(20) < 8)[None], "1.weight": torch.zeros(1, 20, dtype=torch.bool)}
    grown = _grow(Moment(step, 40.0, seeded(0)), dropped)
    assert [int(where.sum()) for where in grown.values()] == [1, 7]
    assert not any((where & alive).any() for where in grown.values())


def test_shares_follow_the_survivors_within_the_room() -> None:
    assert _shares({"a": (30, 100), "b": (10, 100)}, 8) == {"a": 6, "b": 2}
    full = _shares({"a": (30, 3), "b": (10, 100)}, 40)
    assert full == {"a": 3, "b": 37}
    assert sum(_shares({"a": (0, 5), "b": (0, 5)}, 7).values()) == 7


def test_forgets_momentum_where_the_mask_changed() -> None:
    assert_state_is_reset(METHOD, first=4)


def test_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert_resumes(METHOD, tmp_path)


def test_refuses() -> None:
    with pytest.raises(
        InputError, match=r"DSR\.rate must be above 0 and at most 1; got 0\.0\. It is the share of all living"
    ):
        DSR(budget=ERK(0.9), rate=0.0)
