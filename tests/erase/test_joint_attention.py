"""Stable Diffusion 3's layout: text and picture attend to each other, and noise is mixed in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.erase.pipelines import CONCEPTS, pipeline
from tests.zoo_diffusers import TOKENS
from unweave import seeded
from unweave.audit.drawing.drawn import draw as drawn_by
from unweave.erase import ESD, FIA, SFD, ConceptPrune
from unweave.errors import InputError
from unweave.generate import AGD, APG, CODE, OMS, SIM, LaptopDiff, Pictures, draw
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.io.told import tell
from unweave.models.text_to_image import TextToImage
from unweave.random import global_seed

PROMPTS = ["a photo of a cat", "a red church"]


@lru_cache(maxsize=1)
def both() -> tuple[TextToImage, Any]:
    """A pipeline of ours, and diffusers' own of the same parts."""
    import diffusers

    model = pipeline("sd3")
    own = diffusers.StableDiffusion3Pipeline(
        transformer=model.denoiser, scheduler=model.scheduler, vae=model.vae,
        text_encoder=model.text_encoder, text_encoder_2=model.text_encoder_2, text_encoder_3=model.text_encoder_3,
        tokenizer=model.tokenizers[0], tokenizer_2=model.tokenizers[1], tokenizer_3=model.tokenizers[2],
    )  # fmt: skip
    own.set_progress_bar_config(disable=True)
    return model, own


def noise(model: TextToImage, n: int = 2) -> Tensor:
    return model.noise(n, seeded(0))


def test_encodes_and_draws_as_diffusers_does() -> None:
    model, own = both()
    assert model.layout == "joint"
    assert model.flows
    assert not model.predicts_velocity
    with torch.no_grad():
        for prompts in (PROMPTS, [""]):
            hidden, _, pooled, _ = own.encode_prompt(
                prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=TOKENS
            )
            text = model.encode(prompts)
            torch.testing.assert_close(text.hidden, hidden, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(text.pooled, pooled, rtol=1e-5, atol=1e-6)
    for guidance in (1.0, 4.0):
        asked = {"num_inference_steps": 3, "guidance_scale": guidance, "height": 16, "width": 16}
        wanted = own(
            PROMPTS, latents=noise(model), output_type="pt", max_sequence_length=TOKENS, **asked
        ).images
        images = model.sample(PROMPTS, steps=3, guidance=guidance, noise=noise(model))
        torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), wanted, rtol=1e-4, atol=1e-4)
    # the same by the family that guides
    plain = draw(
        model,
        PROMPTS,
        guidance=APG(scale=4.0, eta=1.0, momentum=0.0, threshold=0.0),
        steps=3,
        noise=noise(model),
    )
    torch.testing.assert_close(plain, images, rtol=1e-3, atol=1e-3)


