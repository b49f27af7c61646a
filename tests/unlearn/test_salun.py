from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Data, Mask, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import Classify, predict
from unweave.unlearn import FineTune, RandomLabels, SalUn
from unweave.unlearn.salun import saliency


class Counting(Classify):
    """Counts examples that went forward, and batches that went backward."""

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        assert not model.training
        losses = super().losses(model, batch)
        PASSED["forward"] += len(losses)
        losses.register_hook(lambda g: PASSED.__setitem__("backward", PASSED["backward"] + len(g)))
        return losses


PASSED = {"forward": 0, "backward": 0}


def test_exact() -> None:
    # Logits w x with w = 0: p = (1/2, 1/2). x = (1, 4, 0), true class 0: gradient rows +-(1/2)(1, 4, 0).
    # |g| = [[.5, 2, 0], [.5, 2, 0]]: a third of the six weights is the middle column.
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    data = of_tensors(torch.tensor([[1.0, 4.0, 0.0]]), torch.tensor([0]), classes=2)
    torch.testing.assert_close(
        saliency(model, data)["weight"], torch.tensor([[0.5, 2.0, 0.0], [0.5, 2.0, 0.0]])
    )
    mask = SalUn(density=1 / 3).mask(model, data)
    assert mask.keep["weight"].tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("accumulate", ["signed", "abs", "squared"])
def test_naive_saliency(accumulate: Any) -> None:
    model, forget = world.model(batch_norm=True).double(), world.request().forget
    forget = Data(forget.examples, forget.task, batch_size=5)
    fast = saliency(model, forget, accumulate=accumulate)
    model.eval()
    total: dict[str, torch.Tensor] = {}
    for x, y in forget.batches():
        model.zero_grad()
        sum(-model(x[i : i + 1].double()).log_softmax(1)[0, y[i]] for i in range(len(x))).backward()
        for name, p in model.named_parameters():
            g = {"signed": p.grad, "abs": p.grad.abs(), "squared": p.grad**2}[accumulate]
            total[name] = total.get(name, 0) + g
    for name, score in fast.items():
        torch.testing.assert_close(score, total[name].abs(), rtol=1e-9, atol=1e-12)


def test_signed_mask_does_not_depend_on_batch_size() -> None:
    model, forget = world.model().double(), world.request().forget
    masks = [SalUn().mask(model, Data(forget.examples, forget.task, n)) for n in (1, 5, 12)]
    assert masks[0] == masks[1] == masks[2]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 1.0])
def test_count_is_exact_and_of_the_living(density: float) -> None:
    for sparse in (False, True):
        model, forget = world.model(sparse=sparse), world.request().forget
        mask = SalUn(density=density).mask(model, forget)
        alive = sum(int((p != 0).sum()) if sparse and p.ndim > 1 else p.numel() for p in model.parameters())
        assert mask.count() == round(density * alive)
        assert all(not (mask.keep[n] & ~a).any() for n, a in Mask.of(model).keep.items())
        assert set(mask.keep) == {n for n, _ in model.named_parameters()}


def test_one_pass_over_the_forget_set() -> None:
    model, forget = world.model(batch_norm=True), world.request().forget
    PASSED.update(forward=0, backward=0)
    SalUn().mask(model, Data(forget.examples, Counting(3), 5))
    assert PASSED["forward"] <= 1.2 * len(forget)
    assert PASSED["backward"] <= 1.2 * len(forget)
    assert PASSED["forward"] > 0


@pytest.mark.parametrize("inner", [RandomLabels, partial(RandomLabels, order="mixed"), FineTune])
def test_off_the_mask_every_weight_keeps_its_bits(inner: Any) -> None:
    model, request = world.model(batch_norm=True), world.request()
    method = SalUn(density=0.3, unlearn=inner(lr=0.05, momentum=0.9, weight_decay=0.1))
    mask = method.mask(model, request.forget)
    edited = method.apply(model, request, rng=seeded(0))
    control = inner(lr=0.05, momentum=0.9, weight_decay=0.1).apply(model, request, rng=seeded(0))
    for (name, p), q, c in zip(
        model.named_parameters(), edited.parameters(), control.parameters(), strict=True
    ):
        off = ~mask.keep[name]
        assert torch.equal(p[off].view(torch.int32), q[off].view(torch.int32)), name
        assert not off.any() or not torch.equal(p[off], c[off]), f"the control did not move {name}"
    moved = sum(int((p != q).sum()) for p, q in zip(model.parameters(), edited.parameters(), strict=True))
    assert moved > 0.9 * mask.count()


def test_density_one_is_no_mask() -> None:
    model, request = world.model(), world.request()
    a = SalUn(density=1.0).apply(model, request, rng=seeded(4))
    b = RandomLabels().apply(model, request, rng=seeded(4))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_salient_weights_carry_the_forgetting() -> None:
    # At equal size and steps, moving the most salient weights forgets more than moving the least.
    model, request = world.model(), world.request()
    inner = RandomLabels(lr=0.05)
    mask = SalUn(density=0.3).mask(model, request.forget)
    least = SalUn(density=0.7).mask(model, request.forget)

    def loss(only: Mask) -> float:
        edited = inner.apply(model, request, rng=seeded(0), only=only)
        return float(predict(edited, request.forget, request.forget.task.losses).mean())

    assert loss(mask) > 2 * loss(~least)


def test_frozen_layers_stay_out_of_the_mask() -> None:
    model, request = world.model(), world.request()
    model[1].weight.requires_grad_(False)
    mask = SalUn(density=0.5).mask(model, request.forget)
    assert set(mask.keep) == {"1.bias", "3.weight", "3.bias"}
    assert mask.count() == round(0.5 * (24 + 72 + 3))


def test_refuses() -> None:
    model, request = world.model(), world.request()
    empty = request.forget.subset([])
    with pytest.raises(EmptyDataError, match="SalUn"):
        SalUn().apply(model, Request(empty, request.retain, request.heldout), rng=seeded(0))
    with pytest.raises(InputError, match="SalUn can train nothing: every parameter is frozen"):
        SalUn().mask(world.model().requires_grad_(False), request.forget)
    silent = of_tensors(torch.zeros(4, 2), torch.zeros(4), classes=2)
    with pytest.raises(InputError, match="no salient weight"):
        SalUn().mask(nn.Linear(2, 2, bias=False), silent)
    for bad, message in [
        (partial(SalUn, density=0.0), "density must be above 0 and at most 1; got 0.0"),
        (partial(SalUn, density=1.5), "density"),
        (partial(SalUn, accumulate="both"), "accumulate"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()
