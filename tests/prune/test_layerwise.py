"""The walk through a model's blocks, against a reference that runs the whole model for each of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.language_world import VOCABULARY
from unweave import Data, seeded
from unweave.errors import InputError
from unweave.prune import PerOutput, Prune, Scope, SparseGPT, Wanda, WandaPrune
from unweave.prune._blocks import Chain
from unweave.prune.sparse_gpt import repair
from unweave.tasks import CausalLM

EDITS = [WandaPrune(sparsity=0.5), SparseGPT(sparsity=0.5)]


class Texts(Dataset[dict[str, Tensor]]):
    def __init__(self, ids: Tensor, attention_mask: Tensor | None = None) -> None:
        self.columns = {"input_ids": ids} | (
            {} if attention_mask is None else {"attention_mask": attention_mask}
        )

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: rows[i] for name, rows in self.columns.items()}


def texts(pad: str = "", more: int = 0) -> Data[Any]:
    """Twelve texts of 14 tokens; with padding every other one has but 9, and all are followed by `more`."""
    ids = torch.randint(3, VOCABULARY, (12, 14), generator=seeded(3))
    present = torch.ones_like(ids)
    if pad:
        present[::2, slice(9, None) if pad == "right" else slice(0, 5)] = 0
    ids, present = (torch.cat([t, t.new_zeros(12, more)], 1) for t in (ids * present, present))
    return Data(Texts(ids, present if pad else None), CausalLM(), batch_size=5)


def language_model(kind: str) -> Any:
    """A tiny one in float64, its weights drawn wide, so that attention looks somewhere."""
    t = pytest.importorskip("transformers")
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    llama = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 32,
    }  # fmt: skip
    made = {
        "llama": (t.LlamaConfig, t.LlamaForCausalLM, llama),
        "gemma3": (t.Gemma3TextConfig, t.Gemma3ForCausalLM, {
            **llama, "head_dim": 8, "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }),
        "gpt2": (t.GPT2Config, t.GPT2LMHeadModel, {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}),
    }  # fmt: skip
    config, cls, settings = made[kind]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = cls(config(**common, **settings)).double().eval()
    for parent in list(model.modules()):  # GPT-2's layers, transposed, as torch's own
        for name, child in parent.named_children():
            if isinstance(child, t.Conv1D):
                linear = nn.Linear(*child.weight.shape, dtype=torch.float64)
                linear.load_state_dict({"weight": child.weight.T, "bias": child.bias})
                setattr(parent, name, linear)
    return model


def blocks_of(model: Any) -> list[nn.Module]:
    return list(model.transformer.h if hasattr(model, "transformer") else model.model.layers)


def reference(edit: Any, model: Any, blocks: Any, data: Data[Any], **how: Any) -> Any:
    """The whole model, run for every block, without a cache; every text by itself, and just its own positions."""
    model = deepcopy(model)
    for block in blocks(model):
        read: dict[str, list[Tensor]] = {}
        present: list[Tensor] = []
        linears = {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}

        def look(name: str, args: tuple[Tensor, ...], read: Any = read, present: Any = present) -> None:
            read.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1])[present[-1]])

        hooks = [m.register_forward_pre_hook(lambda _, a, n=n, f=look: f(n, a)) for n, m in linears.items()]
        with torch.no_grad():
            for row in (data.examples[i] for i in range(len(data))):
                row = {name: value[None] for name, value in row.items()}
                present.append(row.get("attention_mask", torch.ones_like(row["input_ids"]))[0] != 0)
                model(**row, **how)
            for hook in hooks:
                hook.remove()
            for name, layer in linears.items():
                x = torch.cat(read[name])
                if isinstance(edit, SparseGPT):
                    layer.weight.copy_(repair(name, layer.weight, x.T @ x, edit))
                    continue
                worth = layer.weight.abs() * x.square().sum(0).sqrt()
                least = worth.argsort(dim=1, stable=True)[:, : worth.shape[1] // 2]
                layer.weight.scatter_(1, least, 0.0)
    return model


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(x == 0, y == 0), name
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("pad", ["", "right", "left"])
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_masks_are_those_of_running_the_whole_model(kind: str, cache: bool, pad: str, edit: Any) -> None:
    model, data = language_model(kind), texts(pad)
    model.config.use_cache = cache
    found = edit.apply(model, data, rng=seeded(0))
    assert_same(found, reference(edit, model, blocks_of, data, use_cache=False))
    assert (
        float(
            (blocks_of(found)[0].mlp.get_submodule("down_proj" if kind != "gpt2" else "c_proj").weight == 0)
            .double()
            .mean()
        )
        == 0.5
    )


def test_blocks_are_not_run_again_for_those_after_them() -> None:
    model, data = language_model("llama"), texts()
    runs = []
    for i, block in enumerate(blocks_of(model)):
        block.mlp.register_forward_hook(lambda *_, i=i: runs.append(i))
    WandaPrune().apply(model, data, rng=seeded(0))
    # each of three batches before and after the pruning of a block, and two passes of one to see that this will do
    assert [runs.count(i) for i in range(4)] == [7, 8, 8, 8]


def test_a_pruned_model_answers_as_before_the_walk_when_nothing_is_removed() -> None:
    model, data = language_model("llama"), texts("right")
    blocks_of(model)[1].forward = blocks_of(model)[1].forward  # one of its own, as accelerate gives
    found = WandaPrune(sparsity=0.0).apply(model, data, rng=seeded(0))
    assert_same(found, model)
    assert ["forward" in vars(block) for block in blocks_of(found)] == [False, True, False, False]


class Memory:
    """A cache of a kind that no library knows."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, memory: Memory, early: Tensor | None = None) -> Any:
        memory.rows.append(x)
        mixed = torch.stack(memory.rows[-2:]).mean(0) if early is None else x + early
        return self.answer(x + self.two(torch.tanh(self.one(mixed))))

    answer = staticmethod(lambda out: out)


