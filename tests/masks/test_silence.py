"""Dead filters stop speaking: through their bias, and through the one normalisation that reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unweave import Mask
from unweave.embedded.digits import of_tensors
from unweave.masks.silence import silence

DATA = of_tensors(torch.ones(4, 3), torch.arange(4) % 2, classes=2)
ROWS = torch.tensor([True, False, True, True])


class Net(nn.Module):
    """Two layers; each has a norm of its own, or both share one."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.last, self.shared = nn.Linear(4, 2), shared

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.a(x)) + (self.norm if self.shared else self.other)(self.b(x)))


def dead(*names: str) -> Mask:
    return Mask({f"{name}.weight": ROWS[:, None].expand(4, 3).clone() for name in names})


def test_the_bias_and_the_norm_behind_a_dead_filter_die_too() -> None:
    model = Net(shared=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = silence(model, dead("a"), DATA).keep
    assert list(found) == ["a.weight", "a.bias", "norm.weight", "norm.bias"]
    assert all(torch.equal(found[name], ROWS) for name in list(found)[1:])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_norm_that_reads_another_layer_too_is_left() -> None:
    assert list(silence(Net(shared=True), dead("a", "b"), DATA).keep) == [
        "a.weight", "b.weight", "a.bias", "b.bias"
    ]  # fmt: skip


def test_what_is_frozen_stays_and_what_was_dead_stays_dead() -> None:
    model = Net(shared=False)
    model.norm.requires_grad_(False)
    given = Mask({**dead("a").keep, "a.bias": torch.tensor([False, True, True, True])})
    found = silence(model, given, DATA).keep
    assert list(found) == ["a.weight", "a.bias"]
    assert found["a.bias"].tolist() == [False, False, True, True]


def test_a_filter_with_one_living_weight_speaks() -> None:
    mask = dead("a")
    mask.keep["a.weight"][1, 2] = True
    assert silence(Net(shared=False), mask, DATA) == mask
