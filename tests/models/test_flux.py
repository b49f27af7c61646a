"""Flux's layout against diffusers' own pipeline: how prompts are encoded, pictures packed, levels shifted and drawn."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.erase.pipelines import pipeline
from tests.zoo_diffusers import TOKENS
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import APG, draw
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image import TextToImage, watch_sampling
from unweave.models.text_to_image.levels import shift_of
from unweave.models.text_to_image.packing import packed, places, unpacked
from unweave.random import global_seed

PROMPTS = ["a photo of a cat", "a red church"]
SHIFTING = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}


@lru_cache(maxsize=2)
def both(distilled: bool) -> tuple[TextToImage, Any]:
    """A pipeline of ours, and diffusers' own of the same parts: FLUX.1-dev's make, or FLUX.1-schnell's."""
    import diffusers

    model = pipeline("flux")
    parts = {name: getattr(model, name) for name in ("text_encoder", "text_encoder_2", "vae")}
    if distilled:
        scheduler, denoiser = (
            type(model.scheduler).from_config(model.scheduler.config, **SHIFTING),
            model.denoiser,
        )
    else:
        scheduler, kind = model.scheduler, type(model.denoiser)
        with global_seed(1):
            denoiser = kind.from_config(model.denoiser.config, guidance_embeds=False).eval()
    made = TextToImage(denoiser=denoiser, scheduler=scheduler, tokenizers=model.tokenizers, **parts)
    own = diffusers.FluxPipeline(
        transformer=denoiser, scheduler=scheduler, tokenizer=model.tokenizers[0], tokenizer_2=model.tokenizers[1], **parts
    )  # fmt: skip
    own.set_progress_bar_config(disable=True)
    return made, own


def drawn(own: Any, noise: Tensor, **asked: Any) -> Tensor:
    """Images between 0 and 1 of diffusers' own call."""
    height, width = (2 * side for side in noise.shape[-2:])
    tokens = own._pack_latents(noise, len(noise), *noise.shape[1:])
    return own(
        PROMPTS, latents=tokens, height=height, width=width, num_inference_steps=3, output_type="pt",
        max_sequence_length=TOKENS, **asked,
    ).images  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("distilled", [True, False])
def test_encodes_and_draws_as_diffusers_does(distilled: bool, tmp_path: Any) -> None:
    model, own = both(distilled)
    assert (model.layout, model.flows, model.distilled, model.kind) == (
        "packed",
        True,
        distilled,
        "transformer",
    )
    assert model.shape == (4, 8, 8)
    with torch.no_grad():
        for prompts in (PROMPTS, [""]):
            hidden, pooled, _ = own.encode_prompt(prompts, max_sequence_length=TOKENS)
            text = model.encode(prompts)
            torch.testing.assert_close(text.hidden, hidden, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(text.pooled, pooled, rtol=1e-5, atol=1e-6)
    wide = torch.randn(
        2, 4, 4, 12, generator=seeded(3)
    )  # not the size that it draws: other places, another shift
    for guidance in (1.0, 4.0):
        told = (
            {"guidance_scale": guidance} if distilled else {"true_cfg_scale": guidance, "negative_prompt": ""}
        )
        for noise in (model.noise(2, seeded(0)), wide):
            images = model.sample(PROMPTS, steps=3, guidance=guidance, noise=noise)
            wanted = drawn(own, noise, **told)
            torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                draw(model, PROMPTS, steps=3, noise=noise, guidance=_cfg(guidance)), images
            )
    save_pipeline(model, tmp_path / "flux")
    back = load_pipeline(tmp_path / "flux")
    again = back.sample(PROMPTS, steps=3, guidance=4.0, noise=wide)
    assert torch.equal(again, images)
    import diffusers

    plain = diffusers.FluxPipeline.from_pretrained(tmp_path / "flux")
    plain.set_progress_bar_config(disable=True)
    torch.testing.assert_close(drawn(plain, wide, **told), wanted)


def _cfg(scale: float) -> Any:
    from unweave.generate import CFG

    return CFG(scale=scale)


def test_half_precision_is_told_time_and_places_as_diffusers_tells_them() -> None:
    model, own = both(True)
    x, t = model.noise(2, seeded(0)).bfloat16(), 731.25
    half = model.editable().to(torch.bfloat16)
    with torch.no_grad():
        text = half.encode(PROMPTS)
        ids = own._prepare_latent_image_ids(2, 4, 4, "cpu", torch.bfloat16)
        wanted = half.denoiser(
            packed(x), encoder_hidden_states=text.hidden, pooled_projections=text.pooled, img_ids=ids,
            timestep=torch.tensor([t]).expand(2).to(torch.bfloat16) / 1000, guidance=torch.full((2,), 3.5),
            txt_ids=torch.zeros(TOKENS, 3, dtype=torch.bfloat16),
        ).sample  # fmt: skip
        assert torch.equal(half(x, t, text, 3.5), unpacked(wanted, x))


