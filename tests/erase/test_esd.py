from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.erase.first_step import follows
from tests.erase.pipelines import CONCEPTS, KINDS, pipeline
from unweave import Mask, seeded
from unweave.erase import ESD
from unweave.errors import InputError
from unweave.random import draw_seed, global_seed

ONE = ESD(steps=1, lr=1e-4, sampler_steps=4, batch_size=2)
PROMPTS = CONCEPTS.prompts(*CONCEPTS.erase)


def named(model, kind: str) -> set[str]:
    cross = {n for n, _ in model.named_parameters() if n.startswith("denoiser.") and "attn2" in n}
    everything = {n for n, _ in model.named_parameters() if n.startswith("denoiser.")}
    keys = {n for n in cross if "to_k" in n or "to_v" in n}
    return {"cross": cross, "cross_kv": keys, "not_cross": everything - cross, "all": everything}[kind]


def telling(kind="sd"):
    """A pipeline whose prompts matter: random weights hardly read them."""
    model = pipeline(kind)
    with torch.no_grad():
        for layer in model.linears("cross_kv").values():
            layer.weight.mul_(20)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", ["cross", "cross_kv", "not_cross", "all"])
def test_the_first_step_follows_equation_6(kind, train) -> None:
    model, method = pipeline(kind), replace(ONE, train=train, eta=1.5)
    edited = method.apply(model, CONCEPTS, rng=seeded(3))

    def loss(wide):
        at, stop = torch.randint(4, (2,)), int(torch.randint(4, (1,)))
        x = torch.randn(2, *model.shape).double()
        sampler = model.sampler(4)
        total = 0.0
        for i, row in enumerate(at.tolist()):
            own = x[i : i + 1]
            prompt, null = wide.encode([PROMPTS[row]]).detach(), wide.encode([""]).detach()
            with torch.no_grad():
                for t in sampler.timesteps[:stop].tolist():
                    none, told = wide(own, t, null), wide(own, t, prompt)
                    own = sampler.step(none + 3.0 * (told - none), t, own).prev_sample
                t = int(sampler.timesteps[stop])
                none, told = wide(own, t, null), wide(own, t, prompt)
                goal = none - 1.5 * (told - none)
            total = total + (wide(own, t, prompt) - goal).square().mean() / 2
        return total

    share = follows(model, edited, seeded(3), loss, named(model, train))
    assert share > 0.99  # float32 rounds some gradients near 1e-6


@pytest.mark.parametrize("how", [{}, {"erase_from": True, "train": "cross_kv"}], ids=str)
def test_training_follows_equation_6(how) -> None:
    asked = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
    model, method = telling("pixart").double(), replace(ONE, steps=3, lr=1e-3, eta=1.5, guidance=2.0, **how)
    edited, rng = method.apply(model, asked, rng=seeded(3)), seeded(3)
    guides = asked.guide_prompts(*asked.erase)
    live = model.editable()
    live.denoiser.requires_grad_(True)
    weights = [p for n, p in live.named_parameters() if n in named(model, method.train)]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    with global_seed(draw_seed(rng)):
        for _ in range(3):
            at, stop = torch.randint(4, (2,)), int(torch.randint(4, (1,)))
            noise, total = torch.randn(2, *model.shape).double(), 0.0
            for i, row in enumerate(at.tolist()):
                prompt, null = model.encode([PROMPTS[row]]).detach(), model.encode([""]).detach()
                begin = model.encode([guides[row]]).detach() if method.erase_from else null
                led = guides[row] if method.erase_from else PROMPTS[row]  # drawn and trained under it
                x = model.sample(
                    [led], steps=4, guidance=2.0, noise=noise[i : i + 1], stop=stop, decode=False
                )
                t = int(model.sampler(4).timesteps[stop])
                with torch.no_grad():
                    goal = model(x, t, begin) - 1.5 * (model(x, t, prompt) - model(x, t, null))
                total = total + (live(x, t, model.encode([led]).detach()) - goal).square().mean() / 2
            for p, g in zip(weights, torch.autograd.grad(total, weights), strict=True):
                p.grad = g
            optimizer.step()
    for name, expected in live.named_parameters():
        assert torch.allclose(edited.get_parameter(name), expected, rtol=0, atol=1e-9), name


def test_erasing_from_a_guide_starts_at_its_prediction() -> None:
    model, method = pipeline(), ESD(erase_from=True, eta=2.0)
    x = model.noise(2, seeded(0))
    with torch.no_grad():
        asked, start, null = model.encode(["a cat"] * 2), model.encode(["a dog"] * 2), model.encode([""])
        goal = method.target(model, x, 500, asked, start, null)
        expected = model(x, 500, start) - 2 * (model(x, 500, asked) - model(x, 500, null))
    assert torch.allclose(goal, expected)
    assert not torch.allclose(goal, ESD(eta=2.0).target(model, x, 500, asked, start, null))


@pytest.mark.slow
def test_training_lowers_its_loss() -> None:
    model = telling()

    def error(edited) -> float:
        x, asked, null = model.noise(16, seeded(5)), model.encode(PROMPTS[:1]), model.encode([""])
        with torch.no_grad():
            goal = ESD().target(model, x, 750, asked, null, null)
            return float((edited(x, 750, asked) - goal).square().mean())

    method = ESD(steps=60, lr=3e-3, batch_size=4, sampler_steps=4)
    assert error(method.apply(model, CONCEPTS.only("cat"), rng=seeded(0))) < 0.5 * error(model)


def test_pruned_weights_stay_pruned() -> None:
    model = pipeline()
    with torch.no_grad():
        weight = model.linears("cross_kv")["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"].weight
        weight[::2] = 0
    edited = replace(ONE, steps=3).apply(model, CONCEPTS, rng=seeded(0))
    name = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(Mask.of(edited).keep[name], Mask.of(model).keep[name])
    assert not torch.equal(edited.get_parameter(name), model.get_parameter(name))


def test_refuses() -> None:
    with pytest.raises(InputError, match="lr must be above 0"):
        ESD(lr=0)
    with pytest.raises(InputError, match="sampler_steps must be a whole number at least 1"):
        ESD(sampler_steps=0)
    with pytest.raises(InputError, match="needs a guide for every concept"):
        ESD(erase_from=True).apply(pipeline(), CONCEPTS, rng=seeded(0))
