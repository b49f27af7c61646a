"""OMS: one more step before the sampler's first, so that pictures may be as dark or as bright as they should.

Hu, Zheng, Zheng et al., "One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion Schedule Flaws and
Enhancing Low-Frequency Controls", CVPR 2024, arXiv 2311.15744. Training ends at x_T = a_T x_0 + b_T e with a_T > 0,
while the sampler begins at pure noise: what is missing is the picture's mean. A small network psi predicts the
velocity at the step of pure noise, which is -x_0:

    L = mean (psi(x_S, c) + x_0)^2,   x_S independent of x_0
    x_1 = sqrt(abar) x~ + sqrt(1 - abar) n,   x~ = -(psi_null + w (psi(x_S, c) - psi_null))

abar is that of the first time step the sampler uses, not the last that was trained. n is x_S itself, so that a seed
stays one picture, or fresh. The authors' code multiplies n by 1 - abar; the square root is what x_t's variance asks
for. x~ is kept within the range of the pictures seen in training (ours): a large w would leave it.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError, require
from ..io.nested import load_nested, save_nested
from ..models.text_to_image import Text, TextToImage, pick, train_steps_
from ..models.text_to_image.one_step import require_added_noise
from ..paper import Paper
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, Part, Positive, settings
from .pictures import Pictures
from .schedules import predicts

_FLAT = 1e-5
"""Share of the signal at the first step below which the schedule has no flaw to mend."""


@settings
class OMS:
    """Train a small network that informs the noise a sampler begins at; the pipeline's weights stay as they are.

    One network serves every pipeline that shares its latents and text encoder.

    Attributes:
        network: "unet" is a small convolutional one with cross-attention; "mlp" reads the flat noise beside the
            prompt's vector, for pictures of a few pixels.
        width: channels of its first level ("unet", a multiple of 8), or of its hidden layer ("mlp").
        steps: of Adam.
        batch_size: pictures a step.
        lr: of Adam.
        null: share of the pictures shown without their prompt, so that it can be guided.
    """

    network: Literal["unet", "mlp"] = "unet"
    width: Count = 64
    steps: Count = 2000
    batch_size: Count = 64
    lr: Positive = 1e-3
    null: Part = 0.1

    paper: ClassVar[Paper] = Paper(
        "One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion Schedule Flaws and Enhancing "
        "Low-Frequency Controls",
        "Hu, Zheng, Zheng et al.", "CVPR", 2024, "2311.15744",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.network == "unet" and self.width % 8:
            raise InputError(f"OMS.width must be a multiple of 8 for the network unet; got {self.width}.")

    def apply(self, model: TextToImage, data: Pictures, *, rng: Generator) -> OneMoreStep:
        """The trained network.

        Args:
            model: gives the prompts' vectors and the latents' shape; left unchanged.
            data: pictures of the kind that the pipeline was trained on.
            rng: governs the run.

        Raises:
            InputError: if the pictures are not of the pipeline's shape, or noise is mixed in instead of added.
            NonFiniteError: if training diverges.
        """
        require_generator(rng)
        require_added_noise(model, "OMS")
        data.require_fit(model, "OMS")
        latents, text, rows = data.encoded(model)
        with global_seed(draw_seed(rng)):
            psi = OneMoreStep(
                self.network, model.shape, text.hidden.shape[-1], vector_of(text).shape[-1], self.width
            )
        psi = psi.to(model.device).train()
        psi.least.copy_(latents.amin((0, 2, 3)))
        psi.most.copy_(latents.amax((0, 2, 3)))

        def loss(_: int) -> Tensor:
            at = pick(self.batch_size, len(latents))
            asked = rows[at].masked_fill(torch.rand(len(at)) < self.null, len(text) - 1)
            pure = torch.randn(latents[at].shape).to(latents)
            return F.mse_loss(psi(pure, text[asked]), -latents[at])

        weights = list(psi.parameters())
        train_steps_(
            psi, loss, weights, Adam(weights, lr=self.lr), steps=self.steps, rng=rng, fresh=True, label="OMS"
        )
        return psi.eval()


class OneMoreStep(Module):
    """psi: pure noise and a prompt -> the velocity -x_0, without a time.

    Args:
        network: "unet" or "mlp".
        shape: channels, height and width of the latents.
        tokens: width of the prompts' tokens, which the UNet reads.
        vector: width of the prompts' vectors (`vector_of`), which the MLP reads.
        width: see `OMS`.
    """

    least: Tensor
    most: Tensor

    def __init__(
        self,
        network: Literal["unet", "mlp"],
        shape: tuple[int, int, int],
        tokens: int,
        vector: int,
        width: int,
    ) -> None:
        super().__init__()
        self.made = {
            "network": network,
            "shape": list(shape),
            "tokens": tokens,
            "vector": vector,
            "width": width,
        }
        self.shape = tuple(shape)
        self.register_buffer("least", torch.full((shape[0],), -1.0))
        self.register_buffer("most", torch.full((shape[0],), 1.0))
        if network == "mlp":
            size = prod(shape)
            self.inner: Module = nn.Sequential(
                nn.Linear(size + vector, width), nn.SiLU(), nn.Linear(width, size)
            )
            return
        if shape[1] % 2 or shape[2] % 2:
            raise InputError(
                f"OMS: the network unet halves the latents once; {shape[1]} x {shape[2]} are not even."
            )
        diffusers: Any = require("diffusers", extra="diffusion", purpose="OMS")
        self.inner = diffusers.UNet2DConditionModel(
            sample_size=shape[1], in_channels=shape[0], out_channels=shape[0], layers_per_block=1,
            block_out_channels=(width, 2 * width), cross_attention_dim=tokens, attention_head_dim=8,
            norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, noise: Tensor, text: Text) -> Tensor:
        """The velocity at pure noise [n, c, h, w], for n prompts or one for all."""
        text = text.expand(len(noise))
        if self.made["network"] == "mlp":
            read = torch.cat([noise.flatten(1), vector_of(text).to(noise.dtype)], 1)
            flat: Tensor = self.inner(read)
            return flat.view_as(noise)
        out: Tensor = self.inner(noise, 0, encoder_hidden_states=text.hidden.to(noise.dtype)).sample
        return out

    def save(self, path: Path) -> None:
        """Write it to one safetensors file."""
        save_nested({"made": self.made, "weights": self.state_dict()}, path)

    @classmethod
    def load(cls, path: Path) -> OneMoreStep:
        """Read what `save` wrote, in eval mode.

        Raises:
            IntegrityError: if the file is damaged or another.
        """
        told = load_nested(path)
        made = dict(told["made"])
        psi = cls(made.pop("network"), tuple(made.pop("shape")), **made)
        psi.load_state_dict(told["weights"])
        return psi.eval()


@dataclass(frozen=True)
class Informed:
    """Where a sampler begins: hand it to `draw(..., start=)`, or to `latents_for` and a pipeline of diffusers.

    Attributes:
        psi: the trained network.
        guidance: w, of psi alone; needs `null` unless 1.
        null: the encoded empty prompt.
        text: one encoded prompt for psi in place of the pipeline's own: it decides on colour and brightness.
        rng: draws fresh noise n; None keeps the noise that was given.
    """

    psi: OneMoreStep
    guidance: float = 1.0
    null: Text | None = None
    text: Text | None = None
    rng: Generator | None = None

    def __post_init__(self) -> None:
        if self.guidance != 1 and self.null is None:
            raise InputError(
                f"Informed.guidance of {self.guidance:g} needs `null`, the encoded empty prompt."
            )

    @torch.no_grad()
    def __call__(self, text: Text, noise: Tensor, share: float) -> Tensor:
        """What the first step reads, [n, c, h, w].

        Args:
            text: n encoded prompts, or one for all.
            noise: x_S, standard normal [n, c, h, w].
            share: abar of the first step, the share of the signal's variance.

        Raises:
            InputError: if the noise is not of the network's shape.
        """
        if tuple(noise.shape[1:]) != self.psi.shape:
            raise InputError(
                f"OMS was trained on latents of shape {self.psi.shape}; the pipeline's are "
                f"{tuple(noise.shape[1:])}. One "
                "network serves pipelines with the same latents only."
            )
        if share < _FLAT:
            warnings.warn(
                f"the sampler begins at {share:.1e} of the signal: it begins at pure noise as it should, and OMS "
                "changes "
                "nothing that can be seen.", stacklevel=2,
            )  # fmt: skip
        asked, wide = text if self.text is None else self.text, noise.float()
        velocity = self.psi(wide, asked)
        if self.guidance != 1 and self.null is not None:
            none = self.psi(wide, self.null)
            velocity = none + self.guidance * (velocity - none)
        least, most = (b.view(1, -1, 1, 1) for b in (self.psi.least, self.psi.most))
        clean = torch.minimum(torch.maximum(-velocity, least), most)
        fresh = wide if self.rng is None else torch.randn(noise.shape, generator=self.rng).to(wide)
        begun: Tensor = share**0.5 * clean + (1 - share) ** 0.5 * fresh
        return begun.to(noise.dtype)


def latents_for(scheduler: Any, begin: Informed, text: Text, noise: Tensor, steps: int) -> Tensor:
    """What to pass as `latents=` to a pipeline of diffusers that draws in so many steps.

    Pipelines multiply given latents by the scheduler's `init_noise_sigma`, and schedulers in sigmas read a larger
    scale: both are undone here.

    Args:
        scheduler: the pipeline's; left unchanged.
        begin: see `Informed`.
        text: n encoded prompts.
        noise: standard normal, [n, c, h, w].
        steps: of the sampler.

    Raises:
        InputError: if the scheduler is not known, or begins at pure noise (flow matching), where nothing is missing.
    """
    if predicts(scheduler) == "flow":
        raise InputError(
            f"{type(scheduler).__name__} begins at pure noise, as it was trained to: OMS has nothing to mend there."
        )
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    first = own.timesteps[0]
    sigmas = getattr(own, "sigmas", None)
    sigma = float(sigmas[0]) if sigmas is not None and len(sigmas) >= len(own.timesteps) else None
    share = float(own.alphas_cumprod[int(first)]) if sigma is None else 1 / (1 + sigma * sigma)
    read = float(own.scale_model_input(torch.ones(1), first))
    return begin(text, noise, share) / read / float(own.init_noise_sigma)


def vector_of(text: Text) -> Tensor:
    """One vector a prompt, [n, width]: the pooled one, else the mean over its masked tokens, else the last token.

    CLIP's last position has read the whole prompt; T5's is padding.
    """
    if text.pooled is not None:
        return text.pooled
    if text.mask is None:
        return text.hidden[:, -1]
    mask = text.mask.to(text.hidden.dtype).unsqueeze(-1)
    return (text.hidden * mask).sum(1) / mask.sum(1).clamp_min(1)
