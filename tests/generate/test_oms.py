"""OMS: what the sampler then begins at, what the network learns, and how schedulers read it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.erase.pipelines import pipeline
from tests.generate.worlds import drawn, pipe
from unweave import seeded
from unweave.errors import InputError, IntegrityError
from unweave.generate import CFG, OMS, Informed, OneMoreStep, Pictures, draw, latents_for
from unweave.models.text_to_image import Text, TextToImage

SHAPE, PROMPTS = (4, 8, 8), ["a photo of a cat", "a red church"]


def psi(answer: float | torch.Tensor = 0.0) -> OneMoreStep:
    """A network that answers the same whatever it reads."""
    made = OneMoreStep("mlp", SHAPE, 16, 16, 8)
    made.least.fill_(-9)
    made.most.fill_(9)
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        last = made.inner[2].bias  # type: ignore[index]
        last.copy_(torch.as_tensor(answer).expand(4, 8, 8).flatten())
    return made.eval()


def text(n: int = 2) -> Text:
    return Text(torch.randn(n, 5, 16, generator=seeded(3)))


def noise(n: int = 2) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=seeded(4))


def test_nothing_learnt_leaves_the_noise_at_its_share() -> None:
    assert torch.equal(Informed(psi())(text(), noise(), 0.36), 0.8 * noise())


def test_the_first_step_is_the_forward_process_of_minus_the_velocity() -> None:
    begun = Informed(psi(0.5))(text(), noise(), 0.36)
    torch.testing.assert_close(begun, 0.6 * -0.5 + 0.8 * noise())
    fresh = Informed(psi(0.5), rng=seeded(8))(text(), noise(), 0.36)
    expected = 0.6 * -0.5 + 0.8 * torch.randn(2, *SHAPE, generator=seeded(8))
    torch.testing.assert_close(fresh, expected)


def test_guidance_leads_away_from_the_null_prompt_within_the_pictures_range() -> None:
    made = OneMoreStep("mlp", SHAPE, 16, 16, 8).eval()
    made.least.fill_(-0.2)
    made.most.fill_(0.3)
    asked, null = text(), text(1)[[0]]
    with torch.no_grad():
        told, none = made(noise(), asked), made(noise(), null)
    velocity = none.double() + 9 * (told.double() - none.double())
    assert float(velocity.abs().max()) > 0.3
    expected = 0.6 * (-velocity).clamp(-0.2, 0.3) + 0.8 * noise().double()
    got = Informed(made, guidance=9.0, null=null)(asked, noise(), 0.36)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    other = Informed(made, text=null)(asked, noise(), 0.36)
    torch.testing.assert_close(other, Informed(made)(null, noise(), 0.36))


@pytest.fixture(scope="module")
def model() -> TextToImage:
    return pipeline("sd")


@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_learns_the_mean_picture_of_each_prompt(network: str, model: TextToImage, tmp_path: Path) -> None:
    """Under the squared error the best answer to noise that knows nothing is minus the prompt's mean."""
    means = torch.tensor([-0.7, 0.4])
    latents = means[[0, 1] * 16].view(-1, 1, 1, 1) + 0.1 * torch.randn(32, *SHAPE, generator=seeded(0))
    pictures = Pictures(latents, PROMPTS * 16)
    method = OMS(
        network=network, width=16, steps=600 if network == "mlp" else 40, batch_size=32, lr=3e-3, null=0.1
    )  # type: ignore[arg-type]
    made = method.apply(model, pictures, rng=seeded(0))
    asked = model.encode(PROMPTS)
    with torch.no_grad():
        found = -made(noise(2), asked).mean((1, 2, 3))
    assert float((found - means).abs().max()) < 0.2
    made.save(tmp_path / "psi.safetensors")
    again = OneMoreStep.load(tmp_path / "psi.safetensors")
    assert torch.equal(Informed(again)(asked, noise(), 0.1), Informed(made)(asked, noise(), 0.1))
    held = bytearray((tmp_path / "psi.safetensors").read_bytes())
    held[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(held)
    with pytest.raises(IntegrityError):
        OneMoreStep.load(tmp_path / "bad.safetensors")


def test_our_pipelines_begin_at_the_level_of_their_first_step(model: TextToImage) -> None:
    begin, seen = Informed(psi(0.5)), []

    def watched(asked: Text, x: torch.Tensor, share: float) -> torch.Tensor:
        seen.append(share)
        return begin(asked, x, share)

    drawn_so = draw(
        model, PROMPTS, guidance=CFG(scale=2.0), steps=4, noise=noise(), start=watched, decode=False
    )
    first = model.sampler(4).timesteps[0]
    assert seen == [float(model.alphas_cumprod[first])]
    by_hand = model.sample(
        PROMPTS, steps=4, guidance=2.0, noise=begin(text(), noise(), seen[0]), decode=False
    )
    torch.testing.assert_close(drawn_so, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_denoiser_of_a_pipeline_reads_the_informed_noise(name: str) -> None:
    """Whatever scale a scheduler counts in, what the denoiser is called with at first is what OMS made."""
    import diffusers

    made = pipe("sd")
    own, read = made.scheduler, []

    def look(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        read.append(args[0].clone())

    handle = made.unet.register_forward_pre_hook(look)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' arrays against the newest numpy
            made.scheduler = getattr(diffusers, name).from_config(own.config)
            latents = latents_for(made.scheduler, Informed(psi(0.5)), text(1), noise(1), 4)
            drawn(made, latents=latents, guidance_scale=1.0)
            made.scheduler.set_timesteps(4)
        sigmas = getattr(made.scheduler, "sigmas", None)
        share = float(made.scheduler.alphas_cumprod[int(made.scheduler.timesteps[0])])
        if sigmas is not None:
            share = 1 / (1 + float(sigmas[0]) ** 2)
        torch.testing.assert_close(
            read[0], share**0.5 * -0.5 + (1 - share) ** 0.5 * noise(1), rtol=1e-4, atol=1e-4
        )
    finally:
        handle.remove()
        made.scheduler = own


def test_refuses_other_latents_flows_and_settings_that_need_more(model: TextToImage) -> None:
    with pytest.raises(InputError, match="same latents only"):
        Informed(psi())(text(), torch.zeros(2, 4, 6, 6), 0.1)
    with pytest.raises(InputError, match="nothing to mend"):
        latents_for(pipe("sd3").scheduler, Informed(psi()), text(), noise(), 4)
    with pytest.raises(InputError, match="needs `null`"):
        Informed(psi(), guidance=2.0)
    with pytest.warns(UserWarning, match="begins at pure noise as it should"):
        Informed(psi())(text(), noise(), 1e-7)
    with pytest.raises(InputError, match="the pictures are of shape"):
        OMS(steps=1).apply(model, Pictures(torch.zeros(1, 4, 6, 6), ["a cat"]), rng=seeded(0))
    with pytest.raises(InputError, match="one prompt for each picture"):
        Pictures(torch.zeros(2, 4, 6, 6), ["a cat"])
    with pytest.raises(InputError, match="multiple of 8"):
        OMS(width=12)
