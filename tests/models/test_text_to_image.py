from __future__ import annotations

import pytest
import torch

from tests.erase.pipelines import KINDS, folder, loaded, pipeline
from unweave import seeded
from unweave.erase import Text, TextToImage, training_only
from unweave.errors import InputError

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
        model.cross_inputs(text)
    assert far.cross_inputs(far.encode(["a cat"])).shape == (1, 12, 16)
    with pytest.raises(InputError, match="has no text_encoder_2"):
        model.editable("text_encoder_2")
    parts = {"text_encoder": model.text_encoder, "tokenizers": model.tokenizers}
    with pytest.raises(InputError, match="denoiser is a Linear"):
        TextToImage(denoiser=torch.nn.Linear(2, 2), scheduler=model.scheduler, **parts)
    with pytest.raises(InputError, match="not flow matching"):
        TextToImage(denoiser=model.denoiser, scheduler=object(), **parts)
    with pytest.raises(InputError, match="2 text encoders need as many"):
        TextToImage(
            denoiser=model.denoiser, scheduler=model.scheduler, text_encoder_2=model.text_encoder, **parts
        )
