"""Activations of a text-to-image pipeline's denoiser while it draws, for dictionaries of its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..models.text_to_image import TextToImage
from ..types import Batch, Data
from .layers import once, through


@torch.no_grad()
def drawn_activations(
    model: TextToImage,
    prompts: Sequence[str],
    layer: str,
    *,
    noise: Tensor,
    steps: int = 20,
    stop: int = 5,
    batch_size: int = 16,
) -> Tensor:
    """What a layer of the denoiser says over the first steps of drawing, without guidance: [n, places x stop, d].

    Args:
        model: left unchanged.
        prompts: each drawn from every noise, so that n = prompts x noises.
        layer: name in the denoiser's `named_modules`.
        noise: [k, c, h, w].
        steps: of the sampler.
        stop: steps to look at.
        batch_size: drawn at once.

    Raises:
        InputError: if there is no prompt, no such layer, it is not called once a pass, or `stop` is none of the steps.
    """
    if not prompts or not 1 <= stop <= steps:
        raise InputError(
            f"drawn_activations needs prompts, and stop from 1 to steps; got {len(prompts)} prompts, stop {stop} of "
            f"{steps}."
        )
    text, found = model.encode(list(prompts)).repeat(len(noise)), list[Tensor]()
    starts = noise.repeat(len(prompts), 1, 1, 1)
    for low in range(0, len(text), batch_size):
        held: list[Tensor] = []

        def see(x: Tensor, held: list[Tensor] = held) -> None:
            held.append(x.reshape(len(x), -1, x.shape[-1]).float().cpu())

        with through(model.denoiser, layer, see) as calls:
            part = slice(low, low + batch_size)
            model.sample(
                text[part], steps=steps, guidance=1, noise=starts[part], stop=stop, batch_size=batch_size
            )
        once(calls[::stop], layer)  # a call for each step
        found.append(torch.cat(held, 1))
    return torch.cat(found)


def vectors(activations: Tensor, batch_size: int = 256) -> Data[Vectors]:
    """Activations [n, places, d] as what `Dictionary.fit` reads: batches of rows."""
    return Data(TensorDataset(activations.flatten(0, -2)), Vectors(), batch_size)


class Vectors:
    """The task of rows that a dictionary is fitted to; a loss of their own they have not."""

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """A dictionary's squared error of each row, [n]."""
        x: Tensor = batch[0]
        out: Tensor = model(x)
        return (out - x).square().sum(-1)

    outputs = losses
