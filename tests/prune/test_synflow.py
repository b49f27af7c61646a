from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.prune.world import assert_untouched, convolutional, images, points, state
from unweave import Data, Mask, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import EmptyDataError, InputError, NonFiniteError
from unweave.masks import select
from unweave.prune import NM, Global, Scope, SynFlow, SynFlowPrune
from unweave.tasks import CausalLM


def test_by_hand() -> None:
    # |W1| = [[1, 2]], |w2| = [3]: R = 3 (1 + 2) = 9; scores 3 * (1, 2) and 3 * 3, each layer sums to R
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2.0]])
    model[1].weight.data = torch.tensor([[-3.0], [0.0]])
    scores = SynFlow().score(model, of_tensors(torch.full((1, 2), -7.0), torch.tensor([0]), classes=2))
    assert scores["0.weight"].tolist() == [[3.0, 6.0]]
    assert scores["1.weight"].tolist() == [[9.0], [0.0]]


def test_flow_is_conserved_from_layer_to_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(m for m in mlp(6, 8, 8, 3)))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    before = state(model)
    sums = [float(s.sum()) for s in SynFlow().score(model, points()).values()]
    assert sums == pytest.approx([sums[0]] * 3)
    assert_untouched(model, before)


def test_works_with_batch_norm_in_eval_mode() -> None:
    model = convolutional().train()
    before = state(model)
    scores = SynFlow().score(model, images())
    assert all((s >= 0).all() and s.dtype == torch.float64 for s in scores.values())
    assert_untouched(model, before)
    assert model.training


def test_deep_networks_do_not_overflow() -> None:
    torch.manual_seed(0)
    model = mlp(6, *[256] * 60, 3)  # 60 layers of gain about 8: 1e54, beyond float32
    scores = SynFlow().score(model, points())
    assert all(s.isfinite().all() for s in scores.values())
    assert float(scores["1.weight"].sum()) > 3.4e38


def test_iterations_keep_a_network_whole_that_one_cut_breaks() -> None:
    torch.manual_seed(0)
    model = mlp(6, 64, 64, 64, 3)
    keep = 0.995
    mask = SynFlowPrune(sparsity=keep).mask(model, points())
    assert mask.count() == round((1 - keep) * mask.size())
    pruned = mask.apply_(mlp(6, 64, 64, 64, 3))
    assert pruned(torch.randn(50, 6)).std(0).sum() > 0  # a path leads through
    with pytest.raises(InputError, match="fully pruned"):
        select(SynFlow().score(model, points()), budget=Global(keep))


def test_weights_once_cut_stay_cut() -> None:
    torch.manual_seed(0)
    model = mlp(6, 16, 3)
    select(SynFlow().score(model, points()), budget=Global(0.5)).apply_(model)
    dead = model[1].weight == 0
    pruned = SynFlowPrune(sparsity=0.8, iterations=5).apply(model, points(), rng=seeded(0))
    assert (pruned[1].weight[dead] == 0).all()


def test_refuses() -> None:
    with pytest.raises(InputError, match="iterations must be a whole number at least 1"):
        SynFlowPrune(iterations=0)
    with pytest.raises(InputError, match="sparsity must be at least 0 and below 1"):
        SynFlowPrune(sparsity=1.0)
    with pytest.raises(EmptyDataError, match="SynFlow needs"):
        SynFlow().score(mlp(6, 3), points().subset([]))
    with pytest.raises(InputError, match=r"step by step; .* Use Prune\(score=SynFlow\(\), pattern=...\)"):
        SynFlowPrune(pattern=NM(2, 4))
    with pytest.raises(InputError, match="SynFlow needs a task that is Perturbing"):
        SynFlow().score(mlp(6, 3), Data(points().examples, CausalLM()))
    with pytest.raises(InputError, match="torch.Generator"):
        SynFlowPrune(iterations=1).apply(mlp(6, 3), points(), rng=None)
    model = mlp(6, 3).double()
    nn.init.constant_(model[1].weight, 1e308)
    with pytest.raises(NonFiniteError, match="overflows"):
        SynFlow().score(model, points())


def test_layers_that_carry_no_flow_are_named_and_can_be_left_out() -> None:
    class Attends(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (torch.nn.Linear(6, n) for n in (6, 6, 6, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x[:, None] * torch.eye(6)
            shares = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(-1)
            return self.out((shares @ self.value(tokens)).mean(1))

    torch.manual_seed(0)
    model, data = Attends(), points()
    with torch.no_grad():  # all tokens alike under ones: no flow through what weighs them
        for layer in (model.query, model.key):
            layer.weight.fill_(0.5)
    with pytest.raises(
        InputError, match=r"fully pruned.* Next to no flow goes through query.weight, .*--skip"
    ):
        SynFlowPrune(sparsity=0.7, iterations=5).apply(model, data, rng=seeded(0))
    pruned = SynFlowPrune(sparsity=0.5, iterations=5, scope=Scope(skip=("query", "key"))).apply(
        model, data, rng=seeded(0)
    )
    assert Mask.of(pruned).keep.keys() <= {"value.weight", "out.weight"}


def test_biases_feed_no_flow_and_layers_do_not_collapse() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32),
                                torch.nn.ReLU(), torch.nn.Linear(32, 3))  # fmt: skip
    with torch.no_grad():
        model[1].bias.fill_(50.0)
        model[3].bias.fill_(50.0)
    scores = SynFlow().score(model, points())
    flows = [float(values.sum()) for values in scores.values()]
    assert flows == pytest.approx([flows[0]] * 3)  # every layer carries the same, as without biases
    pruned = SynFlowPrune(sparsity=0.995).apply(model, points(), rng=seeded(0))
    assert all(bool(pruned[i].weight.any()) for i in (1, 3, 5))
