"""The small networks that need more than a glance."""

from __future__ import annotations

import torch
from torch import nn

from unweave.embedded.nets import RowTransformer
from unweave.random import global_seed


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
