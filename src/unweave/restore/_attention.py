"""Channel attention (Zhang et al., RCAN, ECCV 2018, section 3.3), which several restorers are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import Module


class ChannelAttention(Module):
    """Two convolutions, weighed channel by channel by what the whole picture says of them; without the skip.

    Args:
        channels: of what comes in and goes out; the weights are found through a sixteenth as many, at least one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        few = max(1, channels // 16)
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, few, 1),
            nn.ReLU(),
            nn.Conv2d(few, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> the same."""
        made = self.convs(x)
        return made * self.weigh(made)  # type: ignore[no-any-return]
