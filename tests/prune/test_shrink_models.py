"""Heads, widths, experts and depthwise chains of real models: equal where it can be, and plain where it can be."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from unweave import seeded
from unweave.embedded.nets import count_parameters
from unweave.errors import InputError
from unweave.io.structure import restructure_
from unweave.io.transformers_folder import save_model_folder
from unweave.masks import Channel, Global, Scope, Uniform
from unweave.models.units import find_units
from unweave.prune import Magnitude, Prune, Taylor, shrink

SCORE = Magnitude(scope=Scope(last=False))


def named(name: str) -> zoo.Member:
    return next(member for member in zoo.ZOO if member.name == name)


def asked(member: zoo.Member) -> dict[str, Any]:
    """What the model is called with."""
    batch = next(member.data().batches())
    return {k: v for k, v in batch.items() if k != "labels" or member.kind == "seq2seq"}


def halved(member: zoo.Member, *, width: bool = True) -> nn.Module:
    prune = Prune(score=SCORE, pattern=Channel(width=width), budget=Uniform(0.5))
    return prune.apply(member.model(), member.data(), rng=seeded(0))


def answers(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        out = model(**inputs)
    return out.logits if hasattr(out, "logits") else out.logits_per_image


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3", "mixtral", "resnet"])
def test_what_root_mean_squares_and_batches_count_is_cut_to_the_same_answers(
    name: str, tmp_path: Path
) -> None:
    member = named(name)
    inputs, dead = asked(member), halved(member)
    small = shrink(dead, inputs)
    assert small.left == {}
    assert small.apart < 1e-5
    torch.testing.assert_close(answers(small.model, inputs), answers(dead, inputs), atol=1e-4, rtol=1e-4)
    assert 0.25 < count_parameters(small.model) / count_parameters(dead) < 0.31
    save_model_folder(small.model, tmp_path / "small", structure=small.structure)
    assert not (tmp_path / "small" / "structure.json").exists()
    read = type(small.model).from_pretrained(tmp_path / "small").eval()
    torch.testing.assert_close(answers(read, inputs), answers(small.model, inputs))


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "bert", "gpt2", "whisper", "clip"])
def test_what_layer_norms_count_is_cut_knowingly_to_a_plain_folder(name: str, tmp_path: Path) -> None:
    member = named(name)
    inputs, dead = asked(member), halved(member)
    small = shrink(dead, inputs, width=True)
    assert 0.25 < count_parameters(small.model) / count_parameters(dead) < 0.35
    assert small.apart > 1e-4  # so that the parameter says something
    if name != "convnext":  # has no heads
        heads = [g for g in find_units(dead, lambda m: m(**inputs)).groups if not g.counted and len(g) <= 4]
        for group in heads:  # as many rows a head as before: heads went, not their widths
            (tensor, dim), at = next(iter(group.makers.items()))
            left = len(group) // 2
            assert small.model.get_parameter(tensor).shape[dim] == left * at.shape[1]
    save_model_folder(small.model, tmp_path / "small", structure=small.structure)
    assert not (tmp_path / "small" / "structure.json").exists()
    read = type(small.model).from_pretrained(tmp_path / "small").eval()
    torch.testing.assert_close(answers(read, inputs), answers(small.model, inputs))


@pytest.mark.parametrize("name", ["vit", "bert", "convnext", "mixtral"])
def test_heads_and_inner_units_are_cut_exactly_and_a_fresh_model_takes_the_record(name: str) -> None:
    member = named(name)
    inputs, dead = asked(member), halved(member, width=False)
    small = shrink(dead, inputs)
    torch.testing.assert_close(answers(small.model, inputs), answers(dead, inputs), atol=1e-5, rtol=1e-5)
    assert count_parameters(small.model) < 0.75 * count_parameters(dead)
    fresh = restructure_(member.build(seed=9), json.loads(json.dumps(small.structure)))
    fresh.load_state_dict(small.model.state_dict())
    if not name == "mixtral":
        torch.testing.assert_close(answers(fresh.eval(), inputs), answers(small.model, inputs))


def test_what_layer_norms_count_stays_unless_asked_for() -> None:
    member = named("vit")
    inputs, dead = asked(member), halved(member)
    small = shrink(dead, inputs)
    torch.testing.assert_close(answers(small.model, inputs), answers(dead, inputs), atol=1e-5, rtol=1e-5)
    assert "width=True" in small.left["vit.layers.0.mlp.fc2"]
    assert small.model.config.hidden_size == 16


def test_heads_cut_in_one_layer_alone_are_told_with_the_layers_own_numbers() -> None:
    member = named("gpt2")
    inputs, model = asked(member), member.model()
    block = model.transformer.h[0]
    with torch.no_grad():
        for at in (slice(0, 4), slice(16, 20), slice(32, 36)):  # queries, keys and values of one head
            block.attn.c_attn.weight[:, at] = 0
            block.attn.c_attn.bias[at] = 0
        block.mlp.c_fc.weight[:, :10] = 0
        block.mlp.c_fc.bias[:10] = 0
    small = shrink(model, inputs)
    assert small.left == {}
    assert small.model.transformer.h[0].mlp.c_fc.nf == 54
    torch.testing.assert_close(answers(small.model, inputs), answers(model, inputs))
    assert small.structure["numbers"] == {"transformer.h.0.attn.split_size": {"of": 16, "kept": 12}}
    fresh = restructure_(member.build(seed=9), json.loads(json.dumps(small.structure)))
    fresh.load_state_dict(small.model.state_dict())
    torch.testing.assert_close(answers(fresh.eval(), inputs), answers(small.model, inputs))
    wrong = small.structure | {"numbers": {"transformer.h.0.attn.split_size": {"of": 8, "kept": 4}}}
    with pytest.raises(InputError, match="the model has no such number"):
        restructure_(member.build(seed=9), wrong)


@pytest.mark.parametrize("told", [True, False])
def test_heads_of_one_layer_go_where_a_number_of_the_model_says_how_many_there_are(told: bool) -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out, self.last = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 2)
            self.heads, self.depth = 4, 4

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = self.heads if told else 4
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
            assert q.shape[-1] == 2
            seen = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.last(torch.relu(self.out(seen.transpose(1, 2).flatten(2))))

    model = Fused().eval()
    with torch.no_grad():
        for at in (slice(0, 2), slice(8, 10), slice(16, 18)):
            model.qkv.weight[at] = model.qkv.bias[at, None] = 0.0
        model.out.weight[3] = model.out.bias[3] = 0.0
    x = torch.randn(3, 5, 8)
    small = shrink(model, x)
    assert small.left == ({} if told else {"qkv": "without its dead channels the model does not run"})
    assert (small.model.heads, small.model.depth) == (3 if told else 4, 4)
    assert (small.model.out.in_features, small.model.out.out_features) == (6 if told else 8, 7)
    torch.testing.assert_close(small.model(x), model(x))


def test_grouped_queries_go_with_their_keys_and_values() -> None:
    member = named("llama")
    inputs, model = asked(member), member.model()
    groups = find_units(model, lambda m: m(**inputs)).groups
    place = ("model.layers.0.self_attn.q_proj.weight", 0)
    group = next(g for g in groups if place in g.places)
    assert group.places[place].tolist() == [list(range(8)), list(range(8, 16))]  # two heads of four rows
    keys = group.places["model.layers.0.self_attn.k_proj.weight", 0]
    assert keys.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert group.reads == {("model.layers.0.self_attn.o_proj.weight", 1)}


def test_a_units_score_is_that_of_all_that_falls_with_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    data = named("mlp").data()
    rows, columns = model[0].weight.square().sum(1), model[2].weight.square().sum(0)
    prune = Prune(score=SCORE, pattern=Channel(), budget=Uniform(0.5))
    kept = prune.mask(model, data, rng=seeded(0)).keep["0.weight"].all(1)
    assert set(kept.nonzero().flatten().tolist()) == set((rows + columns).topk(2).indices.tolist())
    model[2].weight.data[:, 0] = 100.0  # what reads it matters too
    assert prune.mask(model, data, rng=seeded(0)).keep["0.weight"][0].all()


def test_batch_normalisations_scale_falls_with_its_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.uniform_(model[1].weight, 0.0, 1.5)
    data = named("mlp").data()
    for score in (SCORE, Taylor(scope=Scope(last=False))):
        prune = Prune(score=score, pattern=Channel(), budget=Uniform(0.5))
        kept = prune.mask(model, data, rng=seeded(0)).keep["0.weight"].all(1)
        if score is SCORE:
            parts = [p.detach() ** 2 for p in (model[0].weight, model[1].weight[:, None], model[3].weight.T)]
        else:
            weights = [model[0].weight, model[1].weight, model[3].weight]
            squares = [torch.zeros_like(w) for w in weights]
            for batch in data.batches():
                loss = data.task.losses(model.eval(), batch).mean()
                share = len(batch[0]) / len(data)
                for total, w, g in zip(squares, weights, torch.autograd.grad(loss, weights), strict=True):
                    total += share * (w * g).detach() ** 2
            parts = [squares[0], squares[1][:, None], squares[2].T]
        whole = sum(part.sum(1) for part in parts)
        assert set(kept.nonzero().flatten().tolist()) == set(whole.topk(3).indices.tolist())
    model[1].weight.data[2] = 1e3
    assert (
        Prune(score=SCORE, pattern=Channel(), budget=Uniform(0.8))
        .mask(model, data, rng=seeded(0))
        .keep["0.weight"][2]
        .all()
    )


def test_a_unit_tied_to_a_layer_out_of_scope_stays() -> None:
    member = named("resnet-20")
    scope = Scope(last=False, skip=("layer1.0.conv2",))
    prune = Prune(score=Magnitude(scope=scope), pattern=Channel(), budget=Uniform(0.5))
    pruned = prune.apply(member.model(), member.data(), rng=seeded(0))
    assert pruned.conv1.weight.flatten(1).any(1).all()
    assert int(pruned.layer1[0].conv1.weight.flatten(1).any(1).sum()) == 2


@pytest.mark.filterwarnings("ignore:.* keeps 2 of its 16 channels")
def test_global_budgets_cut_layers_unevenly_and_say_so_in_the_record(tmp_path: Path) -> None:
    member = named("bert")
    prune = Prune(score=SCORE, pattern=Channel(width=False), budget=Global(0.4))
    inputs = asked(member)
    dead = prune.apply(member.model(), member.data(), rng=seeded(0))
    small = shrink(dead, inputs)
    torch.testing.assert_close(answers(small.model, inputs), answers(dead, inputs), atol=1e-5, rtol=1e-5)
    save_model_folder(small.model, tmp_path / "small", structure=small.structure)
    assert (tmp_path / "small" / "structure.json").exists()


def test_operations_that_are_not_followed_keep_their_units() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.linalg.matrix_exp(self.a(x)[:, :, None] * 0.1 * torch.eye(4))[:, :, 0]
            return self.c(torch.relu(self.b(x)))

    found = find_units(Odd(), lambda m: m(torch.randn(3, 6)))
    assert [next(iter(g.places)) for g in found.groups] == [("b.weight", 0)]
    assert found.whole["a.weight", 0]


def test_bad_records_of_tensors_are_refused() -> None:
    make = partial(nn.Linear, 4, 3)
    kept = {"of": 3, "kept": [0, 2]}
    good = {"format": 2, "tensors": {"weight": {"0": kept}, "bias": {"0": kept}}, "biases": []}
    assert restructure_(make(), good)(torch.zeros(1, 4)).shape == (1, 2)
    for tensors, message in (
        ({"absent": {"0": kept}}, "a tensor 'absent'"),
        ({"weight": {"2": kept}}, "a dimension '2'"),
        ({"weight": {"0": {"of": 4, "kept": [0]}}}, "another model"),
        ({"weight": {"0": {"of": 3, "kept": [2, 0]}}}, "rising order"),
    ):
        with pytest.raises(InputError, match=message):
            restructure_(make(), {"format": 2, "tensors": tensors, "biases": []})
