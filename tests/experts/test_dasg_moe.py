"""DASG-MoE's parts: attention against the definition in float64, no leak of later tokens, routing by hand, each part off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.experts import DASGMoE, GroupedAttention
from unweave.models.moe import Matrices
from unweave.models.moe.matrices import Gated

T, D = 13, 8


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def layer(**settings: Any) -> GroupedAttention:
    torch.manual_seed(0)
    made = GroupedAttention(D, 2, **{"group": 4, "window": 3, **settings}).double()
    torch.nn.init.normal_(made.pool)
    return made


def even_(stack: DASGMoE) -> None:
    """Let the level router decide by what it reads."""
    for block in stack.experts:
        for part in (block.level[0], block.level[2]):
            torch.nn.init.normal_(part.weight, generator=seeded(5))
            torch.nn.init.zeros_(part.bias)


def by_hand(a: GroupedAttention, x: torch.Tensor, i: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One token's answer of one head and its entropy, from the definition."""
    width, group = a.head_width, a.group
    own = slice(head * width, (head + 1) * width)
    q = x @ a.q.weight.T
    kv = (x @ a.kv.weight.T).view(len(x), 2, a.kv_heads, width)
    k, v = (kv[:, n, head * a.kv_heads // a.heads] for n in (0, 1))
    near = [s for s in range(len(x)) if (0 <= i - s < a.window if a.causal else abs(i - s) <= a.window // 2)]
    if a.kind == "full":
        near = [s for s in range(len(x)) if s <= i or not a.causal]
    keys, values = [k[s] for s in near], [v[s] for s in near]
    if a.kind == "grouped":
        for j in range(-(-len(x) // group)):
            if j < i // group if a.causal else j != i // group:
                part = slice(j * group, (j + 1) * group)
                weight = (k[part] @ a.pool[head] / width**0.5).softmax(0)
                keys.append(weight @ k[part])
                values.append(weight @ v[part])
    p = (torch.stack(keys) @ q[i, own] / width**0.5).softmax(0)
    local = p[: len(near)] / p[: len(near)].sum()
    return p @ torch.stack(values), -(local * local.log()).sum()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["grouped", "window", "full"])
def test_attention_is_one_softmax_over_the_window_and_the_other_groups_summaries(
    kind: str, causal: bool
) -> None:
    for settings in ({}, {"kv_heads": 1}, {"group": 5, "window": 5}):
        a, x = layer(attention=kind, causal=causal, **settings).requires_grad_(False), drawn(2, T, D)
        y, entropy = a.attend(x)
        for i in range(T):
            heads = [by_hand(a, x[1], i, h) for h in range(2)]
            expected = torch.cat([h[0] for h in heads]) @ a.out.weight.T
            torch.testing.assert_close(y[1, i], expected, rtol=1e-9, atol=1e-12)
            assert float(entropy[1, i]) == pytest.approx(float(heads[0][1] + heads[1][1]) / 2, rel=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"attention": "window"}, {"attention": "full"}, {"per_group_routing": True}, {"dsse": "plain top-k"},
        {"dsse": "deep only"}, {"adr": "norm threshold"}, {"kv_heads": 1, "z2": False},
    ],
)  # fmt: skip
def test_no_token_tells_of_later_ones(settings: dict[str, Any]) -> None:
    stack = DASGMoE(D, 2, blocks=2, group=4, window=4, **settings).double()
    for training in (False, True):
        stack.train(training)
        x = drawn(1, T, D)
        clean = []
        for t in (None, 5, 7, 8, 12):
            other = x.clone()
            if t is not None:
                other[:, t] = drawn(D, seed=t) * 3  # no mere shift, which a norm takes off
            for block in stack.experts:
                block._noise.manual_seed(7)
                block.mean.zero_(), block.var.fill_(1.0)
            y = stack(other).detach()
            if t is None:
                clean.append(y)
                continue
            assert (y[:, :t] - clean[0][:, :t]).abs().max() < 1e-12, f"token {t} reached an earlier one"
            assert (y[:, t] - clean[0][:, t]).abs().max() > 1e-3


def test_a_stack_that_is_not_causal_reads_both_ways() -> None:
    x = drawn(1, T, D)
    stack = (
        DASGMoE(D, 2, blocks=1, group=4, window=2, causal=False, adr="expert choice", rho=0.25)
        .double()
        .eval()
    )
    first = stack(x)
    assert stack.deep_shares() == [pytest.approx(3 / 13)], "the best 25 % of 13 tokens"
    other = x.clone()
    other[:, 12] = drawn(D, seed=9)
    assert (stack(other)[:, 0] - first[:, 0]).abs().max() > 1e-6


def test_a_token_gets_the_shared_expert_and_its_levels_best_weighted() -> None:
    """Evaluation against the definition, written token by token."""
    stack = DASGMoE(D, 2, blocks=1, group=4, window=4).double().eval().requires_grad_(False)
    even_(stack)
    block, x = stack.experts[0], drawn(1, T, D)
    residual, entropy = drawn(1, T, D, seed=2) * 3, drawn(1, T, seed=3).abs()
    y = block(x, residual, entropy)
    levels = set()
    for t in range(T):
        z1 = residual[0, t].norm().log() / (1 + 1e-6) ** 0.5
        z2 = entropy[0, t] / torch.tensor(4.0).log()
        read = torch.cat([x[0, t], block.tasks[0], z1[None], z2[None]])
        # routers run in float32, as the levels do
        pi = block.level.double()(read).softmax(0)
        level = int(pi.argmax())
        levels.add(level)
        pool, router, k, given = (
            (block.shallow, block.to_shallow, 1, x[0, t]),
            (block.deep, block.to_deep, 2, block.deep_norm(x[0, t]) * block.deep_scale),
        )[level]
        r, chosen = (router.weight @ x[0, t]).softmax(0).topk(k)
        expected = block.always(x[0, t])
        for weight, e in zip(r / r.sum(), chosen, strict=True):
            total = torch.zeros(D, dtype=torch.float64)
            for n in range(pool.depth):
                inner = pool.up[n, e] @ (given + total)
                if pool.gated:
                    gate, up = inner.chunk(2)
                    inner = gate * gate.sigmoid() * up
                else:
                    inner = torch.nn.functional.gelu(inner)
                total = total + pool.down[n, e] @ inner
            expected = expected + pi[level] * weight * total
        torch.testing.assert_close(y[0, t], expected, rtol=1e-5, atol=1e-6)
    assert levels == {0, 1}, "both levels are met"


def test_training_without_noise_gives_the_values_of_evaluation_and_gradients_to_both_levels(
    monkeypatch: Any,
) -> None:
    stack = DASGMoE(D, 2, blocks=2, group=4, window=4).double()
    x = drawn(4, 100, D)
    even_(stack)
    expected = stack.eval()(x)
    assert all(0.1 < share < 0.9 for share in stack.deep_shares())
    monkeypatch.setattr(
        torch, "rand", lambda *a, **_: torch.full(a[0], 0.5)
    )  # the same noise for both levels
    y = stack.train()(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    for block in stack.experts:
        for p in (*block.level.parameters(), block.to_deep.weight, block.shallow.up, block.deep.up):
            assert p.grad is not None
            assert p.grad.abs().sum() > 0


def test_deep_experts_are_shared_and_slowed() -> None:
    stack = DASGMoE(D, 2, blocks=3, group=4, window=4, share=2)
    assert stack.experts[0].deep is stack.experts[1].deep
    assert stack.experts[2].deep is not stack.experts[0].deep
    assert [b.shares for b in stack.experts] == [2, 2, 1]
    deep = stack.experts[0].deep
    grads = []
    for scale in (1.0, 0.5):
        (g,) = torch.autograd.grad(deep.run(1, torch.ones(2, D), scale).sum(), deep.up)
        grads.append(g)
    torch.testing.assert_close(grads[1], 0.5 * grads[0])
    assert sum(p is deep.up for p in stack.refined()) == 1
    assert not any(p is stack.experts[0].shallow.up for p in stack.refined())


def test_auxiliary_loss_by_hand() -> None:
    stack = DASGMoE(D, 2, blocks=1, group=4, window=4, balance=1.0, budget=0.0, z_loss=0.0).double().eval()
    even_(stack.requires_grad_(False))
    block, x = stack.experts[0], drawn(1, T, D)
    block(x, x, torch.zeros(1, T).double())
    deep = block.told.chosen > 0
    expected = 0.0
    for router, k, rows in ((block.to_shallow, 1, ~deep), (block.to_deep, 2, deep)):
        p = (x[0, rows] @ router.weight.T).softmax(-1)
        share = torch.bincount(p.topk(k).indices.flatten(), minlength=4) / (k * int(rows.sum()))
        expected += 4 * float((share * p.mean(0)).sum())
    assert float(stack.auxiliary()) == pytest.approx(expected, rel=1e-5)
    stack.weights = (0.0, 1.0, 0.0)
    assert float(stack.auxiliary()) == pytest.approx((float(block.told.deep.mean()) - 0.3) ** 2, rel=1e-5)
    stack.spend_(0.5)
    block(x, x, torch.zeros(1, T).double())
    assert abs(stack.deep_shares()[0] - 0.5) < 0.1, "theta meets the budget"
    stack.anneal_(1.0)
    assert block.temperature == 0.5


def test_levels_at_random_or_by_norm_follow_the_budget_and_upcycling_begins_as_the_dense_layer() -> None:
    x = drawn(1, 4000, D).float()
    for adr in ("random", "norm threshold"):
        stack = DASGMoE(D, 2, blocks=1, adr=adr, rho=0.2).train()  # type: ignore[arg-type]
        block = stack.experts[0]
        sizes = x.norm(dim=-1).log()
        block.mean, block.var = sizes.mean(), sizes.var()
        block(x, x, torch.zeros(1, 4000))
        assert stack.deep_shares()[0] == pytest.approx(0.2, abs=0.05)
    for rho in (0.1, 0.6):
        block = DASGMoE(D, 2, blocks=1, rho=rho).experts[0].requires_grad_(False)
        block(x, x, torch.zeros(1, 4000))
        assert float(block.told.deep.mean()) == pytest.approx(rho, abs=0.15), "the levels begin at the budget"
    deep = DASGMoE(D, 2, blocks=1).experts[0].deep.requires_grad_(False)
    dense = Matrices(
        drawn(32, D).float(),
        drawn(32, D, seed=4).float(),
        drawn(D, 32, seed=5).float(),
        Gated(torch.nn.SiLU()),
    )
    deep.upcycle_(dense, noise=0.0, rng=seeded(0))
    torch.testing.assert_close(deep.run(3, x[0]), dense(x[0]))
    deep.upcycle_(dense, noise=0.1, rng=seeded(0))
    off = deep.up[0, 2] - torch.cat([dense.gate, dense.up])
    assert float(off.std()) == pytest.approx(0.1 * float(torch.cat([dense.gate, dense.up]).std()), rel=0.1)
    with pytest.raises(InputError, match="upcycle_ needs a gated"):
        deep.upcycle_(Matrices(drawn(9, D), drawn(9, D), drawn(D, 9), dense.unit), rng=seeded(0))


def test_refuses_what_does_not_fit_and_says_when_attention_is_full() -> None:
    with pytest.raises(InputError, match="must divide the width"):
        GroupedAttention(10, 4)
    with pytest.raises(InputError, match="past the neighbouring group"):
        GroupedAttention(8, 2, group=4, window=5)
    with pytest.raises(InputError, match="ranks a token among later ones"):
        DASGMoE(adr="expert choice")
    with pytest.raises(InputError, match="there is one level"):
        DASGMoE(adr="random", dsse="deep only")
    with pytest.raises(InputError, match="rho must be"):
        DASGMoE(rho=1.5)
    with pytest.raises(InputError, match="there was none yet"):
        DASGMoE(8, 2).auxiliary()
    with pytest.raises(InputError, match="counted from 0 below 2"):
        DASGMoE(8, 2, tasks=2).switch_(2)
    a, x = layer(group=16, window=16), drawn(1, T, D)
    with pytest.warns(UserWarning, match="no more than one group"):
        y = a(x)
    a.kind = "full"
    torch.testing.assert_close(a(x), y)
