from __future__ import annotations

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
