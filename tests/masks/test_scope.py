"""What a scope looks at: whole models, weight by weight, and loud where it would not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from unweave import Mask
from unweave.errors import InputError
from unweave.masks import Scope
from unweave.masks.scope import ROWS, matrices


class Net(nn.Module):
    def __init__(self, **more: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.conv1 = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 3)
        for name, module in more.items():
            self.add_module(name, module)


def names(scope: Scope, model: nn.Module) -> list[str]:
    return list(scope.weights(model))


def test_names_are_whole_or_patterns() -> None:
    net = Net()
    assert names(Scope(), net) == ["conv.weight", "conv1.weight", "head.weight"]
    assert names(Scope(only=("conv",)), net) == ["conv.weight"]
    assert names(Scope(only=("conv.weight",)), net) == ["conv.weight"]
    assert names(Scope(only=("conv*",)), net) == ["conv.weight", "conv1.weight"]
    assert names(Scope(skip=("conv",)), net) == ["conv1.weight", "head.weight"]
    assert names(Scope(first=False, last=False), net) == ["conv1.weight"]
    with pytest.raises(
        InputError, match=r"Scope: 'con' names no weight; there are: conv.weight, conv1.weight"
    ):
        Scope(only=("con",)).weights(net)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.LSTM(4, 5), ["x.weight_ih_l0", "x.weight_hh_l0"]),
        (nn.GRUCell(4, 5), ["x.weight_ih", "x.weight_hh"]),
        (nn.MultiheadAttention(4, 2), ["x.in_proj_weight", "x.out_proj.weight"]),
        (nn.ConvTranspose1d(4, 5, 3), ["x.weight"]),
        (nn.Bilinear(3, 4, 5), ["x.weight"]),
        (nn.Linear(4, 1), ["x.weight"]),
        (nn.Sequential(nn.LayerNorm([4, 4]), nn.Embedding(5, 6)), []),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_every_kind_of_matrix_weight_is_known(layer: nn.Module, expected: list[str]) -> None:
    model = nn.Module()
    model.add_module("x", layer)
    found = list(matrices(model))
    assert [w.name for w in found] == expected
    assert not [w for w in found if w.left]


def test_what_stays_dense_is_told_and_much_of_it_refused() -> None:
    net = Net()
    net.head.weight.requires_grad_(False)
    seen = Scope().coverage(net)
    assert seen.left == {"head.weight": "frozen"}
    assert (seen.looked, seen.total) == (216 + 576, 216 + 576 + 24)
    assert names(Scope(), net) == ["conv.weight", "conv1.weight"]  # 97 %
    net.conv1.weight.requires_grad_(False)
    with pytest.raises(
        InputError, match=r"only 26 % of .* looked at; conv1.weight \(frozen\); head.weight \(frozen\)"
    ):
        Scope().weights(net)
    assert names(Scope(least=0.25), net) == ["conv.weight"]
    assert names(Scope(only=("conv",)), net) == ["conv.weight"]  # named, so nothing is silent
    net.conv.weight.requires_grad_(False)
    with pytest.raises(
        InputError, match=r"no weight is in scope for pruning: left dense are conv.weight \(frozen\)"
    ):
        Scope().weights(net)


def test_a_method_that_reads_fewer_kinds_says_what_it_leaves() -> None:
    net = Net(recurrent=nn.LSTM(8, 8))
    assert "recurrent.weight_ih_l0" in names(Scope(), net)
    with pytest.raises(InputError, match=r"recurrent.weight_ih_l0 \(of a LSTM, which is not read\)"):
        Scope().weights(net, ROWS)


@pytest.mark.parametrize("parametrise", ["new", "old"])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_computed_weight_is_left_by_name(parametrise: str) -> None:
    wrap: Any = (
        torch.nn.utils.parametrizations.weight_norm if parametrise == "new" else torch.nn.utils.weight_norm
    )
    net = nn.Sequential(wrap(nn.Linear(8, 8)), nn.Linear(8, 3))
    seen = Scope().coverage(net)
    assert seen.looked == 24
    assert len(seen.left) == 1
    assert "remove" in next(iter(seen.left.values()))


@pytest.mark.parametrize("member", zoo.members(lacking="parametrised"), ids=str)
def test_dense_models_have_no_mask_and_are_looked_at_whole(member: zoo.Member) -> None:
    """Padding rows, tables of sines and tied heads are no pruning; of the rest a scope misses little and tells it."""
    if member.kind == "pipeline":
        pytest.skip("a pipeline is not pruned by a scope")
    model = member.model()
    mask = Mask.of(model)
    assert not mask, f"a dense model, and a mask over {list(mask.keep)}"
    shared = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    seen = Scope().coverage(model)
    looked = {
        name for name, p in model.named_parameters() if id(p) not in shared and p.ndim > 1 and p.shape[0] > 1
    }
    told = set(Scope(least=0.0).weights(model)) | set(seen.left) if seen.looked else set(seen.left)
    norms = {n for n in looked - told if model.get_parameter(n).squeeze().ndim < 2}
    assert looked - told - norms == set(), "weights that are neither in scope nor told"
    if not member.traits & {"frozen", "refuses deepcopy"}:
        assert seen.share >= 0.9, seen.left