class Odd(nn.Module):
    """A language model of no library, with blocks joined in a way of its own."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.table, self.steps, self.last = (
            nn.Embedding(VOCABULARY, 8),
            nn.ModuleList([Step(), Step(), Step()]),
            nn.Linear(8, VOCABULARY),
        )
        self.join = join
        if join == "dict":
            for step in self.steps:
                step.answer = lambda out: {"x": out}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x, memory, first = self.table(input_ids), Memory(), None
        for step in [*self.steps, *(self.steps if self.join == "twice" else [])]:
            if self.join == "in place" and first is not None:
                x += 1
            x = step(x, memory, early=first if self.join == "skip" else None)
            x = x["x"] if isinstance(x, dict) else x
            memory.rows = memory.rows if self.join == "memory" else []
            first = x if first is None else first
        return self.last(x)


def odd(join: str) -> Odd:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Odd(join).double().eval()


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("pad", ["", "right"])
@pytest.mark.parametrize("join", ["plain", "in place", "memory", "skip", "twice", "dict"])
def test_blocks_of_any_kind(join: str, pad: str, edit: Any) -> None:
    """A cache of an unknown type, a skip connection, a block that is called twice, an answer that is no tensor."""
    model, data = odd(join), texts(pad)
    assert_same(edit.apply(model, data, rng=seeded(0)), reference(edit, model, lambda m: m.steps, data))


@pytest.mark.parametrize(
    ("join", "short"), [("plain", True), ("in place", True), ("memory", False), ("skip", False)]
)
def test_what_blocks_need_of_each_other_is_seen(join: str, short: bool) -> None:
    model, data = odd(join), texts()
    runs = []
    model.steps[0].one.register_forward_hook(lambda *_: runs.append(0))
    with torch.no_grad():
        batch = next(data.batches())
        chain = Chain(lambda b: data.task.outputs(model, b), [batch], list(model.steps))
        chain.move(0)
        chain.move(1)
        runs.clear()
        chain.read(0, 2)
    assert runs == ([] if short else [0])


def test_padding_does_not_count_for_wanda() -> None:
    model = odd("plain")
    found = [Wanda().score(model, texts("right", more)) for more in (0, 7)]
    bare = [
        {n: s.square() for n, s in Wanda().score(model, Data(Texts(text[None]), CausalLM(), 1)).items()}
        for text in (
            row["input_ids"][row["attention_mask"] != 0]
            for row in map(texts("right").examples.__getitem__, range(12))
        )
    ]
    for name, scores in found[0].items():
        torch.testing.assert_close(scores, found[1][name], rtol=1e-10, atol=0)
        torch.testing.assert_close(scores, sum(b[name] for b in bare).sqrt(), rtol=1e-10, atol=0)


def test_refuses_what_reads_padding_that_cannot_be_told() -> None:
    class Pooled(Odd):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            mean = self.table(input_ids).mean(1)
            return self.last(self.steps[0](mean, Memory()))[:, None]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pooled("plain").double()
    scope = Scope(only=("steps.0",))
    for edit in (
        *(type(e)(scope=scope) for e in EDITS),
        Prune(score=Wanda(scope=scope), budget=PerOutput(0.5)),
    ):
        with pytest.raises(InputError, match=r"padding, which cannot be told .*steps\.0\.one\.weight"):
            edit.apply(model, texts("right"), rng=seeded(0))
        edit.apply(model, texts(), rng=seeded(0))
