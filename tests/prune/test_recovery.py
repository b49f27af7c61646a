"""Recovery under the mask: what stays zero, what is trained, and against what."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any

import pytest
import torch

from tests import causal_world
from tests.contract import world
from tests.language_world import llama, text
from unweave import Mask, seeded
from unweave.errors import InputError, MissingExtraError
from unweave.prune import Global, Prune, Recovery, Uniform
from unweave.prune.recovery import adapted_, distillation
from unweave.tasks import perplexity, predict


@pytest.fixture(scope="module")
def pruned() -> tuple[Any, Any]:
    model = llama()
    with torch.no_grad():  # sharper, so that the answers of original and pruned model differ
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
    return model, Prune(budget=Uniform(0.6)).apply(model, text(), rng=seeded(0))


@pytest.mark.parametrize("how", [Recovery(by="full", lr=3e-3), Recovery(by="lora", lr=1e-2, epochs=2)])
def test_zeros_stay_and_the_loss_falls(pruned: Any, how: Recovery) -> None:
    if how.by == "lora":
        pytest.importorskip("peft")
    original, cut = pruned
    model, kept = deepcopy(cut), deepcopy(original.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    done = how.train_(model, text(), original=original, rng=seeded(1))
    assert done.steps == 5 * how.epochs
    assert Mask.of(model) == Mask.of(cut)
    assert perplexity(model, text()) < 0.9 * perplexity(cut, text())
    assert list(model.state_dict()) == list(cut.state_dict())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, kept[k]) for k, v in original.state_dict().items())
    still = torch.equal(model.model.embed_tokens.weight, cut.model.embed_tokens.weight)
    assert still == (how.by == "lora")
    again = deepcopy(cut)
    how.train_(again, text(), original=original, rng=seeded(1))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_distillation_comes_near_to_the_original(pruned: Any) -> None:
    original, cut = pruned
    model = deepcopy(cut)
    how = Recovery(by="distil", lr=3e-3, epochs=4, temperature=2.0)
    how.train_(model, text(), original=original, rng=seeded(1))

    def gap(m: Any) -> float:
        found, wanted = predict(m, text()), predict(original, text())
        return float(distillation(found, wanted, 1.0))

    assert Mask.of(model) == Mask.of(cut)
    assert gap(model) < 0.6 * gap(cut)


def test_distillation_is_its_equation() -> None:
    rng = seeded(0)
    found, wanted = (torch.randn(2, 3, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    present = torch.tensor([[True, True, False], [True, False, False]])
    p, q = ((x / 2.0).softmax(-1) for x in (wanted, found))
    each = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(distillation(found, wanted, 2.0, present), 4 * each[present].mean())
    torch.testing.assert_close(distillation(found, wanted, 2.0), 4 * each.mean())
    torch.testing.assert_close(distillation(found[0], wanted[0], 2.0), 4 * each[0].mean())


def test_the_hard_part_is_the_tasks_own_loss(pruned: Any) -> None:
    original, cut = pruned
    by_loss, by_both = deepcopy(cut), deepcopy(cut)
    Recovery(by="full", lr=1e-3).train_(by_loss, text(), original=original, rng=seeded(1))
    Recovery(by="distil", hard=1.0, lr=1e-3).train_(by_both, text(), original=original, rng=seeded(1))
    for (name, a), (_, b) in zip(by_loss.named_parameters(), by_both.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_compute_with_what_is_merged(kind: str) -> None:
    peft = pytest.importorskip("peft")
    model = causal_world.model(kind, torch.float64)
    ids = torch.arange(3, 15)[None]
    data = text(64)
    cut = Prune(budget=Uniform(0.5)).apply(model, data, rng=seeded(0))
    before, mask = cut(ids).logits.detach(), Mask.of(cut)
    names = set(mask.keep)
    with adapted_(cut, mask, 4, 8.0, seeded(0)) as trained:
        assert torch.equal(cut(ids).logits, before)  # B begins at zero
        with torch.no_grad():
            for p in trained:
                p.normal_(0, 0.1, generator=seeded(1))
        layer = next(m for m in cut.modules() if isinstance(m, peft.tuners.lora.LoraLayer))
        change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 8.0 / 4
        inside = cut(ids).logits.detach()
        assert not any(p.requires_grad for n, p in cut.named_parameters() if "lora" not in n)
    torch.testing.assert_close(cut(ids).logits, inside, rtol=1e-10, atol=1e-12)
    assert Mask.of(cut) == mask
    assert set(Mask.of(cut).keep) == names
    assert not any(isinstance(m, peft.tuners.lora.LoraLayer) for m in cut.modules())
    first = next(n for n in mask.keep)
    was = Prune(budget=Uniform(0.5)).apply(model, data, rng=seeded(0)).get_parameter(first)
    change = change.T if kind == "gpt2" else change
    torch.testing.assert_close(cut.get_parameter(first).detach(), (was + change * mask.keep[first]).detach())


def test_half_precision_stays(pruned: Any) -> None:
    pytest.importorskip("peft")
    original = causal_world.model("llama", torch.bfloat16)
    cut = Prune(budget=Uniform(0.5)).apply(original, text(), rng=seeded(0))
    model = deepcopy(cut)
    Recovery(by="lora", lr=1e-2).train_(model, text(), original=original, rng=seeded(0))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert Mask.of(model) == Mask.of(cut)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, cut.model.layers[0].mlp.up_proj.weight)


def test_a_classifier_recovers_too() -> None:
    pytest.importorskip("peft")
    data, original = world.points()[0], world.model()
    cut = Prune(budget=Global(0.8)).apply(original, data, rng=seeded(0))
    for by in ("full", "distil", "lora"):
        model = deepcopy(cut)
        Recovery(by=by, epochs=3, lr=1e-2).train_(model, data, original=original, rng=seeded(0))
        assert Mask.of(model) == Mask.of(cut), by
        losses = [float(predict(m, data, data.task.losses).mean()) for m in (model, cut)]
        assert losses[0] < losses[1], by


def test_refuses(pruned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original, cut = pruned
    for given, message in (
        ({"rank": 4}, "rank=4 would do nothing with by='full'"),
        ({"by": "lora", "temperature": 2.0}, "temperature=2.0 would do nothing with by='lora'"),
        ({"by": "distil", "alpha": 2.0}, "alpha=2.0 would do nothing with by='distil'"),
        ({"by": "adapter"}, "Recovery.by must be"),
        ({"epochs": 0}, "Recovery.epochs"),
        ({"lr": 0.0}, "Recovery.lr"),
        ({"by": "distil", "hard": 1.5}, "Recovery.hard"),
    ):
        with pytest.raises(InputError, match=message):
            Recovery(**given)
    assert (Recovery().peak, Recovery(by="lora").peak, Recovery(by="distil", lr=0.5).peak) == (
        1e-4,
        1e-3,
        0.5,
    )
    with pytest.raises(InputError, match="torch.Generator"):
        Recovery().train_(deepcopy(cut), text(), original=original, rng=None)
    if "peft" in sys.modules:
        with pytest.raises(InputError, match="there is none in this model"):
            Recovery(by="lora").train_(deepcopy(original), text(), original=original, rng=seeded(0))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"adapters needs peft.*unweave\[language\]"):
        Recovery(by="lora").train_(deepcopy(cut), text(), original=original, rng=seeded(0))
