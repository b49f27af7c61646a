from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.optim import SGD

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.optim import SAM, FairSAM, GroupWeights

X = torch.randn(40, 5, generator=seeded(0))
Y, S = torch.arange(40) % 3, (torch.arange(40) % 4 == 0).long()
COUNTS = torch.tensor([30, 10])


def net() -> Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Linear(5, 3)


def losses(model: Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def weights(**kw) -> GroupWeights:
    return GroupWeights(lambda b: b[2], losses, COUNTS, **kw)


def run(make, objective, steps: int = 4) -> Module:
    model = net()
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model, (X, Y, S))
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return model


def same(a: Module, b: Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_with_weights_of_one_it_is_sam() -> None:
    w = weights(rule=lambda clean, perturbed, groups: torch.ones(len(groups)))
    same(
        run(lambda p: FairSAM(p, w, lr=0.5, rho=0.3), w.objective),
        run(lambda p: SAM(p, lr=0.5, rho=0.3), lambda m, b: losses(m, b).mean()),
    )


def test_without_a_radius_it_is_weighted_sgd() -> None:
    w = weights(rule="reweigh")
    table = (40 / (2 * COUNTS.double()))[S]
    table = (table * 40 / table.sum()).float()
    same(
        run(lambda p: FairSAM(p, w, lr=0.5, rho=0.0), w.objective),
        run(lambda p: SGD(p, lr=0.5), lambda m, b: (table * losses(m, b)).mean()),
    )


def test_groupdro_by_the_equation() -> None:
    w = weights(eta=0.5, smooth=0.8)
    model = net()
    first = losses(model, (X, Y, S)).detach().double()
    w.objective(model, (X, Y, S))
    w.descending = True
    value = w.objective(model, (X, Y, S))
    mean = torch.tensor([0.2 * first[S == g].mean() for g in (0, 1)])
    q = 0.5 * (0.5 * mean).exp()
    q = q / q.sum()
    torch.testing.assert_close(w.q, q)
    raw = (q / torch.tensor([0.75, 0.25]))[S]
    expected = (raw * 40 / raw.sum() * first).mean()
    assert value.item() == pytest.approx(float(expected), rel=1e-5)


def test_degradation_follows_the_rise_under_the_perturbation() -> None:
    w = weights(rule="degradation", eta=5.0, smooth=0.0)
    w._learn(torch.ones(40), torch.where(S == 1, 3.0, 1.0), S)
    assert w.q[1] > 0.99


def test_weights_raise_the_small_group_and_have_mean_one() -> None:
    for kw in ({"rule": "reweigh"}, {}):
        found = weights(**kw).weights(torch.ones(40), torch.ones(40), S)
        assert float(found.mean()) == pytest.approx(1.0)
        assert float(found[S == 1].mean() / found[S == 0].mean()) == pytest.approx(3.0)
    capped = weights(cap=1.0).weights(torch.ones(40), torch.ones(40), S)
    assert float(capped.mean()) == pytest.approx(1.0)
    assert float(capped[S == 1].mean() / capped[S == 0].mean()) == pytest.approx(1.5)  # 1 over 0.5 / 0.75


def test_an_absent_group_keeps_its_mean() -> None:
    w = weights(eta=0.5, smooth=0.5)
    before = w.mean.clone()
    w._learn(torch.ones(5), torch.ones(5), torch.zeros(5, dtype=torch.long))
    assert w.mean[1] == before[1]
    assert w.mean[0] == 0.5


def test_each_pass_can_be_weighted_alone() -> None:
    found = {}
    for where in ("both", "ascent", "descent"):
        w = weights(rule="reweigh", where=where)
        found[where] = run(lambda p, w=w: FairSAM(p, w, lr=0.5, rho=0.3), w.objective)
    flat = {k: torch.cat([p.detach().flatten() for p in m.parameters()]) for k, m in found.items()}
    assert not torch.allclose(flat["both"], flat["ascent"])
    assert not torch.allclose(flat["both"], flat["descent"])


def test_what_it_learnt_is_saved() -> None:
    w = weights(eta=0.5)
    model = net()
    optimizer = FairSAM(model.parameters(), w, lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = w.objective(model, (X, Y, S))
        loss.backward()
        return loss

    optimizer.step(closure)
    other = weights(eta=0.5)
    FairSAM(net().parameters(), other, lr=0.1).load_state_dict(optimizer.state_dict())
    assert torch.equal(other.q, w.q)
    assert not torch.equal(other.q, weights().q)


def test_trains_in_the_loop() -> None:
    rows = torch.utils.data.TensorDataset(X, Y, S)
    data = of_tensors(X, Y, classes=3, batch_size=10)
    from dataclasses import replace

    model, w = net(), weights()
    done = fit_(
        model,
        replace(data, examples=rows),
        w.objective,
        FairSAM(model.parameters(), w, lr=0.1, momentum=0.9),
        epochs=3,
        rng=seeded(0),
    )
    assert done.calls == 2 * done.steps


def test_refuses() -> None:
    with pytest.raises(InputError, match="no training example"):
        GroupWeights(lambda b: b, losses, torch.tensor([3, 0]))
    with pytest.raises(InputError, match="smooth"):
        weights(smooth=1.0)
    with pytest.raises(InputError, match="integers from 0 to 1"):
        weights().objective(net(), (X, Y, S + 1))


def test_descending_ends_with_the_step_also_if_a_pass_fails() -> None:
    w, model, calls = weights(), net(), []
    optimizer = FairSAM(model.parameters(), w, lr=0.1)
    before = model.weight.detach().clone()

    def closure() -> Tensor:
        calls.append(w.descending)
        if len(calls) == 2:
            raise RuntimeError("no luck")
        loss = w.objective(model, (X, Y, S))
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="no luck"):
        optimizer.step(closure)
    assert calls == [False, True]
    assert not w.descending
    assert torch.equal(model.weight, before)


def test_one_step_by_the_equations() -> None:
    # q from the perturbed losses enters the second gradient; the first is weighed by the q before
    w, model = weights(eta=0.5, smooth=0.8), net().double()
    x = X.double()
    twin = deepcopy(model)

    def weighed(q: Tensor) -> Tensor:
        raw = (q / torch.tensor([0.75, 0.25]))[S]
        each = torch.nn.functional.cross_entropy(twin(x), Y, reduction="none")
        return (raw * 40 / raw.sum() * each).mean()

    start = [p.detach().clone() for p in twin.parameters()]
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    g = torch.autograd.grad(weighed(q), list(twin.parameters()))
    length = torch.cat([d.flatten() for d in g]).norm()
    with torch.no_grad():
        for p, d in zip(twin.parameters(), g, strict=True):
            p.add_(0.3 * d / length)
    rising = torch.nn.functional.cross_entropy(twin(x), Y, reduction="none").detach()
    q = q * (0.5 * 0.2 * torch.stack([rising[S == k].mean() for k in (0, 1)])).exp()
    q = q / q.sum()
    there = torch.autograd.grad(weighed(q), list(twin.parameters()))
    optimizer = FairSAM(model.parameters(), w, lr=0.5, rho=0.3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = w.objective(model, (x, Y, S))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(w.q, q)
    for p, s, d in zip(model.parameters(), start, there, strict=True):
        torch.testing.assert_close(p.detach(), s - 0.5 * d, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("where", "first", "second"), [("both", 1, 1), ("ascent", 1, 0), ("descent", 0, 1)])
def test_each_pass_is_weighed_where_asked(where: str, first: int, second: int) -> None:
    w, model = weights(rule="reweigh", where=where), net()
    each = losses(model, (X, Y, S)).detach()
    table = (20 / COUNTS.double())[S]
    heavy = float((table * 40 / table.sum() * each).mean())
    for descending, weighed in ((False, first), (True, second)):
        w.descending = descending
        value = float(w.objective(model, (X, Y, S)).detach())
        assert value == pytest.approx(heavy if weighed else float(each.mean()), rel=1e-6)


def test_degradation_is_learnt_from_the_rise_of_each_group() -> None:
    w = weights(rule="degradation", eta=0.5, smooth=0.6)
    clean = torch.linspace(0, 1, 40, dtype=torch.float64)
    perturbed = clean + torch.where(S == 1, 3.0, -1.0)
    w._learn(clean, perturbed, S)
    torch.testing.assert_close(w.mean, 0.4 * torch.tensor([-1.0, 3.0], dtype=torch.float64))
    q = torch.tensor([-0.2, 0.6], dtype=torch.float64).exp()
    torch.testing.assert_close(w.q, q / q.sum())


def test_a_rule_of_ones_own_sees_both_losses_and_is_capped() -> None:
    seen = []

    def rule(clean: Tensor, perturbed: Tensor, groups: Tensor) -> Tensor:
        seen.append((clean, perturbed, groups))
        return torch.where(groups == 1, 50.0, 1.0)

    w, model = weights(rule=rule, cap=4.0), net()
    each = losses(model, (X, Y, S)).detach()
    value = float(w.objective(model, (X, Y, S)).detach())
    raw = torch.where(S == 1, 4.0, 1.0)
    assert value == pytest.approx(float((raw * 40 / raw.sum() * each).mean()), rel=1e-6)
    w.descending = True
    with torch.no_grad():
        model.weight.mul_(2)
    w.objective(model, (X, Y, S))
    torch.testing.assert_close(seen[1][0], each.double())
    torch.testing.assert_close(seen[1][1], losses(model, (X, Y, S)).detach().double())
    assert torch.equal(seen[1][2], S)


@pytest.mark.parametrize("settings", [{"eta": 0.5}, {"smooth": 0.5}])
@pytest.mark.parametrize("rule", ["reweigh", lambda clean, perturbed, groups: clean])
def test_settings_of_learning_are_refused_where_nothing_is_learnt(rule, settings) -> None:
    with pytest.raises(InputError, match="GroupWeights.eta and smooth are for rules that learn"):
        weights(rule=rule, **settings)
