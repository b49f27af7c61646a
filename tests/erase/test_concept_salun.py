from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.erase.first_step import follows
from tests.erase.pipelines import CONCEPTS, pipeline
from tests.erase.test_esd import named, telling
from unweave import seeded
from unweave.erase import ConceptSalUn
from unweave.errors import InputError
from unweave.random import draw_seed, global_seed

SMALL = ConceptSalUn(steps=1, lr=1e-4, batch_size=2, images=4, sampler_steps=3, guidance=2.0)
OLDS = CONCEPTS.prompts(*CONCEPTS.erase)
KEPT = CONCEPTS.prompts(*CONCEPTS.preserve)


def drawn(model, prompts, rng):
    noise = model.noise(len(prompts), rng)
    return model.sample(prompts, steps=3, guidance=2.0, noise=noise, decode=False)


def test_the_mask_holds_the_largest_summed_gradients() -> None:
    model, method = pipeline(), replace(SMALL, density=0.3)
    images, text, null = (
        drawn(model, OLDS, seeded(1)),
        model.encode(OLDS).detach(),
        model.encode([""]).detach(),
    )
    mask = method.mask(model, images, text, null, rng=seeded(2))
    assert mask.count() == round(0.3 * mask.size())
    wide = model.editable("denoiser", "text_encoder").double().requires_grad_(True)
    with global_seed(draw_seed(seeded(2))):
        for low in (0, 2):
            times, noise = torch.randint(1000, (2,)), torch.randn(2, *model.shape).double()
            for i in range(2):
                a, t = model.alphas_cumprod[times[i]], int(times[i])
                x = a.sqrt() * images[low + i : low + i + 1] + (1 - a).sqrt() * noise[i : i + 1]
                prompt, empty = (wide.encode([p]).detach() for p in (OLDS[low + i], ""))
                answer = 8.5 * wide(x, t, prompt) - 7.5 * wide(x, t, empty)
                (noise[i : i + 1] - answer).square().mean().backward()
    naive = {n: p.grad.abs() for n, p in wide.named_parameters() if n in mask.keep and p.grad is not None}
    least = min(float(g[mask.keep[n]].min()) for n, g in naive.items() if mask.keep[n].any())
    most = max(float(g[~mask.keep[n]].max()) for n, g in naive.items() if not mask.keep[n].all())
    assert most == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("wrong", ["next", "guide"])
def test_the_first_step_follows_the_equation_inside_the_mask(wrong) -> None:
    asked = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
    model, rng = pipeline(), seeded(3)
    edited = replace(SMALL, wrong=wrong, density=1.0, beta=0.3).apply(model, asked, rng=seeded(3))
    gone, stay = drawn(model, OLDS, rng).double(), drawn(model, KEPT, rng).double()
    draw_seed(rng)  # the mask's
    others = {"next": ["dog", "church"], "guide": ["bird", "table"]}[wrong]
    news = [p for c in others for p in asked.prompts(c)]

    def loss(wide):
        total = 0.0
        at, times = torch.randint(4, (2,)), torch.randint(1000, (2,))
        noise = torch.randn(2, *model.shape).double()
        for i, row in enumerate(at.tolist()):
            a, t = model.alphas_cumprod[times[i]], int(times[i])
            x = a.sqrt() * gone[row : row + 1] + (1 - a).sqrt() * noise[i : i + 1]
            told, other = (wide.encode([p[row]]).detach() for p in (OLDS, news))
            total = total + (wide(x, t, told) - wide(x, t, other).detach()).square().mean() / 2
        at, times = torch.randint(4, (2,)), torch.randint(1000, (2,))
        noise = torch.randn(2, *model.shape).double()
        for i, row in enumerate(at.tolist()):
            a, t = model.alphas_cumprod[times[i]], int(times[i])
            x = a.sqrt() * stay[row : row + 1] + (1 - a).sqrt() * noise[i : i + 1]
            answer = wide(x, t, wide.encode([KEPT[row]]).detach())
            total = total + 0.3 * (answer - noise[i : i + 1]).square().mean() / 2
        return total

    names = {n for n, _ in model.named_parameters() if n.startswith("denoiser.")}
    assert follows(model, edited, rng, loss, names) > 0.99


