from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.prune.world import convolutional, images
from unweave import Mask, seeded
from unweave.embedded.nets import ResNet, count_parameters, mlp, small_cnn
from unweave.errors import InputError
from unweave.io.structure import restructure_
from unweave.prune import Channel, Magnitude, Prune, Scope, Uniform, shrink

HALF = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5))


def lively(model: nn.Module) -> nn.Module:
    """Batch normalisations with shifts and means, so that constants would show."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval()


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: small_cnn(width=4), 8),
        (lambda: ResNet(8, width=4), 8),
        (lambda: mlp(192, 16, 16, 10, batch_norm=True), 8),
    ],
    ids=["cnn", "resnet", "mlp"],
)
def test_same_outputs_from_fewer_weights_and_from_a_fresh_model_too(make, size: int) -> None:
    model, data = lively(make()), images(size=size)
    inputs = data.examples.tensors[0]
    pruned = HALF.apply(model, data, rng=seeded(0))
    before = {name: t.clone() for name, t in pruned.state_dict().items()}
    shrunk = shrink(pruned, inputs)
    assert all(torch.equal(before[name], t) for name, t in pruned.state_dict().items())
    torch.testing.assert_close(shrunk.model(inputs), pruned(inputs), atol=1e-5, rtol=1e-5)
    assert count_parameters(shrunk.model) < 0.65 * count_parameters(pruned)
    fresh = restructure_(make(), json.loads(json.dumps(shrunk.structure)))
    fresh.load_state_dict(shrunk.model.state_dict())
    assert torch.equal(fresh.eval()(inputs), shrunk.model(inputs))


def test_sizes_by_hand() -> None:
    data = images()
    shrunk = shrink(HALF.apply(convolutional(), data, rng=seeded(0)), data.examples.tensors[0])
    assert [tuple(shrunk.model[i].weight.shape[:2]) for i in (0, 3, 6, 11)] == [
        (2, 3),
        (4, 2),
        (8, 4),
        (10, 8),
    ]
    assert (shrunk.model[3].in_channels, shrunk.model[3].out_channels, shrunk.model[4].num_features) == (
        2,
        4,
        4,
    )
    assert shrunk.left == {}
    assert shrunk.structure["tensors"]["3.weight"]["1"]["of"] == 4


def test_padded_shortcuts_are_cut_with_the_layers_they_are_added_to() -> None:
    data = images()
    pruned = HALF.apply(lively(ResNet(8, width=4)), data, rng=seeded(0))
    shrunk = shrink(pruned, data.examples.tensors[0])
    assert shrunk.left == {}
    assert shrunk.model.layer2[0].conv1.out_channels == 4
    stem, last = shrunk.model.conv1.out_channels, shrunk.model.layer3[0].conv2.out_channels
    assert (stem, last) == (2, 14)  # 16 channels at the end, of which the shortcuts bring 4 - 2 fewer


class Widened(nn.Module):
    """Channels of nothing before and after those of a convolution, or some of these cut away."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.ends = (0, 0, 0, 0, low, high)
        self.conv, self.then = nn.Conv2d(3, 6, 3), nn.Conv2d(6 + low + high, 4, 3)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.pad(self.conv(x).relu(), self.ends)
        return self.head(self.then(x).relu().flatten(1))


