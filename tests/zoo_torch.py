"""The zoo's networks of torch alone; tests/zoo.py lists them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unweave.embedded.nets import mlp


def drawn(model: nn.Module) -> nn.Module:
    """Draw convolutions and batch normalisation as if the model had been trained.

    Fresh ones answer almost the same to everything, with normalisation that does nothing in eval mode.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            for mean in (module.bias, module.running_mean):
                nn.init.normal_(mean, std=0.2)
            for scale in (module.weight, module.running_var):
                nn.init.uniform_(scale, 0.4, 1.0)
    return model


def normed(norm: Callable[[nn.Module], nn.Module], *widths: int) -> nn.Module:
    """An MLP whose layers but the last have their weights normalised."""
    net = mlp(*widths)
    with warnings.catch_warnings():
        # torch.nn.utils.weight_norm announces its end; models made with it are still about
        warnings.filterwarnings("ignore", message=".*weight_norm.* is deprecated", category=FutureWarning)
        for layer in list(net.children())[1:-1]:
            if isinstance(layer, nn.Linear):
                norm(layer)
    return net


def cnn(classes: int, *, batch_norm: bool) -> nn.Module:
    """Three convolutions, two of them strided, average pool, linear."""
    layers: list[nn.Module] = []
    for a, b, stride in [(3, 8, 1), (8, 16, 2), (16, 16, 2)]:
        layers += [nn.Conv2d(a, b, 3, stride, 1), *([nn.BatchNorm2d(b)] if batch_norm else []), nn.ReLU()]
    return drawn(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)))


def _unit(a: int, b: int, size: int = 3, **kinds: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, size, padding=size // 2, bias=False, **kinds), nn.BatchNorm2d(b), nn.ReLU()
    )


def depthwise(classes: int) -> nn.Module:
    """Convolutions of one filter a channel, each followed by a pointwise one."""
    blocks = [nn.Sequential(_unit(a, a, stride=2, groups=a), _unit(a, b, 1)) for a, b in [(8, 16), (16, 24)]]
    return drawn(
        nn.Sequential(_unit(3, 8), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))
    )


class DenseNet(nn.Module):
    """Each layer reads the concatenation of all those before it."""

    def __init__(self, classes: int, growth: int = 6) -> None:
        super().__init__()
        self.stem = _unit(3, 8, stride=2)
        self.layers = nn.ModuleList(_unit(8 + i * growth, growth) for i in range(3))
        self.head = nn.Linear(8 + 3 * growth, classes)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Two levels, each with a skip from its way down to its way up."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.inwards, self.down, self.middle = (
            _unit(3, width),
            _unit(width, 2 * width),
            _unit(2 * width, 2 * width),
        )
        self.rise2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.rise1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up2, self.up1 = _unit(4 * width, 2 * width), _unit(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        first = self.inwards(x)
        second = self.down(F.max_pool2d(first, 2))
        x = self.rise2(self.middle(F.max_pool2d(second, 2)))
        x = self.rise1(self.up2(torch.cat([x, second], 1)))
        return self.head(self.up1(torch.cat([x, first], 1)))


class LSTM(nn.Module):
    """Two recurrent layers and a linear one on the last step."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, classes)
        for weight in self.lstm.parameters():
            nn.init.normal_(weight, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    """`nn.TransformerEncoder` over a series; the mean of its steps is classified."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.inwards = nn.Linear(features, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True), 2)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.inwards(x)).mean(1))


class Bag(nn.Module):
    """A classifier of the mean of a text's embeddings, whose padding row is zero."""

    def __init__(self, vocabulary: int, classes: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16, padding_idx=pad)
        self.head = mlp(16, 16, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids).sum(1) / attention_mask.sum(1, keepdim=True))


class Tied(nn.Module):
    """A language model that reads the running mean of what came before; its head is its embedding."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.inner = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids)
        seen = (
            (torch.ones_like(input_ids) if attention_mask is None else attention_mask)
            .unsqueeze(2)
            .to(x.dtype)
        )
        mean = (x * seen).cumsum(1) / seen.cumsum(1).clamp(min=1)
        return self.head(self.inner(torch.cat([x, mean], 2)))
