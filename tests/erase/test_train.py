"""The frame that the erasers train in, by hand and on a pipeline whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import erase, seeded
from unweave.erase import Concepts, Text
from unweave.erase._train import (
    Drawn,
    Earlier,
    Noised,
    denoised,
    distilled,
    draw_latents,
    editing,
    gradient_sums,
    widened,
)
from unweave.erase.concepts import remember_
from unweave.errors import InputError
from unweave.masks.mask import Mask
from unweave.models.text_to_image import train_steps_
from unweave.random import draw_seed, global_seed

PROMPTS = ["a cat", "a photo of a dog", "the park"]


def test_noised_by_hand() -> None:
    model = pipeline("pixart")
    latents = model.noise(5, seeded(0))
    drawn = Drawn(model, latents, model.encode(PROMPTS))
    at, t, noise = torch.tensor([4, 0]), torch.tensor([10, 900]), model.noise(2, seeded(1))
    seen = drawn.noised(at, t, noise)
    a = model.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    assert torch.allclose(seen.x, a.sqrt() * latents[at] + (1 - a).sqrt() * noise, atol=1e-6)
    assert seen.rows.tolist() == [1, 0]  # the fifth latent is the second round's second
    assert torch.equal(seen.truth, noise)
    assert torch.equal(seen.t, t)
    with global_seed(3):
        own = drawn.noised(at, t)
    with global_seed(3):
        assert torch.equal(own.truth, torch.randn(2, *model.shape))
    model.scheduler.register_to_config(prediction_type="v_prediction")
    assert torch.allclose(
        drawn.noised(at, t, noise).truth, a.sqrt() * noise - (1 - a).sqrt() * latents[at], atol=1e-6
    )


class Slope:
    """A pipeline that answers its one weight times the prompt's first number."""

    def __init__(self, weight: float) -> None:
        self.weight = Parameter(torch.tensor(weight))

    def __call__(self, x: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        return self.weight * text.hidden[:, :1, :1, None] + 0 * x


def test_losses_by_hand() -> None:
    seen = Noised(
        torch.zeros(2, 1, 1, 1), torch.zeros(2).long(), torch.tensor([1, 0]), torch.ones(2, 1, 1, 1)
    )
    asked, goal = Text(torch.tensor([[[1.0]], [[2.0]]])), Text(torch.tensor([[[3.0]], [[5.0]]]))
    student: Any = Slope(2.0)
    # the student says 4 and 2 where it is to say 10 and 6: (36 + 16) / 2; of the slope 2 (4 - 10) 2 + (2 - 6) 2, halved
    loss = distilled(student, student, seen, asked, goal)
    assert loss.item() == 26.0
    loss.backward()
    assert float(student.weight.grad) == -16.0
    teacher: Any = Slope(1.0)
    assert distilled(student, teacher, seen, asked, goal).item() == 1.0  # 4 and 2, to be 5 and 3
    assert denoised(student, seen, asked).item() == 5.0  # 4 and 2, to be 1


def test_gradients_are_summed_with_their_signs() -> None:
    model = pipeline("pixart")
    weights = dict(list(model.weights("cross_kv").items())[:3])
    (first, second, third), rng = weights.values(), seeded(4)
    flags = [p.requires_grad for p in model.parameters()]
    with global_seed(draw_seed(seeded(4))):
        draws = [torch.rand(()) for _ in range(2)]

    def losses():
        yield (2.0 * first).sum() + torch.rand(()) * second.sum()
        yield (-3.0 * first).sum() + torch.rand(()) * second.sum()

    sums = gradient_sums(model, weights, losses(), who="Test", rng=rng)
    assert list(sums) == list(weights)
    found = list(sums.values())
    assert torch.equal(found[0], torch.full_like(first, -1.0))
    assert torch.allclose(found[1], torch.full_like(second, float(sum(draws))))
    assert not found[2].any()
    assert found[2].shape == third.shape
    assert [p.requires_grad for p in model.parameters()] == flags

    def opposed():
        yield first.sum()
        yield -first.sum()

    with pytest.raises(InputError, match="Test found no salient weight"):
        gradient_sums(model, weights, opposed(), who="Test", rng=rng)


def test_gradients_of_half_precision_are_summed_in_float32() -> None:
    model = pipeline("pixart")
    model.denoiser.half()
    weights = dict(list(model.weights("cross_kv").items())[:1])
    (first,) = weights.values()
    sums = gradient_sums(
        model, weights, ((scale * first).sum() for scale in (2048.0, 1.0)), who="Test", rng=seeded(0)
    )
    (total,) = sums.values()
    assert total.dtype == torch.float32
    assert torch.equal(total, torch.full_like(total, 2049.0))  # 2048 + 1 is 2048 in float16


def test_what_is_edited_is_a_copy_in_float32_that_ends_as_it_was() -> None:
    model = pipeline("pixart")
    model.denoiser.bfloat16()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with editing(model, CONCEPTS, copies=2, who="Test", rng=seeded(0)) as (original, first, second):
        assert {p.dtype for m in (original, first, second) for p in m.parameters()} == {torch.float32}
        assert len({id(m.denoiser) for m in (model, original, first, second)}) == 4
        assert first.text_encoder is second.text_encoder is model.text_encoder
        assert first.vae is model.vae
        with torch.no_grad():
            next(iter(first.weights("all").values())).add_(1.0)
    assert {p.dtype for p in first.denoiser.parameters()} == {torch.bfloat16}
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in before.items())
    assert all(torch.equal(v, second.state_dict()[n]) for n, v in before.items())
    moved = [n for n, v in before.items() if not torch.equal(v, first.state_dict()[n])]
    assert moved == [next(iter(first.weights("all")))]


