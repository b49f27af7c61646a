from __future__ import annotations

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
