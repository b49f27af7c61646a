"""APG: each line of the paper in float64, and what it must come to at the ends of its settings."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tests.generate.worlds import PROMPT, drawn, pair, pipe, step
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import APG, CFG, Step, as_guider, draw, steered, step_at
from unweave.generate.schedules import Clock

KINDS = ("epsilon", "v_prediction", "sample", "flow")
OFF = {"eta": 1.0, "momentum": 0.0, "threshold": 0.0}


def clean_by_hand(kind: str, at: Step, out: torch.Tensor) -> torch.Tensor:
    a, b = at.signal, at.noise
    return {
        "epsilon": lambda: (at.x - b * out) / a,
        "v_prediction": lambda: a * at.x - b * out,
        "sample": lambda: out,
        "flow": lambda: at.x - b * out,
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_forward_process(kind: Any) -> None:
    """Made from a known clean image and noise, each kind of prediction leads back to the image, and from it."""
    at = step(kind)
    image = torch.randn(at.x.shape, generator=seeded(7), dtype=torch.float64)
    a, b = at.signal, at.noise
    noise = (at.x - a * image) / b
    truth = {"epsilon": noise, "v_prediction": a * noise - b * image, "sample": image, "flow": noise - image}[
        kind
    ]
    torch.testing.assert_close(at.clean(truth), image, rtol=0, atol=1e-12)
    torch.testing.assert_close(at.prediction(image), truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equations_step_by_step(kind: Any) -> None:
    rule, moved = APG(scale=6.0, eta=0.25, momentum=-0.6, threshold=5.0).guide(), 0.0
    for i in range(3):
        at = step(kind, seed=i, share=0.2 + 0.2 * i)
        told, null = pair(10 + i)
        guided = rule(told, null, at)
        for n in range(3):
            one = Step(at.x[n], at.signal, at.noise, kind)
            full, none = (clean_by_hand(kind, one, out[n]) for out in (told, null))
            if n == 0:
                before = moved if isinstance(moved, list) else [0.0] * 3
                moved = list(before)
            d = full - none - 0.6 * before[n]
            moved[n] = d
            d = d * min(1.0, 5.0 / float(d.flatten().norm()))
            along = float(d.flatten() @ full.flatten()) / float(full.flatten() @ full.flatten()) * full
            expected = full + 5.0 * (d - along + 0.25 * along)
            torch.testing.assert_close(one.clean(guided[n]), expected, rtol=0, atol=1e-9)
    assert all(0 <= share <= 1 for share in rule.capped)  # type: ignore[attr-defined]
    assert len(rule.lengths) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", ["clean", "prediction"])
def test_is_classifier_free_guidance_with_everything_off(kind: Any, space: Any) -> None:
    told, null = pair()
    at = step(kind)
    got = APG(scale=6.0, space=space, **OFF).guide()(told, null, at)
    torch.testing.assert_close(got, CFG(scale=6.0).guide()(told, null, at), rtol=0, atol=1e-9)


def test_what_is_added_is_orthogonal_to_the_image() -> None:
    told, null = pair()
    at = step()
    added = at.clean(APG(scale=3.0, momentum=0.0).guide()(told, null, at)) - at.clean(told)
    image = at.clean(told)
    cosine = (added * image).sum((1, 2, 3)) / added.flatten(1).norm(dim=1) / image.flatten(1).norm(dim=1)
    assert float(cosine.abs().max()) < 1e-10
    assert float(added.norm()) > 1


def test_per_channel_measures_each_channel_alone() -> None:
    told, null = pair()
    at = step()
    whole = at.clean(APG(scale=3.0, momentum=0.0, threshold=2.0, per_channel=True).guide()(told, null, at))
    parts = [
        Step(at.x[:, c : c + 1], at.signal, at.noise, "epsilon").clean(
            APG(scale=3.0, momentum=0.0, threshold=2.0).guide()(
                told[:, c : c + 1],
                null[:, c : c + 1],
                Step(at.x[:, c : c + 1], at.signal, at.noise, "epsilon"),
            )
        )
        for c in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(parts, 1), rtol=0, atol=1e-9)


def test_equals_diffusers_on_clean_images() -> None:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    rule, buffer = APG(scale=7.0, momentum=-0.5, threshold=4.0).guide(), MomentumBuffer(-0.5)
    for i in range(3):
        at, (told, null) = step(seed=i), pair(i)
        theirs = normalized_guidance(at.clean(told), at.clean(null), 6.0, buffer, 0.0, 4.0, True)
        torch.testing.assert_close(at.clean(rule(told, null, at)), theirs, rtol=0, atol=1e-9)


def test_zeros_are_guarded_and_half_precision_does_not_overflow() -> None:
    at = step("sample")
    zero = torch.zeros_like(at.x)
    assert torch.equal(APG().guide()(zero, zero, at), zero)
    told, null = pair()
    kept = APG(scale=2.0, momentum=0.0, threshold=0.0).guide()(zero, null, at)
    torch.testing.assert_close(kept, -null)
    large = torch.full((1, 4, 200, 200), 300.0, dtype=torch.float16)
    out = APG(threshold=10.0).guide()(large, -large, Step(large, 0.5, 0.5, "sample"))
    assert out.dtype == torch.float16
    assert bool(out.isfinite().all())


def test_start_and_stop_leave_the_other_steps_to_the_prompt() -> None:
    told, null = pair()
    guided = [
        not torch.equal(APG(start=0.25, stop=0.75).guide()(told, null, step(index=i, count=8)), told)
        for i in range(8)
    ]
    assert guided == [False, False, True, True, True, True, False, False]


def test_a_clock_knows_when_a_generation_begins() -> None:
    def begins(*indices: int, repeated: bool = False) -> list[bool]:
        clock = Clock()
        return [clock.begins(step(index=i), repeated) for i in indices]

    assert begins(0, 1, 2, 0, 1) == [True, False, False, True, False]
    assert begins(3, 3) == [True, True]
    assert begins(3, 3, repeated=True) == [True, False]
    clock = Clock()
    assert [clock.begins(step(index=0)), clock.begins(step(index=1, n=2))] == [True, True]


@pytest.mark.parametrize("kind", ["sd", "sd-v", "sdxl", "sd3", "pixart"])
def test_steers_pipelines_of_diffusers(kind: Any) -> None:
    """With everything off it draws what the pipeline's own guidance draws; on, something else; hooks are gone after."""
    made = pipe(kind)
    own = drawn(made)
    with steered(made, APG(scale=6.0, **OFF)) as rules:
        same = drawn(made, guidance_scale=2.0)
        drawn(made, guidance_scale=2.0)
    assert len(rules) == 2, "each generation has a rule of its own"
    assert len(rules[0].lengths) >= 4  # type: ignore[attr-defined]
    torch.testing.assert_close(same, own, rtol=1e-3, atol=1e-4)
    with steered(made, APG(scale=6.0, threshold=0.0)):
        other = drawn(made, guidance_scale=2.0)
    assert float((other - own).abs().max()) > 1e-3
    assert torch.equal(drawn(made), own)


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"]
)
def test_reads_the_levels_of_other_schedulers(name: str) -> None:
    """What the scheduler itself adds to a clean image, scaled as its denoiser reads it, is signal x_0 + noise e."""
    import diffusers

    more = {} if "Heun" in name else {"use_karras_sigmas": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' arrays against the newest numpy
        scheduler = getattr(diffusers, name)(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more
        )
        scheduler.set_timesteps(7)
    t = scheduler.timesteps[3]
    clean, noise = (torch.randn(2, 4, 3, 3, generator=seeded(i)) for i in range(2))
    noisy = scheduler.add_noise(clean, noise, t.reshape(1))
    at = step_at(scheduler, scheduler.scale_model_input(noisy, t), t)
    torch.testing.assert_close(at.x, at.signal * clean + at.noise * noise, rtol=1e-4, atol=1e-4)
    assert at.signal**2 + at.noise**2 == pytest.approx(1)


def test_fills_the_place_of_a_guider_in_modular_pipelines() -> None:
    from diffusers import ModularPipeline
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    made, own = pipe("sdxl"), None
    modular: ModularPipeline = StableDiffusionXLAutoBlocks().init_pipeline()
    modular.update_components(**{n: part for n, part in made.components.items() if part is not None})
    modular.set_progress_bar_config(disable=True)

    def images() -> torch.Tensor:
        return modular(
            prompt=PROMPT, num_inference_steps=3, generator=seeded(0), height=16, width=16, output_type="latent",
            output="latents",
        )  # fmt: skip

    from diffusers import ClassifierFreeGuidance

    modular.update_components(guider=ClassifierFreeGuidance(guidance_scale=6.0))
    own = images()
    guider = as_guider(APG(scale=6.0, **OFF), made.scheduler)
    modular.update_components(guider=guider)
    torch.testing.assert_close(images(), own, rtol=1e-3, atol=1e-4)
    images()
    assert len(guider.rules) == 2
    assert [len(rule.lengths) for rule in guider.rules] == [3, 3]
    modular.update_components(guider=as_guider(APG(scale=6.0), made.scheduler))
    assert float((images() - own).abs().max()) > 1e-3


def test_our_own_pipelines_draw_with_it() -> None:
    from tests.erase.pipelines import pipeline

    model, prompts = pipeline("sd"), ["a photo of a cat", "a red church"]
    own = model.sample(prompts, steps=3, guidance=6.0, rng=seeded(1), decode=False)
    rules = [CFG(scale=6.0), APG(scale=6.0, **OFF)]
    for rule in rules:
        got = draw(model, prompts, guidance=rule, steps=3, rng=seeded(1), decode=False)
        torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-4)
    plain = model.sample(prompts, steps=3, guidance=1.0, rng=seeded(1))
    assert torch.equal(draw(model, prompts, guidance=CFG(scale=1.0), steps=3, rng=seeded(1)), plain)


def test_refuses_what_it_does_not_know() -> None:
    from diffusers import EDMEulerScheduler

    for bad, pattern in (
        ({"eta": 1.5}, "eta must be"), ({"momentum": 0.5}, "momentum must be"), ({"threshold": -1.0}, "threshold"),
        ({"scale": 0.5}, "scale must be"), ({"stop": 0.0}, "stop"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=pattern):
            APG(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="built into the weights"), steered(pipe("flux"), APG()):
        pass
    with pytest.raises(InputError, match="has no unet or transformer"), steered(object(), APG()):
        pass
    with pytest.raises(InputError, match="guidance_scale above 1"), steered(pipe("sd"), APG()):
        drawn(pipe("sd"), guidance_scale=1.0)
    with pytest.raises(InputError, match="neither alphas_cumprod"):
        as_guider(APG(), EDMEulerScheduler())
    with pytest.raises(InputError, match="which is none of the"):
        step_at(pipe("sd").scheduler, torch.zeros(1, 4, 2, 2), 7)
    with pytest.raises(InputError, match="no signal"):
        Step(torch.zeros(1), 0.0, 1.0, "epsilon").clean(torch.zeros(1))