def test_only_what_is_narrow_is_widened() -> None:
    model = pipeline()
    assert widened(model) is model
    model.text_encoder.half()
    wide = widened(model)
    assert wide.denoiser is model.denoiser
    assert wide.text_encoder is not model.text_encoder
    assert wide.text_encoder.dtype == torch.float32
    assert model.text_encoder.dtype == torch.float16


def test_refuses_before_anything_is_copied(monkeypatch) -> None:
    model = pipeline("pixart")
    monkeypatch.setattr(type(model), "editable", lambda *_: pytest.fail("copied"))
    with pytest.raises(InputError, match="rng must be a torch.Generator"):
        editing(model, CONCEPTS, who="Test", rng=None).__enter__()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Test: the pipeline's tokenizer cannot see 'zeppelin'"):
        editing(
            model, Concepts(erase=("zeppelin",), templates=("a {}",)), who="Test", rng=seeded(0)
        ).__enter__()


def test_latents_are_drawn_for_each_prompt_in_its_turn() -> None:
    model = pipeline("pixart")
    how = {"steps": 2, "guidance": 3.0}
    drawn = Drawn.of(model, PROMPTS, 4, rng=seeded(0), negative="a bird", label="", **how)
    wanted = model.sample(
        [*PROMPTS, PROMPTS[0]], noise=model.noise(4, seeded(0)), negative="a bird", decode=False, **how
    )
    assert torch.allclose(drawn.latents, wanted, atol=1e-6)
    assert len(drawn) == 4
    assert torch.allclose(drawn.text.hidden, model.encode(PROMPTS).hidden, atol=1e-6)
    assert not drawn.text.hidden.requires_grad
    parts = draw_latents(model, [*PROMPTS, PROMPTS[0]], rng=seeded(0), negative="a bird", batch_size=3, **how)
    assert torch.allclose(parts, wanted, atol=1e-5)


@pytest.mark.parametrize("fresh", [False, True])
def test_steps_are_counted_and_pruned_weights_stay_unless_they_are_fresh(fresh) -> None:
    model = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
    told: list[Any] = []

    def objective(*step: int) -> torch.Tensor:
        told.append(step)
        return (model.weight * torch.tensor([[3.0, 7.0, 4.0]])).sum()

    only = Mask({"weight": torch.tensor([[True, True, False]])})
    train_steps_(
        model, objective, [model.weight], SGD([model.weight], lr=0.1),
        steps=2, rng=seeded(0), label="", fresh=fresh, only=only, clip=1.5,
    )  # fmt: skip
    assert told == [(0,), (1,)]
    # of (3, 7, 4) the third is kept, the second moves only if its zero is no pruning; clipped to a norm of 1.5
    step = 2 * 0.1 * 1.5 / (58**0.5 if fresh else 3.0)
    assert torch.allclose(model.weight, torch.tensor([[1 - 3 * step, -7 * step if fresh else 0.0, 2.0]]))