def test_packs_as_diffusers_does() -> None:
    _, own = both(True)
    x = torch.randn(2, 4, 6, 10, generator=seeded(0))
    tokens = packed(x)
    assert torch.equal(tokens, own._pack_latents(x, 2, 4, 6, 10))
    assert torch.equal(unpacked(tokens, x), x)
    assert torch.equal(places(x), own._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32))


def test_guidance_that_is_built_in_is_told_and_takes_one_pass() -> None:
    model, _ = both(True)
    text, null, x = model.encode(PROMPTS), model.encode([""]), model.noise(2, seeded(0))
    with torch.no_grad():
        one, four = (model.guided(x, 500.0, text, null, g) for g in (1.0, 4.0))
        assert torch.equal(one, model(x, 500.0, text))
        assert not torch.allclose(one, four, atol=1e-4)
        noise = model.guided_noise_prediction(x, 500.0, text, null, 4.0)
    torch.testing.assert_close(noise, x + 0.5 * four)
    assert (model.passes(4.0), both(False)[0].passes(4.0), both(False)[0].passes(1.0)) == (1, 2, 1)
    with pytest.raises(
        InputError, match="TextToImage.sample: guidance is built into.*no negative prompt; got 'blue'"
    ):
        model.sample(PROMPTS, noise=x, negative="blue")
    with pytest.raises(InputError, match="draw: the scale of guidance is built into"):
        draw(model, PROMPTS, guidance=APG(scale=4.0), noise=x)
    with pytest.raises(InputError, match="both_halves: guidance is built into"):
        watch_sampling(
            model,
            [PROMPTS],
            {},
            lambda *_: None,
            noise=x[:1],
            steps=2,
            stop=1,
            guidance=4.0,
            both_halves=True,
        )


def test_what_layers_read_while_sampling_is_that_of_one_pass_told_the_scale() -> None:
    model, _ = both(True)
    noise, (name, layer) = model.noise(1, seeded(0)), *model.linears("ff_out").items()
    seen: list[Tensor] = []
    watch_sampling(
        model,
        [PROMPTS],
        {name: layer},
        lambda *told: seen.append(told[3]),
        noise=noise,
        steps=3,
        stop=1,
        guidance=4.0,
    )
    read: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        x = noise.expand(2, *noise.shape[1:])
        model(x, float(model.sampler(3).timesteps[0]), model.encode(PROMPTS), guidance=4.0)
    hook.remove()
    assert [v.shape for v in seen] == [(2, 16, 64)]
    torch.testing.assert_close(seen[0], read[0])


def test_levels_are_shifted_by_the_pictures_size() -> None:
    model, _ = both(True)
    config = model.scheduler.config
    assert shift_of(config, 4) == pytest.approx(0.5)
    assert shift_of(config, 64) == pytest.approx(1.15)
    own, larger = model.sampler(4), model.sampler(4, torch.zeros(1, 4, 16, 16))
    mu = 0.5 + 0.65 * (16 - 4) / 60
    even = torch.linspace(1, 0.25, 4)
    torch.testing.assert_close(own.sigmas[:4], torch.e**mu / (torch.e**mu + 1 / even - 1))
    assert bool((larger.sigmas[1:4] > own.sigmas[1:4]).all())
    three = pipeline("sd3")
    three.scheduler = type(three.scheduler).from_config(three.scheduler.config, **SHIFTING)
    plain = type(three.scheduler).from_config(three.scheduler.config)
    plain.set_timesteps(4, mu=mu)
    assert torch.equal(three.sampler(4).sigmas, plain.sigmas)


def test_kinds_of_layers() -> None:
    model, _ = both(True)
    block, single = "transformer_blocks.0.attn.", "single_transformer_blocks.0.attn."
    assert set(model.linears("cross_kv")) == {
        block + "add_k_proj", block + "add_v_proj", single + "to_k", single + "to_v",
    }  # fmt: skip
    assert set(model.linears("cross")) - set(model.linears("cross_kv")) == {
        block + "add_q_proj", block + "to_add_out", single + "to_q",
    }  # fmt: skip
    assert set(model.linears("self")) == {block + p for p in ("to_q", "to_k", "to_v", "to_out.0")}
    assert set(model.linears("ff_out")) == {"transformer_blocks.0.ff.net.2"}
    assert set(model.weights("cross")) | set(model.weights("not_cross")) == set(model.weights("all"))
    assert not set(model.weights("cross")) & set(model.weights("not_cross"))


def test_refuses() -> None:
    model, _ = both(True)
    parts: dict[str, Any] = {
        name: getattr(model, name) for name in ("denoiser", "text_encoder", "text_encoder_2")
    }
    parts |= {"scheduler": model.scheduler, "tokenizers": model.tokenizers}
    with pytest.raises(InputError, match="needs its VAE, which says how large it draws"):
        TextToImage(**parts)
    other = pipeline("sd").vae
    other.register_to_config(sample_size=6)
    with pytest.raises(InputError, match="latents of 4 channels, 3 beside one another; packed two by two"):
        TextToImage(**parts, vae=other)
    one = parts | {"text_encoder_2": None, "tokenizers": model.tokenizers[:1]}
    with pytest.raises(InputError, match="is read with 2 text encoders; there are 1"):
        TextToImage(**one, vae=model.vae)
