"""AGD: nothing changes before training or outside the block, the equation, what is learnt, the files, the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.erase.pipelines import pipeline
from tests.generate.worlds import drawn, pipe
from unweave import seeded
from unweave.errors import InputError, IntegrityError
from unweave.generate import AGD, CFG, Adapters, adapted, draw
from unweave.models.text_to_image import TextToImage
from unweave.random import global_seed

PROMPTS = ["a photo of a cat", "a red church"]
SMALL = AGD(width=16, high=4.0, trajectories=4, sampler_steps=3, steps=3, batch_size=4, lr=1e-3)


def fresh(model: TextToImage, kind: Any = "attention") -> Adapters:
    with global_seed(0):
        return Adapters.beside(model, kind, 8, (1.0, 4.0)).eval()


def woken(model: TextToImage, kind: Any = "attention") -> Adapters:
    made = fresh(model, kind)
    with torch.no_grad(), global_seed(1):
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made


@pytest.mark.parametrize("kind", ["attention", "offset"])
@pytest.mark.parametrize("layout", ["sd", "sdxl", "pixart"])
def test_bits_are_the_bases_before_training_and_outside_the_block(kind: Any, layout: Any) -> None:
    model = pipeline(layout)
    x, text = torch.randn(2, *model.shape, generator=seeded(1)), model.encode(PROMPTS)
    with torch.no_grad():
        own = model(x, 300, text)
        with adapted(model.denoiser, fresh(model, kind), 3.0):
            assert torch.equal(model(x, 300, text), own)
        adapters = woken(model, kind)
        with adapted(model.denoiser, adapters, 3.0):
            three, again = model(x, 300, text), model(x, 300, text)
        with adapted(model.denoiser, adapters, torch.tensor([3.0, 2.0])):
            each = model(x, 300, text)
        assert torch.equal(model(x, 300, text), own)
    assert torch.equal(three, again)
    assert not torch.equal(three, own)
    torch.testing.assert_close(each[0], three[0], rtol=1e-4, atol=1e-5)
    assert float((each[1] - three[1]).abs().max()) > 1e-6, "the scale is read"


def test_reads_the_time_anew_at_every_pass() -> None:
    """Only the adapters' own answers are compared: an old time would leave them as they were."""
    model, adapters = pipeline("sd"), woken(pipeline("sd"))
    x, text, seen = torch.randn(1, *model.shape, generator=seeded(1)), model.encode(PROMPTS[:1]), []
    first = next(iter(adapters.beside_.values()))
    handle = first.register_forward_hook(lambda _m, args, _out: seen.append(float(args[2][0])))
    with torch.no_grad(), adapted(model.denoiser, adapters, 3.0):
        for t in (500, 20):
            model(x, t, text)
    handle.remove()
    assert seen == pytest.approx([0.5, 0.02])


def test_pairs_are_what_the_guided_sampler_visits() -> None:
    model = pipeline("sd")
    text = model.encode(PROMPTS)
    x, goal, t, w, rows = SMALL.trajectories_of(model, text, seeded(0))
    times = model.sampler(3).timesteps.tolist()
    assert t.tolist() == [s for s in times for _ in range(4)]
    null = model.encode([""])
    assert bool(((w >= 1) & (w <= 4)).all())
    with torch.no_grad():
        for i in (1, 6, 11):
            told, none = (
                model(x[i : i + 1], int(t[i]), text[[int(rows[i])]]),
                model(x[i : i + 1], int(t[i]), null),
            )
            expected = none.double() + float(w[i]) * (told.double() - none.double())
            torch.testing.assert_close(goal[i : i + 1].double(), expected, rtol=1e-3, atol=1e-4)
        one = int(w.shape[0] / 3)
        last = draw(
            model,
            [PROMPTS[int(rows[0])]],
            guidance=CFG(scale=float(w[0])),
            steps=3,
            noise=x[:1],
            decode=False,
        )
        sampler = model.sampler(3)
        ended = sampler.step(goal[2 * one : 2 * one + 1], times[-1], x[2 * one : 2 * one + 1]).prev_sample
        torch.testing.assert_close(ended, last, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_learns_the_guided_prediction_and_draws_in_one_pass(tmp_path: Path) -> None:
    model = pipeline("sd")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    method = AGD(
        width=32, low=3.0, high=8.0, trajectories=4, sampler_steps=2, steps=120, batch_size=8, lr=1e-2
    )
    adapters = method.apply(model, PROMPTS, rng=seeded(0))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.denoiser.parameters())
    with torch.no_grad():
        text = model.encode(PROMPTS)
        x, goal, t, w, rows = method.trajectories_of(model, text, seeded(0))
        own = model(x, t, text[rows])
        with adapted(model.denoiser, adapters, w):
            got = model(x, t, text[rows])
    assert float((got - goal).square().mean()) < 0.5 * float((own - goal).square().mean())
    adapters.save(tmp_path / "agd")
    read = Adapters.load(tmp_path / "agd")
    with torch.no_grad(), adapted(model.denoiser, read, w):
        assert torch.equal(model(x, t, text[rows]), got), "frequencies are stored too"
    assert json.loads((tmp_path / "agd" / "adapter_config.json").read_text())["peft_type"] == "AGD"
    file = tmp_path / "agd" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="does not hold"):
        Adapters.load(tmp_path / "agd")


def test_pipelines_of_diffusers_draw_with_them() -> None:
    made = pipe("sd")
    own = drawn(made, guidance_scale=1.0)
    with adapted(made.unet, woken(pipeline("sd")), 3.0):
        assert float((drawn(made, guidance_scale=1.0) - own).abs().max()) > 1e-4
    assert torch.equal(drawn(made, guidance_scale=1.0), own)


def test_refuses_what_would_be_wrong(tmp_path: Path) -> None:
    model = pipeline("sd")
    adapters = fresh(model)
    with pytest.raises(InputError, match="does not nest"), adapted(model.denoiser, adapters, 2.0):
        adapted(model.denoiser, adapters, 2.0).__enter__()
    assert not adapters.active
    with (
        pytest.warns(UserWarning, match="trained for scales of 1 to 4"),
        adapted(model.denoiser, adapters, 9.0),
    ):
        pass
    with pytest.raises(InputError, match="another kind of denoiser"):
        adapted(pipeline("pixart").denoiser, adapters, 2.0).__enter__()
    x, text = torch.randn(2, *model.shape, generator=seeded(1)), model.encode(PROMPTS)
    with (
        pytest.raises(InputError, match="3 scales for 2 images"),
        adapted(model.denoiser, adapters, torch.ones(3)),
    ):
        model(x, 300, text)
    with pytest.raises(InputError, match="low must be below high"):
        AGD(low=5.0, high=2.0)
    with pytest.raises(InputError, match="at least one prompt"):
        SMALL.apply(model, [], rng=seeded(0))
    with pytest.raises(InputError, match="the same with and without a prompt"):
        SMALL.apply(model, [""], rng=seeded(0))
    with pytest.raises(InputError, match="holds no adapter_config"):
        Adapters.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="of another kind"):
        Adapters.load(tmp_path)
