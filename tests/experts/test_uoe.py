"""UOE: which expert is chosen, what is trained, and the gradient that holds its router."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.language.world import caught, llama
from tests.moe_models import EXPERTS, moe
from unweave import Request, seeded
from unweave.errors import InputError
from unweave.experts import UOE
from unweave.language import DPO, NPO, RMU, GradDiff
from unweave.tasks.language import Text, texts


def some(count: int, seed: int, other: int = 0) -> list[Text]:
    rng = seeded(seed)
    found = []
    for i in range(count):
        asked = torch.randint(3, 40, (2,), generator=seeded(100 * seed + i)).tolist()
        found.append(Text([*asked, *torch.randint(3, 40, (2 + i % 3 + other,), generator=rng).tolist()], 2))
    return found


FORGET, RETAIN = some(4, 1), some(5, 2)


def request(batch_size: int = 4) -> Request[Any]:
    others = [Text([*t.ids[:2], *o.ids[2:]], 2) for t, o in zip(FORGET, some(4, 3, 1), strict=True)]
    return Request(
        texts(FORGET, alternatives=others, batch_size=batch_size), texts(RETAIN, batch_size=batch_size),
        texts(some(2, 4)),
    )  # fmt: skip


def small(name: str = "qwen3-moe") -> Any:
    return moe(name, num_hidden_layers=2)


def routed(model: Any, text: Text) -> list[Tensor]:
    """Probabilities of all experts for each token, a layer, from the router's own matrix."""
    inputs: list[Tensor] = []
    blocks = [layer.mlp for layer in model.model.layers]
    hooks = [b.gate.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for b in blocks]
    model(torch.tensor(text.ids)[None])
    for hook in hooks:
        hook.remove()
    return [(x.reshape(-1, 16) @ b.gate.weight.T).softmax(-1) for x, b in zip(inputs, blocks, strict=True)]


def anchor(model: Any, layer: int, expert: int, given: list[Text] = FORGET) -> Tensor:
    goal = torch.eye(EXPERTS)[expert]
    each = [(p - goal).square().sum(1) for p in (routed(model, t)[layer] for t in given)]
    return torch.cat(each).mean()


def test_affinity_is_each_text_s_mean_gate_value_and_the_largest_is_chosen() -> None:
    model, data = small(), request(3)
    due = torch.zeros(2, EXPERTS, dtype=torch.float64)
    often, kept = torch.zeros_like(due), torch.zeros_like(due)
    for into, given, count in ((due, FORGET, False), (often, FORGET, True), (kept, RETAIN, False)):
        for text in given:
            for layer, p in enumerate(routed(model, text)):
                top = p.detach().topk(2, dim=1)
                weights = top.values / top.values.sum(1, keepdim=True)  # as Qwen3 applies them
                gates = torch.zeros_like(p).scatter(
                    1, top.indices, torch.ones_like(weights) if count else weights
                )
                into[layer] += gates.double().mean(0) / len(given)
    npo = NPO()
    for attribution, expected in (("gate", due), ("frequency", often), ("forget minus retain", due - kept)):
        method = UOE(unlearn=npo, attribution=attribution)
        assert torch.allclose(torch.stack(method.affinities(model, data)), expected, atol=1e-6)
    best = UOE(unlearn=npo, experts=3).chosen(model, data, rng=seeded(0))
    order = due.flatten().argsort(descending=True)[:3].tolist()
    assert [(c.layer, c.expert) for c in best] == [divmod(i, EXPERTS) for i in order]
    assert abs(best[0].affinity - float(due.max())) < 1e-6
    assert [
        (c.layer, c.expert) for c in UOE(unlearn=npo, expert=(1, 5)).chosen(model, data, rng=seeded(0))
    ] == [(1, 5)]
    drawn = [UOE(unlearn=npo, pick="random").chosen(model, data, rng=seeded(s))[0] for s in range(6)]
    assert len({(c.layer, c.expert) for c in drawn}) > 2


def naive(model: Any, alpha: float, expert: int, retain: float) -> dict[str, Tensor]:
    """Gradient of ascent on the forget set, descent on the retain set and the anchor, one text at a time."""

    def nll(given: list[Text]) -> Tensor:
        parts = []
        for t in given:
            logits = model(torch.tensor(t.ids)[None]).logits[0, 1:-1]
            parts.append(cross_entropy(logits, torch.tensor(t.ids[2:]), reduction="none"))
        return torch.cat(parts).mean()

    loss = -nll(FORGET) + alpha * anchor(model, 1, expert)
    loss = loss + retain * nll(RETAIN[:4]) if retain else loss
    model.zero_grad()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_gradient_is_that_of_the_loss_and_of_the_anchor_on_texts_to_forget(alpha: float) -> None:
    model, expert = small(), 3
    method = UOE(unlearn=GradDiff.ascent(), expert=(1, expert), alpha=alpha)
    found = caught(method, model, request())
    student = found["student"]
    found["objective"](student, next(found["data"].batches())).backward()
    due = naive(small(), alpha, expert, 0.0)
    at = "model.layers.1.mlp."
    apart = dict(student.named_parameters())
    moving = {n for n, p in apart.items() if p.requires_grad}
    assert moving == {f"{at}gate.weight", f"{at}experts.own.gate_up_proj", f"{at}experts.own.down_proj"}
    close = {"atol": 1e-5, "rtol": 1e-4}  # the experts compute in float32 at most
    assert torch.allclose(apart[f"{at}gate.weight"].grad, due[f"{at}gate.weight"], **close)
    for name in ("gate_up_proj", "down_proj"):
        assert torch.allclose(
            apart[f"{at}experts.own.{name}"].grad[0], due[f"{at}experts.{name}"][expert], **close
        )


