"""Channel attention against its equation, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unweave.restore._attention import ChannelAttention


@pytest.mark.parametrize(("channels", "few"), [(8, 1), (32, 2)])
def test_channels_are_weighed_by_what_the_whole_picture_says_of_them(channels: int, few: int) -> None:
    torch.manual_seed(0)
    net = ChannelAttention(channels).double()
    shapes = [(name, tuple(p.shape)) for name, p in net.named_parameters() if name.startswith("weigh")]
    assert [shape[:2] for name, shape in shapes if name.endswith("weight")] == [
        (few, channels),
        (channels, few),
    ]
    a, b, c, d = (p for name, p in net.named_parameters() if name.startswith("convs"))
    down, e, up, f = (p for name, p in net.named_parameters() if name.startswith("weigh"))
    x = torch.rand(2, channels, 5, 7, dtype=torch.float64)
    made = F.conv2d(F.conv2d(x, a, b, padding=1).clamp(min=0), c, d, padding=1)
    seen = made.mean((2, 3)) @ down[:, :, 0, 0].T + e
    weight = 1 / (1 + torch.exp(-(seen.clamp(min=0) @ up[:, :, 0, 0].T + f)))
    torch.testing.assert_close(net(x), made * weight[:, :, None, None], rtol=1e-12, atol=1e-12)