@pytest.mark.parametrize("how", [{}, {"teacher": "original", "train": "cross"}], ids=str)
def test_training_follows_the_equations_inside_the_mask(how) -> None:
    model = telling("pixart").double()
    method = replace(SMALL, steps=3, lr=1e-3, density=0.3, beta=0.4, **how)
    edited, rng = method.apply(model, CONCEPTS, rng=seeded(3)), seeded(3)
    gone, stay = drawn(model, OLDS, rng), drawn(model, KEPT, rng)
    with torch.no_grad():
        mask = method.mask(model, gone, model.encode(OLDS), model.encode([""]), rng=rng)
    news = CONCEPTS.prompts("dog", "church")
    live = model.editable()
    live.denoiser.requires_grad_(True)
    weights = {n: p for n, p in live.named_parameters() if n in mask.keep}
    assert set(weights) == named(model, method.train)
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    teacher = model if method.teacher == "original" else live
    with global_seed(draw_seed(rng)):
        for _ in range(3):
            total = 0.0
            for images, forgetting in ((gone, True), (stay, False)):
                at, times = torch.randint(4, (2,)), torch.randint(1000, (2,))
                noise = torch.randn(2, *model.shape).double()
                for i, row in enumerate(at.tolist()):
                    a, t = model.alphas_cumprod[times[i]], int(times[i])
                    x = a.sqrt() * images[row : row + 1] + (1 - a).sqrt() * noise[i : i + 1]
                    told, other, kept = (model.encode([p[row]]).detach() for p in (OLDS, news, KEPT))
                    if forgetting:
                        total = total + (live(x, t, told) - teacher(x, t, other).detach()).square().mean() / 2
                    else:
                        total = total + 0.4 * (live(x, t, kept) - noise[i : i + 1]).square().mean() / 2
            found = torch.autograd.grad(total, list(weights.values()))
            for (name, p), g in zip(weights.items(), found, strict=True):
                p.grad = g * mask.keep[name]
            optimizer.step()
    for name, expected in live.named_parameters():
        assert torch.allclose(edited.get_parameter(name), expected, rtol=0, atol=1e-9), name
    assert mask.count() == round(0.3 * mask.size())


def test_concepts_go_to_the_preserved_ones_in_turn() -> None:
    asked = replace(CONCEPTS, erase=("cat", "golf ball", "bird"), templates=("a {}", "the {}"), bases=())
    words = ConceptSalUn()._wrong_prompts(asked)
    assert words == ["a dog", "the dog", "a church", "the church", "a dog", "the dog"]


def test_without_preserved_concepts_the_guides_are_kept(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(
        "unweave.erase._train.draw_latents",
        lambda model, prompts, **how: told.append(prompts) or model.noise(len(prompts), seeded(0)),
    )
    asked = replace(CONCEPTS, preserve=(), guide="bird")
    replace(SMALL, wrong="guide").apply(pipeline("pixart"), asked, rng=seeded(0))
    assert told == [OLDS, asked.guide_prompts(*asked.erase)]


def test_off_the_mask_nothing_moves() -> None:
    model, method = pipeline(), replace(SMALL, steps=5, density=0.2)
    edited = method.apply(model, CONCEPTS, rng=seeded(4))
    before = dict(model.named_parameters())
    moved = {n: p != before[n] for n, p in edited.named_parameters() if n.startswith("denoiser.")}
    share = sum(int(m.sum()) for m in moved.values()) / sum(m.numel() for m in moved.values())
    assert 0.1 < share < 0.2001  # exactly round(0.2 * weights) may move


def test_refuses() -> None:
    with pytest.raises(InputError, match="density must be above 0 and at most 1"):
        ConceptSalUn(density=1.5)
    with pytest.raises(InputError, match="beta must be above 0"):
        ConceptSalUn(beta=0)
    with pytest.raises(InputError, match="none is preserved"):
        ConceptSalUn().apply(pipeline(), replace(CONCEPTS, preserve=()), rng=seeded(0))
