"""Query heads that share keys and values: as many go of each key-value head, and what is left is a plain model."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from tests.prune.test_shrink_models import SCORE, answers, asked, named
from unweave import seeded
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.io.structure import composed, composes, restructure_
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.masks import Channel, Uniform
from unweave.models.units import find_units
from unweave.prune import GMP, Prune, shrink

QUERIES = Prune(score=SCORE, pattern=Channel(width=False, heads="queries"), budget=Uniform(0.5))


def silenced_(model: nn.Module, layer: int, *heads: int) -> None:
    """Query heads of one layer that nothing reads any more."""
    attention = model.model.layers[layer].self_attn
    d = attention.head_dim
    for head in heads:
        attention.q_proj.weight.data[head * d : (head + 1) * d] = 0
        attention.o_proj.weight.data[:, head * d : (head + 1) * d] = 0


def read_again(small: Any, folder: Path, inputs: dict[str, Any], *, plain: bool) -> nn.Module:
    save_model_folder(small.model, folder, structure=small.structure)
    assert (folder / "structure.json").exists() is not plain
    read = (
        type(small.model).from_pretrained(folder).eval()
        if plain
        else load_model(folder, "AutoModelForCausalLM")
    )
    torch.testing.assert_close(answers(read, inputs), answers(small.model, inputs))
    return read


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
def test_the_best_heads_of_each_key_value_head_stay(name: str, tmp_path: Path) -> None:
    member = named(name)
    inputs, model = asked(member), member.model()
    dead = QUERIES.apply(model, member.data(), rng=seeded(0))
    small = shrink(dead, inputs)
    assert small.left == {}
    torch.testing.assert_close(answers(small.model, inputs), answers(dead, inputs), atol=1e-5, rtol=1e-5)
    config = small.model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.hidden_size) == (2, 2, 16)
    read_again(small, tmp_path / "small", inputs, plain=True)
    for layer, slim in zip(model.model.layers, small.model.model.layers, strict=True):
        was, now, d = layer.self_attn, slim.self_attn, layer.self_attn.head_dim
        rows = was.q_proj.weight.unflatten(0, (2, 2, d)).square().sum((2, 3))
        columns = was.o_proj.weight.unflatten(1, (2, 2, d)).square().sum((0, 3))
        best = (rows + columns).argmax(1)
        kept = was.q_proj.weight.unflatten(0, (2, 2, d))[torch.arange(2), best].flatten(0, 1)
        assert torch.equal(now.q_proj.weight, kept)
        assert torch.equal(now.k_proj.weight, was.k_proj.weight)
        assert torch.equal(now.v_proj.weight, was.v_proj.weight)


@pytest.mark.slow
def test_layers_that_differ_are_told_in_the_record_and_uneven_heads_are_left(tmp_path: Path) -> None:
    member = named("llama")
    inputs, model = asked(member), member.model()
    silenced_(model, 0, 1, 2)  # one of either key-value head
    silenced_(model, 1, 0)  # one alone
    small = shrink(model, inputs)
    assert small.model.model.layers[0].self_attn.q_proj.out_features == 8
    assert small.model.model.layers[1].self_attn.q_proj.out_features == 16
    assert list(small.left) == ["model.layers.1.self_attn.q_proj"]
    assert "as many of each key-value head" in next(iter(small.left.values()))
    name = "model.layers.0.self_attn.num_key_value_groups"
    assert small.structure["numbers"] == {name: {"of": 2, "kept": 1}}
    torch.testing.assert_close(answers(small.model, inputs), answers(model, inputs))
    read = read_again(small, tmp_path / "small", inputs, plain=False)
    assert read.get_submodule("model.layers.0.self_attn").num_key_value_groups == 1


def test_key_value_heads_and_query_heads_go_together(tmp_path: Path) -> None:
    shape = zoo._LLAMA | {"num_attention_heads": 8, "hidden_size": 32, "pad_token_id": None}
    model = zoo._made("LlamaForCausalLM", "LlamaConfig", **shape).eval()
    inputs = asked(named("llama"))
    for layer in range(2):
        attention = model.model.layers[layer].self_attn
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight.data[len(part.weight) // 2 :] = 0  # the second key-value head and its four queries
        silenced_(model, layer, 0, 3)
    small = shrink(model, inputs)
    assert small.left == {}
    assert (small.model.config.num_attention_heads, small.model.config.num_key_value_heads) == (2, 1)
    torch.testing.assert_close(answers(small.model, inputs), answers(model, inputs), atol=1e-5, rtol=1e-5)
    read_again(small, tmp_path / "small", inputs, plain=True)


def test_one_key_value_head_for_all_queries() -> None:
    shape = zoo._LLAMA | {"num_key_value_heads": 1, "pad_token_id": None}
    model = zoo._made("LlamaForCausalLM", "LlamaConfig", **shape).eval()
    member = named("llama")
    inputs = asked(member)
    groups = find_units(model, lambda m: m(**inputs)).groups
    heads = [g for g in groups if g.of is not None]
    assert [(len(g), g.of.tolist()) for g in heads] == [(4, [0, 0, 0, 0])] * 2
    prune = Prune(score=SCORE, pattern=Channel(width=False), budget=Uniform(0.5))  # needs no heads="queries"
    small = shrink(prune.apply(model, member.data(), rng=seeded(0)), inputs)
    assert (small.model.config.num_attention_heads, small.model.config.num_key_value_heads) == (2, 1)


def test_queries_that_share_nothing_and_methods_that_would_not_look_are_refused() -> None:
    member = named("bert")
    with pytest.raises(InputError, match="no query heads of this model share keys and values"):
        QUERIES.apply(member.model(), member.data(), rng=seeded(0))
    with pytest.raises(InputError, match="GMP takes filters one by one; heads='queries'"):
        GMP(pattern=Channel(heads="queries"))


def test_what_was_cut_twice_is_told_as_one_cut() -> None:
    torch.manual_seed(0)
    make = partial(mlp, 8, 12, 10, 3)
    model, x = make().eval(), torch.randn(4, 8)
    records = []
    for gone in ([0, 5, 6], [1, 2]):  # of the twelve, then of the nine that are left
        model = copy.deepcopy(model)
        first = next(m for m in model.modules() if isinstance(m, nn.Linear))
        first.weight.data[gone] = 0  # their biases are folded into the next layer's
        small = shrink(model, x)
        model = small.model
        records.append(json.loads(json.dumps(small.structure)))
    both = composed(*records)
    assert both["tensors"]["1.weight"]["0"] == {"of": 12, "kept": [1, 4, 7, 8, 9, 10, 11]}
    fresh = restructure_(make(), both)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()(x), model(x))
    numbers = [{"numbers": {"a.n": {"of": a, "kept": b}}} for a, b in ((4, 3), (3, 1))]
    told = composed(records[0] | numbers[0], records[1] | numbers[1])
    assert told["numbers"] == {"a.n": {"of": 4, "kept": 1}}
    assert composes(told)
    assert not composes(told | {"experts": {}})


@pytest.mark.slow
def test_a_width_that_no_configuration_can_say_is_cut_with_the_norms_own_guards(tmp_path: Path) -> None:
    member = named("llama")
    inputs, model = asked(member), member.model()
    gone = [2, 5, 11]  # 13 channels are left, which four heads do not divide, as transformers asks for
    with torch.no_grad():
        model.model.embed_tokens.weight[:, gone] = 0
        model.model.embed_tokens.weight *= 0.01  # so that what a norm adds to a mean is felt
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[gone] = 0
            layer.mlp.down_proj.weight[gone] = 0
    small = shrink(model, inputs)
    assert small.left == {}
    assert small.apart < 1e-5
    assert small.model.model.embed_tokens.embedding_dim == 13
    numbers = small.structure["numbers"]
    assert len(numbers) == 5
    for told in numbers.values():
        assert told["kept"] == pytest.approx(told["of"] * 16 / 13)
    read_again(small, tmp_path / "small", inputs, plain=False)
    kept = shrink(model, inputs, respell=False)
    assert kept.model.config.hidden_size == 16
    torch.testing.assert_close(answers(kept.model, inputs), answers(model, inputs))
