"""The small networks: their layers in order, their published sizes, and the usual augmentation image by image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unweave.embedded.nets import ResNet, RowTransformer, count_parameters, mlp, shift_and_flip, small_cnn
from unweave.random import global_seed


def test_layers_in_order() -> None:
    kinds = [type(layer) for layer in mlp(4, 6, 5, 3, batch_norm=True)]
    inner = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [nn.Flatten, *inner, *inner, nn.Linear]
    assert [type(layer) for layer in mlp(4, 6, 3)] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert mlp(12, 3)(torch.zeros(2, 3, 4)).shape == (2, 3)
    assert small_cnn(7, channels=1, width=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_residual_networks_have_the_papers_sizes(depth: int, millions: float) -> None:
    assert count_parameters(ResNet(depth)) / 1e6 == pytest.approx(millions, abs=0.01)  # He et al., table 6


def test_a_residual_network_halves_twice_and_refuses_other_depths() -> None:
    model = ResNet(8, classes=5, width=4).eval()
    x = torch.randn(2, 3, 12, 12)
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert model(x).shape == (2, 5)
    assert shapes == [(4, 12, 12), (8, 6, 6), (16, 3, 3)]
    for depth in (2, 9):
        with pytest.raises(ValueError, match="must be 6n \\+ 2"):
            ResNet(depth)


def test_a_shortcut_is_the_input_itself_with_zero_channels_beside() -> None:
    block = ResNet(8, width=4).layer2[0].eval()  # type: ignore[index]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_every_image_is_moved_by_up_to_the_padding_and_flipped_by_a_coin() -> None:
    images = torch.rand(600, 2, 3, 4) + 1
    with global_seed(0):
        moved = shift_and_flip(images, pad=1)
    seen = []
    for image, found in zip(images, moved, strict=True):
        ways = [
            (flip, dy, dx)
            for flip in (False, True)
            for dy in range(3)
            for dx in range(3)
            if torch.equal(
                F.pad(image.flip(2) if flip else image, (1, 1, 1, 1))[:, dy : dy + 3, dx : dx + 4], found
            )
        ]
        assert len(ways) == 1
        seen += ways
    counts = [seen.count((flip, dy, dx)) for flip in (False, True) for dy in range(3) for dx in range(3)]
    assert min(counts) > 15  # 33 expected of each
    with global_seed(0):
        assert torch.equal(shift_and_flip(images, pad=1), moved)


def test_the_row_transformer_mixes_rows_as_torch_does() -> None:
    with global_seed(0):
        net = RowTransformer(side=4, layers=2, width=8, heads=2, classes=3).eval()
    block = net.blocks[0]
    torchs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        torchs.in_proj_bias.copy_(torch.cat([block.query.bias, block.key.bias, block.value.bias]))
        torchs.out_proj.weight.copy_(block.out.weight)
        torchs.out_proj.bias.copy_(block.out.bias)
    x = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block.attention(x), torchs(x, x, x)[0], atol=1e-6)
    images = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    out = net(images)
    assert out.shape == (5, 3)
    assert torch.equal(out, net(images.view(5, 1, 4, 4)))
    assert not torch.allclose(out, net(images.view(5, 4, 4).flip(1)), atol=1e-3)  # rows have places


def test_dropout_acts_in_training_alone() -> None:
    with global_seed(0):
        net = RowTransformer(side=4, layers=2, width=8, heads=2, classes=3, dropout=0.5)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
