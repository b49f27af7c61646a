"""Models of where vectors lie: a small variational autoencoder, and a normal distribution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import Module

from ..errors import InputError


class VAE(Module):
    """A variational autoencoder of vectors: ReLU layers, a normal latent, mirrored decoder.

    Args:
        width: of the vectors.
        hidden: widths of the encoder's hidden layers.
        latent: dimensions of the latent.
        out: of the decoder, "linear" or "sigmoid".
    """

    def __init__(
        self, width: int, hidden: tuple[int, ...], latent: int, out: Literal["linear", "sigmoid"]
    ) -> None:
        super().__init__()
        down, up = (width, *hidden), (latent, *reversed(hidden))
        self.encoder = _relu_layers(down)
        self.mean, self.log_variance = nn.Linear(down[-1], latent), nn.Linear(down[-1], latent)
        self.decoder = nn.Sequential(_relu_layers(up), nn.Linear(up[-1], width))
        self.last: Module = nn.Sigmoid() if out == "sigmoid" else nn.Identity()

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [n, width], mean and log-variance of the latent [n, latent]; draws from torch's generator."""
        x = self.encoder(e)
        mean, log_variance = self.mean(x), self.log_variance(x)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        reconstruction: Tensor = self.last(self.decoder(z))
        return reconstruction, mean, log_variance

    def distance(self, e: Tensor) -> Tensor:
        """Squared distance of each vector from its reconstruction, summed over dimensions, [n]."""
        reconstruction: Tensor = self(e)[0]
        return (reconstruction - e).square().sum(1)


class Gaussian(Module):
    """A normal distribution with diagonal covariance, fitted to vectors [n, width].

    A thousandth of the mean variance is added to each, so that a unit that never fires does not decide alone.

    Raises:
        InputError: if all vectors are alike.
    """

    def __init__(self, e: Tensor) -> None:
        super().__init__()
        variance = e.var(0, correction=0)
        if not bool(variance.any()):
            raise InputError(
                f"LAF(density='gaussian') needs examples whose representations differ; got {len(e)} alike. "
                "Take density='vae', or a larger forget set."
            )
        self.register_buffer("mean", e.mean(0))
        self.register_buffer("variance", variance + 1e-3 * variance.mean())
        self.mean: Tensor
        self.variance: Tensor

    def distance(self, e: Tensor) -> Tensor:
        """Mean over dimensions of the squared distance from the mean, in variances, [n]."""
        return ((e - self.mean).square() / self.variance).mean(1)


def vae_loss(e: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor, kl: float) -> Tensor:
    """(squared error + kl KL(N(mean, variance) || N(0, 1))) / n, both summed over n examples and dimensions."""
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    return ((reconstruction - e).square().sum() + kl * divergence) / len(e)


def _relu_layers(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)
