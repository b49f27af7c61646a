from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.erase.first_step import follows
from tests.erase.pipelines import CONCEPTS, pipeline
from tests.erase.test_esd import named, telling
from unweave import seeded
from unweave.erase import ConceptAblation
from unweave.errors import InputError
from unweave.random import draw_seed, global_seed

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
ONE = ConceptAblation(steps=1, lr=1e-4, batch_size=2, images=6, sampler_steps=3, guidance=2.0)


@pytest.mark.parametrize("kind", ["sd", "pixart"])
@pytest.mark.parametrize(("target", "prior"), [("model", 0.0), ("model", 0.7), ("noise", 0.0)])
def test_the_first_step_follows_the_equations(kind, target, prior) -> None:
    model, rng = pipeline(kind), seeded(3)
    edited = replace(ONE, target=target, prior=prior).apply(model, ASKED, rng=seeded(3))
    olds = [p for c in ASKED.erase for p in ASKED.prompts(c)]
    news = [p for c in ASKED.erase for p in ASKED.guide_prompts(c)]
    drawn = [news[i % 4] for i in range(6)]
    images = model.sample(drawn, steps=3, guidance=2.0, noise=model.noise(6, rng), decode=False).double()

    def loss(wide):
        at, noise = torch.randint(6, (2,)), torch.randn(2, *model.shape).double()
        times = torch.randint(1000, (2,))
        total = 0.0
        for i, row in enumerate(at.tolist()):
            a = model.alphas_cumprod[times[i]]
            x = a.sqrt() * images[row : row + 1] + (1 - a).sqrt() * noise[i : i + 1]
            t = int(times[i])
            asked, anchor = (wide.encode([p[row % 4]]).detach() for p in (olds, news))
            goal = noise[i : i + 1] if target == "noise" else wide(x, t, anchor).detach()
            total = total + (wide(x, t, asked) - goal).square().mean() / 2
            total = total + prior * (wide(x, t, anchor) - noise[i : i + 1]).square().mean() / 2
        return total

    assert follows(model, edited, rng, loss, named(model, "cross_kv")) > 0.99


@pytest.mark.parametrize(
    "how",
    [
        {"teacher": "current", "prior": 0.7},
        {"teacher": "original"},
        {"target": "noise", "prior": 0.3, "train": "cross"},
    ],
    ids=str,
)
def test_training_follows_the_equations(how) -> None:
    model = telling("pixart").double()
    method = replace(ONE, steps=3, lr=1e-3, **how)
    edited, rng = method.apply(model, ASKED, rng=seeded(3)), seeded(3)
    olds, news = ASKED.prompts(*ASKED.erase), ASKED.guide_prompts(*ASKED.erase)
    drawn = [news[i % 4] for i in range(6)]
    images = model.sample(drawn, steps=3, guidance=2.0, noise=model.noise(6, rng), decode=False)
    live = model.editable()
    live.denoiser.requires_grad_(True)
    moves = named(model, method.train)
    weights = [p for n, p in live.named_parameters() if n in moves]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    teacher = model if method.teacher == "original" else live
    with global_seed(draw_seed(rng)):
        for _ in range(3):
            at, noise = torch.randint(6, (2,)), torch.randn(2, *model.shape).double()
            times, total = torch.randint(1000, (2,)), 0.0
            for i, row in enumerate(at.tolist()):
                a, t = model.alphas_cumprod[times[i]], int(times[i])
                x = a.sqrt() * images[row : row + 1] + (1 - a).sqrt() * noise[i : i + 1]
                told, anchor = (model.encode([p[row % 4]]).detach() for p in (olds, news))
                goal = noise[i : i + 1] if method.target == "noise" else teacher(x, t, anchor).detach()
                total = total + (live(x, t, told) - goal).square().mean() / 2
                total = total + method.prior * (live(x, t, anchor) - noise[i : i + 1]).square().mean() / 2
            for p, g in zip(weights, torch.autograd.grad(total, weights), strict=True):
                p.grad = g
            optimizer.step()
    for name, expected in live.named_parameters():
        value, before = edited.get_parameter(name).detach(), model.get_parameter(name).detach()
        assert torch.allclose(value, expected.detach(), rtol=0, atol=1e-9), name
        assert (name in moves) == bool((value != before).any())


@pytest.mark.slow
def test_the_concept_answers_as_its_guide_did() -> None:
    model, asked = telling(), ASKED.only("cat")
    method = ConceptAblation(
        steps=150, lr=1e-3, batch_size=8, images=8, sampler_steps=3, train="cross", teacher="original"
    )
    edited = method.apply(model, asked, rng=seeded(0))
    x = model.noise(16, seeded(9))
    with torch.no_grad():
        cat, bird = (model.encode([f"a photo of a {w}"]) for w in ("cat", "bird"))
        goal = model(x, 700, bird)
        gap, before = ((m(x, 700, cat) - goal).square().mean() for m in (edited, model))
    assert float(gap) < 0.5 * float(before)


def test_a_velocity_is_the_truth_where_one_is_predicted() -> None:
    model = pipeline()
    model.scheduler.register_to_config(prediction_type="v_prediction")
    clean, noise, t = model.noise(2, seeded(0)), model.noise(2, seeded(1)), torch.tensor([10, 900])
    x, v = model.add_noise(clean, noise, t), model.truth(clean, noise, t)
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1).float()
    assert torch.allclose(a.sqrt() * x - (1 - a).sqrt() * v, clean, atol=1e-5)
    assert torch.allclose((1 - a).sqrt() * x + a.sqrt() * v, noise, atol=1e-5)


def test_refuses() -> None:
    with pytest.raises(InputError, match="teacher=.* would do nothing with target='noise'"):
        ConceptAblation(target="noise", teacher="original")
    with pytest.raises(InputError, match="images must be a whole number at least 1"):
        ConceptAblation(images=0)
    with pytest.raises(InputError, match="prior must be at least 0"):
        ConceptAblation(prior=-1)
