from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn import Flatten, Linear, Sequential

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.optim import AAER
from unweave.optim.aaer import Watch, pgd


def logits(seed: int) -> torch.Tensor:
    return torch.randn(6, 3, generator=seeded(seed), dtype=torch.float64)


Y = torch.arange(6) % 3


def test_the_penalty_by_the_equation() -> None:
    z0, z1 = logits(0), logits(1).requires_grad_()
    l0, l1 = (F.cross_entropy(z, Y, reduction="none") for z in (z0, z1))
    a = l0 > l1
    assert 0 < int(a.sum()) < 6
    moved = ((z0 - z1) ** 2).sum(1)
    excess = max(float((moved[a].mean() - moved[~a].mean()).detach()), 0.0)
    expected = 0.5 * float(a.sum()) / 6 * (2.0 * float((l0 - l1)[a].mean().detach()) + 3.0 * excess)
    how = AAER(weight=0.5, loss_weight=2.0, logit_weight=3.0)
    assert how.penalty(z0, z1, l0, l1).item() == pytest.approx(expected)


def test_the_gradient_of_the_loss_term_can_be_cut_off() -> None:
    z0, z1 = logits(0), logits(1).requires_grad_()
    slopes = {}
    for on in (True, False):
        l0, l1 = (F.cross_entropy(z, Y, reduction="none") for z in (z0, z1))
        value = AAER(logit_weight=0.0, ce_grad=on).penalty(z0, z1, l0.detach(), l1) + 0 * l1.sum()
        slopes[on] = torch.autograd.grad(value, z1)[0]
    assert slopes[True].abs().sum() > 0
    assert not slopes[False].any()


def test_no_penalty_where_all_or_none_are_abnormal() -> None:
    z = logits(0).requires_grad_()
    l = F.cross_entropy(z, Y, reduction="none")
    for shift in (-1.0, 1.0):
        value = AAER().penalty(z.detach(), z, l.detach() + shift, l)
        assert value.item() == 0
        assert not torch.autograd.grad(value, z, retain_graph=True)[0].any()


@pytest.mark.parametrize("attack", ["rs", "n"])
def test_the_attack_is_one_signed_step_in_pixels(attack: str) -> None:
    std, mean = (0.5,), (0.25,)
    x = (torch.rand(4, 1, 3, 3, generator=seeded(0)) * 0.2 + 0.4 - 0.25) / 0.5  # pixels 0.4 to 0.6
    w = torch.randn(9, 3, generator=seeded(1))

    def answer(at: torch.Tensor) -> torch.Tensor:
        return at.flatten(1) @ w

    how = AAER(eps=0.1, attack=attack, mean=mean, std=std)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, l0, delta = how.attacked(answer, x, torch.arange(4) % 3)
    pixels = delta * 0.5
    assert pixels.abs().max() <= (0.1 if attack == "rs" else 0.3) + 1e-6
    assert pixels.abs().max() > 0.09
    after = x * 0.5 + 0.25 + pixels
    assert after.min() >= 0
    assert after.max() <= 1
    l1 = F.cross_entropy(answer(x + delta), torch.arange(4) % 3, reduction="none")
    assert l1.mean() > l0.mean()


