"""Masks as sets: their algebra, what is read off a model's zeros, and how they are put on one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unweave import Mask
from unweave.errors import InputError


def bits(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


A = Mask({"a": bits(1, 1, 0, 0), "only": bits(1, 0)})
B = Mask({"a": bits(1, 0, 1, 0), "other": bits(0, 0, 1)})


def test_a_parameter_that_is_not_named_lives_whole() -> None:
    both, either, less = A & B, A | B, A - B
    assert {n: k.tolist() for n, k in both.keep.items()} == {
        "a": [True, False, False, False], "only": [True, False], "other": [False, False, True]
    }  # fmt: skip
    assert {n: k.int().tolist() for n, k in either.keep.items()} == {
        "a": [1, 1, 1, 0], "only": [1, 1], "other": [1, 1, 1]
    }  # fmt: skip
    assert {n: k.int().tolist() for n, k in less.keep.items()} == {
        "a": [0, 1, 0, 0], "only": [0, 0], "other": [1, 1, 0]
    }  # fmt: skip
    assert A.iou(B) == B.iou(A) == 3 / 8
    assert (~A).keep["only"].tolist() == [False, True]
    assert (A.count(), A.size(), A.density(), len(A)) == (3, 6, 0.5, 2)
    assert A == Mask({**A.keep, "whole": bits(1, 1)})
    assert A != Mask({**A.keep, "whole": bits(1, 0)})


def test_masks_that_name_nothing_or_keep_nothing() -> None:
    empty, dead = Mask({}), Mask({"a": bits(0, 0)})
    assert not empty
    assert dead
    assert empty.density() == empty.iou(empty) == 1
    assert dead.density() == 0
    assert dead.iou(dead) == 1  # they agree
    assert dead.iou(empty) == 0
    assert empty.iou(Mask({"a": bits(1, 0)})) == 0.5


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(InputError, match=r"Mask\['a'\] must be a bool tensor; got torch.float32"):
        Mask({"a": torch.ones(2)})
    with pytest.raises(InputError, match=r"masks differ in shape at 'a': \(4,\) and \(2,\)"):
        A & Mask({"a": bits(1, 0)})
    model = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"Mask names 'w', which the model lacks. It has: weight, bias\."):
        Mask({"w": bits(1)}).apply_(model)
    with pytest.raises(InputError, match=r"has shape \(3, 2\); the model's parameter has \(2, 3\)"):
        Mask({"weight": torch.ones(3, 2, dtype=torch.bool)}).apply_(model)


def test_dead_positions_become_plus_zero_also_behind_data_parallel() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(-1.0)
    alive = torch.tensor([[True, False], [False, True]])
    assert Mask({"module.weight": alive}).apply_(model) is model
    assert model.weight.tolist() == [[-1, 0], [0, -1]]
    assert not torch.signbit(model.weight[~alive]).any()
    wrapped = nn.DataParallel(model)
    Mask({"weight": ~alive}).apply_(wrapped)
    assert not model.weight.any()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    model[1].bias.data[0] = 0
    return model


def test_zeros_of_weights_and_norms_are_read_and_nothing_else() -> None:
    model = net()
    assert Mask.of(model) == Mask({})
    assert not Mask.of(model).keep  # a padding row, a bias, and shifts that are still 0 were not pruned
    with torch.no_grad():
        model[1].weight[1] = 0
        model[3].weight.zero_()  # all of a layer: it was so initialised
        model[2].weight[2] = 0
    found = Mask.of(model).keep
    assert list(found) == ["1.weight", "2.weight", "2.bias"]
    assert found["1.weight"].all(1).tolist() == [True, False, True, True]
    assert found["2.weight"].tolist() == found["2.bias"].tolist() == [True, True, False, True]
    with torch.no_grad():
        model[2].bias[2] = 0.5  # it still says something
    assert list(Mask.of(model).keep) == ["1.weight"]


def test_what_an_embedding_shares_is_not_read() -> None:
    model = net()
    model[1] = nn.Linear(3, 4, bias=False)
    model[1].weight = model[0].weight
    assert not Mask.of(model).keep


class _Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(16.0)[:, None] / 10_000 ** (torch.arange(4.0) / 4)
        self.place = nn.Parameter(torch.cat([angle.sin(), angle.cos()], 1), requires_grad=False)
        self.bias = nn.Parameter(torch.eye(8))
        self.head = nn.Linear(8, 3)


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
def test_zeros_by_construction_are_no_pruning(way: str) -> None:
    turned = nn.utils.parametrizations.orthogonal(nn.Linear(6, 4), orthogonal_map=way)
    assert (turned.parametrizations.weight.original == 0).any() or way == "householder"
    model = nn.Sequential(turned, _Tables())
    assert not Mask.of(model)
    with torch.no_grad():
        model[1].head.weight[0] = 0
    assert list(Mask.of(model).keep) == ["1.head.weight"]
