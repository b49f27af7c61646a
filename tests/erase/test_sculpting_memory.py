from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.erase.pipelines import CONCEPTS, pipeline
from tests.erase.test_esd import telling
from unweave import Mask, resumable, seeded
from unweave.erase import SculptingMemory
from unweave.erase._train import Drawn
from unweave.erase.sculpting_memory import Sculptor
from unweave.errors import InputError
from unweave.random import draw_seed, global_seed

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
FEW = SculptingMemory(
    steps=8, warmup=2, update_every=3, epoch=3, batch_size=2, lr=1e-3, images=5, sampler_steps=2, guidance=2.0
)


def cross(model) -> set[str]:
    return {n for n, _ in model.named_parameters() if n.startswith("denoiser.") and "attn2" in n}


def rate(step: int, total: int) -> float:
    """The one-cycle schedule: up to 1 over 30 % of the steps from 1/25, down to 1/250000, both as half cosines."""
    top = 0.3 * total - 1
    low, high, share = (1 / 25, 1, step / top) if step <= top else (1, 4e-6, (step - top) / (total - 1 - top))
    return high + (low - high) / 2 * (1 + math.cos(math.pi * share))


def naive(model, asked, how: SculptingMemory, rng):
    """Round by round, example by example, Adam by hand."""
    live = model.editable()
    live.denoiser.requires_grad_(True)
    weights = {n: p for n, p in live.named_parameters() if n in cross(model)}

    def predict(pipe, clean, noise, t, prompt):
        a = model.alphas_cumprod[t]
        return pipe(a.sqrt() * clean + (1 - a).sqrt() * noise, int(t), model.encode([prompt]).detach())

    for concept in asked.erase:
        olds, news = asked.prompts(concept), asked.guide_prompts(concept)
        n = how.images

        def draw(prompts, negative, n=n):
            wanted = [prompts[i % len(prompts)] for i in range(n)]
            return model.sample(
                wanted, steps=2, guidance=2.0, noise=model.noise(n, rng), negative=negative, decode=False
            )

        gone, wide, teacher = draw(olds, ""), draw(news, concept), live.editable()
        sums = {name: torch.zeros_like(p) for name, p in weights.items()}
        with global_seed(draw_seed(rng)):
            for _ in range(how.warmup):
                at, t = torch.randint(n, (2,)), torch.randint(1000, (2,))
                noise = torch.randn(2, *model.shape).to(gone)
                error = sum(
                    (predict(live, gone[[k]], noise[[i]], t[i], olds[k % 2]) - noise[[i]]).square().mean() / 2
                    for i, k in enumerate(at.tolist())
                )
                for total, g in zip(
                    sums.values(), torch.autograd.grad(error, list(weights.values())), strict=True
                ):
                    total += g
        keep = {}
        for name, total in sums.items():
            order = total.abs().flatten().argsort(descending=True)
            keep[name] = torch.ones(len(order), dtype=torch.bool)
            if total.ndim > 1:
                keep[name][order[round(how.density * len(order)) :]] = False
            total.zero_()
        m, v = ({name: torch.zeros_like(p) for name, p in weights.items()} for _ in range(2))
        lowest, kept, seen = math.inf, {}, []
        with global_seed(draw_seed(rng)):
            for step in range(how.steps - how.warmup):
                t, at = torch.randint(1000, (2,)), torch.randint(n, (2,))
                noise = torch.randn(2, *model.shape).to(gone)
                other = torch.randint(n, (2,))
                own = torch.randn(2, *model.shape).to(gone)
                forget = total = 0.0
                for i in range(2):
                    k, j = int(at[i]), int(other[i])
                    source = {"current": live, "teacher": teacher, "original": model}[how.target]
                    goal = predict(source, gone[[k]], noise[[i]], t[i], news[k % 2]).detach()
                    term = (
                        predict(live, gone[[k]], noise[[i]], t[i], olds[k % 2]) - goal
                    ).square().mean() / 2
                    answer = predict(live, wide[[j]], own[[i]], t[i], news[j % 2])
                    known = predict(teacher, wide[[j]], own[[i]], t[i], news[j % 2]).detach()
                    forget += float(term.detach())
                    total = total + term + how.align * (answer - own[[i]]).square().mean() / 2
                    total = total + how.kd * (answer - known).square().mean() / 2
                found = torch.autograd.grad(total, list(weights.values()))
                with torch.no_grad():
                    for (name, p), g in zip(weights.items(), found, strict=True):
                        sums[name] += g
                        g = g * keep[name].view_as(g)
                        m[name] = 0.9 * m[name] + 0.1 * g
                        v[name] = 0.999 * v[name] + 0.001 * g * g
                        top = m[name] / (1 - 0.9 ** (step + 1))
                        under = (v[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                        p -= how.lr * rate(step, how.steps - how.warmup) * top / under
                done = how.warmup + step + 1
                seen.append(forget)
                if done % how.epoch == 0 or done == how.steps:
                    if sum(seen) / len(seen) < lowest:
                        lowest = sum(seen) / len(seen)
                        kept = {name: p.detach().clone() for name, p in weights.items()}
                    seen = []
                if done % how.update_every == 0 and done < 0.8 * how.steps:
                    share = how.exchange * (1 + math.cos(math.pi * done / how.steps)) / 2
                    for name, p in weights.items():
                        if p.ndim < 2:
                            continue
                        size, old = sums[name].abs().flatten(), keep[name].clone()
                        count = max(1, int(share * int(old.sum())))
                        leaving = [k for k in size.argsort().tolist() if old[k]][:count]
                        coming = [k for k in size.argsort(descending=True).tolist() if not old[k]][:count]
                        keep[name][leaving], keep[name][coming] = False, True
                        for moments in (m, v):
                            moments[name] = moments[name] * keep[name].view_as(p)
                        sums[name].zero_()
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(kept[name])
    return weights


@pytest.mark.parametrize("kd", [0.0, 2.0])
def test_two_rounds_follow_the_equations(kd) -> None:
    model, how = telling().double(), replace(FEW, kd=kd)
    edited = how.apply(model, ASKED, rng=seeded(3))
    for name, expected in naive(model, ASKED, how, seeded(3)).items():
        assert torch.allclose(edited.get_parameter(name), expected, rtol=0, atol=1e-8), name
        assert float((expected - model.get_parameter(name)).detach().abs().max()) > 1e-4


@pytest.mark.parametrize(
    "how", [{"target": "teacher", "align": 0.0}, {"target": "original", "density": 0.2}], ids=str
)
def test_rounds_of_other_targets_follow_the_equations(how) -> None:
    model, method = telling("pixart").double(), replace(FEW, kd=0.5, **how)
    edited = method.apply(model, ASKED, rng=seeded(3))
    for name, expected in naive(model, ASKED, method, seeded(3)).items():
        assert torch.allclose(edited.get_parameter(name), expected, rtol=0, atol=1e-8), name


def test_off_the_mask_of_a_round_every_weight_keeps_its_bits() -> None:
    model, asked = telling(), ASKED.only("cat")
    for density in (0.1, 0.5):
        edited = replace(FEW, density=density, exchange=0.0).apply(model, asked, rng=seeded(0))
        for name, before in model.named_parameters():
            moved = (edited.get_parameter(name) != before).float().mean()
            if name not in cross(model):
                assert moved == 0
            elif before.ndim > 1:
                assert 0.5 * density < moved <= density + 1e-6


def test_an_exchange_moves_others() -> None:
    model, asked = telling(), ASKED.only("cat")
    still, changed = (
        Mask(
            {n: edited.get_parameter(n) != model.get_parameter(n) for n in cross(model) if "weight" in n}
        ).density()
        for edited in (replace(FEW, exchange=e).apply(model, asked, rng=seeded(0)) for e in (0.0, 0.5))
    )
    assert still <= 0.5
    assert changed > 0.55


def test_an_exchange_worked_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    keep = torch.tensor([[True, True, True], [False, False, False]])
    optimizer = Sculptor({"w": weight}, {"w": keep}, lr=0.1)
    pull = torch.tensor([[1.0, -5.0, 2.0], [0.5, -7.0, 6.0]])

    def closure():
        optimizer.zero_grad()
        loss = (weight * pull).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    state = optimizer.state[weight]
    # the first step of Adam is -lr sign(g), of the three kept alone; the sum has the whole gradient
    assert torch.allclose(weight.detach(), torch.tensor([[0.9, 2.1, 2.9], [4.0, 5.0, 6.0]]))
    assert torch.equal(state["sum"], pull)
    optimizer.change_(0.34)  # int(0.34 * 3) = 1: |1| is the least kept, |-7| the greatest not kept
    assert state["keep"].tolist() == [[0, 1, 1], [0, 1, 0]]
    assert not state["sum"].any()
    before = weight.detach().clone()
    optimizer.step(closure)
    assert ((weight != before) == state["keep"].bool()).all()  # what left has no momentum


def test_an_exchange_is_no_larger_than_what_is_left() -> None:
    weight = nn.Parameter(torch.ones(1, 4))
    optimizer = Sculptor({"w": weight}, {"w": torch.tensor([[True, True, True, False]])}, lr=0.1)
    optimizer.change_(1.0)
    assert int(optimizer.state[weight]["keep"].sum()) == 3
    whole = Sculptor({"w": weight}, {"w": torch.ones(1, 4, dtype=torch.bool)}, lr=0.1)
    whole.change_(0.5)
    assert whole.state[weight]["keep"].all()


def test_the_lowest_mean_is_what_a_round_ends_with() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Sculptor({"w": weight}, {}, lr=0.1)
    for at, (value, close) in enumerate([(3.0, False), (1.0, True), (1.0, True), (9.0, False), (0.0, True)]):
        with torch.no_grad():
            weight.fill_(at)
        optimizer.note_(value, close=close)  # means 2, 1, 4.5
    optimizer.put_back_()
    assert weight.item() == 2


def test_a_round_needs_nothing_of_those_after_it(monkeypatch) -> None:
    model, began, rounds = telling(), [], SculptingMemory._round_

    def spy(self, edited, *rest):
        began.append({n: p.detach().clone() for n, p in edited.named_parameters()})
        rounds(self, edited, *rest)

    first = FEW.apply(model, ASKED.only("cat"), rng=seeded(0))
    monkeypatch.setattr(SculptingMemory, "_round_", spy)
    FEW.apply(model, ASKED, rng=seeded(0))
    assert all(torch.equal(p, began[1][n]) for n, p in first.named_parameters())
    assert any(not torch.equal(p, began[0][n]) for n, p in first.named_parameters())


def gap(a, b, word: str, other: str | None = None) -> float:
    x = a.noise(16, seeded(9))
    with torch.no_grad():
        one = a(x, 700, a.encode([f"a photo of a {word}"]))
        return float((one - b(x, 700, b.encode([f"a photo of a {other or word}"]))).square().mean())


def test_the_concept_answers_as_its_guide_did() -> None:
    model, asked = telling(), ASKED.only("cat")
    how = replace(
        FEW,
        steps=90,
        warmup=5,
        update_every=25,
        epoch=45,
        batch_size=8,
        lr=5e-3,
        align=0.0,
        target="original",
    )
    edited = how.apply(model, asked, rng=seeded(0))
    assert gap(edited, model, "cat", "bird") < 0.5 * gap(model, model, "cat", "bird")


def test_distillation_keeps_the_guide_where_it_was() -> None:
    model, asked = telling(), ASKED.only("cat")
    how = replace(FEW, steps=30, batch_size=8, lr=5e-3, align=0.0)
    with_it, without = (replace(how, kd=kd).apply(model, asked, rng=seeded(0)) for kd in (5.0, 0.0))
    assert gap(with_it, model, "bird") < 0.5 * gap(without, model, "bird")


def test_the_share_exchanged_falls_as_a_cosine() -> None:
    how = SculptingMemory()
    assert how.exchanged(0) == pytest.approx(0.2)
    assert how.exchanged(250) == pytest.approx(0.1)
    assert how.exchanged(100) == pytest.approx(0.2 * (1 + math.cos(math.pi / 5)) / 2)


def test_a_killed_run_comes_to_the_same_bits(tmp_path, monkeypatch) -> None:
    model, ticks = telling(), iter(range(10**9))
    whole = FEW.apply(model, ASKED, rng=seeded(0))
    monkeypatch.setattr("unweave.fit.training.monotonic", lambda: 100.0 * next(ticks))
    note, calls = Sculptor.note_, []

    def dying(self, value, *, close):
        calls.append(value)
        if len(calls) == 11:  # the fifth step of the second round, past its first exchange
            raise KeyboardInterrupt
        note(self, value, close=close)

    monkeypatch.setattr(Sculptor, "note_", dying)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        FEW.apply(model, ASKED, rng=seeded(0))
    with resumable(tmp_path):
        again = FEW.apply(model, ASKED, rng=seeded(0))
    assert len(calls) == 11 + 2
    assert all(torch.equal(p, whole.get_parameter(n)) for n, p in again.named_parameters())


def test_no_pruned_weight_takes_a_place_in_the_mask() -> None:
    model = telling("pixart")
    weights = model.weights("cross_kv")
    name = next(n for n in weights if n.endswith("weight"))
    with torch.no_grad():
        weights[name][::2] = 0
    latents = model.noise(4, seeded(0))
    gone = Drawn(model, latents, model.encode(ASKED.prompts("cat")).detach())
    keep = replace(FEW, density=0.5)._first_mask(model, weights, gone, seeded(1))[name]
    assert keep[1::2].all()
    assert not keep[::2].any()


def test_pruned_weights_stay_pruned() -> None:
    model = pipeline()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    with torch.no_grad():
        model.linears("cross_kv")[name].weight[::2] = 0
    edited = FEW.apply(model, ASKED, rng=seeded(0))
    name = f"denoiser.{name}.weight"
    assert torch.equal(Mask.of(edited).keep[name], Mask.of(model).keep[name])
    assert not torch.equal(edited.get_parameter(name), model.get_parameter(name))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("density", 0, "density must be above 0 and at most 1"),
        ("exchange", 1.5, "exchange must be at least 0 and at most 1"),
        ("kd", -1, "kd must be at least 0"),
        ("warmup", 0, "warmup must be a whole number at least 1"),
        ("warmup", 500, "warmup must be below its steps"),
        ("update_every", 400, "exchange would do nothing: every 400 steps there is no exchange"),
    ],
)
def test_refuses_settings(field, value, message) -> None:
    with pytest.raises(InputError, match=message):
        SculptingMemory(**{field: value})


@pytest.mark.parametrize(
    ("steps", "update_every", "exchanges"), [(10, 7, True), (10, 8, False), (12, 3, True)]
)
def test_an_exchange_comes_after_the_warm_up_and_before_the_last_fifth(
    steps, update_every, exchanges
) -> None:
    how = {"steps": steps, "warmup": 6, "update_every": update_every}
    if not exchanges:
        with pytest.raises(InputError, match="would do nothing"):
            SculptingMemory(**how)
        assert SculptingMemory(**how, exchange=0.0).exchange == 0
        return
    assert SculptingMemory(**how).update_every == update_every


@pytest.mark.parametrize("guide", ["", "a  Cat on a table"])
def test_refuses_a_guide_that_is_no_superclass(guide) -> None:
    with pytest.raises(InputError, match="needs a superclass as the guide of 'cat'"):
        FEW.apply(pipeline(), replace(CONCEPTS, erase=("cat",), guide=guide), rng=seeded(0))


def test_refuses_images_without_a_gradient() -> None:
    model = pipeline()
    with torch.no_grad():
        model.denoiser.conv_out.weight.zero_()
    with pytest.raises(InputError, match="found no salient weight"):
        FEW.apply(model, ASKED, rng=seeded(0))