def test_a_network_trained_so_withstands_pgd_better_than_one_trained_plainly() -> None:
    rng = seeded(0)
    centres = torch.rand(3, 1, 4, 4, generator=rng)
    labels = torch.arange(120) % 3
    x = (centres[labels] + 0.1 * torch.randn(120, 1, 4, 4, generator=rng)).clamp(0, 1)
    data = of_tensors(x, labels, classes=3, batch_size=30)
    right = {}
    for name, how in (("plain", None), ("aaer", AAER(eps=0.25))):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Sequential(Flatten(), Linear(16, 32), torch.nn.ReLU(), Linear(32, 3))
        watch = Watch()
        objective = (
            (lambda m, b: F.cross_entropy(m(b[0]), b[1])) if how is None else how.objective(data, watch)
        )
        fit_(
            net,
            data,
            objective,
            torch.optim.SGD(net.parameters(), 0.2, momentum=0.9),
            epochs=20,
            rng=seeded(0),
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            attacked = pgd(net, x, labels, AAER(eps=0.25))
        assert (attacked - x).abs().max() <= 0.25 + 1e-6
        right[name] = float((net(attacked).argmax(1) == labels).float().mean())
        if how is not None:
            assert len(watch.abnormal) == 80
    assert right["aaer"] > right["plain"] + 0.1


def test_refuses() -> None:
    for bad in (
        {"eps": 0.0},
        {"low": 1.0},
        {"weight": -1.0},
        {"std": (0.0,), "mean": (0.0,)},
        {"std": (1.0,)},
    ):
        with pytest.raises(InputError, match="AAER"):
            AAER(**bad)
    with pytest.raises(InputError, match="outside"):
        AAER().attacked(lambda at: at.flatten(1), torch.full((2, 3), 2.0), torch.tensor([0, 1]))


W = torch.randn(12, 3, generator=seeded(1), dtype=torch.float64)
PIXELS = torch.rand(6, 3, 2, 2, generator=seeded(2), dtype=torch.float64)
MEAN, STD = (0.4, 0.5, 0.6), (0.5, 0.25, 0.2)


def linear(at: torch.Tensor) -> torch.Tensor:
    return at.flatten(1) @ W


def by_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


def slope_at(x: torch.Tensor) -> torch.Tensor:
    at = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(linear(at), Y), at)[0]


@pytest.mark.parametrize("alpha", [None, 0.03])
@pytest.mark.parametrize("attack", ["rs", "n"])
def test_the_attack_by_its_rule_in_each_channels_units(attack: str, alpha: float | None) -> None:
    mean, std, eps = by_channel(MEAN), by_channel(STD), 0.1
    x = (PIXELS - mean) / std
    low, high = -mean / std, (1 - mean) / std
    how = AAER(eps=eps, attack=attack, alpha=alpha, mean=MEAN, std=STD)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z0, l0, delta = how.attacked(linear, x, Y)
        torch.manual_seed(0)
        drawn = 2 * torch.rand_like(x) - 1
    reach = (1 if attack == "rs" else 2) * eps / std
    start = (x + reach * drawn).clamp(low, high) - x
    step = {"rs": 1.25 * eps, "n": eps}[attack] if alpha is None else alpha
    moved = start + step / std * slope_at(x + start).sign()
    if attack == "rs":
        moved = moved.clamp(-eps / std, eps / std)
    torch.testing.assert_close(delta, (x + moved).clamp(low, high) - x)
    torch.testing.assert_close(z0.detach(), linear(x + start))
    torch.testing.assert_close(l0.detach(), F.cross_entropy(linear(x + start), Y, reduction="none"))
    assert bool((moved != (x + moved).clamp(low, high) - x).any()), (
        "nothing reaches the box: it is not tested"
    )


def test_the_objective_is_the_loss_under_attack_with_the_penalty() -> None:
    data = of_tensors(PIXELS, Y, classes=3, batch_size=6)
    how, watch = AAER(eps=0.5, weight=0.7), Watch()

    class Waves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return answer(x)

    def answer(at: torch.Tensor) -> torch.Tensor:
        return 3 * torch.sin(4 * linear(at))

    net = Waves()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        value = how.objective(data, watch)(net, (PIXELS, Y))
        torch.manual_seed(5)
        z0, l0, delta = how.attacked(answer, PIXELS, Y)
    z1 = answer(PIXELS + delta)
    l1 = F.cross_entropy(z1, Y, reduction="none")
    assert how.penalty(z0, z1, l0, l1).item() > 0.1
    expected = l1.mean() + how.penalty(z0.detach(), z1, l0.detach(), l1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)


