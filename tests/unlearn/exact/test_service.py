"""Places, stages and what a deletion takes away, with stages that only write down what they saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.tasks import Classify
from unweave.unlearn.exact import Ensemble, RetrainingDue, Service, Slices, ids_of, prove, sequences
from unweave.unlearn.exact.service import State, begun, same_bits, stage_seed


class Notes:
    """Stages whose state is the sum of what they read, their seed, and the number of stages before."""

    def trained(self, before: Sequence[State], data: Data[Any], *, seed: int) -> State:
        read = torch.cat([batch[0] for batch in data.batches()])
        return {"read": read.flatten().sort().values, "seed": torch.tensor([seed, len(before)])}

    def assembled(self, states: Sequence[State]) -> nn.Module:
        made = nn.Linear(1, 2)
        with torch.no_grad():
            made.weight.fill_(float(states[-1]["read"].sum()))
        return made


def numbers(n: int = 60) -> Data[Any]:
    return Data(TensorDataset(torch.arange(n).float()[:, None], torch.zeros(n).long()), Classify(2), 7)


def service(n: int = 60, shards: int = 2, slices: int = 3, budget: int = 3, seed: int = 0) -> Service:
    data = numbers(n)
    orders = sequences(slices, budget)
    return begun(Notes(), data, orders, shards=shards, seed=seed).retrained(data)[0]


def test_a_place_depends_on_the_id_alone() -> None:
    whole = Slices.drawn(range(500), shards=3, slices=4, seed=1)
    part = Slices.drawn(range(0, 500, 7), shards=3, slices=4, seed=1)
    assert all(whole.places[name] == place for name, place in part.places.items())
    assert whole.places != Slices.drawn(range(500), shards=3, slices=4, seed=2).places
    sizes = torch.tensor(whole.sizes()).double()
    assert sizes.sum() == 500
    assert float(((sizes - 500 / 12) ** 2).sum() / (500 / 12)) < 31  # chi square of 11 degrees at 0.1 %


def test_a_group_shares_a_slice() -> None:
    owners = [i // 10 for i in range(100)]
    found = Slices.drawn(range(100), shards=2, slices=5, seed=0, groups=owners)
    for owner in range(10):
        assert len({found.places[str(10 * owner + i)] for i in range(10)}) == 1
    assert len(set(found.places.values())) > 3


def test_every_stage_reads_the_union_of_its_prefix_and_common_beginnings_are_trained_once() -> None:
    made = service(budget=6)
    where = made.slices.places
    for (shard, prefix), state in made.states.items():
        wanted = [int(i) for i, (k, s) in where.items() if k == shard and s in prefix]
        assert state["read"].tolist() == sorted(wanted)
        assert state["seed"].tolist() == [stage_seed(0, shard, prefix), len(prefix) - 1]
    # all 6 orders of 3 slices have 3 beginnings, 6 pairs and 6 wholes
    assert len(made.states) == 2 * (3 + 6 + 6)
    seeds = [tuple(state["seed"].tolist()) for state in made.states.values()]
    assert len(set(seeds)) == len(seeds)


def test_a_deletion_drops_just_the_stages_that_saw_it_and_serves_the_longest_prefix() -> None:
    made = service()
    victim = next(i for i, place in made.slices.places.items() if place == (0, 1))
    left, done = made.without([victim])
    assert done.ids == (victim,)
    assert done.hit == {(0, 1): 1}
    assert set(done.removed) == {key for key in made.states if key[0] == 0 and 1 in key[1]}
    assert set(left.states) == set(made.states) - set(done.removed)
    assert left.lengths() == [[1, 0, 2], [3, 3, 3]]  # orders 012, 120, 201
    assert left.served(0) == (2, 0)
    assert done.served == ((3, 2), (3, 3))
    assert not any(int(victim) in state["read"].tolist() for key, state in left.states.items() if key[0] == 0)
    assert made.lengths() == [[3, 3, 3]] * 2  # the old one is as it was


def test_of_equal_prefixes_the_first_serves() -> None:
    made = service(budget=6)
    victim = next(i for i, place in made.slices.places.items() if place == (0, 0))
    left, _ = made.without([victim])
    assert left.lengths()[0] == [0, 0, 2, 1, 1, 2]
    assert left.served(0) == made.orders[0][2][:2]


def test_again_is_the_same_and_the_order_of_requests_does_not_matter() -> None:
    made = service()
    a, b = "3", "17"
    left, first = made.without([a])
    same, again = left.without([a])
    assert (again.ids, again.before, again.removed) == ((), (a,), ())
    assert set(same.states) == set(left.states)
    one, other, both = (
        made.without(x)[0].without(y)[0] for x, y in (([a], [b]), ([b], [a]), ([a, b, a], []))
    )
    assert set(one.states) == set(other.states) == set(both.states)
    assert one.slices.places == other.slices.places == both.slices.places
    assert first.before == ()


def test_an_unknown_id_is_named_and_nothing_changes() -> None:
    made = service()
    with pytest.raises(InputError, match=r"1 of the 2 ids to delete were never in this model's data: 99\."):
        made.without(["3", "99"])
    assert len(made.slices.places) == 60


def test_when_every_shard_is_dead_retraining_is_due() -> None:
    made = service(budget=1)
    both = [next(i for i, place in made.slices.places.items() if place == (k, 0)) for k in (0, 1)]
    half, _ = made.without(both[:1])
    assert list(half.serving()) == [1]
    dead, done = made.without(both)
    assert done.served == ((3, 0), (3, 0))
    with pytest.raises(RetrainingDue, match="all 2 shards are dead.*Retraining is due"):
        dead.serving()
    assert dead.requests_left(seeded(0)) == (0.0, 0)
    with pytest.raises(RetrainingDue):
        Ensemble.of(made, "mean").forget(both)
    revived, trained = dead.retrained(numbers(), "dead")
    assert revived.lengths() == [[3], [3]]
    assert len(trained) == 6


def test_retraining_completes_and_is_what_a_run_without_the_data_makes() -> None:
    made, data = service(), numbers()
    gone = [i for i in range(60) if i % 9 == 0]
    left, _ = made.without(gone)
    rest = data.subset([i for i in range(60) if i % 9])
    anew = begun(Notes(), rest, sequences(3, 3), shards=2, seed=0).retrained(rest)[0]
    assert anew.slices.places == left.slices.places
    for again in (left.retrained(data)[0], left.retrained(rest)[0]):
        assert again.states.keys() == anew.states.keys()
        assert not any(same_bits(again.states[key], anew.states[key]) for key in anew.states)
    some = left.retrained(data, "dead")[0]
    for before, after in zip(left.lengths(), some.lengths(), strict=True):
        assert all(b == 3 if a == 0 else b >= a for a, b in zip(before, after, strict=True))


def test_a_slice_that_was_emptied_leaves_its_orders_dead() -> None:
    made = service()
    gone = [i for i, place in made.slices.places.items() if place == (0, 1)]
    left, _ = made.without(gone)
    again, trained = left.retrained(numbers())
    assert again.lengths() == [[3, 0, 3], [3, 3, 3]]
    assert (0, (1,)) not in trained


def test_data_must_be_those_it_was_trained_on() -> None:
    made = service()
    left, _ = made.without(["5"])
    assert len(left.slices.positions(numbers())) == 59
    with pytest.raises(
        InputError, match=r"10 examples that the model was trained on are not in the data: 50, 51"
    ):
        made.retrained(numbers(50))
    with pytest.raises(InputError, match="2 ids of the data are new to the model: 60, 61"):
        made.retrained(numbers(62))
    with pytest.raises(InputError, match="1 ids of the data belong to several"):
        made.retrained(numbers(), ids=[0, *range(59)])
    with pytest.raises(InputError, match="there are 3 ids for 60 examples"):
        made.retrained(numbers(), ids=[1, 2, 3])
    with pytest.raises(InputError, match="1 ids belong to several examples: 1"):
        Slices.drawn([1, 1, 2], shards=1, slices=1, seed=0)
    with pytest.raises(InputError, match="there are 1 groups for 2 examples"):
        Slices.drawn([1, 2], shards=1, slices=1, seed=0, groups=[1])
    with pytest.raises(InputError, match=r"shard 0 has none of the 3 examples in a slice.*\(slices 0\)"):
        begun(Notes(), numbers(3), sequences(4, 1), shards=5, seed=0)


def test_ids_are_the_data_sets_own() -> None:
    class Named(TensorDataset):
        ids = ("a", "b", "c")

    data = Data(Named(torch.zeros(3, 1), torch.zeros(3)), Classify(2))
    assert ids_of(data) == ["a", "b", "c"]
    assert ids_of(data.subset([2, 0])) == ["c", "a"]
    assert list(ids_of(numbers(3))) == [0, 1, 2]
    assert ids_of(numbers(9).subset([8, 3]).subset([1])) == [3]


def test_a_proof_finds_a_single_bit_and_a_missing_tensor() -> None:
    made, data = service(), numbers()
    left, _ = made.without(["3", "4"])
    good = prove(left, data)
    assert good.identical
    assert good.tensors == 2 * len(good.stages)
    assert {key[0] for key in prove(left, data, shards=[1]).stages} == {1}
    key = (0, left.served(0))
    state = dict(left.states[key])
    state["read"] = state["read"].clone()
    state["read"][0] = torch.nextafter(state["read"][0], torch.tensor(1e9))
    bad = Service(**{**vars(left), "states": {**left.states, key: state}})
    assert prove(bad, data).differing == (f"shard 0, slices {', '.join(map(str, key[1]))}: read",)
    assert not prove(bad, data).identical
    dead, _ = service(budget=1).without([i for i, p in service(budget=1).slices.places.items() if p[1] == 0])
    assert not prove(dead, data).identical  # nothing was compared


def test_bits_are_compared_not_values() -> None:
    zero = {"a": torch.tensor([0.0])}
    assert same_bits(zero, {"a": torch.tensor([-0.0])}) == ["a"]
    assert same_bits({"a": torch.tensor([float("nan")])}, {"a": torch.tensor([float("nan")])}) == []
    assert same_bits(zero, {"a": torch.tensor([0.0], dtype=torch.float64)}) == ["a"]
    assert same_bits(zero, {"a": torch.tensor([[0.0]])}) == ["a"]
    assert same_bits(zero, {}) == ["a"]
    assert same_bits({"a": torch.zeros(0)}, {"a": torch.zeros(0)}) == []


def test_requests_left_count_examples_not_slices() -> None:
    made = service(n=60, shards=1, slices=3, budget=1)
    size = made.slices.sizes()[0][0]
    mean, least = made.requests_left(seeded(0), trials=4000)
    assert least == 1
    assert mean == pytest.approx(61 / (size + 1), rel=0.1)  # the first of `size` among 60


class Says(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def test_votes_and_means_by_hand() -> None:
    x = torch.zeros(2, 1)
    loud = [Says(9.0, 0.0, 0.0), Says(0.0, 1.0, 0.0), Says(0.0, 1.0, 0.0)]
    assert Ensemble(loud, "mean")(x)[0].tolist() == pytest.approx([3.0, 2 / 3, 0.0])
    votes = Ensemble(loud, "vote")(x)
    assert votes.argmax(1).tolist() == [1, 1]
    own = torch.stack([m.logits[0] for m in loud]).double().softmax(-1).mean(0)
    assert votes[0].exp().tolist() == pytest.approx(((torch.tensor([1, 2, 0]) + own) / 4).tolist())
    tie = Ensemble([Says(2.0, 0.0), Says(0.0, 3.0)], "vote")(x)
    assert tie.argmax(1).tolist() == [1, 1]  # the surer one decides
    sure = Ensemble([Says(2000.0, 0.0, 0.0), Says(2000.0, 0.0, 0.0)], "vote")(x)
    assert bool(torch.isfinite(sure).all())
    with pytest.raises(InputError, match="bare models"):
        Ensemble(loud).forget([1])