def test_batches_of_a_step_share_the_anchor_and_other_texts_have_none() -> None:
    whole, pieces = (
        caught(UOE(unlearn=GradDiff(accumulate=k), expert=(1, 3), alpha=2.0), small(), request(4 // k))
        for k in (1, 2)
    )
    grads = []
    for found in (whole, pieces):
        rng = seeded(3)
        parts = list(found["data"].batches(rng))
        student = found["student"]
        (found["objective"](student, parts[0]) - 0.0).backward()
        grads.append(student.get_parameter("model.layers.1.mlp.gate.weight").grad)
    plain = caught(UOE(unlearn=GradDiff(), expert=(1, 3), alpha=0.0), small(), request())
    (plain["objective"](plain["student"], next(plain["data"].batches(seeded(3))))).backward()
    without = plain["student"].get_parameter("model.layers.1.mlp.gate.weight").grad
    reference = small()
    (2 * anchor(reference, 1, 3)).backward()
    due = reference.model.layers[1].mlp.gate.weight.grad
    assert torch.allclose(grads[0] - without, due, atol=1e-5)  # texts to keep are not held
    halves = []
    for part in next(pieces["data"].batches(seeded(3))):
        given = [t for t in FORGET if list(t.ids) in [r[r > 0].tolist() for r in part[0][0]["input_ids"]]]
        reference.zero_grad()
        anchor(reference, 1, 3, given).backward()
        halves.append(reference.model.layers[1].mlp.gate.weight.grad.clone())
    assert len(halves) == 2
    loose = caught(UOE(unlearn=GradDiff(accumulate=2), expert=(1, 3), alpha=0.0), small(), request(2))
    (loose["objective"](loose["student"], next(loose["data"].batches(seeded(3))))).backward()
    base = loose["student"].get_parameter("model.layers.1.mlp.gate.weight").grad
    assert torch.allclose(grads[1] - base, halves[0] + halves[1], atol=1e-5)  # 2 times their mean


@pytest.mark.parametrize(
    ("name", "unlearn", "router"),
    [
        ("mixtral", NPO(lr=0.01, epochs=2), "mlp.gate.weight"),
        ("deepseek-v3", RMU(lr=0.01, epochs=1, layer=1), "mlp.gate.weight"),
        ("llama4", DPO(lr=0.01, epochs=1), "feed_forward.router.weight"),
        ("gpt-oss", GradDiff(lr=0.01, epochs=1), "mlp.router.weight"),
    ],
)
def test_only_the_expert_and_its_router_move(name: str, unlearn: Any, router: str) -> None:
    model, data = moe(name), request()
    best = int(UOE(unlearn=unlearn).affinities(model, data)[0].argmax())
    where = UOE(unlearn=unlearn, expert=(0, best)).chosen(model, data, rng=seeded(0))[0]
    experts: Any = next(
        m for n, m in model.named_modules() if n.startswith(where.name) and n.endswith("experts")
    )
    with torch.no_grad():
        experts.down_proj[where.expert, :, ::2] = 0
    edited = UOE(unlearn=unlearn, expert=(0, best)).apply(model, data, rng=seeded(0))
    again = UOE(unlearn=unlearn, expert=(0, best), alpha=0.0).apply(model, data, rng=seeded(0))
    others = 0
    for (n, before), after, free in zip(
        model.named_parameters(), edited.parameters(), again.parameters(), strict=True
    ):
        moved = (before != after).reshape(len(before), -1).any(1)
        if n.startswith(f"{where.name}.experts"):
            assert not torch.cat([moved[: where.expert], moved[where.expert + 1 :]]).any(), n
            others += int(moved[where.expert])
        elif n == f"{where.name.removesuffix('.mlp').removesuffix('.feed_forward')}.{router}":
            assert moved.any()
            assert not torch.equal(after, free)  # the anchor acts
        elif not n.startswith(where.name):
            assert not moved.any(), n
    assert others >= 2
    kept: Any = edited.get_submodule(next(n for n, m in model.named_modules() if m is experts))
    assert not kept.down_proj[where.expert, :, ::2].any()  # pruned weights stay away
    still = UOE(unlearn=unlearn, expert=(0, best), train_router=False).apply(model, data, rng=seeded(0))
    assert torch.equal(
        *(dict(m.named_parameters())[f"{where.name}.{router.partition('.')[2]}"] for m in (model, still))
    )


def test_refusals() -> None:
    npo = NPO()
    for make, message in (
        (lambda: UOE(unlearn=NPO(lora=4)), "Leave its lora out"),
        (lambda: UOE(unlearn=npo, expert=(0, 1), experts=2), "would do nothing with expert"),
        (lambda: UOE(unlearn=npo, pick="random", texts=3), "reads no affinity"),
        (lambda: UOE(unlearn=npo, train_router=False, alpha=2.0), "leaves the router as it is"),
        (
            lambda: UOE(unlearn=npo).apply(llama(dtype=torch.float32), request(), rng=seeded(0)),
            "mixture of experts",
        ),
        (
            lambda: UOE(unlearn=npo, expert=(1, 8)).apply(small(), request(), rng=seeded(0)),
            "have 8, 8 experts",
        ),
        (lambda: UOE(unlearn=npo, experts=99).apply(small(), request(), rng=seeded(0)), "the model has 16"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    gone = replace(request(), forget=request().forget.subset([]))
    with pytest.raises(InputError, match="at least one example"):
        UOE(unlearn=npo).apply(small(), gone, rng=seeded(0))
