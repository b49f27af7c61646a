"""S3T: what is served after a deletion has the bits of a run that never had the data, in every trap that could leak it."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("peft", reason="the language extra is not installed")

from tests import zoo
from unweave import Data, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import RowTransformer, mlp
from unweave.errors import InputError
from unweave.fit import recording
from unweave.random import global_seed
from unweave.tasks import predict
from unweave.unlearn import S3T
from unweave.unlearn.exact import Ensemble, open_exact, prove, save_exact
from unweave.unlearn.exact.adapters import Adapters
from unweave.unlearn.exact.blocks import blocks, groups, head_of, query_and_value
from unweave.unlearn.exact.service import same_bits

FAST = partial(S3T, pretrained_on="noise drawn for this test", rank=2, epochs=2, lr=0.02)


def base(layers: int = 4, dropout: float = 0.1) -> nn.Module:
    with global_seed(0):
        return RowTransformer(side=4, layers=layers, width=8, heads=2, classes=3, dropout=dropout)


def images(n: int = 72, batch_size: int = 16) -> Data[Any]:
    rng = seeded(0)
    labels = torch.arange(n) % 3
    centres = torch.randn(3, 16, generator=rng)
    return of_tensors(
        centres[labels] + torch.randn(n, 16, generator=rng), labels, classes=3, batch_size=batch_size
    )


@cache
def made(layers: int = 4, slices: int = 4, **how: Any) -> Ensemble:
    settings = {"shards": 1, "slices": slices} | how
    return FAST(**settings).adapt(base(layers), images(), rng=seeded(1))


def without(ids: set[str]) -> Data[Any]:
    return images().subset([i for i in range(72) if str(i) not in ids])


def victim(model: Ensemble, slice_: int, shard: int = 0) -> str:
    return next(i for i, place in model.service.slices.places.items() if place == (shard, slice_))


# The card's exactness leaks.


@pytest.mark.slow
@pytest.mark.parametrize("slices", [12, 6])
def test_leak_1_twelve_blocks_layer_1_is_not_layers_10_and_11(slices: int) -> None:
    """A stage adapts the blocks of its own group alone, and after a deletion the rest has the bits of a fresh run."""
    model = made(12, slices, budget=1, epochs=1)
    width = 12 // slices
    for (_, prefix), state in model.service.states.items():
        low = 12 - len(prefix) * width
        wanted = {f"blocks.{i}" for i in range(low, low + width)}
        assert {".".join(name.split(".")[:2]) for name in state if name.startswith("blocks")} == wanted
    hit = model.service.orders[0][0][-1]  # the last slice of the order that serves
    gone = {victim(model, hit)}
    left, done = model.forget(gone)
    assert done.served == ((slices, slices - 1),)
    rest = without(gone)
    assert prove(left.service, rest).identical
    for i in range(12):  # the groups switched off are the base's own bits: no adapter at all
        layer = left.members[0].get_submodule(f"blocks.{i}.query")
        assert isinstance(layer, nn.Linear) == (i < width)


def test_leak_2_the_head_goes_back_with_the_adapters() -> None:
    model = made()
    served = model.service.served(0)
    left, _ = model.forget([victim(model, served[-1])])
    now = left.service.served(0)
    assert now == served[:-1]
    head = left.members[0].get_submodule("head").weight
    assert torch.equal(head, model.service.states[0, now]["head.weight"])
    assert not torch.equal(head, model.service.states[0, served]["head.weight"])
    assert not torch.equal(head, base().head.weight)
    stages = [model.service.states[0, served[: j + 1]]["head.weight"] for j in range(4)]
    assert not any(torch.equal(a, b) for a, b in zip(stages, stages[1:], strict=False))


@pytest.mark.slow
def test_leak_3_nothing_is_chosen_by_other_data() -> None:
    """No held-out set is asked for, every stage runs all its epochs, and of equal prefixes the first order's serves."""
    model = made()
    assert len(model.service.states) == 16
    slow = FAST(shards=1, slices=4, epochs=4).adapt(base(), images(), rng=seeded(1))
    assert all(same_bits(model.service.states[key], slow.service.states[key]) for key in model.service.states)
    assert model.service.served(0) == (0, 1, 2, 3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_leaks_4_and_5_a_stage_does_not_depend_on_slices_it_has_not_seen(dropout: float) -> None:
    """Order of data, dropout and initial adapters: the same bits with all later slices gone, from data in which the
    rest stands elsewhere, whatever was trained before, and wherever torch's global generator stands."""
    how = FAST(shards=1, slices=4, budget=4, dropout=dropout)
    model = how.adapt(base(dropout=dropout), images(), rng=seeded(1))
    later = {i for i, (_, s) in model.service.slices.places.items() if s in (2, 3)}
    kept = sorted(int(i) for i in model.service.slices.places if i not in later)
    torch.manual_seed(123)
    alone = images().subset(kept)
    service = how.begin(base(dropout=dropout), alone, rng=seeded(1))
    where = service.slices.positions(alone)
    for prefix in ((1,), (0,), (0, 1)):  # another order of training
        state = service.train(
            (0, prefix), [model.service.states[0, prefix[:j]] for j in range(1, len(prefix))],
            alone.subset(service.slices.members(where, 0, prefix)),
        )  # fmt: skip
        assert not same_bits(state, model.service.states[0, prefix])


@pytest.mark.parametrize("slice_", range(4))
def test_a_deletion_leaves_the_bits_of_a_run_that_never_had_the_data(slice_: int) -> None:
    """From the beginning, with everything found anew: places, seeds, layers, and all that is trained."""
    model = made()
    gone = {i for i, place in model.service.slices.places.items() if place == (0, slice_)}
    some = set(sorted(gone)[:2])
    left, _ = model.forget(some)
    rest = without(some)
    fresh = FAST(shards=1, slices=4).adapt(base(), rest, rng=seeded(1))
    served = left.service.served(0)
    assert len(served) == 3
    for j in range(1, 4):
        assert not same_bits(left.service.states[0, served[:j]], fresh.service.states[0, served[:j]])
    assert prove(left.service, rest).identical
    x = next(images().batches())[0]
    direct = fresh.service.model(0, served)
    assert torch.equal(left(x), direct(x))


@pytest.mark.slow
def test_retrained_is_a_run_without_the_data_in_every_stage() -> None:
    model = made()
    gone = {victim(model, 0), victim(model, 2)}
    left, done = model.forget(gone, images(), retrain="all")
    fresh = FAST(shards=1, slices=4).adapt(base(), without(gone), rng=seeded(1))
    assert left.service.lengths() == [[4] * 4]
    assert done.served == ((4, 4),)
    assert set(done.trained) == set(done.removed)
    assert not any(same_bits(left.service.states[k], fresh.service.states[k]) for k in fresh.service.states)
    with pytest.raises(InputError, match="retrain='all' needs the data"):
        model.forget(gone, retrain="all")


# What is trained, and where.


def test_the_base_keeps_its_bits_and_the_input_model_its_flags() -> None:
    model = base()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    found = FAST(shards=2, slices=2).adapt(model, images(), rng=seeded(0))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    for member in found.members:
        own = member.state_dict()
        for name, tensor in before.items():
            inner = name.replace(".query.", ".query.base_layer.").replace(".value.", ".value.base_layer.")
            assert torch.equal(own[inner], tensor) == (not name.startswith("head"))


def test_members_share_the_memory_of_the_base() -> None:
    found = FAST(shards=2, slices=2).adapt(base(), images(), rng=seeded(0))
    a, b = (m.get_submodule("inwards").weight for m in found.members)
    assert a is b
    heads = [m.get_submodule("head").weight for m in found.members]
    assert heads[0].data_ptr() != heads[1].data_ptr()


def test_a_stage_by_hand() -> None:
    """The adapter adds alpha / sqrt(rank) * B A x to its layer, and that of the earlier group is still there."""
    model = made(alpha=3.0, rank=4, dropout=0.0)
    prefix = model.service.served(0)[:2]
    states = model.service.parts(0, prefix)
    plain, adapted = base(), model.service.model(0, prefix)
    with torch.no_grad():
        for state in states:
            for name in {n.rpartition(".")[0] for n in state if "lora" in n}:
                change = 3.0 / 4**0.5 * state[f"{name}.lora_B"] @ state[f"{name}.lora_A"]
                plain.get_submodule(name).weight += change
        plain.head.weight.copy_(states[-1]["head.weight"])
        plain.head.bias.copy_(states[-1]["head.bias"])
    x = next(images().batches())[0]
    assert torch.allclose(plain.eval()(x), adapted(x), atol=1e-5)
    assert any(bool(t.any()) for n, t in states[1].items() if n.endswith("lora_B"))


def test_a_stage_goes_on_from_the_one_before() -> None:
    """The loss at its first step is that of the model after the stage before: its own adapters begin at nothing."""
    data = images(batch_size=72)
    how = FAST(shards=1, slices=4, budget=1, dropout=0.0, epochs=1)
    service = how.begin(base(dropout=0.0), data, rng=seeded(1))
    where, before = service.slices.positions(data), list[Any]()
    for j in range(1, 4):
        seen = data.subset(service.slices.members(where, 0, range(j)))
        with recording() as fits:
            state = service.train((0, tuple(range(j))), before, seen)
        expected = float(predict(service.stages.assembled(before), seen, seen.task.losses).mean())
        assert fits[0].losses[0] == pytest.approx(expected, rel=1e-5)
        before.append(state)


def test_how_a_stage_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW over the adapters of one group and the head, at a rate that falls linearly to nothing, norms frozen."""
    from unweave.unlearn.exact import adapters

    seen: list[Any] = []
    real = adapters.fit_

    def watched(model: Any, data: Any, objective: Any, optimizer: Any, **how: Any) -> Any:
        seen.append((model, optimizer.param_groups[0], how, len(data)))
        return real(model, data, objective, optimizer, **how)

    monkeypatch.setattr(adapters, "fit_", watched)
    FAST(shards=1, slices=2, budget=1, lr=0.02, weight_decay=0.1).adapt(base(), images(), rng=seeded(1))
    for stage, (model, group, how, count) in enumerate(seen):
        loop, factor = how["loop"], how["loop"].schedule.lr_lambdas[0]
        assert loop.norms == "frozen"
        assert group["weight_decay"] == 0.1
        total = how["epochs"] * -(-count // 16)
        assert [factor(step) for step in range(total + 1)] == pytest.approx(
            [1 - step / total for step in range(total + 1)]
        )
        named = {id(p): n for n, p in model.named_parameters()}
        trained = {named[id(p)] for p in group["params"]}
        blocks_ = {n.split(".")[1] for n in trained if n.startswith("blocks")}
        assert blocks_ == ({"2", "3"} if stage == 0 else {"0", "1"})
        assert {n for n in trained if not n.startswith("blocks")} == {"head.weight", "head.bias"}


def test_the_first_group_may_be_the_lowest_and_the_head_may_stay() -> None:
    found = FAST(shards=1, slices=4, first="bottom", head="frozen", budget=1).adapt(
        base(), images(), rng=seeded(1)
    )
    for (_, prefix), state in found.service.states.items():
        assert {n.split(".")[1] for n in state} == {str(len(prefix) - 1)}
    assert torch.equal(found.members[0].get_submodule("head").weight, base().head.weight)


@pytest.mark.slow
def test_learns_what_it_is_shown() -> None:
    from unweave.tasks import accuracy

    found = S3T(pretrained_on="noise", shards=1, slices=2, rank=4, epochs=20, lr=0.02).adapt(
        base(dropout=0.0), images(), rng=seeded(0)
    )
    assert accuracy(base(), images()) < 60
    assert accuracy(found, images()) > 85


# Structure.


def test_groups_are_counted_and_must_come_out_even() -> None:
    names = [f"h.{i}" for i in range(12)]
    found = groups(names, 6)
    assert found[0] == ("h.10", "h.11")
    assert found[5] == ("h.0", "h.1")
    assert groups(names, 6, "bottom") == found[::-1]
    for slices in (1, 2, 3, 4, 6, 12):
        assert sorted(n for part in groups(names, slices) for n in part) == sorted(names)
    with pytest.raises(
        InputError, match=r"must divide the model's 12 blocks.*got 5\. These do: 1, 2, 3, 4, 6, 12\."
    ):
        groups(names, 5)


@pytest.mark.parametrize(
    ("name", "targets", "head"),
    [
        ("vit", ("attention.q_proj", "attention.v_proj"), "classifier"),
        ("bert", ("attention.self.query", "attention.self.value"), "classifier"),
        ("llama", ("self_attn.q_proj", "self_attn.v_proj"), "lm_head"),
        ("qwen3", ("self_attn.q_proj", "self_attn.v_proj"), "lm_head"),
        ("mixtral", ("self_attn.q_proj", "self_attn.v_proj"), "lm_head"),
    ],
)
def test_queries_and_values_are_found_by_what_they_do(name: str, targets: tuple[str, ...], head: str) -> None:
    member = next(m for m in zoo.ZOO if m.name == name)
    model = member.model()
    found = blocks(model)
    for data in (member.data(24), member.data(24).subset(range(12, 24))):
        assert query_and_value(model, data, found) == targets
        assert head_of(model, data, found) == head


def test_projections_are_told_apart_wherever_they_stand() -> None:
    """Names and order say nothing: the layer that makes values is found under the name `query`."""
    model = base()
    for block in model.blocks:
        block.query, block.key, block.value = block.value, block.query, block.key
        block.attention = _turned(block)
    assert query_and_value(model, images(), blocks(model)) == ("key", "query")


def _turned(block: nn.Module) -> Any:
    def attention(x: torch.Tensor) -> torch.Tensor:
        v, q, k = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (block.query, block.key, block.value))
        return block.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return attention


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpt2", "found no query and value projections in transformer.h.1"),
        ("transformer-encoder", "found no query and value projections"),
        ("swin", r"several of one length: swin.encoder.layers \(2\)"),
        ("cnn", "has none"),
    ],
)
def test_what_is_not_recognised_is_refused(name: str, told: str) -> None:
    member = next(m for m in zoo.ZOO if m.name == name)
    with pytest.raises(InputError, match=told):
        FAST(shards=1, slices=2).adapt(member.model(), member.data(24), rng=seeded(0))


def test_what_is_named_is_taken() -> None:
    member = next(m for m in zoo.ZOO if m.name == "transformer-encoder")
    how = FAST(shards=1, slices=2, budget=1, layers="encoder.layers", targets=("linear1",), heads=("head",))
    found = how.adapt(member.model(), member.data(24), rng=seeded(0))
    assert {n for s in found.service.states.values() for n in s if "lora_A" in n} == {
        "encoder.layers.1.linear1.lora_A", "encoder.layers.0.linear1.lora_A"
    }  # fmt: skip
    data = images()
    for bad, told in (
        ({"layers": "encoder"}, "names no list of equal blocks"),
        ({"targets": ("quarry",)}, "there is no blocks.3.quarry. A block has: norm1, norm2, query"),
        ({"heads": ("nose",)}, "needs the layer nose"),
        ({"slices": 3}, r"must divide the model's 4 blocks.*These do: 1, 2, 4"),
    ):
        with pytest.raises(InputError, match=told):
            FAST(**({"shards": 1, "slices": 4} | bad)).adapt(base(), data, rng=seeded(0))


@pytest.mark.parametrize(
    ("name", "how", "dtype"),
    [
        ("gpt2-classifier", {"targets": ("attn.c_attn",)}, torch.float32),
        ("gpt2", {"targets": ("attn.c_attn",), "head": "frozen"}, torch.float32),
        ("llama", {}, torch.bfloat16),
    ],
)
@pytest.mark.slow
def test_fused_layers_by_name_and_half_precision(
    name: str, how: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    member = next(m for m in zoo.ZOO if m.name == name)
    data = member.data(24)
    model = FAST(shards=1, slices=2, budget=1, **how).adapt(member.model().to(dtype), data, rng=seeded(0))
    assert prove(model.service, data).identical
    if name == "llama":
        assert model.service.states[0, (0,)]["lm_head.weight"].dtype == dtype
    save_exact(model.service, tmp_path / "model")
    again = open_exact(tmp_path / "model", member.model().to(dtype))
    batch = next(data.batches())
    assert torch.equal(data.task.outputs(again, batch), data.task.outputs(model, batch))


def test_a_tied_head_is_refused_and_may_be_frozen() -> None:
    member = next(m for m in zoo.ZOO if m.name == "llama-tied")
    how = FAST(shards=1, slices=2, budget=1)
    with pytest.raises(
        InputError, match=r"cannot train the head lm_head: its weight is also .*head='frozen'"
    ):
        how.adapt(member.model(), member.data(24), rng=seeded(0))
    found = FAST(shards=1, slices=2, budget=1, head="frozen").adapt(
        member.model(), member.data(24), rng=seeded(0)
    )
    assert prove(found.service, member.data(24)).identical


def test_a_user_must_say_what_the_base_was_trained_on() -> None:
    with pytest.raises(
        InputError, match=r"S3T.pretrained_on is empty. Say what the base model was trained on"
    ):
        S3T(pretrained_on=" ")
    with pytest.raises(TypeError, match="pretrained_on"):
        S3T()  # type: ignore[call-arg]
    with pytest.raises(InputError, match="S3T.budget must be from 1 to 2"):
        FAST(slices=2, budget=3)
    with pytest.raises(InputError, match="S3T.prior would do nothing"):
        FAST(slices=2, prior=(0.1, 0.1))
    with pytest.raises(InputError, match='would do nothing with head="frozen"'):
        FAST(head="frozen", heads=("head",))


def test_an_mlp_has_no_blocks() -> None:
    with pytest.raises(InputError, match=r"has none \(no ModuleList of two or more\). Use sisa"):
        FAST(slices=2).adapt(mlp(16, 8, 3), images(), rng=seeded(0))


def test_adapters_found_before_are_taken_as_they_were() -> None:
    model = made()
    stages = model.service.stages
    assert isinstance(stages, Adapters)
    again = Adapters.named(base(), stages.settings, stages.groups, stages.heads)
    x = next(images().batches())[0]
    prefix = model.service.served(0)
    assert torch.equal(again.assembled(model.service.parts(0, prefix))(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "bert", "llama"])
def test_real_transformers_forget_to_the_bit(name: str) -> None:
    member = next(m for m in zoo.ZOO if m.name == name)
    data = member.data(48)
    how = FAST(shards=2, slices=2, lr=0.01, dropout=0.1)
    model = how.adapt(member.model(), data, rng=seeded(0))
    gone = [3, 5]
    left, done = model.forget(gone)
    rest = data.subset([i for i in range(48) if i not in gone])
    assert done.removed
    assert prove(left.service, rest).identical
    fresh = how.adapt(member.model(), rest, rng=seeded(0))
    for shard, prefix in left.service.serving().items():
        assert not same_bits(left.service.states[shard, prefix], fresh.service.states[shard, prefix])
    assert bool(torch.isfinite(data.task.losses(left, next(data.batches()))).all())
