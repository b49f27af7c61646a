"""A text-to-image diffusion pipeline as one module: what its layouts have in common, and nothing of the rest.

Read: UNets of Stable Diffusion 1.x and 2.x, SDXL (two text encoders, pooled embedding, time ids), and transformers of
PixArt's kind. Not read: Stable Diffusion 3, Flux and other flow models, refiners, ControlNets; layers wrapped by LoRA
or quantised must be merged first. `unweave.io.pipeline_folder` reads and writes folders of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import Embedding, Linear, Module, Parameter

from ..errors import InputError, require

Part = Literal["denoiser", "text_encoder", "text_encoder_2", "vae"]
PARTS: tuple[Part, ...] = get_args(Part)
Layers = Literal["cross", "cross_kv", "ff_in", "ff_out", "self", "all"]

LAYERS: dict[Layers, tuple[str, ...]] = {
    "cross": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "cross_kv": ("attn2.to_k", "attn2.to_v"),
    "ff_in": ("ff.net.0.proj",),
    "ff_out": ("ff.net.2",),
    "self": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    "all": ("",),
}
"""Words for kinds of linear layers -> how diffusers ends their names."""

LAYOUTS = {
    "UNet2DConditionModel": "unet",
    "PixArtTransformer2DModel": "transformer",
}
"""Denoiser class -> its folder's name."""


