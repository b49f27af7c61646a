from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import BatchNorm1d, Dropout, Linear, Sequential

from tests.optim.problem import assert_near, closure_of, gradient_at, loss_at, parameters, size
from unweave import Step, fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.fit.recipe import mean_loss
from unweave.optim import GSAM, S2SAM, SAM, ZOSAM, CrAM, LookSAM
from unweave.optim.vectors import dot, norm


def test_a_step_by_hand() -> None:
    # L = w^2 / 2 at w = 2: g = 2, eps = rho = 0.5, g' = 2.5, w - lr g' = 2 - 0.1 * 2.5
    w = torch.tensor([2.0], requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**2).sum() / 2
        loss.backward()
        return loss

    assert SAM([w], lr=0.1, rho=0.5).step(closure).item() == 2.0
    assert w.item() == pytest.approx(1.75, abs=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_is_the_equation(foreach: bool) -> None:
    weights = parameters()
    g = gradient_at(weights)
    moved = [w + 0.3 * d / size(g) for w, d in zip(weights, g, strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    SAM(weights, lr=0.1, rho=0.3, foreach=foreach).step(closure_of(weights))
    assert_near(weights, expected)


def test_rho_by_group_and_a_norm_over_all_groups() -> None:
    weights = parameters()
    g = gradient_at(weights)
    rhos = (0.2, 0.5, 0.5)
    moved = [w + r * d / size(g) for w, d, r in zip(weights, g, rhos, strict=True)]
    expected = [w - 0.1 * d for w, d in zip(weights, gradient_at(moved), strict=True)]
    SAM([{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}], lr=0.1, rho=0.5).step(
        closure_of(weights)
    )
    assert_near(weights, expected)


@pytest.mark.parametrize("cls", [SAM, GSAM, CrAM])
def test_first_and_second_step_are_the_step(cls: type[SAM]) -> None:
    one, two = parameters(), parameters()
    whole, halves = cls(one, lr=0.1, rho=0.3), cls(two, lr=0.1, rho=0.3)
    for _ in range(3):
        whole.step(closure_of(one))
        closure_of(two)()
        halves.first_step()
        closure_of(two)()
        halves.second_step()
    assert_near(one, two)


@pytest.mark.parametrize("cls", [LookSAM, S2SAM, ZOSAM])
def test_no_two_halves_where_they_would_be_another_method(cls: type) -> None:
    assert not hasattr(cls(parameters(), lr=0.1), "first_step")


def test_a_closure_without_backward_is_refused() -> None:
    weights = parameters()
    with pytest.raises(InputError, match="SAM: the closure left no gradient"):
        SAM(weights, lr=0.1).step(lambda: loss_at(weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_are_taken_in_single(dtype: torch.dtype) -> None:
    # 300 ** 2 is not finite in float16; bfloat16 has 8 bits and would end at 256 * 1.375
    many = [torch.full((1000,), 300.0, dtype=dtype), torch.full((3,), 1.0)]
    assert norm(many) == pytest.approx((1000 * float(many[0][0]) ** 2 + 3) ** 0.5, rel=1e-6)
    assert dot(many, many) == pytest.approx(1000 * float(many[0][0]) ** 2 + 3, rel=1e-6)


def test_new_groups_and_the_bases_settings_are_shared() -> None:
    weights = parameters()
    optimizer = SAM(weights[:1], torch.optim.AdamW, lr=0.1, weight_decay=0.2)
    optimizer.add_param_group({"params": weights[1:], "lr": 0.01})
    assert optimizer.param_groups is optimizer.base.param_groups
    assert [g["weight_decay"] for g in optimizer.base.param_groups] == [0.2, 0.2]
    optimizer.step(closure_of(weights))
    assert all(p in optimizer.base.state for p in weights)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups


@pytest.mark.parametrize(
    "make",
    [
        partial(SAM, rho=0.05), partial(GSAM, rho=0.05, rho_min=0.01), partial(LookSAM, k=3), partial(S2SAM), CrAM,
        partial(ZOSAM, directions="guided"), partial(SAM, base=torch.optim.AdamW),
    ],
    ids=["SAM", "GSAM", "LookSAM", "S2SAM", "CrAM", "ZOSAM", "AdamW"],
)  # fmt: skip
def test_a_killed_training_goes_on_to_the_same_bits(
    make: Callable[..., torch.optim.Optimizer], tmp_path: Path
) -> None:
    rng = seeded(0)
    data = of_tensors(torch.randn(40, 4, generator=rng), torch.arange(40) % 2, batch_size=8)

    def run(stop: int | None, file: Path) -> torch.Tensor:
        def after(step: Step) -> None:
            if step.index == stop:
                raise KeyboardInterrupt

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Sequential(Linear(4, 6), Dropout(0.5), Linear(6, 2))
        fit_(
            model, data, mean_loss(data), make(model.parameters(), lr=0.01), epochs=2, rng=seeded(1),
            after_step=after, checkpoint=file, checkpoint_seconds=-1.0,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    with pytest.raises(KeyboardInterrupt):
        run(5, tmp_path / "cut")
    assert torch.equal(run(None, tmp_path / "cut"), run(None, tmp_path / "whole"))


def test_agrees_with_pytorch_optimizer_under_its_own_contract() -> None:
    theirs = pytest.importorskip("pytorch_optimizer").SAM
    one, two = parameters(), parameters()
    ours = SAM(one, lr=0.1, momentum=0.9, rho=0.2)
    other = theirs(two, torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9)
    for _ in range(5):
        ours.step(closure_of(one))
        closure_of(two)()  # it wants gradients before its step
        other.step(closure_of(two))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)  # it takes norms in float32


def test_a_gradient_of_zero_moves_nothing() -> None:
    w = torch.zeros(3, requires_grad=True)

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**2).sum()
        loss.backward()
        return loss

    SAM([w], lr=0.1, rho=0.5).step(closure)
    assert torch.equal(w, torch.zeros(3))


def test_a_failing_second_pass_leaves_the_weights_as_they_were() -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    good, calls = closure_of(weights), []

    def closure() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no luck")
        return good()

    with pytest.raises(RuntimeError, match="no luck"):
        SAM(weights, lr=0.1).step(closure)
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


def test_dropout_is_drawn_once_a_step_and_statistics_move_once() -> None:
    rng = seeded(0)
    data = of_tensors(torch.randn(8, 4, generator=rng), torch.arange(8) % 2, batch_size=8)
    seen: list[torch.Tensor] = []

    def network() -> Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Sequential(Linear(4, 6), BatchNorm1d(6), Dropout(0.5), Linear(6, 2))

    model = network()
    model[2].register_forward_hook(lambda m, i, out: seen.append(out.detach() != 0))
    fit_(model, data, mean_loss(data), SAM(model.parameters(), lr=0.1, rho=0.05), epochs=1, rng=seeded(1))
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    once = network()
    fit_(once, data, mean_loss(data), torch.optim.SGD(once.parameters(), lr=0.1), epochs=1, rng=seeded(1))
    assert torch.equal(model[1].running_mean, once[1].running_mean)
    assert torch.equal(model[1].running_var, once[1].running_var)
    assert int(model[1].num_batches_tracked) == 1