@pytest.mark.parametrize("ends", [(2, 0), (0, 2), (1, 1), (0, -1), (-1, 2)])
def test_channels_are_followed_through_padding_at_either_end(ends: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Widened(*ends).eval()
    model.conv.weight.data[2:4], model.conv.bias.data[2:4] = 0.0, 0.0
    inputs = images().examples.tensors[0]
    shrunk = shrink(model, inputs)
    torch.testing.assert_close(shrunk.model(inputs), model(inputs), atol=1e-5, rtol=1e-5)
    assert shrunk.model.conv.out_channels == 4
    assert shrunk.model.then.in_channels == 4 + sum(ends)


def test_constants_are_folded_into_the_next_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    model = lively(model)
    model[0].weight.data[:2] = 0
    model[1].bias.data[:2] = 3.0
    inputs = images().examples.tensors[0]
    shrunk = shrink(model, inputs)
    torch.testing.assert_close(shrunk.model(inputs), model(inputs), atol=1e-5, rtol=1e-5)
    assert shrunk.structure["biases"] == ["3"]
    fresh = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    restructure_(fresh, shrunk.structure).load_state_dict(shrunk.model.state_dict())


def test_constants_under_zero_padding_stay_or_are_dropped_knowingly() -> None:
    data = images()
    model = HALF.mask(convolutional(), data, rng=seeded(0)).apply_(convolutional())  # not silenced
    model[1].bias.data.fill_(1.0)
    inputs = data.examples.tensors[0]
    shrunk = shrink(model, inputs)
    assert "send a constant (a bias, or the shift of a batch normalisation) into 3" in shrunk.left["0"]
    assert (shrunk.model[0].out_channels, shrunk.model[6].out_channels) == (4, 8)
    torch.testing.assert_close(shrunk.model(inputs), model(inputs), atol=1e-5, rtol=1e-5)
    dropped = shrink(model, inputs, constants="drop").model
    assert dropped[0].out_channels == 2
    assert (dropped(inputs) - model(inputs)).abs().max() > 1e-3  # so the refusal was needed


def test_every_reason_to_stay_is_told() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.grouped, self.mixed = (
                nn.Conv2d(4, 4, 1),
                nn.Conv2d(4, 4, 1, groups=2),
                nn.Conv2d(4, 4, 1),
            )
            self.mix, self.out, self.shift = (
                nn.PReLU(4),
                nn.Conv2d(4, 2, 1),
                nn.Parameter(torch.ones(1, 4, 1, 1)),
            )
            self.added, self.fine = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.grouped(self.first(x))
            x = self.mix(self.mixed(x))
            x = self.added(x) + self.shift
            return self.out(self.fine(x))

    torch.manual_seed(0)
    model, x = Odd(), torch.randn(2, 4, 3, 3)
    for name in ("first", "grouped", "mixed", "added", "fine", "out"):
        model.get_submodule(name).weight.data[0] = 0
        model.get_submodule(name).bias.data[0] = 0
    shrunk = shrink(model, x)
    assert shrunk.left == {
        "first": "its channels stay: they run through a grouped convolution",
        "grouped": "its channels stay: they run through a grouped convolution",
        "added": "1 of its dead channels are alive in a layer they are tied to",
        "out": "its channels stay: they are the model's output",
    }
    assert shrunk.model.fine.out_channels == 3
    assert shrunk.model.mix.num_parameters == shrunk.model.added.in_channels == 3
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_added_channels_go_only_if_dead_on_both_sides() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.a(x) + self.b(x))

    torch.manual_seed(0)
    model, x = Sum(), torch.randn(4, 6)
    model.a.weight.data[[0, 1]] = 0
    model.b.weight.data[[1, 2]] = 0
    shrunk = shrink(model, x)
    assert shrunk.model.out.in_features == 4
    assert shrunk.structure["tensors"]["a.weight"]["0"]["kept"] == [0, 2, 3, 4]
    assert "alive in a layer they are tied to" in shrunk.left["a"]
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_refuses() -> None:
    inputs = torch.randn(4, 6)
    with pytest.raises(InputError, match='shrink.constants must be "fold" or "drop"; got .keep.'):
        shrink(mlp(6, 5, 3), inputs, constants="keep")
    with pytest.raises(InputError, match="no filter is dead"):
        shrink(mlp(6, 5, 3), inputs)
    model = mlp(6, 5, 3)
    with pytest.raises(InputError, match="no living filter left"):
        shrink(model, inputs, Mask({"1.weight": torch.zeros(5, 6, dtype=torch.bool)}))
    model[3].weight.data[1] = 0
    with pytest.raises(
        InputError, match=r"could remove no channel\. 3: its channels stay: they are the model's output"
    ):
        shrink(model, inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format=2), "not a structure record"),
        (lambda s: s["layers"].update(absent={"out": {"of": 3, "kept": [0]}}), "'absent'"),
        (lambda s: s["layers"]["1"]["out"].update(of=7), "another model"),
        (lambda s: s["layers"]["1"]["out"].update(kept=[]), "another model"),
        (lambda s: s["layers"]["1"]["out"].update(kept=[0, 5]), "rising order"),
        (lambda s: s["layers"]["1"]["out"].update(kept=[-1, 2]), "rising order"),
        (lambda s: s["layers"]["1"]["out"].update(kept=[0, 2, 2]), "rising order"),
        (lambda s: s["layers"]["1"]["out"].update(kept=[2, 1]), "rising order"),
        (lambda s: s["layers"]["1"].update(up={"of": 5, "kept": [0]}), "has a side 'up'"),
        (lambda s: s.update(biases=["1"]), "adds a bias"),
    ],
)
def test_bad_records_are_refused_and_change_nothing(change, message: str) -> None:
    record = {
        "format": 1,
        "layers": {"1": {"out": {"of": 5, "kept": [0, 2]}}, "3": {"in": {"of": 5, "kept": [0, 2]}}},
        "biases": [],
    }
    assert restructure_(mlp(6, 5, 3), record)(torch.zeros(1, 6)).shape == (1, 3)
    change(record)
    model = mlp(6, 5, 3)
    with pytest.raises(InputError, match=message):
        restructure_(model, record)
    assert model(torch.zeros(1, 6)).shape == (1, 3)
