"""The pipeline itself: encode prompts, predict noise, draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import Linear, Module, Parameter

from ...errors import InputError
from ...random import require_generator
from .guidance import guided, require_negative
from .layers import Layers, Weights, linears, require_plain, weights
from .layouts import Layout, conditions, encoded, kind_of, layout_of
from .levels import flow_rates, is_flow, sampler_of, shares_of
from .packing import packed, require_packable, unpacked
from .text import Text
from .vae import decoded, mean_latents
from .words import padded, places

Component = Literal["denoiser", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]


class TextToImage(Module):
    """Tokenizers, text encoders, denoiser, noise schedule and (where there is one) VAE of a diffusers pipeline.

    It stays in eval mode whatever is asked of it, so that an edit never trains through dropout. Called as a module
    it is the denoiser: `model(x, t, text)`.

    Attributes:
        denoiser: a UNet or a transformer that reads prompts by cross-attention or joint attention.
        kind: which of the two it is.
        text_encoder: of CLIP or T5.
        text_encoder_2: SDXL's, Stable Diffusion 3's or Flux's second one, or None.
        text_encoder_3: Stable Diffusion 3's third one, or None.
        layout: which kind of pipeline it is.
        flows: whether noise is mixed in (flow matching) instead of added; time t then has t / `timesteps` of it.
        distilled: whether guidance is built into the weights, as in FLUX.1-dev: the denoiser is told its scale.
        vae: makes images of latents; None if the denoiser works on pixels.
        tokenizers: one a text encoder.
        scheduler: diffusers' scheduler, read for its noise levels and written back as it is.
        index: what model_index.json says beside the parts: the pipeline's class and its settings.
        source: folder that it was read from; parts not read here are copied from there on saving.
        erased: what was erased from it before, in order, as plain JSON; written and read with its folder.
        variants: part of the folder -> variant ("fp16") that its files are named after; written as they were read.
        alphas_cumprod: share of the signal at each noise level, float64 on the CPU whatever the weights are.
    """

    def __init__(
        self,
        *,
        denoiser: Module,
        text_encoder: Module,
        tokenizers: Sequence[Any],
        scheduler: Any,
        text_encoder_2: Module | None = None,
        text_encoder_3: Module | None = None,
        vae: Module | None = None,
        index: Mapping[str, Any] | None = None,
        source: Path | None = None,
        erased: Sequence[Mapping[str, Any]] = (),
        variants: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind_of(denoiser)
        shares = shares_of(scheduler)
        self.denoiser, self.text_encoder = denoiser, text_encoder
        self.text_encoder_2, self.text_encoder_3 = text_encoder_2, text_encoder_3
        self.vae, self.tokenizers, self.scheduler = vae, tuple(tokenizers), scheduler
        self.index, self.source, self.erased = dict(index or {}), source, tuple(erased)
        self.variants = dict(variants or {})
        self.layout: Layout = layout_of(denoiser, len(self.encoders))
        self.flows = is_flow(scheduler)
        self.distilled = self.layout == "packed" and bool(self.config.guidance_embeds)
        if self.layout == "packed":
            require_packable(vae, self.config)
        encoders = len(self.encoders)
        if len(self.tokenizers) != encoders:
            raise InputError(
                f"{encoders} text encoders need as many tokenizers; there are {len(self.tokenizers)}."
            )
        # no buffer: `Module.to` would round it to half precision, and some devices know no float64
        self.alphas_cumprod: Tensor = shares
        self.train(False)

    @property
    def encoders(self) -> list[Module]:
        """The text encoders that it has, in order."""
        found = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        return [e for e in found if e is not None]

    @property
    def config(self) -> Any:
        """The denoiser's settings."""
        return self.denoiser.config

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's."""
        return next(self.denoiser.parameters()).dtype

    @property
    def timesteps(self) -> int:
        """Noise levels that it was trained on, usually 1000."""
        return len(self.alphas_cumprod)

    @property
    def predicts_velocity(self) -> bool:
        """Whether the denoiser was trained to predict the velocity instead of the noise."""
        return not self.flows and self.scheduler.config.get("prediction_type", "epsilon") != "epsilon"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents that are drawn."""
        if self.layout == "packed":  # Flux's size stands with its VAE
            side = int(self.vae.config.sample_size) // self.pixels_per_latent  # type: ignore[union-attr,arg-type]
            return self.config.in_channels // 4, side, side
        size = self.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.config.in_channels, height, width

    def train(self, mode: bool = True) -> TextToImage:
        """Stay in eval mode."""
        super().train(False)
        return self

    def editable(self, *parts: Component, only: Collection[str] | None = None) -> TextToImage:
        """A copy whose named parts (the denoiser, unless told otherwise) are its own; it shares the others.

        Args:
            parts: to be its own.
            only: parameters of these parts, by their names in the pipeline, that will be changed; all others are
                shared, too, so that the copy takes no more memory than what changes. None for all.

        Raises:
            InputError: if there is no such part, or it holds adapters or quantised weights.
        """
        shared = [] if only is None else [p for n, p in self.named_parameters() if n not in only]
        own: dict[str, Any] = {part: getattr(self, part) for part in get_args(Component)}
        for part in parts or ("denoiser",):
            if own[part] is None:
                raise InputError(f"the pipeline has no {part}.")
            require_plain(own[part], f"the {part}")
            own[part] = deepcopy(own[part], {id(p): p for p in shared})
        edited = TextToImage(
            **own, tokenizers=self.tokenizers, scheduler=self.scheduler, index=self.index, source=self.source,
            erased=self.erased, variants=self.variants,
        )  # fmt: skip
        edited.alphas_cumprod = self.alphas_cumprod
        return edited

    def linears(self, kind: Layers) -> dict[str, Linear]:
        """The denoiser's linear layers of a kind, by module name inside the denoiser, in the model's own order.

        Raises:
            InputError: if there is none, or one is wrapped by LoRA or quantised.
        """
        return linears(self.denoiser, kind)

    def weights(self, kind: Weights) -> dict[str, Parameter]:
        """The denoiser's parameters of a kind, by their names in the pipeline; raises as `linears` does."""
        return {f"denoiser.{name}": weight for name, weight in weights(self.denoiser, kind).items()}

    def tokens(self, prompts: Sequence[str], encoder: int = 0) -> tuple[Tensor, Tensor]:
        """Ids and attention mask of prompts, padded to the tokenizer's length, both int64 [n, tokens].

        Raises:
            InputError: if a prompt is longer than the text encoder reads: its end would be lost unseen.
        """
        written = [self.written(prompt) for prompt in prompts]
        return padded(self.tokenizers[encoder], prompts, written, self.length(encoder), self.device)

    def written(self, prompt: str) -> str:
        """A prompt as the pipeline hands it to its tokenizers: diffusers writes PixArt's in small letters."""
        return prompt.lower().strip() if self.layout == "transformer" else prompt

    def length(self, encoder: int = 0) -> int:
        """Tokens that a text encoder reads, those at the beginning and end included."""
        limit = getattr(getattr(self.encoders[encoder], "config", None), "max_position_embeddings", None)
        if limit is None:  # T5 has no limit of its own; these are diffusers' pipelines'
            sigma = self.index.get("_class_name") == "PixArtSigmaPipeline"
            limit = {"joint": 256, "packed": 512}.get(self.layout, 300 if sigma else 120)
        return int(min(self.tokenizers[encoder].model_max_length, limit))

    def positions(self, prompt: str, phrase: str, encoder: int = 0) -> list[int]:
        """Positions of a phrase's tokens in the encoded prompt; its last occurrence.

        Raises:
            InputError: if the tokens of the phrase do not occur in the prompt.
        """
        tokenizer = self.tokenizers[encoder]
        inner = tokenizer(self.written(phrase), add_special_tokens=False).input_ids
        return places(inner, self.tokens([prompt], encoder)[0][0].tolist(), phrase, prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Encode prompts; "" is the null prompt (zeros where the pipeline says so). Gradients flow if enabled.

        Raises:
            InputError: if a prompt is too long.
        """
        tokens = [self.tokens(prompts, i) for i in range(len(self.tokenizers))]
        text = self.encode_tokens(*tokens)
        if self.layout == "xl" and self.index.get("force_zeros_for_empty_prompt", True):
            empty = torch.tensor([prompt == "" for prompt in prompts], device=self.device)
            return text.each(
                lambda t: torch.where(empty.view(-1, *[1] * (t.ndim - 1)), torch.zeros_like(t), t)
            )
        return text

    def encode_tokens(
        self, *tokens: tuple[Tensor, Tensor], embeddings: Tensor | Sequence[Tensor | None] = ()
    ) -> Text:
        """Encode token ids and masks, both [n, tokens], one pair a text encoder.

        Args:
            tokens: (ids, mask) for each text encoder.
            embeddings: vectors [n, tokens, width] that each reads in place of its token embeddings, from the first on
                (or the first's alone): what an attack or a defence changes.
        """
        read = [embeddings] if isinstance(embeddings, Tensor) else embeddings
        return encoded(self.layout, self.encoders, tokens, read).to(self.dtype)

    def forward(self, x: Tensor, t: Tensor | float, text: Text, guidance: float = 1.0) -> Tensor:
        """The denoiser's prediction: the noise, the velocity where `prediction_type` is "v_prediction", or the flow.

        Args:
            x: noisy latents [n, c, h, w].
            t: time steps, [n] or one for all; whole numbers, except of a flow.
            text: n encoded prompts, or one for all.
            guidance: scale that a `distilled` denoiser is told; 1 is its prediction without guidance.
        """
        steps, text = torch.as_tensor(t, device=x.device).expand(len(x)), text.expand(len(x))
        steps = steps.to(torch.float32 if self.flows else torch.long)
        size = [side * self.pixels_per_latent for side in x.shape[-2:]]
        extra = conditions(self.layout, x, text, size, self.config, guidance)
        extra |= {"encoder_hidden_states": text.hidden}
        if self.layout == "packed":
            return unpacked(self.denoiser(packed(x), timestep=steps.to(x.dtype) / 1000, **extra).sample, x)
        out: Tensor = self.denoiser(x, timestep=steps, **extra).sample
        return out[:, : x.shape[1]]  # the rest is a learned variance

    def guided(self, x: Tensor, t: Tensor | float, text: Text, null: Text, guidance: float) -> Tensor:
        """The denoiser's prediction under classifier-free guidance; both halves in one pass, the null one first.

        Where guidance is built into the weights (`distilled`) there is one pass, and the null prompt is not read.
        """
        if self.distilled:
            return self(x, t, text, guidance)  # type: ignore[no-any-return]
        return guided(self, x, t, text, null, guidance)

    def passes(self, guidance: float) -> int:
        """Predictions that one of `guided` is made of: of the null prompt and the prompt, or of the prompt alone."""
        return 1 if guidance == 1 or self.distilled else 2

    def noise_prediction(self, x: Tensor, t: Tensor | float, text: Text) -> Tensor:
        """The predicted noise, whatever the denoiser was trained to predict, [n, c, h, w]."""
        return self._noise_of(self(x, t, text), x, t)

    def guided_noise_prediction(
        self, x: Tensor, t: Tensor | float, text: Text, null: Text, guidance: float
    ) -> Tensor:
        """The predicted noise under classifier-free guidance."""
        return self._noise_of(self.guided(x, t, text, null, guidance), x, t)

    def _noise_of(self, out: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
        signal, rate = self._rates(t, x)
        if self.flows:
            return x + signal * out
        return signal * out + rate * x if self.predicts_velocity else out

    def clean_prediction(self, x: Tensor, t: Tensor | float, text: Text) -> Tensor:
        """The noiseless latents that the denoiser sees in noisy ones [n, c, h, w]."""
        return self.without_noise(x, self.noise_prediction(x, t, text), t)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """Noisy latents at time steps t ([n] or one for all): sqrt(a) clean + sqrt(1 - a) noise."""
        signal, rate = self._rates(t, clean)
        return signal * clean + rate * noise

    def without_noise(self, x: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """The clean latents in noisy ones at time steps t, if this is their noise: `add_noise` undone."""
        signal, rate = self._rates(t, x)
        return (x - rate * noise) / signal

    def truth(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """What the denoiser was trained to predict of `add_noise(clean, noise, t)`: the noise, or the velocity."""
        if self.flows:
            return noise - clean
        if not self.predicts_velocity:
            return noise
        signal, rate = self._rates(t, clean)
        return signal * noise - rate * clean

    def _rates(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.flows:
            return flow_rates(t, self.timesteps, like)
        a = self.alphas_cumprod[torch.as_tensor(t, device="cpu").long()].reshape(-1, *[1] * (like.ndim - 1))
        signal, rate = (v.sqrt().to(like.dtype).to(like.device) for v in (a, 1 - a))
        return signal, rate

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of the image beside one another in one latent; 1 without a VAE."""
        if self.vae is None:
            return 1
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Starting noise for n images, [n, c, h, w]; the same for a seed whatever the batch or device."""
        require_generator(rng)
        return torch.randn(n, *self.shape, generator=rng).to(self.device, self.dtype)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str] | Text,
        *,
        steps: int = 20,
        guidance: float = 7.5,
        rng: Generator | None = None,
        noise: Tensor | None = None,
        negative: str = "",
        batch_size: int = 64,
        stop: int | None = None,
        before_step: Callable[[int, float, int], None] | None = None,
        decode: bool = True,
    ) -> Tensor:
        """Draw one image a prompt with DDIM (deterministic; x_0 is not clipped: clipping breaks guidance).

        Args:
            prompts: n prompts, or encoded.
            steps: of the sampler.
            guidance: scale of classifier-free guidance; 1 is none.
            rng: draws the starting noise, if `noise` is not given.
            noise: [n, c, h, w].
            negative: prompt that guidance leads away from.
            batch_size: prompts at once.
            stop: leave after so many steps and return the noisy latents.
            before_step: called with (step, time step, prompts in this batch) before each pass of the denoiser.
            decode: return images from the VAE, where there is one; else latents.

        Returns:
            Images [n, channels, height, width], about -1 to 1; or latents.

        Raises:
            InputError: if neither `rng` nor `noise` is given, the numbers of prompts and noises differ, or a negative
                prompt is given where guidance is built in.
        """
        text = prompts if isinstance(prompts, Text) else self.encode(prompts)
        if noise is None:
            if rng is None:
                raise InputError("TextToImage.sample needs `rng` or `noise`.")
            noise = self.noise(len(text), rng)
        if len(noise) != len(text):
            raise InputError(f"TextToImage.sample got {len(text)} prompts and {len(noise)} noises.")
        require_negative(self.distilled, negative, "TextToImage.sample")
        null, out = self.encode([negative]), []
        for low in range(0, len(text), batch_size):
            part = text[low : low + batch_size]
            x = noise[low : low + batch_size].to(self.device, self.dtype)
            sampler = self.sampler(steps, x)
            for i, t in enumerate(sampler.timesteps[:stop].tolist()):
                if before_step is not None:
                    before_step(i, t, len(part))
                x = sampler.step(self.guided(x, t, part, null, guidance), t, x).prev_sample
            out.append(x if stop is not None or not decode else self.decode(x))
        return torch.cat(out)

    def sampler(self, steps: int, like: Tensor | None = None) -> Any:
        """Diffusers' DDIM in this pipeline's noise schedule, or its own Euler of flows, set to this many steps.

        Some flows shift their levels by the picture's size: that of `like` [n, c, h, w], or what the pipeline draws.
        """
        height, width = self.shape[1:] if like is None else like.shape[-2:]
        patch = 2 if self.layout == "packed" else getattr(self.config, "patch_size", None) or 1
        tokens = (height // patch) * (width // patch)
        whole = self.layout == "packed"
        return sampler_of(self.scheduler, steps, self.timesteps, tokens=tokens, whole=whole)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, about -1 to 1; the latents themselves where there is no VAE."""
        return latents if self.vae is None else decoded(self.vae, latents)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents (means) of images between -1 and 1, [n, channels, height, width]."""
        if self.vae is None:
            return images.to(self.device, self.dtype)
        return mean_latents(self.vae, images).to(self.dtype)