def test_mixes_noise_as_the_scheduler_does() -> None:
    model, _ = both()
    clean, e = noise(model), model.noise(2, seeded(1))
    sampler = model.sampler(4)
    t = sampler.timesteps[1:3]
    wanted = sampler.scale_noise(clean, t, e)
    x = model.add_noise(clean, e, t)
    torch.testing.assert_close(x, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.truth(clean, e, t), e - clean)
    torch.testing.assert_close(model.without_noise(x, e, t), clean, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        out = model(x, t, model.encode(PROMPTS))
        s = (t / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(
            model.clean_prediction(x, t, model.encode(PROMPTS)), x - s * out, rtol=1e-4, atol=1e-4
        )


def test_latents_are_the_inverse_of_decoding_in_scale_and_shift() -> None:
    model, own = both()
    images = torch.rand(1, 3, 16, 16, generator=seeded(0)) * 2 - 1
    with torch.no_grad():
        mean = own.vae.encode(images).latent_dist.mean
    torch.testing.assert_close(model.latents(images), (mean - 0.06) * 1.5)


def test_diffusers_draws_the_same_from_the_folder(tmp_path) -> None:
    import diffusers

    model, _ = both()
    save_pipeline(model, tmp_path / "sd3")
    again = load_pipeline(tmp_path / "sd3")
    torch.testing.assert_close(
        again.sample(PROMPTS, steps=2, guidance=3, noise=noise(model)),
        model.sample(PROMPTS, steps=2, guidance=3, noise=noise(model)),
    )
    own = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "sd3")
    assert own.tokenizer_3 is not None


def test_kinds_of_layers_are_those_of_the_text_and_of_the_picture() -> None:
    model, _ = both()
    kv = model.linears("cross_kv")
    assert set(kv) == {f"transformer_blocks.{i}.attn.add_{p}_proj" for i in range(2) for p in "kv"}
    cross, rest = model.weights("cross"), model.weights("not_cross")
    assert set(cross) | set(rest) == set(model.weights("all"))
    assert not set(cross) & set(rest)
    assert all(".attn.add_" in n or ".to_add_out" in n for n in cross)
    from diffusers import SD3Transformer2DModel

    with global_seed(0):
        larger = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
            pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
    parts = {name: getattr(model, name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    newer = TextToImage(
        denoiser=larger, tokenizers=model.tokenizers, scheduler=model.scheduler, vae=model.vae, **parts
    )
    assert not [n for n in newer.linears("cross") if "attn2" in n]
    assert [n for n in newer.linears("self") if "attn2.to_k" in n]


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_erasers_that_train_or_prune_edit_it_and_the_audit_draws_it(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = pipeline(kind)
    before = {n: p.clone() for n, p in model.named_parameters()}
    esd = ESD(steps=2, sampler_steps=3, lr=1e-2).apply(model, CONCEPTS, rng=seeded(0))
    moved = {n for n, p in esd.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(model.weights("cross")) - idle(kind)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    for eraser in (FIA(steps=3, record=2), ConceptPrune(steps=3, record=2)):
        tell.cache_clear()
        cut = eraser.apply(model, CONCEPTS, rng=seeded(0))
        zeroed = {n for n, p in cut.named_parameters() if int((p == 0).sum()) > int((before[n] == 0).sum())}
        assert zeroed
        assert all(".ff." in n for n in zeroed)
        said = (
            f"{type(eraser).__name__}: looked at are the feed-forwards of 1 blocks; 1 single blocks"
            in caplog.text
        )
        assert said == (kind == "flux")
    looks = drawn_by(esd, CONCEPTS, None, each=1, seed=0, steps=2, guidance=3.0)
    assert set(looks.images) == {*CONCEPTS.labels, *CONCEPTS.preserve}
    assert all(bool(v.isfinite().all()) for v in looks.images.values())


def idle(kind: str) -> set[str]:
    """Of the text's part, what leads nowhere: the last block of Stable Diffusion 3 makes no new text."""
    query = "denoiser.transformer_blocks.1.attn.add_q_proj"
    return set() if kind == "flux" else {f"{query}.weight", f"{query}.bias"}


@torch.no_grad()
def test_the_goal_of_esd_is_told_no_guidance_where_it_is_built_in() -> None:
    model = pipeline("flux")
    x, asked, null = noise(model), model.encode(PROMPTS), model.encode([""])
    goal = ESD(eta=2.0).target(model, x, 500, asked, null, null)
    concept, none = (model(x, 500.0, text, 1.0) for text in (asked, null.expand(2)))
    torch.testing.assert_close(goal, none - 2 * (concept - none))
    assert not torch.allclose(concept, model(x, 500.0, asked, 3.0), atol=1e-4)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_refuses_by_name_what_would_be_wrong(kind: Any) -> None:
    model = pipeline(kind)
    images = torch.zeros(1, 3, 16, 16)
    pictures = Pictures(latents=torch.zeros(2, *model.shape), prompts=("a cat", "a dog"))
    for wrong, words in (
        (
            lambda: SFD(distil=0, steps=1).apply(model, CONCEPTS, rng=seeded(0)),
            "SFD is written for diffusion by added",
        ),
        (
            lambda: SIM(steps=1).apply(model, PROMPTS, rng=seeded(0)),
            "SIM is written for diffusion by added noise",
        ),
        (
            lambda: CODE(bound=4.0).edit(model, images, rng=seeded(0)),
            "CODE is written for diffusion by added noise",
        ),
        (
            lambda: OMS(steps=1).apply(model, pictures, rng=seeded(0)),
            "OMS is written for diffusion by added noise",
        ),
        (lambda: LaptopDiff(steps=1).apply(model, pictures, rng=seeded(0)), "layers of a .* are not removed"),
        (lambda: AGD().apply(model, PROMPTS, rng=seeded(0)), "AGD stands beside cross-attentions"),
    ):
        with pytest.raises(InputError, match=words):
            wrong()
    if kind == "flux":
        return
    with pytest.raises(InputError, match="is read with 3 text encoders; there are 1"):
        TextToImage(
            denoiser=model.denoiser, text_encoder=model.text_encoder, tokenizers=model.tokenizers[:1],
            scheduler=model.scheduler,
        )  # fmt: skip
