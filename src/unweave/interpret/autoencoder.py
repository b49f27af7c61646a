"""A sparse autoencoder of one layer's activations: which directions of a dictionary a vector is made of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..random import require_generator
from .rations import per_row

Gate = Literal["topk", "jumprelu", "gated"]
"""How codes are made sparse where no batch is at hand: the k largest, a threshold a latent, a learned gate."""


class SparseAutoencoder(Module):
    """x is about f W_dec + b_dec with few codes f above zero; decoder rows have norm 1.

    Codes are f = gate(relu((x - b_dec) W_enc + b_enc)). A gated one (Rajamanoharan et al. 2024, arXiv 2404.16014)
    lets a latent through where pi = (x - b_dec) W_enc + b_gate is above zero, with the magnitude
    relu((x - b_dec) (W_enc exp(r_mag)) + b_mag). Names and orientations of weights are those of sae-lens.

    Args:
        width: d, of an activation.
        latents: n.
        gate: "topk", "jumprelu" or "gated".
        k: most latents of one vector; for "topk" alone.
        rng: draws the decoder's directions; the encoder begins as their transpose.

    Attributes:
        W_enc: [d, n].
        b_enc: [n]; absent where gated.
        W_dec: [n, d].
        b_dec: [d].
        threshold: [n]; a code that is not above it is zero. With "jumprelu".
        b_gate: [n], with "gated"; so are `r_mag` and `b_mag`.

    Raises:
        InputError: if k is not from 1 to the number of latents.
    """

    def __init__(
        self, width: int, latents: int, *, gate: Gate = "topk", k: int | None = None, rng: Generator
    ) -> None:
        super().__init__()
        require_generator(rng)
        if width < 1 or latents < 1:
            raise InputError(
                f"SparseAutoencoder: width and latents must be at least 1; got {width} and {latents}."
            )
        if gate == "topk" and not 1 <= (k or 0) <= latents:
            raise InputError(f"SparseAutoencoder.k must be from 1 to {latents}, the latents; got {k}.")
        self.gate, self.k = gate, k
        rows = torch.randn(latents, width, generator=rng)
        rows = rows / rows.norm(dim=1, keepdim=True)
        self.W_enc, self.W_dec = Parameter(rows.T.clone()), Parameter(rows)
        self.b_dec = Parameter(torch.zeros(width))
        for name in ("b_gate", "r_mag", "b_mag") if gate == "gated" else ("b_enc",):
            setattr(self, name, Parameter(torch.zeros(latents)))
        if gate == "jumprelu":
            self.register_buffer("threshold", torch.zeros(latents))

    @property
    def width(self) -> int:
        """Of an activation, d."""
        return self.W_dec.shape[1]

    @property
    def latents(self) -> int:
        """How many directions there are, n."""
        return self.W_dec.shape[0]

    def affinities(self, x: Tensor) -> Tensor:
        """What each latent says of each vector before anything is cut, [..., n]; where gated, the gate's own.

        Raises:
            InputError: if the vectors are of another width.
        """
        if x.shape[-1] != self.width:
            raise InputError(
                f"this sparse autoencoder reads activations of width {self.width}; got {tuple(x.shape)}. Is it of "
                "another layer or model?"
            )
        bias = self.get_parameter("b_gate" if self.gate == "gated" else "b_enc")
        return (x - self.b_dec) @ self.W_enc + bias

    def magnitudes(self, x: Tensor) -> Tensor:
        """What a gated one's open latents would say, [..., n]."""
        scale, bias = self.get_parameter("r_mag").exp(), self.get_parameter("b_mag")
        return (((x - self.b_dec) @ self.W_enc) * scale + bias).relu()

    def encode(self, x: Tensor) -> Tensor:
        """Codes of activations [..., d], [..., n], at least 0; each vector's depend on that vector alone."""
        a = self.affinities(x)
        if self.gate == "gated":
            return self.magnitudes(x) * (a > 0)
        z = a.relu()
        if self.gate == "jumprelu":
            return z * (z > self.get_buffer("threshold"))
        return z * per_row(z, int(self.k or 0))

    def decode(self, codes: Tensor) -> Tensor:
        """What codes [..., n] stand for, [..., d]."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Activations [..., d] as the dictionary has them, [..., d]."""
        return self.decode(self.encode(x))

    def extra_repr(self) -> str:
        """Sizes, for `repr`."""
        k = f", k={self.k}" if self.gate == "topk" else ""
        return f"width={self.width}, latents={self.latents}, gate={self.gate!r}{k}"
