from __future__ import annotations

import pytest
import torch

from tests.erase.pipelines import KINDS, folder, loaded, pipeline
from unweave import seeded
from unweave.erase import Text, TextToImage, training_only
from unweave.errors import InputError
from unweave.models.text_to_image import slim_
from unweave.models.text_to_image.entrances import cross_inputs
from unweave.models.text_to_image.layouts import conditions, kind_of
from unweave.models.text_to_image.text import embedded

PROMPTS = ["a photo of a cat", "golf ball", "a red bird in the park"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_draws_what_diffusers_draws(kind) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs, ours = diffusers.DiffusionPipeline.from_pretrained(folder(kind)), loaded(kind)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = ours.sampler(4)
    noise = ours.noise(2, seeded(0))
    size = {"height": 16, "width": 16}
    extra = {"use_resolution_binning": False, "max_sequence_length": 12, "clean_caption": False}
    images = theirs(
        PROMPTS[:2], latents=noise.clone(), num_inference_steps=4, guidance_scale=3.0, output_type="pt",
        **size, **(extra if kind == "pixart" else {}),
    ).images  # fmt: skip
    drawn = ours.sample(PROMPTS[:2], steps=4, guidance=3.0, noise=noise)
    assert torch.allclose(images, (drawn / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert float((drawn[0] - drawn[1]).abs().mean()) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_prompts(kind) -> None:
    model = pipeline(kind)
    whole = model.sample(PROMPTS, steps=3, guidance=2.0, rng=seeded(1))
    parts = model.sample(PROMPTS, steps=3, guidance=2.0, rng=seeded(1), batch_size=2)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_guidance_of_one_needs_no_null_prompt() -> None:
    model, text = pipeline(), pipeline().encode(PROMPTS)
    x = model.noise(3, seeded(0))
    null = model.encode([""])
    plain, unguided = model(x, 500, text), model(x, 500, null)
    assert torch.equal(model.guided(x, 500, text, null, 1.0), plain)
    assert torch.allclose(model.guided(x, 500, text, null, 3.0), unguided + 3 * (plain - unguided), atol=1e-5)


def test_noise_prediction_of_a_velocity_model() -> None:
    model = pipeline()
    model.scheduler.register_to_config(prediction_type="v_prediction")
    clean, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    x = model.add_noise(clean, noise, t)
    a = model.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    model.denoiser.forward = lambda *_, **__: type("Out", (), {"sample": velocity})
    assert torch.allclose(model.noise_prediction(x, t, model.encode(["a cat"])), noise, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_clean_prediction_of_the_truth_is_the_image(kind, monkeypatch) -> None:
    model = pipeline()
    model.scheduler.register_to_config(prediction_type=kind)
    clean, noise, t = model.noise(2, seeded(0)), model.noise(2, seeded(1)), torch.tensor([10, 800])
    monkeypatch.setattr(type(model), "forward", lambda *_: model.truth(clean, noise, t))
    x = model.add_noise(clean, noise, t)
    assert torch.allclose(model.without_noise(x, noise, t), clean, atol=1e-4)
    assert torch.allclose(model.clean_prediction(x, t, model.encode([""])), clean, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_editable_copy_owns_its_part_alone(kind) -> None:
    model = pipeline(kind)
    edited = model.editable()
    assert edited.text_encoder is model.text_encoder
    before = model.sample(PROMPTS[:1], steps=2, rng=seeded(0))
    with torch.no_grad():
        for layer in edited.linears("cross_kv").values():
            layer.weight.mul_(-1)
    assert torch.equal(model.sample(PROMPTS[:1], steps=2, rng=seeded(0)), before)
    assert not torch.allclose(edited.sample(PROMPTS[:1], steps=2, rng=seeded(0)), before)


def test_an_editable_copy_keeps_what_the_pipeline_is() -> None:
    model = pipeline("sdxl").half()
    model.index["force_zeros_for_empty_prompt"] = False
    edited = model.editable("vae", "text_encoder_2")
    assert edited.vae is not model.vae
    assert edited.text_encoder_2 is not model.text_encoder_2
    assert (edited.denoiser, edited.tokenizers, edited.scheduler, edited.index, edited.source) == (
        model.denoiser, model.tokenizers, model.scheduler, model.index, model.source,
    )  # fmt: skip
    assert edited.alphas_cumprod.data_ptr() == model.alphas_cumprod.data_ptr()
    assert all(
        torch.equal(a, b)
        for a, b in zip(edited.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_linears_are_found_by_kind_and_wrapped_ones_refused() -> None:
    model = pipeline()
    assert all(n.endswith("ff.net.2") for n in model.linears("ff_out"))
    assert len(model.linears("cross_kv")) == 2 * len(model.linears("ff_out")) == 8
    block = model.denoiser.mid_block.attentions[0].transformer_blocks[0]
    block.ff.net[2] = torch.nn.Sequential(block.ff.net[2])
    with pytest.raises(InputError, match="Merge LoRA"):
        model.linears("ff_out")


def test_positions_of_a_phrase() -> None:
    assert pipeline("sd").positions("a photo of a golf ball", "golf ball") == [5, 6]
    assert pipeline("pixart").positions("a photo of a golf ball", "golf ball") == [4, 5]
    assert pipeline("sd").positions("a cat in a photo of a cat", "cat") == [8]  # of two, the last
    with pytest.raises(InputError, match="does not occur"):
        pipeline("sd").positions("a photo", "golf ball")


@pytest.mark.parametrize("kind", KINDS)
def test_given_embeddings_take_the_place_of_the_table(kind) -> None:
    model = pipeline(kind)
    tokens = [model.tokens(PROMPTS, i) for i in range(len(model.tokenizers))]
    table = model.text_encoder.get_input_embeddings()
    own = table(tokens[0][0]).detach().clone().requires_grad_()
    text = model.encode_tokens(*tokens, embeddings=own)
    assert torch.allclose(text.hidden, model.encode(PROMPTS).hidden, atol=1e-6)
    text.hidden.square().sum().backward()
    assert float(own.grad.abs().sum()) > 0


def test_sdxl_null_prompt_is_zero_where_the_pipeline_says_so() -> None:
    model = pipeline("sdxl")
    assert not model.encode([""]).hidden.any()
    model.index["force_zeros_for_empty_prompt"] = False
    assert model.encode([""]).hidden.any()


def test_text_is_cut_and_joined() -> None:
    text = pipeline("sdxl").encode(PROMPTS)
    assert torch.equal(Text.cat([text[:1], text[1:]]).pooled, text.pooled)
    assert torch.equal(text[:1].expand(2).hidden, text[:1].repeat(2).hidden)


def test_stays_in_eval_mode_and_trains_only_what_is_asked() -> None:
    model = pipeline()
    assert not any(m.training for m in model.train().modules())
    some = list(model.linears("cross_kv").values())[0].weight
    model.vae.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    with training_only(model, [some]) as trained:
        assert [p for p in model.parameters() if p.requires_grad] == trained == [some]
    assert [p.requires_grad for p in model.parameters()] == before


def test_refuses() -> None:
    model = pipeline()
    with pytest.raises(InputError, match="needs `rng` or `noise`"):
        model.sample(["a cat"])
    with pytest.raises(InputError, match="1 prompts and 2 noises"):
        model.sample(["a cat"], noise=model.noise(2, seeded(0)))
    with pytest.raises(InputError, match="takes 1 to 1000 steps"):
        model.sample(["a cat"], steps=0, rng=seeded(0))
    text, far = model.encode(["a cat"]), pipeline("pixart")
    model.denoiser.encoder_hid_proj = torch.nn.Linear(16, 24)
    with pytest.raises(InputError, match=r"width \[16\]; text reaches it 24 wide"):
        cross_inputs(model, text)
    assert cross_inputs(far, far.encode(["a cat"])).shape == (1, 12, 16)
    with pytest.raises(InputError, match="has no text_encoder_2"):
        model.editable("text_encoder_2")
    parts = {"text_encoder": model.text_encoder, "tokenizers": model.tokenizers}
    with pytest.raises(InputError, match="denoiser is a Linear"):
        TextToImage(denoiser=torch.nn.Linear(2, 2), scheduler=model.scheduler, **parts)
    with pytest.raises(InputError, match="and no scale_noise"):
        TextToImage(denoiser=model.denoiser, scheduler=object(), **parts)
    odd = pipeline().scheduler
    odd.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="predicts 'sample'"):
        TextToImage(denoiser=model.denoiser, scheduler=odd, **parts)
    with pytest.raises(InputError, match="rng must be a torch.Generator"):
        model.noise(1, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 text encoders need as many"):
        TextToImage(
            denoiser=model.denoiser, scheduler=model.scheduler, text_encoder_2=model.text_encoder, **parts
        )


def test_denoisers_are_told_apart_by_what_they_are_made_of() -> None:
    from diffusers import (
        ControlNetModel,
        SanaTransformer2DModel,
        UNet2DModel,
    )

    class Renamed(type(pipeline().denoiser)):  # type: ignore[misc]
        """Another class of the same make."""

    assert [pipeline(kind).kind for kind in KINDS] == ["unet", "unet", "transformer"]
    assert kind_of(Renamed.from_config(pipeline().denoiser.config)) == "unet"
    small = {
        "sample_size": 8,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "patch_size": 1,
    }
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "block_out_channels": (16, 32)}
    others = [
        SanaTransformer2DModel(
            **small, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            caption_channels=16, in_channels=4, out_channels=4,
        ),
        ControlNetModel(**blocks, cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8),
        UNet2DModel(
            sample_size=8, block_out_channels=(16, 32), down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2, norm_num_groups=8,
        ),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InputError, match=f"the denoiser is a {type(other).__name__}"):
            kind_of(other)


def test_a_denoiser_that_asks_for_more_is_refused() -> None:
    own = pipeline().denoiser

    def forward(
        sample, timestep, encoder_hidden_states, depth, added_cond_kwargs=None, encoder_attention_mask=None
    ):
        return None

    own.forward = forward
    with pytest.raises(InputError, match="the denoiser is a UNet2DConditionModel"):
        kind_of(own)


def test_conditions_by_hand() -> None:
    x, text = torch.zeros(2, 4, 6, 8), Text(torch.zeros(2, 1, 1), torch.ones(2, 3), torch.ones(2, 1).long())
    large, small = (
        type("Config", (), {"sample_size": size, "use_additional_conditions": None})() for size in (128, 64)
    )
    assert conditions("unet", x, text, (48, 64), large) == {}
    told = conditions("xl", x, text, (48, 64), large)["added_cond_kwargs"]
    assert told["time_ids"].tolist() == [[48, 64, 0, 0, 48, 64]] * 2
    assert torch.equal(told["text_embeds"], text.pooled)
    told = conditions("transformer", x, text, (48, 64), large)
    assert told["encoder_attention_mask"] is text.mask
    assert told["added_cond_kwargs"]["resolution"].tolist() == [[48, 64]] * 2
    assert told["added_cond_kwargs"]["aspect_ratio"].tolist() == [[0.75]] * 2
    assert conditions("transformer", x, text, (48, 64), small)["added_cond_kwargs"] == {
        "resolution": None,
        "aspect_ratio": None,
    }
    large.use_additional_conditions = False
    assert conditions("transformer", x, text, (48, 64), large)["added_cond_kwargs"]["resolution"] is None


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_guided_noise_is_that_of_both_predictions(kind) -> None:
    model = pipeline("pixart")
    model.scheduler.register_to_config(prediction_type=kind)
    x, t = model.noise(2, seeded(0)), torch.tensor([100, 900])
    text, null = model.encode(PROMPTS[:2]), model.encode([""])
    with torch.no_grad():
        told, none = model.noise_prediction(x, t, text), model.noise_prediction(x, t, null)
        assert torch.allclose(model.guided_noise_prediction(x, t, text, null, 1.0), told, atol=1e-5)
        guided = model.guided_noise_prediction(x, t, text, null, 2.5)
    assert torch.allclose(guided, none + 2.5 * (told - none), atol=1e-4)
    assert float((guided - told).abs().max()) > 1e-3


def test_weights_by_kind() -> None:
    model = pipeline()
    everything = {f"denoiser.{n}" for n, _ in model.denoiser.named_parameters()}
    cross = {n for n in everything if ".attn2." in n}
    assert set(model.weights("all")) == everything
    assert set(model.weights("cross")) == cross
    assert set(model.weights("not_cross")) == everything - cross
    assert set(model.weights("cross_kv")) == {f"denoiser.{n}.weight" for n in model.linears("cross_kv")}
    assert all(model.get_parameter(n) is p for n, p in model.weights("all").items())


def test_an_encoder_that_reads_another_table_is_refused() -> None:
    model = pipeline("pixart")
    own = model.text_encoder.get_input_embeddings()
    with (
        pytest.raises(InputError, match="did not read its input embeddings"),
        embedded(model.text_encoder, own.weight),
    ):
        pass


def test_text_in_another_dtype_keeps_its_mask() -> None:
    text = pipeline("pixart").encode(PROMPTS).to(torch.float64)
    assert (text.hidden.dtype, text.mask.dtype) == (torch.float64, torch.int64)


def test_a_latent_is_as_many_pixels_as_the_vae_halves_sizes() -> None:
    model = pipeline()
    assert model.pixels_per_latent == 2
    model.vae = None
    assert model.pixels_per_latent == 1
    images = torch.rand(2, 4, 8, 8)
    assert torch.equal(model.latents(images), images)
    assert model.decode(images) is images


def test_images_and_latents_are_scaled() -> None:
    model = pipeline()
    images = torch.rand(1, 3, 16, 16, generator=seeded(0)) * 2 - 1
    with torch.no_grad():
        mean = model.vae.encode(images).latent_dist.mean
        assert torch.allclose(model.latents(images), mean * model.vae.config.scaling_factor)
        assert torch.allclose(
            model.decode(mean * model.vae.config.scaling_factor), model.vae.decode(mean).sample, atol=1e-5
        )


def test_sampling_stops_and_tells() -> None:
    model, told = pipeline("pixart"), []
    noise = model.noise(3, seeded(0))
    x = model.sample(
        PROMPTS, steps=4, stop=2, guidance=1.0, noise=noise, batch_size=2,
        before_step=lambda *step: told.append(step),
    )  # fmt: skip
    times = model.sampler(4).timesteps.tolist()
    assert told == [(i, t, n) for n in (2, 1) for i, t in enumerate(times[:2])]
    sampler, y = model.sampler(4), noise
    with torch.no_grad():
        for t in times[:2]:
            y = sampler.step(model(y, t, model.encode(PROMPTS)), t, y).prev_sample
    assert torch.allclose(x, y, atol=1e-5)


def test_guidance_leads_away_from_the_negative_prompt() -> None:
    model = pipeline("sd")
    noise, text = model.noise(2, seeded(0)), model.encode(PROMPTS[:2])
    how = {"steps": 1, "guidance": 3.0, "noise": noise, "decode": False}
    sampler = model.sampler(1)
    t = int(sampler.timesteps[0])
    assert sampler.config.clip_sample is False
    drawn = {}
    for negative in ("", "a photo of a dog"):
        null = model.encode([negative])
        with torch.no_grad():
            expected = sampler.step(model.guided(noise, t, text, null, 3.0), t, noise).prev_sample
        drawn[negative] = model.sample(PROMPTS[:2], negative=negative, **how)
        assert torch.allclose(drawn[negative], expected, atol=1e-5)
    assert not torch.allclose(*drawn.values(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_schedule_keeps_its_precision_whatever_the_weights_do(dtype) -> None:
    model = pipeline()
    exact = model.scheduler.alphas_cumprod.double()
    narrow = model.to(dtype)
    assert narrow.dtype == dtype
    assert narrow.alphas_cumprod.dtype == torch.float64
    assert torch.equal(narrow.alphas_cumprod, exact)
    x, noise = torch.ones(1, *model.shape, dtype=dtype), torch.zeros(1, *model.shape, dtype=dtype)
    assert torch.equal(narrow.add_noise(noise, x, 0), x * (1 - exact[0]).sqrt().to(dtype))
    assert not list(model.buffers(recurse=False))


def test_pixart_is_encoded_in_small_letters_as_diffusers_does() -> None:
    import diffusers

    model = pipeline("pixart")
    theirs = diffusers.PixArtAlphaPipeline(
        tokenizer=model.tokenizers[0], text_encoder=model.text_encoder, vae=model.vae, transformer=model.denoiser,
        scheduler=model.scheduler,
    )  # fmt: skip
    for prompt in ("a photo of a Cat", "  A RED church"):
        with torch.no_grad():
            expected = theirs.encode_prompt(
                prompt,
                do_classifier_free_guidance=False,
                device="cpu",
                clean_caption=False,
                max_sequence_length=12,
            )[0]
            assert torch.allclose(model.encode([prompt]).hidden, expected, atol=1e-5)
    assert model.positions("a photo of a Golf Ball", "golf BALL") == [4, 5]
    assert pipeline("sd").written(" A Cat") == " A Cat"


def test_images_are_decoded_a_few_at_a_time(monkeypatch) -> None:
    model, sizes = pipeline(), []
    latents = model.noise(10, seeded(0))
    whole = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    decode = model.vae.decode
    monkeypatch.setattr(model.vae, "decode", lambda z: (sizes.append(len(z)), decode(z))[1])
    assert torch.allclose(model.decode(latents), whole, atol=1e-5)
    assert sizes == [4, 4, 2]


def test_a_copy_owns_no_more_than_what_will_be_changed() -> None:
    model = pipeline("sd")
    names = set(model.weights("cross_kv"))
    edited = model.editable(only=names)
    own = dict(model.named_parameters())
    assert {n for n, p in edited.named_parameters() if p is not own[n]} == names
    assert all(p.equal(own[n]) for n, p in edited.named_parameters())
    assert all(m is not dict(model.denoiser.named_modules())[n] for n, m in edited.denoiser.named_modules())


@pytest.mark.parametrize("kind", ["sd", "pixart"])
def test_slim_is_the_same_in_less_memory(kind) -> None:
    model, slim = pipeline(kind), slim_(pipeline(kind))
    assert slim.vae.use_slicing
    noise = model.noise(3, seeded(0))
    whole, sliced = (m.sample(["a cat"] * 3, steps=2, noise=noise) for m in (model, slim))
    assert torch.allclose(whole, sliced, atol=1e-5)
    text, saved = model.encode(["a cat"] * 3).detach(), []
    slopes = []
    for m in (model, slim):
        held: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, held=held: held.append(t.numel()) or t, lambda t: t
        ):
            loss = m(noise, 500, text).square().mean()
        saved.append(sum(held))
        weights = list(m.weights("cross").values())
        slopes.append(torch.autograd.grad(loss, weights))
    assert saved[1] < 0.5 * saved[0]  # recomputed, not kept
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*slopes, strict=True))
