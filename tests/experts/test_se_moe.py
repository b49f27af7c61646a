"""SE-MoE's parts: to the bit what the resident model computes, in the order that the paper asks for, with no update lost."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.moe_models import VOCABULARY, moe
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import SEMoE
from unweave.experts.se_moe import (
    ExpertCache,
    ExpertStore,
    Hierarchy,
    flat_all_to_all,
    hierarchical_all_to_all,
    plan_workers,
)  # fmt: skip
from unweave.experts.se_moe.cache import CacheRule
from unweave.models.moe import moe_layers

IDS = torch.randint(3, VOCABULARY, (2, 9), generator=seeded(0))
LAYERS = 5


@lru_cache
def resident(name: str = "qwen2-moe") -> Any:
    return moe(name, num_hidden_layers=LAYERS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS).logits
    return out


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_a_ring_answers_to_the_bit_and_copies_what_it_must(slots: int) -> None:
    expected, size = logits(resident()), sum(
        p.numel() * p.element_size() for m in moe_layers(resident()) for p in m.experts.parameters()
    )  # fmt: skip
    with pytest.warns(UserWarning, match="one slot") if slots == 1 else _nothing():
        model = SEMoE(slots=slots).adapt(resident())
    assert model.ring.copies == slots
    assert model.ring.resident_bytes() == size * slots // LAYERS
    for passes in (1, 2):
        assert torch.equal(logits(model), expected)
        assert model.ring.copies == slots + passes * LAYERS, "L a pass, wrapping around"
    once = SEMoE(slots=slots, wrap=False).adapt(resident()) if slots > 1 else None
    if once is not None:
        logits(once)
        assert once.ring.copies == LAYERS, "K at first, then L - K"
        assert torch.equal(logits(once), expected), "and the next pass fetches what it needs"
    used = [layer for what, layer in model.ring.events if what == "use"]
    assert used == 2 * list(range(LAYERS))
    events = model.ring.events
    for layer in range(
        slots, LAYERS
    ):  # sent for as soon as its slot was free, K - 1 layers before it is used
        sent, freed = events.index(("copy", layer)), events.index(("free", layer - slots))
        assert freed < sent < events.index(("use", layer))
        if layer - slots + 1 < layer:
            assert sent < events.index(("use", layer - slots + 1))


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_gradients_and_saving_and_generation_are_the_resident_models() -> None:
    plain = moe("qwen2-moe", num_hidden_layers=LAYERS)
    model = SEMoE(slots=2).adapt(plain)
    for m in (plain, model):
        out = m(input_ids=IDS).logits
        out.log_softmax(-1)[..., 5].sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), model.model.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    told = model.state_dict()
    assert told.keys() == plain.state_dict().keys()
    assert all(torch.equal(t, told[n]) for n, t in plain.state_dict().items())
    some = {"max_new_tokens": 4, "do_sample": False, "input_ids": IDS[:1]}
    assert torch.equal(model.generate(**some), plain.generate(**some))
    back = model.release()
    assert torch.equal(logits(back), logits(plain))
    assert all(torch.equal(p, back.get_parameter(n)) for n, p in plain.named_parameters())


def test_what_is_not_there_cannot_be_used_by_mistake() -> None:
    model = SEMoE(slots=2).adapt(resident())
    logits(model)
    far = model.ring.params[4]["down_proj"]
    assert far.isnan().all()
    assert far.untyped_storage().nbytes() == far.element_size(), "one number"


@pytest.mark.slow
def test_prefetching_hides_copies_behind_layers() -> None:
    """Each copy and each layer take 20 ms, simulated."""
    took = {}
    for name, how in (
        ("ring", SEMoE(slots=3, delay=0.02)),
        ("demand", SEMoE(slots=3, delay=0.02, prefetch=False)),
    ):
        model = how.adapt(moe("qwen2-moe", num_hidden_layers=8))
        for part in moe_layers(resident())[:0] or model.ring.moes:
            part.router.register_forward_hook(lambda *_: time.sleep(0.02))
        logits(model)
        began = time.perf_counter()
        logits(model)
        took[name] = time.perf_counter() - began
    assert took["ring"] < 0.8 * took["demand"]


@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss", "deepseek-v3", "olmoe"])
def test_single_experts_come_as_tokens_choose_them(name: str) -> None:
    plain = moe(name)
    model = SEMoE(granularity="expert", slots=3).adapt(plain)
    assert torch.equal(logits(model), logits(plain))
    some = {"max_new_tokens": 3, "do_sample": False, "input_ids": IDS[:1]}
    assert torch.equal(model.generate(**some), plain.generate(**some))
    caches = [m.cache for m in model.modules() if hasattr(m, "cache")]
    assert len(caches) == len(moe_layers(plain))
    assert all(len(c.held) <= 3 for c in caches)
    assert sum(c.counts["hits"] for c in caches) > 0
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in plain.parameters())


class Counted(dict):  # type: ignore[type-arg]
    """A store that remembers what was asked of it."""

    def load(self, e: str) -> Any:
        return {"w": self[e].clone()}

    def save(self, e: str, tensors: Any) -> None:
        self[e] = tensors["w"].clone()


def test_the_entry_with_the_fewest_decayed_hits_makes_place() -> None:
    cache = ExpertCache(Counted({c: torch.zeros(1) for c in "abcd"}), 2, CacheRule(every=4, decay=0.5))
    for name in "aaab":  # a has 3 hits, b 1, then both are halved
        cache.fetch(name)
    assert cache.hits == {"a": 1.5, "b": 0.5}
    cache.fetch("c")
    assert sorted(cache.held) == ["a", "c"]
    cache.fetch("c"), cache.fetch("c"), cache.fetch("c")
    assert cache.hits == {"a": 0.75, "c": 2.0}, "a fourth request, all halved"
    cache.fetch("d")
    assert sorted(cache.held) == ["c", "d"]
    assert cache.counts == {"hits": 5, "misses": 4, "writes": 0}
    recent = ExpertCache(Counted({c: torch.zeros(1) for c in "abcd"}), 2, CacheRule(policy="lru"))
    for name in "aaabc":
        recent.fetch(name)
    assert recent.held == ["b", "c"]
    high = ExpertCache(Counted({c: torch.zeros(1) for c in "abcd"}), 2, CacheRule(threshold=2))
    for name in "aabc":  # as published: of those with 2 hits or more, the fewest
        high.fetch(name)
    assert sorted(high.held) == ["b", "c"]


def test_no_update_is_lost_and_a_write_that_fails_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExpertStore(tmp_path / "experts")
    for i in range(6):
        store.save(str(i), {"w": torch.zeros(2)})
    cache, rng = ExpertCache(store, 2), seeded(3)
    expected = torch.zeros(6)
    for e in torch.randint(6, (80,), generator=rng).tolist():
        cache.fetch(str(e), write=True)["w"] += 1
        expected[e] += 1
    cache.flush()
    assert [float(store.load(str(i))["w"][0]) for i in range(6)] == expected.tolist()
    before = cache.counts["writes"]
    cache.flush()
    assert cache.counts["writes"] == before, "nothing is written twice"

    def fail(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr("unweave.experts.se_moe.cache.save_file", fail)
    with pytest.raises(Exception, match="disk is full"):
        store.save("0", {"w": torch.ones(2)})
    assert float(store.load("0")["w"][0]) == expected[0]
    assert sorted(p.name for p in (tmp_path / "experts").iterdir()) == [f"{i}.safetensors" for i in range(6)]


def exchanged(rank: int, where: str, out: str) -> None:
    """Each of 4 workers, as 2 nodes of 2: many uneven splits, both ways."""
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=4)
    hierarchy, rng, same = Hierarchy.of(2), seeded(rank), []
    for trial in range(100):
        splits = torch.randint(0, 4, (4,), generator=rng).tolist()
        if trial % 10 == 0:
            splits = [0, 0, 0, 0] if rank % 2 else splits
        rows = torch.randn(sum(splits), 3, generator=rng)
        flat, two = flat_all_to_all(rows, splits), hierarchical_all_to_all(rows, splits, hierarchy)
        same.append(flat[1] == two[1] and torch.equal(flat[0], two[0]) and len(flat[0]) == sum(flat[1]))
        if trial == 3:  # what rank r sends to s is known everywhere
            rows = torch.tensor([[10.0 * rank + s] for s in range(4)])
            got, told = hierarchical_all_to_all(rows, [1, 1, 1, 1], hierarchy)
            same.append(
                got.flatten().tolist() == [10.0 * r + rank for r in range(4)] and told == [1, 1, 1, 1]
            )
    try:
        hierarchical_all_to_all(torch.zeros(3, 1), [1, 1, 1, 1], hierarchy)
    except InputError as error:
        same.append("one count for each of 4 ranks, summing to 3" in str(error))
    torch.save(same, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_steps_bring_what_one_brings(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")  # spawning would import everything four times
    workers = [
        context.Process(target=exchanged, args=(r, str(tmp_path / "store"), str(tmp_path))) for r in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    for rank in range(4):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert len(found) == 102
        assert all(found)


def test_workers_follow_the_times() -> None:
    assert plan_workers([1, 1, 2, 4], 8).workers == [1, 1, 2, 4]
    merged = plan_workers([5, 1, 9, 2], 2)
    assert merged.tasks == [[0, 1, 3], [2]]
    assert merged.workers == [1, 1]
    assert merged.times == [8.0, 9.0]
    few = plan_workers([100, 1, 1], 5)
    assert few.workers == [3, 1, 1]
    assert sum(plan_workers([3, 3, 3], 8).workers) == 8
    assert few.weights([6, 1, 1]) == [0.75, 0.125, 0.125]
    for bad in (lambda: plan_workers([], 2), lambda: plan_workers([1, 0], 2), lambda: plan_workers([1], 0)):
        with pytest.raises(InputError, match="plan_workers needs"):
            bad()
    with pytest.raises(InputError, match="needs 3 counts"):
        few.weights([1, 1])


def test_refuses_what_cannot_be_offloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would hold all 5 layers"):
        SEMoE(slots=5).adapt(resident())
    with pytest.raises(InputError, match="would hold all 8 experts"):
        SEMoE(granularity="expert", slots=8).adapt(resident())
    with pytest.raises(InputError, match="runs every expert on every token"):
        SEMoE(granularity="expert", slots=2).adapt(moe("llama4"))
    with pytest.raises(InputError, match="needs a mixture of experts"):
        SEMoE().adapt(torch.nn.Linear(2, 2))
    spread = moe("qwen2-moe")
    spread.hf_device_map = {"a": 0, "b": "cpu"}
    with pytest.raises(InputError, match="dispatched over"):
        SEMoE(slots=1).adapt(spread)
    for idle in (
        {"policy": "lru"},
        {"granularity": "expert", "delay": 0.1},
        {"prefetch": False, "wrap": False},
    ):
        with pytest.raises(InputError, match="would do nothing"):
            SEMoE(**idle)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="plain one, without slashes"):
        ExpertStore(tmp_path).load("../secret")
    with pytest.raises(InputError, match="stores no expert"):
        ExpertStore(tmp_path).load("7")
    with pytest.raises(InputError, match="room must be"):
        ExpertCache(ExpertStore(tmp_path), 0)
    with pytest.raises(InputError, match="needs a process group"):
        Hierarchy.of(2)
