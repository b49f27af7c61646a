from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.prune.world import assert_untouched, convolutional, images, points, state, trained
from unweave import seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.masks import select
from unweave.prune import PerOutput, Prune, Uniform, Wanda


def test_by_hand() -> None:
    # inputs (3, 1) and (4, 0): norms 5 and 1; |w| = (1, 4): scores 5 and 4, by magnitude the other way
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, -4.0], [0.0, 2.0]])
    data = of_tensors(torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.tensor([0, 1]))
    scores = Wanda().score(model, data)
    assert scores["weight"].tolist() == [[5.0, 4.0], [0.0, 2.0]]
    assert select(scores, budget=PerOutput(0.5)).keep["weight"].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_equal_unfolded_patches(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    x = torch.randn(5, 4, 7, 7)
    scores = Wanda().score(model, of_tensors(x, torch.arange(5) % 3))["0.weight"]
    norms = F.unfold(x, 3, padding=1, stride=2).square().sum((0, 2)).sqrt().view(4, 3, 3)
    for out in range(6):
        first = out // (6 // groups) * (4 // groups)
        naive = conv.weight[out].detach().abs() * norms[first : first + 4 // groups]
        torch.testing.assert_close(scores[out], naive)


def test_transposed_linear_layers_are_scored_as_linear_ones() -> None:
    transformers = pytest.importorskip("transformers")
    plain = nn.Linear(6, 3)
    turned = transformers.Conv1D(3, 6)
    turned.weight.data = plain.weight.detach().T.clone()
    data = points()
    found = Wanda().score(nn.Sequential(nn.Flatten(), turned), data)["1.weight"]
    torch.testing.assert_close(found, Wanda().score(nn.Sequential(nn.Flatten(), plain), data)["1.weight"].T)
    half = Prune(score=Wanda(), budget=Uniform(0.5)).apply(
        nn.Sequential(nn.Flatten(), turned), data, rng=seeded(0)
    )
    assert int((half[1].weight == 0).sum()) == 9


def test_batches_do_not_matter_and_the_model_is_left_alone() -> None:
    model = trained(batch_norm=True)
    before = state(model)
    many, one = Wanda().score(model, points(batch_size=5)), Wanda().score(model, points(batch_size=48))
    assert_untouched(model, before)
    for name in many:
        torch.testing.assert_close(many[name], one[name])
    assert set(Wanda().score(convolutional(), images())) == {"0.weight", "3.weight", "6.weight", "11.weight"}


def test_refuses() -> None:
    with pytest.raises(EmptyDataError, match="Wanda needs"):
        Wanda().score(trained(), points().subset([]))
    model = trained()
    model.idle = nn.Identity()
    model.idle.spare = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"idle\.spare\.weight is never called"):
        Wanda().score(model, points())
