"""What distilling a pipeline into one step is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage


def matching(x0: Tensor, real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """The generator's loss L of each image, [n].

    Args:
        x0: drawn by the generator, [n, c, h, w].
        real: the original's prediction of x0 from its noised copy.
        fake: psi's.
        alpha: see `SFD`.
    """
    gap = real - fake
    weight = (real - x0).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    return (gap * ((real - x0) - alpha * gap)).flatten(1).sum(1) / weight


def generated(model: TextToImage, z: Tensor, t0: int, text: Text) -> Tensor:
    """What the generator draws of noise z [n, c, h, w]: its prediction of x_0 at step t0."""
    return clean(model, z, t0, model.noise_prediction(z, t0, text))


def clean(model: TextToImage, x: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
    """x_0 of noisy images x at steps t, if this is the noise in them, [n, c, h, w]."""
    a = model.alphas_cumprod[torch.as_tensor(t)].to(x.device).view(-1, 1, 1, 1)
    return (x - (1 - a).sqrt().to(x.dtype) * noise) / a.sqrt().to(x.dtype)


def guided_noise(model: TextToImage, x: Tensor, t: Tensor, text: Text, null: Text, guidance: float) -> Tensor:
    """The predicted noise under classifier-free guidance, whatever the denoiser was trained to predict."""
    if guidance == 1:
        return model.noise_prediction(x, t, text)
    both = Text.cat([null.expand(len(x)), text])
    none, told = model.noise_prediction(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return none + guidance * (told - none)


def level(model: TextToImage, ratio: float) -> int:
    """The step whose noise is nearest to this many times the signal.

    Raises:
        InputError: if there is none so noisy, by more than 5 per cent.
    """
    a = model.alphas_cumprod
    ratios = ((1 - a) / a).sqrt()
    if ratio > 1.05 * float(ratios[-1]):
        raise InputError(
            f"SFD: the pipeline's noise reaches {float(ratios[-1]):.3g} times the signal, not {ratio}. Lower start "
            "or high."
        )
    return int((ratios.log() - torch.tensor(ratio).log()).abs().argmin())
