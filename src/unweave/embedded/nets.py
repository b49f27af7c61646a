"""Small networks that the embedded default, tests, claims and examples share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(*widths: int, batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them; inputs are flattened.

    Args:
        widths: of input, hidden layers and output, at least two.
        batch_norm: put batch normalisation before each ReLU.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(a, b))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers)


def small_cnn(classes: int = 10, channels: int = 3, width: int = 16) -> nn.Sequential:
    """Three strided 3x3 convolutions with batch normalisation, average pool, linear; for images of 8 to 64 pixels."""
    layers: list[nn.Module] = []
    for a, b, stride in [(channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]:
        layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class _Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(b)
        self.conv2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.stride, self.widen = stride, b - a

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.widen:  # option A: zero channels on either side
            x = F.pad(x, (0, 0, 0, 0, self.widen // 2, self.widen - self.widen // 2))
        return F.relu(x + y)


class ResNet(nn.Module):
    """CIFAR ResNet of He et al. (2015), section 4.2: three stages of n blocks, parameter-free shortcuts.

    Args:
        depth: 6n + 2, so 20, 32, 44, 56, ...
        classes: width of the output.
        width: channels of the first stage; the paper has 16.
    """

    def __init__(self, depth: int = 20, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"ResNet.depth must be 6n + 2 (8, 14, 20, 32, ...); got {depth}.")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1: nn.Module
        self.layer2: nn.Module
        self.layer3: nn.Module
        for i in range(3):
            b = width * 2**i
            a = b if i == 0 else b // 2
            stage = [_Block(a if j == 0 else b, b, 2 if i and j == 0 else 1) for j in range(blocks)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, 3, h, w] to logits [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


class RowBlock(nn.Module):
    """A transformer block, normalised before attention and before its feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, t, width] to tokens."""
        x = x + F.dropout(self.attention(self.norm1(x)), self.dropout, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), self.dropout, self.training)

    def attention(self, x: Tensor) -> Tensor:
        """What the tokens tell each other, [n, t, width]."""
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class RowTransformer(nn.Module):
    """A transformer that reads an image row by row, one token a row, and averages what it made of them.

    Args:
        side: rows, and pixels of a row.
        layers: blocks.
        width: of a token; a multiple of `heads`.
        heads: of each attention.
        classes: width of the output.
        dropout: after attention and feed-forward.
    """

    def __init__(
        self,
        side: int = 8,
        layers: int = 4,
        width: int = 64,
        heads: int = 4,
        classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.side = side
        self.inwards = nn.Linear(side, width)
        self.places = nn.Parameter(0.1 * torch.randn(side, width))
        self.blocks = nn.ModuleList([RowBlock(width, heads, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, side * side], or of any shape with as many pixels, to logits [n, classes]."""
        x = self.inwards(x.reshape(-1, self.side, self.side)) + self.places
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


def count_parameters(model: nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def shift_and_flip(images: Tensor, pad: int = 4) -> Tensor:
    """Random crop after zero padding and random horizontal flip, drawn for each image from torch's global generator.

    Args:
        images: [n, c, h, w].
        pad: pixels of padding on each side.
    """
    n, _, h, w = images.shape
    flip = torch.rand(n, device=images.device) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    dy, dx = (torch.randint(2 * pad + 1, (n,), device=images.device) for _ in range(2))
    rows = dy[:, None] + torch.arange(h, device=images.device)
    columns = dx[:, None] + torch.arange(w, device=images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    at = torch.arange(n, device=images.device)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