@dataclass(frozen=True)
class Text:
    """Encoded prompts, as the denoiser reads them.

    Attributes:
        hidden: one vector a token, [n, tokens, width].
        pooled: one vector a prompt, [n, width]; SDXL only.
        mask: 1 where there is a token, 0 at padding, [n, tokens]; PixArt only.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Text:
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else change(v) for k, v in parts.items()}
        return Text(**changed)

    def __getitem__(self, at: Any) -> Text:
        """The prompts at these positions (a slice, a list, an index tensor)."""
        return self._each(lambda t: t[at])

    def expand(self, n: int) -> Text:
        """One prompt as n."""
        return self._each(lambda t: t.expand(n, *t.shape[1:]))

    def repeat(self, times: int) -> Text:
        """Every prompt this many times, side by side."""
        return self._each(lambda t: t.repeat_interleave(times, 0))

    def detach(self) -> Text:
        """Without its graph."""
        return self._each(Tensor.detach)

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """Several, one after the other."""
        columns = {f.name: [getattr(t, f.name) for t in texts] for f in fields(Text)}
        joined: dict[str, Any] = {k: None if c[0] is None else torch.cat(c) for k, c in columns.items()}
        return Text(**joined)


class TextToImage(Module):
    """Tokenizers, text encoders, denoiser, noise schedule and (where there is one) VAE of a diffusers pipeline.

    It stays in eval mode whatever is asked of it, so that an edit never trains through dropout. Called as a module
    it is the denoiser: `model(x, t, text)`.

    Attributes:
        denoiser: UNet2DConditionModel or PixArtTransformer2DModel.
        text_encoder: of CLIP or T5.
        text_encoder_2: SDXL's second one, or None.
        vae: makes images of latents; None if the denoiser works on pixels.
        tokenizers: one a text encoder.
        scheduler: diffusers' scheduler, read for its noise levels and written back as it is.
        index: what model_index.json says beside the parts: the pipeline's class and its settings.
        source: folder that it was read from; parts not read here are copied from there on saving.
    """

    def __init__(
        self,
        *,
        denoiser: Module,
        text_encoder: Module,
        tokenizers: Sequence[Any],
        scheduler: Any,
        text_encoder_2: Module | None = None,
        vae: Module | None = None,
        index: Mapping[str, Any] | None = None,
        source: Path | None = None,
    ) -> None:
        super().__init__()
        kind = type(denoiser).__name__
        if kind not in LAYOUTS:
            raise InputError(
                f"the denoiser is a {kind}; read are {', '.join(LAYOUTS)}. Stable Diffusion 3, Flux and other flow "
                "models are not supported yet."
            )
        levels = getattr(scheduler, "alphas_cumprod", None)
        if levels is None:
            raise InputError(
                f"the scheduler {type(scheduler).__name__} has no alphas_cumprod: only diffusion by added noise is "
                "supported, not flow matching."
            )
        self.denoiser, self.text_encoder, self.text_encoder_2 = denoiser, text_encoder, text_encoder_2
        self.vae, self.tokenizers, self.scheduler = vae, tuple(tokenizers), scheduler
        self.index, self.source = dict(index or {}), source
        encoders = 1 if text_encoder_2 is None else 2
        if len(self.tokenizers) != encoders:
            raise InputError(
                f"{encoders} text encoders need as many tokenizers; there are {len(self.tokenizers)}."
            )
        self.register_buffer("alphas_cumprod", levels.detach().double().clone(), persistent=False)
        self.alphas_cumprod: Tensor
        self.train(False)

    @property
    def layout(self) -> Literal["unet", "xl", "transformer"]:
        """Which of the three kinds of pipeline it is."""
        if LAYOUTS[type(self.denoiser).__name__] == "transformer":
            return "transformer"
        return "unet" if self.text_encoder_2 is None else "xl"

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
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the denoiser reads."""
        size = self.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.config.in_channels, height, width

    def train(self, mode: bool = True) -> TextToImage:
        """Stay in eval mode."""
        super().train(False)
        return self

    def editable(self, *parts: Part) -> TextToImage:
        """A copy whose named parts (the denoiser, unless told otherwise) are its own; it shares the others."""
        own: dict[str, Any] = {part: getattr(self, part) for part in PARTS}
        for part in parts or ("denoiser",):
            if own[part] is None:
                raise InputError(f"the pipeline has no {part}.")
            own[part] = deepcopy(own[part])
        edited = TextToImage(
            **own, tokenizers=self.tokenizers, scheduler=self.scheduler, index=self.index, source=self.source
        )
        edited.alphas_cumprod = self.alphas_cumprod
        return edited

    def linears(self, kind: Layers) -> dict[str, Linear]:
        """The denoiser's linear layers of a kind, by module name inside the denoiser, in the model's own order.

        Raises:
            InputError: if there is none, or one is wrapped by LoRA or quantised.
        """
        ends = LAYERS[kind]
        found: dict[str, Linear] = {}
        for name, module in self.denoiser.named_modules():
            if kind == "all" and type(module) is not Linear:
                continue
            if not any(name == end or name.endswith(f".{end}" if end else "") for end in ends):
                continue
            if type(module) is not Linear:
                raise InputError(
                    f"{name} is a {type(module).__name__}, not a plain Linear. Merge LoRA layers (fuse_lora, then "
                    "unload_lora_weights) and load unquantised weights first."
                )
            found[name] = module
        if not found:
            raise InputError(
                f"{type(self.denoiser).__name__} has no linear layer named {' or '.join(ends)}; nothing to edit."
            )
        return found

    def tokens(self, prompts: Sequence[str], encoder: int = 0) -> tuple[Tensor, Tensor]:
        """Ids and attention mask of prompts, padded to the tokenizer's length, both int64 [n, tokens].

        Raises:
            InputError: if a prompt is longer than the text encoder reads: its end would be lost unseen.
        """
        tokenizer, limit = self.tokenizers[encoder], self.length(encoder)
        for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
            if len(ids) > limit:
                raise InputError(
                    f"the prompt {prompt!r} has {len(ids)} tokens; the text encoder reads {limit}. Shorten it."
                )
        out = tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        return out.input_ids.to(self.device), out.attention_mask.to(self.device)

    def length(self, encoder: int = 0) -> int:
        """Tokens that a text encoder reads, those at the beginning and end included."""
        module = self.text_encoder if encoder == 0 else self.text_encoder_2
        limit = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        if limit is None:  # T5 has no limit of its own; these are diffusers' pipelines'
            limit = 300 if self.index.get("_class_name") == "PixArtSigmaPipeline" else 120
        return int(min(self.tokenizers[encoder].model_max_length, limit))

    def positions(self, prompt: str, phrase: str, encoder: int = 0) -> list[int]:
        """Positions of a phrase's tokens in the encoded prompt; its last occurrence.

        Raises:
            InputError: if the tokens of the phrase do not occur in the prompt.
        """
        tokenizer = self.tokenizers[encoder]
        inner = tokenizer(phrase, add_special_tokens=False).input_ids
        whole = self.tokens([prompt], encoder)[0][0].tolist()
        for start in range(len(whole) - len(inner), -1, -1):
            if inner and whole[start : start + len(inner)] == inner:
                return list(range(start, start + len(inner)))
        raise InputError(f"{phrase!r} does not occur in the prompt {prompt!r}.")

    def encode(self, prompts: Sequence[str]) -> Text:
        """Encode prompts; "" is the null prompt (zeros where the pipeline says so). Gradients flow if enabled.

        Raises:
            InputError: if a prompt is too long.
        """
        tokens = [self.tokens(prompts, i) for i in range(len(self.tokenizers))]
        text = self.encode_tokens(*tokens)
        if self.layout == "xl" and self.index.get("force_zeros_for_empty_prompt", True):
            empty = torch.tensor([prompt == "" for prompt in prompts], device=self.device)
            return text._each(
                lambda t: torch.where(empty.view(-1, *[1] * (t.ndim - 1)), torch.zeros_like(t), t)
            )
        return text

    def encode_tokens(self, *tokens: tuple[Tensor, Tensor], embeddings: Tensor | None = None) -> Text:
        """Encode token ids and masks, one pair a text encoder.

        Args:
            tokens: (ids, mask), both [n, tokens].
            embeddings: vectors [n, tokens, width] to read in place of the first encoder's token embeddings: what an
                attack or a defence changes.
        """
        ids, mask = tokens[0]
        with _embedded(self.text_encoder, embeddings):
            if self.layout == "unet":
                used = mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
                return Text(self.text_encoder(ids, attention_mask=used)[0].to(self.dtype))
            if self.layout == "transformer":
                return Text(self.text_encoder(ids, attention_mask=mask)[0].to(self.dtype), mask=mask)
            first = self.text_encoder(ids, output_hidden_states=True)
        assert self.text_encoder_2 is not None
        second = self.text_encoder_2(tokens[1][0], output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return Text(hidden.to(self.dtype), pooled=second[0].to(self.dtype))

    def cross_inputs(self, text: Text) -> Tensor:
        """What `attn2.to_k` and `attn2.to_v` read of encoded prompts, [n, tokens, width].

        Raises:
            InputError: if the denoiser turns text into that in a way that is not known here.
        """
        projection = getattr(self.denoiser, "caption_projection", None)
        if projection is None:
            projection = getattr(self.denoiser, "encoder_hid_proj", None)
        hidden: Tensor = text.hidden if projection is None else projection(text.hidden)
        widths = {layer.in_features for layer in self.linears("cross_kv").values()}
        if widths != {hidden.shape[-1]}:
            raise InputError(
                f"the cross-attention of {type(self.denoiser).__name__} reads vectors of width {sorted(widths)}; text "
                f"reaches it {hidden.shape[-1]} wide, by a projection that is not known here."
            )
        return hidden

    def forward(self, x: Tensor, t: Tensor | int, text: Text) -> Tensor:
        """The denoiser's prediction: the noise, or the velocity where `prediction_type` is "v_prediction".

        Args:
            x: noisy latents [n, c, h, w].
            t: time steps, int64 [n] or one for all.
            text: n encoded prompts, or one for all.
        """
        n = len(x)
        steps = torch.as_tensor(t, device=x.device).long().expand(n)
        text = text if len(text) == n else text.expand(n)
        extra: dict[str, Any] = {}
        if self.layout == "xl":
            side = [s * self.pixels_per_latent for s in x.shape[-2:]]
            ids = torch.tensor([*side, 0, 0, *side], dtype=x.dtype, device=x.device).expand(n, 6)
            extra["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": ids}
        elif self.layout == "transformer":
            conditions: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
            if self.config.sample_size == 128 and self.config.use_additional_conditions is not False:
                height, width = (s * self.pixels_per_latent for s in x.shape[-2:])
                conditions["resolution"] = x.new_tensor([[height, width]]).expand(n, 2)
                conditions["aspect_ratio"] = x.new_tensor([[height / width]]).expand(n, 1)
            extra = {"added_cond_kwargs": conditions, "encoder_attention_mask": text.mask}
        out: Tensor = self.denoiser(x, timestep=steps, encoder_hidden_states=text.hidden, **extra).sample
        return out[:, : x.shape[1]]  # the rest is a learned variance

    def noise_prediction(self, x: Tensor, t: Tensor | int, text: Text) -> Tensor:
        """The predicted noise, whatever the denoiser was trained to predict, [n, c, h, w]."""
        out = self(x, t, text)
        if self.scheduler.config.get("prediction_type", "epsilon") == "epsilon":
            return out  # type: ignore[no-any-return]
        signal, noise = self._rates(t, x)
        return signal * out + noise * x  # type: ignore[no-any-return]

    def guided(self, x: Tensor, t: Tensor | int, text: Text, null: Text, guidance: float) -> Tensor:
        """The denoiser's prediction under classifier-free guidance; both halves in one pass, the null one first."""
        n = len(x)
        if guidance == 1:
            return self(x, t, text)  # type: ignore[no-any-return]
        steps = torch.as_tensor(t, device=x.device).long().expand(n)
        both = Text.cat(
            [null if len(null) == n else null.expand(n), text if len(text) == n else text.expand(n)]
        )
        without, with_text = self(torch.cat([x, x]), torch.cat([steps, steps]), both).chunk(2)
        return without + guidance * (with_text - without)  # type: ignore[no-any-return]

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """Noisy latents at time steps t ([n] or one for all): sqrt(a) clean + sqrt(1 - a) noise."""
        signal, rate = self._rates(t, clean)
        return signal * clean + rate * noise

    def truth(self, clean: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """What the denoiser was trained to predict of `add_noise(clean, noise, t)`: the noise, or the velocity."""
        if self.scheduler.config.get("prediction_type", "epsilon") == "epsilon":
            return noise
        signal, rate = self._rates(t, clean)
        return signal * noise - rate * clean

    def _rates(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod[torch.as_tensor(t, device=self.alphas_cumprod.device).long()]
        a = a.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of the image beside one another in one latent; 1 without a VAE."""
        if self.vae is None:
            return 1
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Starting noise for n images, [n, c, h, w]; the same for a seed whatever the batch or device."""
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
        before_step: Callable[[int, int, int], None] | None = None,
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
            InputError: if neither `rng` nor `noise` is given, or the numbers of prompts and noises differ.
        """
        text = prompts if isinstance(prompts, Text) else self.encode(prompts)
        if noise is None:
            if rng is None:
                raise InputError("TextToImage.sample needs `rng` or `noise`.")
            noise = self.noise(len(text), rng)
        if len(noise) != len(text):
            raise InputError(f"TextToImage.sample got {len(text)} prompts and {len(noise)} noises.")
        null = self.encode([negative])
        out = []
        for low in range(0, len(text), batch_size):
            part = text[low : low + batch_size]
            x, sampler = noise[low : low + batch_size].to(self.device, self.dtype), self.sampler(steps)
            for i, t in enumerate(sampler.timesteps[:stop].tolist()):
                if before_step is not None:
                    before_step(i, t, len(part))
                x = sampler.step(self.guided(x, t, part, null, guidance), t, x).prev_sample
            out.append(x if stop is not None or not decode else self.decode(x))
        return torch.cat(out)

    def sampler(self, steps: int) -> Any:
        """Diffusers' DDIM in this pipeline's noise schedule, set to this many steps."""
        if not 1 <= steps <= self.timesteps:
            raise InputError(
                f"the sampler takes 1 to {self.timesteps} steps, the levels it was trained on; got {steps}."
            )
        names = (
            "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type steps_offset "
            "timestep_spacing rescale_betas_zero_snr set_alpha_to_one"
        ).split()
        known = {k: v for k, v in self.scheduler.config.items() if k in names and v is not None}
        ddim: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
        scheduler = ddim(**known, clip_sample=False)
        scheduler.set_timesteps(steps)
        return scheduler

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, about -1 to 1; the latents themselves where there is no VAE."""
        if self.vae is None:
            return latents
        vae: Any = self.vae
        images: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return images

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents (means) of images between -1 and 1, [n, channels, height, width]."""
        if self.vae is None:
            return images.to(self.device, self.dtype)
        vae: Any = self.vae
        encoded = vae.encode(images.to(self.device, vae.dtype)).latent_dist.mean
        scaled: Tensor = (encoded * vae.config.scaling_factor).to(self.dtype)
        return scaled


@contextmanager
def training_only(model: Module, parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Let just these parameters require gradients inside the block; every flag of `model` is put back after."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield list(parameters)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _embedded(encoder: Module, embeddings: Tensor | None) -> Iterator[None]:
    if embeddings is None:
        yield
        return
    table = encoder.get_input_embeddings().weight  # type: ignore[operator]
    # T5's stack reads a table of its own, tied to the shared one
    tied = [m for m in encoder.modules() if isinstance(m, Embedding) and m.weight is table]
    hooks = [m.register_forward_hook(lambda *_: embeddings) for m in tied]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