def test_a_schedule_is_followed() -> None:
    weight = Parameter(torch.tensor(1.0))
    model: Any = SimpleNamespace()
    model = torch.nn.Module()
    model.weight = weight
    optimizer = SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 if k == 0 else 0.5)
    seen: list[int] = []
    train_steps_(
        model, lambda _: 1.0 * weight, [weight], optimizer, steps=3, rng=seeded(0), label="", schedule=schedule,
        after_step=lambda step: seen.append(step.index),
    )  # fmt: skip
    assert weight.item() == -1.0  # 1 - 1 - 0.5 - 0.5
    assert seen == [1, 2, 3]


FIRST = Concepts(erase=("red",), guide="church", templates=("a {} near the road",), bases=("a road",))


def test_what_was_erased_earlier_is_answered_as_its_guide() -> None:
    model, edited = pipeline("pixart"), pipeline("pixart", seed=1)
    edited.text_encoder.load_state_dict(model.text_encoder.state_dict())
    how: Any = {"steps": 2, "guidance": 2.0}
    assert float(Earlier.of(model, CONCEPTS, rng=seeded(0), **how).loss(edited, 3)) == 0
    remember_(model, FIRST, "UCE")
    assert Earlier.of(model, replace(CONCEPTS, erase=("red",)), rng=seeded(0), **how).drawn is None
    held = Earlier.of(model, CONCEPTS, rng=seeded(0), **how)
    assert held.drawn is not None
    clean = model.sample(["a church near the road"] * 4, noise=model.noise(4, seeded(0)), decode=False, **how)
    assert torch.allclose(held.drawn.latents, clean, atol=1e-5)
    with global_seed(5), torch.no_grad():
        found = float(held.loss(edited, 3))
    with global_seed(5), torch.no_grad():
        at, t = torch.randint(4, (3,)), torch.randint(1000, (3,))
        x = model.add_noise(clean[at], torch.randn(3, *model.shape), t)
        told, asked = (model.encode([p]) for p in ("a church near the road", "a red near the road"))
        assert found == pytest.approx(
            float((edited(x, t, asked) - model(x, t, told)).square().mean()), rel=1e-4
        )


TRAINED: list[Any] = [
    erase.ESD(steps=3, lr=1e-3, sampler_steps=2),
    erase.ConceptAblation(steps=3, lr=1e-3, images=2, sampler_steps=2),
    erase.ConceptSalUn(steps=3, lr=1e-3, images=2, sampler_steps=2),
    erase.DoCo(steps=3, warmup=1, lr=1e-3, images=2, sampler_steps=2),
    erase.SculptingMemory(steps=4, warmup=1, update_every=2, lr=1e-3, images=2, sampler_steps=2),
    erase.AdvUnlearn(steps=3, attack="none", lr=1e-3, retain_batch=2, sampler_steps=2, pool=1),
    erase.SFD(distil=1, steps=2, batch_size=2, lr=1e-3, fake_lr=1e-3),
]


@pytest.mark.parametrize("method", TRAINED, ids=lambda m: type(m).__name__)
def test_every_trained_eraser_holds_what_was_erased_earlier(method: Any, monkeypatch) -> None:
    model, asked = (
        pipeline(),
        Concepts(erase=("cat",), preserve=("dog",), guide="bird", templates=("a photo of a {}", "a {}")),
    )
    remember_(model, FIRST, "UCE")
    read: set[str] = set()
    encode = type(model).encode

    def listened(self: Any, prompts: Any) -> Text:
        read.update(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(type(model), "encode", listened)
    edited = method.apply(model, asked, rng=seeded(0))
    assert {"a red near the road", "a church near the road"} <= read
    assert [e["request"]["erase"] for e in edited.erased] == [["red"], ["cat"]]
