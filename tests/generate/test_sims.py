"""SIMS: the line that extrapolates, the copy's training, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from tests.erase.pipelines import pipeline
from tests.generate.worlds import drawn, pipe
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import CFG, SIMS, Pictures, draw, extrapolated
from unweave.models.text_to_image import TextToImage

PROMPTS = ["a photo of a cat", "a red church"]
SMALL = SIMS(samples=6, sampler_steps=3, steps=4, batch_size=4, lr=1e-2)


@pytest.fixture(scope="module")
def both() -> tuple[TextToImage, TextToImage]:
    model = pipeline("sd")
    return model, SMALL.apply(model, PROMPTS, rng=seeded(0))


def test_predicts_the_line_through_both(both: tuple[TextToImage, TextToImage]) -> None:
    model, copy = both
    x, text = torch.randn(2, *model.shape, generator=seeded(1)), model.encode(PROMPTS)
    with torch.no_grad():
        r, s = model(x, 300, text).double(), copy(x, 300, text).double()
        with extrapolated(model.denoiser, copy.denoiser, 0.6):
            got = model(x, 300, text)
        torch.testing.assert_close(got.double(), 1.6 * r - 0.6 * s, rtol=0, atol=1e-5)
        with pytest.warns(UserWarning, match="below 0"), extrapolated(model.denoiser, copy.denoiser, -1.0):
            torch.testing.assert_close(model(x, 300, text).double(), s, rtol=0, atol=1e-5)
        assert torch.equal(model(x, 300, text).double(), r)


def test_guiding_first_and_extrapolating_after_is_the_same(both: tuple[TextToImage, TextToImage]) -> None:
    model, copy = both
    x, t, text, null = (
        torch.randn(2, *model.shape, generator=seeded(1)),
        300,
        model.encode(PROMPTS),
        model.encode([""]),
    )
    with torch.no_grad():
        each = [m.guided(x, t, text, null, 4.0) for m in (model, copy)]
        with extrapolated(model.denoiser, copy.denoiser, 0.6):
            inside = model.guided(x, t, text, null, 4.0)
    torch.testing.assert_close(inside, 1.6 * each[0] - 0.6 * each[1], rtol=1e-4, atol=1e-4)


def test_pipelines_of_diffusers_and_flows_draw_with_it() -> None:
    for kind in ("sd", "sd3"):
        made: Any = pipe(kind)
        denoiser = made.unet if kind == "sd" else made.transformer
        other = deepcopy(denoiser)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(1.05)
        own = drawn(made)
        with extrapolated(denoiser, other, 0.5):
            assert float((drawn(made) - own).abs().max()) > 1e-4
        assert torch.equal(drawn(made), own)


def test_trains_on_the_models_own_pictures_alone(both: tuple[TextToImage, TextToImage]) -> None:
    model, copy = both
    own = Pictures.drawn(model, PROMPTS, 6, rng=seeded(0), steps=3)
    again = draw(model, PROMPTS * 3, guidance=CFG(scale=1.0), steps=3, rng=seeded(0), decode=False)
    assert torch.equal(own.latents, again)
    assert list(own.prompts) == PROMPTS * 3
    assert copy.text_encoder is model.text_encoder
    moved = [
        not torch.equal(a, b)
        for a, b in zip(model.denoiser.parameters(), copy.denoiser.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2


def test_a_running_mean_lies_between_the_model_and_the_last_weights() -> None:
    model = pipeline("sd")
    last, mean = (
        SIMS(samples=4, sampler_steps=2, steps=1, batch_size=2, lr=1e-2, average=a).apply(
            model, PROMPTS, rng=seeded(0)
        )
        for a in (0.0, 0.75)
    )
    for a, b, c in zip(*(m.denoiser.parameters() for m in (model, last, mean)), strict=True):
        torch.testing.assert_close(c, a + 0.25 * (b - a), rtol=1e-4, atol=1e-6)


def test_half_precision_ends_as_it_began() -> None:
    model = pipeline("sd")
    half = model.editable()
    half.denoiser.to(torch.bfloat16)
    half.text_encoder.to(torch.bfloat16)
    copy = SMALL.apply(half, PROMPTS, rng=seeded(0))
    assert {p.dtype for p in copy.denoiser.parameters()} == {torch.bfloat16}


def test_refuses_what_would_do_nothing(both: tuple[TextToImage, TextToImage]) -> None:
    model, copy = both
    with pytest.raises(InputError, match="weight must be a number other than 0"):
        extrapolated(model.denoiser, copy.denoiser, 0.0).__enter__()
    with pytest.raises(InputError, match="has the weights of the denoiser itself"):
        extrapolated(model.denoiser, deepcopy(model.denoiser), 0.5).__enter__()
    with pytest.raises(InputError, match="at least one prompt"):
        SMALL.apply(model, [], rng=seeded(0))

    class Wrong(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return x[:, :1]

    x, text = torch.randn(2, *model.shape, generator=seeded(1)), model.encode(PROMPTS)
    with pytest.raises(InputError, match="the auxiliary answers"), extrapolated(model.denoiser, Wrong(), 0.5):
        model(x, 300, text)
