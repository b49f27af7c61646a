"""Self-contrast: plain decoding where nothing is subtracted, and a weak pass that never sees the strong one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.moe_models import EXPERTS, MOES, moe
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import SCMoE
from unweave.experts.scmoe import Rule
from unweave.models.moe import moe_layers, route_once

IDS = torch.tensor([[5, 9, 3, 17], [8, 21, 4, 30]])
LONG = torch.randint(3, 40, (2, 10), generator=seeded(0))


@pytest.mark.parametrize("name", MOES)
def test_nothing_subtracted_is_greedy_decoding_and_the_strong_half_is_the_plain_model(name: str) -> None:
    model = moe(name)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    plain = model.generate(IDS, **options)
    for how in (SCMoE(beta=0.0), SCMoE(alpha=1.0, beta=0.9)):
        assert torch.equal(how.generate(model, IDS, **options), plain)
    strong, weak = SCMoE().logits(model, LONG)
    with torch.no_grad():
        torch.testing.assert_close(strong, model(input_ids=LONG).logits.float(), rtol=1e-4, atol=1e-4)
    assert (weak - strong).abs().max() > 1e-2


def weakly(model: Any, ids: Tensor, rank: int, *, weight: str = "one") -> Tensor:
    """Logits of a model whose routers all choose the expert of one rank, by their own three answers."""

    def choose(_: Any, __: Any, answer: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits, weights, _index = answer
        chances, index = logits.softmax(-1).sort(1, descending=True)
        chosen = chances[:, rank : rank + 1]
        return (
            logits,
            (torch.ones_like(chosen) if weight == "one" else chosen).to(weights.dtype),
            index[:, rank : rank + 1],
        )

    hooks = [m.router.register_forward_hook(choose) for m in moe_layers(model)]
    try:
        with torch.no_grad():
            return model(input_ids=ids).logits.float()
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "gpt-oss"])
def test_the_weak_pass_uses_one_expert_of_the_rank_alone(name: str) -> None:
    model = moe(name)
    for rank in (None, 0, 5):
        _, weak = SCMoE(rank=rank).logits(model, LONG)
        expected = weakly(model, LONG, 2 if rank is None else rank)
        torch.testing.assert_close(weak, expected, rtol=1e-4, atol=1e-4)
    if name == "qwen2-moe":  # weights are not renormalised there
        _, weak = SCMoE(weak_norm="model").logits(model, LONG)
        torch.testing.assert_close(weak, weakly(model, LONG, 2, weight="model"), rtol=1e-4, atol=1e-4)


def test_each_pass_keeps_its_own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What both halves say at each step is what they say of the whole text at once, read alone."""
    model, seen = moe("mixtral"), []
    plain = SCMoE.scores

    def keep(self: SCMoE, strong: Tensor, weak: Tensor) -> Tensor:
        seen.append((strong, weak))
        return plain(self, strong, weak)

    monkeypatch.setattr(SCMoE, "scores", keep)
    ids = SCMoE(beta=0.8).generate(model, IDS, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert not torch.equal(ids, model.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=None))
    with torch.no_grad():
        strong = model(input_ids=ids).logits.float()
    weak = weakly(model, ids, 2)
    for i, (s, w) in enumerate(seen):
        torch.testing.assert_close(s, strong[:, 3 + i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(w, weak[:, 3 + i], rtol=1e-4, atol=1e-4)
        assert torch.equal(ids[:, 4 + i], plain(SCMoE(beta=0.8), s, w).argmax(-1))


def test_scores_by_hand() -> None:
    strong, weak = torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([[3.0, 1.0, -9.0]])
    # plausible: at least 2 + log 0.1 = -0.30; 1.5 z_s - 0.5 z_w
    assert SCMoE().scores(strong, weak).tolist() == [[1.5, 1.0, -torch.inf]]
    assert SCMoE(mode="ensemble", beta=1.0).scores(strong, weak).tolist() == [[5.0, 2.0, -torch.inf]]
    # p = .728 .268 .005, q = .881 .119 .000: a divergence of 0.0199 nats
    assert SCMoE(threshold=0.019).scores(strong, weak).tolist() == [[1.5, 1.0, -torch.inf]]
    assert SCMoE(threshold=0.02).scores(strong, weak).tolist() == [[2.0, 1.0, -torch.inf]]


@pytest.mark.parametrize("name", MOES)
def test_the_rule_of_weights_is_read_from_every_layout(name: str) -> None:
    for block in moe_layers(moe(name)):
        rule = Rule.of(block)
        x = torch.randn(9, block.width, generator=seeded(7))
        with torch.no_grad():
            routed = route_once(block, x)[1]
        found = rule.weights(routed.logits, routed.index, one=False)
        torch.testing.assert_close(found, routed.weights.double(), rtol=1e-4, atol=1e-6)
        assert rule.renormalised == (name in ("mixtral", "qwen3-moe", "deepseek-v3", "gpt-oss"))
        assert rule.sigmoid == (name in ("deepseek-v3", "llama4"))
        ranked = rule.ranked(routed)
        assert torch.equal(ranked.sort(1).values, torch.arange(EXPERTS).expand(9, -1))
        assert torch.equal(ranked[:, : block.top_k].sort(1).values, routed.index.sort(1).values)


def test_padding_on_the_left_changes_no_row_and_finished_rows_are_padded() -> None:
    model, how = moe("qwen3-moe"), SCMoE()
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    alone = how.generate(model, IDS[1:], **options)[0, 4:]
    padded = torch.cat([IDS, torch.cat([torch.zeros_like(IDS[1:]), IDS[1:]], 1)[:, 2:6]])[[0, 2]]
    padded[1], mask = torch.tensor([0, 0, 8, 21]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    short = how.generate(model, IDS[1:, :2], **options)[0, 2:]
    both = how.generate(model, padded, attention_mask=mask, **options)
    assert torch.equal(both[1, 4:], short)
    stop = int(alone[2])
    ended = how.generate(model, IDS, max_new_tokens=6, do_sample=False, eos_token_id=stop, pad_token_id=0)
    after = ended[1, 4:].tolist()
    first = after.index(stop)
    assert first == alone.tolist().index(stop)
    assert not any(after[first + 1 :])


def test_random_experts_all_experts_and_samples_come_from_the_generator() -> None:
    model = moe("mixtral")
    state = torch.get_rng_state()
    one, again, other = (SCMoE(weak="random").logits(model, LONG, rng=seeded(s))[1] for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    every = SCMoE(weak="all").logits(model, LONG)[1]
    model.config.num_experts_per_tok = EXPERTS
    for block in moe_layers(model):
        router: Any = block.router
        router.top_k = EXPERTS
    with torch.no_grad():
        torch.testing.assert_close(every, model(input_ids=LONG).logits.float(), rtol=1e-4, atol=1e-4)
    model = moe("mixtral")
    drawn = [
        SCMoE().generate(model, IDS, rng=seeded(s), max_new_tokens=5, do_sample=True, temperature=2.0)
        for s in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(state, torch.get_rng_state())


def test_refuses_what_has_no_unchosen_expert_or_no_tokens() -> None:
    full = moe("mixtral", num_experts_per_tok=EXPERTS)
    with pytest.raises(InputError, match="rank=8 is no expert"):
        SCMoE().generate(full, IDS, max_new_tokens=2)
    with pytest.raises(InputError, match="would do nothing"):
        SCMoE(weak="all", rank=1)
    with pytest.raises(InputError, match="num_beams"):
        SCMoE().generate(moe("mixtral"), IDS, max_new_tokens=2, num_beams=2)
    with pytest.raises(InputError, match="Generator"):
        SCMoE().generate(moe("mixtral"), IDS, max_new_tokens=2, do_sample=True)