def test_what_is_watched() -> None:
    z0, z1 = logits(0), logits(1)
    l0, l1 = (F.cross_entropy(z, Y, reduction="none") for z in (z0, z1))
    a, moved, watch = l0 > l1, ((z1 - z0) ** 2).sum(1), Watch()
    AAER().penalty(z0, z1, l0, l1, watch)
    AAER().penalty(z0, z1, l1 - 1, l1, watch)
    AAER().penalty(z0, z1, l1 + 1, l1, watch)
    assert watch.abnormal == pytest.approx([float(a.double().mean()), 0.0, 1.0])
    assert watch.moved_abnormal == pytest.approx([float(moved[a].mean()), 0.0, float(moved.mean())])
    assert watch.moved_normal == pytest.approx([float(moved[~a].mean()), float(moved.mean()), 0.0])


def test_the_penalty_on_logits_stops_at_zero_and_drives_the_abnormal_alone() -> None:
    z1 = logits(1).requires_grad_()
    l1 = F.cross_entropy(z1, Y, reduction="none")
    a = torch.tensor([True, False] * 3)
    l0 = l1.detach() + torch.where(a, 0.5, -0.5)
    scale = torch.where(a, 3.0, 1.0)[:, None]
    z0 = z1.detach() + scale * torch.tensor([1.0, -2.0, 0.5])
    how = AAER(loss_weight=0.0, logit_weight=3.0, weight=2.0)
    value = how.penalty(z0, z1, l0, l1)
    # moved: 9 * 5.25 for the abnormal and 5.25 for the others
    assert value.item() == pytest.approx(2 * 0.5 * 3 * 8 * 5.25)
    slope = torch.autograd.grad(value, z1)[0]
    torch.testing.assert_close(slope, torch.where(a[:, None], 2 * 0.5 * 3 * 2 * (z1.detach() - z0) / 3, 0.0))
    other = how.penalty(z1.detach() + (4 - scale) * torch.tensor([1.0, -2.0, 0.5]), z1, l0, l1)
    assert other.item() == 0


def test_pgd_by_hand() -> None:
    how = AAER(eps=0.2, mean=MEAN, std=STD)
    mean, std = by_channel(MEAN), by_channel(STD)
    x = (PIXELS - mean) / std
    low, high = -mean / std, (1 - mean) / std
    for alpha, step in ((None, 0.05), (0.15, 0.15)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = pgd(linear, x, Y, how, steps=3, alpha=alpha)
            torch.manual_seed(0)
            at = (x + 0.2 / std * (2 * torch.rand_like(x) - 1)).clamp(low, high)
        for _ in range(3):
            at = at + step / std * slope_at(at).sign()
            at = torch.min(torch.max(at, x - 0.2 / std), x + 0.2 / std).clamp(low, high)
        torch.testing.assert_close(found, at)


def test_refuses_what_does_not_fit_together() -> None:
    for bad, message in (
        ({"low": 1.0}, "AAER.low must be below high; got 1.0 and 1.0"),
        ({"mean": (0.5,)}, "AAER.mean and std must have one number a channel"),
        ({"weight": 0.0, "ce_grad": False}, "AAER.ce_grad does nothing where weight is 0"),
        ({"loss_weight": 0.0, "ce_grad": False}, "AAER.ce_grad does nothing where loss_weight is 0"),
    ):
        with pytest.raises(InputError, match=message):
            AAER(**bad)
    with pytest.raises(InputError, match="of 3 channels; the inputs have 1"):
        AAER(mean=MEAN, std=STD).attacked(linear, torch.zeros(2, 1, 2, 2), Y[:2])
    for x in (torch.full((2, 3), -0.01), torch.full((2, 3), 1.01)):
        with pytest.raises(InputError, match="outside"):
            AAER().attacked(lambda at: at.flatten(1), x, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="AAER needs a task that is Perturbing"):
        AAER().objective(replace(of_tensors(PIXELS, Y), task=object()))
    for bad in ({"steps": 0}, {"alpha": 0.0}):
        with pytest.raises(InputError, match=f"pgd.{next(iter(bad))} must be"):
            pgd(linear, PIXELS, Y, AAER(), **bad)
