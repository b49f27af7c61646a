from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
import torch

from tests.erase.first_step import follows
from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import Mask, seeded
from unweave.erase import AdvUnlearn, Concepts
from unweave.errors import InputError
from unweave.fit import resumable
from unweave.models.text_to_image import Prompts, encoder_weights
from unweave.random import global_seed

ONE = AdvUnlearn(
    steps=1, warmup=0, attack_steps=2, attack_lr=0.05, retain_batch=2, lr=1e-4, batch_size=2, sampler_steps=4
)
OFF = {
    "attack": "none",
    **{n: getattr(AdvUnlearn(), n) for n in ("tokens", "attack_steps", "attack_lr", "warmup")},
}
"""Changes that leave the attack out, and its settings with it."""
PROMPTS = CONCEPTS.prompts(*CONCEPTS.erase)
KEPT = CONCEPTS.prompts(*CONCEPTS.preserve)


def telling(kind="sd"):
    """A pipeline whose prompts and their tokens matter: random weights hardly read them."""
    model = pipeline(kind)
    with torch.no_grad():
        for layer in model.linears("cross_kv").values():
            layer.weight.mul_(20)
        model.text_encoder.get_input_embeddings().weight.mul_(10)
    return model


def own(model, kind: str) -> set[str]:
    blocks = {"sd": "encoder.layers.", "pixart": "encoder.block."}[kind]
    names = {n for n, _ in model.text_encoder.named_parameters()}
    return {
        f"text_encoder.{n}"
        for n in names
        if (n.startswith(blocks) or "final_layer_norm" in n) and "relative_attention_bias" not in n
    }


class Naive:
    """One step written out in float64, drawing from torch's global generator in the documented order."""

    def __init__(self, method, kind) -> None:
        self.m, self.start = method, 0 if kind == "pixart" else 1

    @torch.no_grad()
    def latents(self, model, prompts):
        stop = int(torch.randint(4, (1,)))
        out, sampler = [], model.sampler(4)
        for prompt, x in zip(prompts, torch.randn(len(prompts), *model.shape).double(), strict=True):
            x = x[None]
            for t in sampler.timesteps[:stop].tolist():
                none, told = model(x, t, model.encode([""])), model(x, t, model.encode([prompt]))
                x = sampler.step(none + 3.0 * (told - none), t, x).prev_sample
            out.append(x)
        return out, int(sampler.timesteps[stop])

    def encode(self, model, prompt, vector=None, token=None):
        ids, mask = model.tokens([prompt])
        if vector is None:
            return model.encode_tokens((ids, mask))
        i, table = self.start, model.text_encoder.get_input_embeddings().weight
        ids = torch.cat([ids[:, :i], torch.tensor([[token]]), ids[:, i:-1]], 1)
        mask = torch.cat([mask[:, :i], torch.ones(1, 1).long(), mask[:, i:-1]], 1)
        read = table[ids].detach()
        read = torch.cat([read[:, :i], vector.view(1, 1, -1), read[:, i + 1 :]], 1)
        return model.encode_tokens((ids, mask), embeddings=read)

    def attack(self, model, prompts):
        tokenizer, table = model.tokenizers[0], model.text_encoder.get_input_embeddings().weight
        plain = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
        ids = [plain[i] for i in torch.randint(len(plain), (len(prompts),)).tolist()]
        vectors = [table[i].detach().clone().requires_grad_() for i in ids]
        moment = [(torch.zeros_like(v), torch.zeros_like(v)) for v in vectors]
        for step in range(1, 1 if self.m.attack == "none" else 1 + self.m.attack_steps):
            xs, t = self.latents(model, prompts)
            for i, (x, prompt) in enumerate(zip(xs, prompts, strict=True)):
                goal = model(x, t, model.encode([prompt])).detach()
                error = (model(x, t, self.encode(model, prompt, vectors[i], ids[i])) - goal).square().mean()
                (g,) = torch.autograd.grad(error, vectors[i])
                if self.m.attack == "fast":
                    vectors[i].data -= self.m.attack_lr * self.m.attack_steps * g.sign()
                    continue
                a, b = 0.9 * moment[i][0] + 0.1 * g, 0.999 * moment[i][1] + 0.001 * g**2
                moment[i] = (a, b)
                change = (a / (1 - 0.9**step)) / ((b / (1 - 0.999**step)).sqrt() + 1e-8)
                vectors[i].data -= self.m.attack_lr * change
            if self.m.attack == "fast":
                break
        return ids, [v.detach() for v in vectors]

    def __call__(self, model):
        prompts = [PROMPTS[i] for i in torch.randint(len(PROMPTS), (2,)).tolist()]
        texts = [self.encode(model, p) for p in prompts]
        if self.m.attack != "none":
            ids, vectors = self.attack(model, prompts)
            texts = [self.encode(model, p, v, i) for p, v, i in zip(prompts, vectors, ids, strict=True)]
        xs, t = self.latents(model, prompts)
        total = 0.0
        for x, prompt, text in zip(xs, prompts, texts, strict=True):
            told, none = (model(x, t, model.encode([p])).detach() for p in (prompt, ""))
            total = total + (model(x, t, text) - none + self.m.eta * (told - none)).square().mean() / 2
        if self.m.mode == "reg":
            keep = [KEPT[i] for i in torch.randperm(len(KEPT))[:2].tolist()]
            xs, t = self.latents(model, keep)
            for x, prompt in zip(xs, keep, strict=True):
                text = model.encode([prompt])
                # the original and the edited are the same at the first step: only the error's gradient is left, zero
                total = (
                    total
                    + self.m.gamma * (model(x, t, text) - model(x, t, text).detach()).square().mean() / 2
                )
        return total


@pytest.mark.parametrize("kind", ["sd", "pixart"])
@pytest.mark.parametrize("attack", ["pgd", "fast", "none"])
def test_the_first_step_follows_the_equations(kind, attack) -> None:
    how = OFF if attack == "none" else {"attack": attack}
    model, method = telling(kind), replace(ONE, eta=1.5, gamma=0.5, **how)
    edited = method.apply(model, CONCEPTS, rng=seeded(3))
    assert follows(model, edited, seeded(3), Naive(method, kind), own(model, kind)) > 0.99


def captured(monkeypatch, method, model, rng):
    """The objective that `method` would minimise, how often, and the pipeline it trains, its encoder moved a little."""
    found = {}
    monkeypatch.setattr(
        "unweave.erase.adv_unlearn.train_steps_",
        lambda edited, loss, weights, optimizer, **how: found.update(edited=edited, loss=loss, **how),
    )
    method.apply(model, CONCEPTS, rng=rng)
    with torch.no_grad():
        for p in encoder_weights(found["edited"].text_encoder):
            p.add_(0.05 * torch.randn(p.shape, generator=seeded(1)).to(p))
    return found["loss"], found["steps"], found["edited"]


def retained(method, model, edited, naive) -> float:
    """The retain loss example by example, drawing as the method does."""
    keep = [KEPT[i] for i in torch.randperm(len(KEPT))[: method.retain_batch].tolist()]
    xs, t = naive.latents(model, keep)
    with torch.no_grad():
        errors = [
            (edited(x, t, edited.encode([p])) - model(x, t, model.encode([p]))).square().mean()
            for x, p in zip(xs, keep, strict=True)
        ]
    return float(sum(errors)) / len(keep)


def unlearned(method, model, edited, naive) -> float:
    """The unlearning loss without attack, likewise."""
    prompts = [PROMPTS[i] for i in torch.randint(len(PROMPTS), (method.batch_size,)).tolist()]
    xs, t = naive.latents(model, prompts)
    total = 0.0
    with torch.no_grad():
        for x, p in zip(xs, prompts, strict=True):
            told, none = (model(x, t, model.encode([w])) for w in (p, ""))
            gap = edited(x, t, edited.encode([p])) - none + method.eta * (told - none)
            total += float(gap.square().mean()) / len(prompts)
    return total


def test_losses_are_added_or_take_turns(monkeypatch) -> None:
    model = telling("pixart").double()
    both = replace(ONE, **OFF, steps=4, gamma=0.3, eta=1.5, retain_batch=3)
    turns = replace(both, mode="iter", gamma=1.0, retain_steps=2)
    for method in (both, turns):
        naive = Naive(method, "pixart")
        loss, steps, edited = captured(monkeypatch, method, model, seeded(3))
        assert steps == (4 if method is both else 12)
        for step in range(6):
            with global_seed(step):
                found = float(loss(step).detach())
            with global_seed(step):
                parts = (method, model, edited, naive)
                if method is both:
                    wanted = unlearned(*parts) + 0.3 * retained(*parts)
                else:
                    wanted = unlearned(*parts) if step % 3 == 0 else retained(*parts)
            assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("mode", ["reg", "iter"])
def test_the_attack_begins_after_the_warm_up(monkeypatch, mode) -> None:
    method = replace(ONE, mode=mode, steps=4, warmup=2, attack_steps=1)
    loss, steps, _ = captured(monkeypatch, method, telling("pixart"), seeded(3))
    attacked: list[int] = []
    real = AdvUnlearn.soft_prompt

    def spy(self, *args):
        attacked.append(now)
        return real(self, *args)

    monkeypatch.setattr(AdvUnlearn, "soft_prompt", spy)
    for now in range(steps):
        loss(now)
    assert attacked == ([2, 3] if mode == "reg" else [4, 6])


def lost(model, edited) -> float:
    """How far the edited encoder's predictions of the preserved prompts are off."""
    x, text = model.noise(len(KEPT), seeded(5)), (m.encode(KEPT) for m in (model, edited))
    with torch.no_grad():
        a, b = (model(x, 750, t) for t in text)
    return float((a - b).square().mean())


@pytest.mark.slow
def test_the_retain_loss_keeps_what_is_preserved() -> None:
    model = telling()
    weak = AdvUnlearn(
        attack="none", steps=15, lr=4e-3, batch_size=2, retain_batch=4, sampler_steps=2, pool=4, gamma=1e-6
    )
    free, held, turns = (
        lost(model, m.apply(model, CONCEPTS, rng=seeded(0)))
        for m in (weak, replace(weak, gamma=3.0), replace(weak, mode="iter", retain_steps=3, gamma=1.0))
    )
    assert held < 0.5 * free
    assert turns < 0.5 * free


def under_attack(model, edited) -> float:
    """How well vectors found afresh make the edited pipeline predict what the original does for the concept."""
    attack = AdvUnlearn(attack_steps=10, attack_lr=0.15, sampler_steps=2, pool=4)
    asked = Prompts(model, PROMPTS)
    rows = torch.arange(len(PROMPTS)).repeat(2)
    with torch.no_grad():
        before = model.encode(PROMPTS)
    with global_seed(1):
        latents = attack.latents(model, before, seeded(2))
        ids, vectors = attack.soft_prompt(model, edited, asked, before, latents, rows)
        x, t = latents(rows)
    with torch.no_grad():
        found = edited(x, t, asked.encode(edited, rows, ids, vectors))
        return float((found - model(x, t, before[rows])).square().mean())


@pytest.mark.slow
def test_training_under_attack_resists_it() -> None:
    model = telling()
    method = AdvUnlearn(
        steps=20, warmup=2, attack_steps=3, attack_lr=0.15, lr=4e-3, batch_size=4, retain_batch=2, sampler_steps=2,
        pool=4,
    )  # fmt: skip
    plain = replace(method, **OFF).apply(model, CONCEPTS, rng=seeded(0))
    robust = method.apply(model, CONCEPTS, rng=seeded(0))
    assert under_attack(model, robust) > 1.3 * under_attack(model, plain)


@pytest.mark.slow
def test_the_attack_lowers_its_loss() -> None:
    model = telling()
    edited = AdvUnlearn(
        attack="none", steps=20, lr=5e-3, batch_size=4, retain_batch=2, sampler_steps=2, pool=4
    ).apply(model, CONCEPTS, rng=seeded(0))
    asked, rows = Prompts(model, PROMPTS[:1]), torch.zeros(8, dtype=torch.int64)
    with torch.no_grad():
        before = model.encode(PROMPTS[:1])
    x = model.noise(8, seeded(4))

    def error(lr: float, attack: str = "pgd") -> float:
        method = AdvUnlearn(attack_lr=lr, attack=attack, attack_steps=12)
        with global_seed(1):
            ids, vectors = method.soft_prompt(
                model, edited, asked, before, lambda rows: (x, torch.full((8,), 750)), rows
            )
        with torch.no_grad():
            found = edited(x, 750, asked.encode(edited, rows, ids, vectors))
            return float((found - model(x, 750, before[rows])).square().mean())

    assert error(0.05) < 0.8 * error(1e-9)
    assert error(0.01, "fast") < 0.95 * error(1e-9)


def test_only_the_first_blocks_move() -> None:
    model = pipeline()
    edited = replace(ONE, blocks=1).apply(model, CONCEPTS, rng=seeded(0))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, edited.get_parameter(n))}
    assert moved
    assert all(n.startswith("text_encoder.encoder.layers.0.") for n in moved)
    whole = encoder_weights(model.text_encoder, 2)
    assert {id(p) for p in whole} < {id(p) for p in encoder_weights(model.text_encoder)}


def test_a_pool_holds_what_fresh_draws_do() -> None:
    model, method = telling(), AdvUnlearn(sampler_steps=4, pool=6)
    with torch.no_grad():
        text = model.encode(PROMPTS)
    latents = method.latents(model, text, seeded(0))
    times = model.sampler(4).timesteps
    noise = torch.Generator().manual_seed(0)
    stops = torch.randint(4, (len(PROMPTS) * 6,), generator=noise)
    start = model.noise(len(PROMPTS) * 6, noise)
    with global_seed(0):
        rows = torch.tensor([0, 2, 3])
        x, t = latents(rows)
    with global_seed(0):
        at = rows * 6 + torch.randint(6, (3,))
    for i, k in enumerate(at.tolist()):
        stop = int(stops[k])
        alone = model.sample([PROMPTS[rows[i]]], steps=4, guidance=3.0, noise=start[k : k + 1], stop=stop)
        assert torch.allclose(x[i], alone[0], atol=1e-5)
        assert t[i] == times[stop]


def test_pruned_weights_stay_pruned() -> None:
    model = pipeline()
    name = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    with torch.no_grad():
        model.get_parameter(name)[::2] = 0
    edited = replace(ONE, steps=3).apply(model, CONCEPTS, rng=seeded(0))
    assert torch.equal(Mask.of(edited).keep[name], Mask.of(model).keep[name])
    assert not torch.equal(edited.get_parameter(name), model.get_parameter(name))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"attack": "none", "tokens": 2}, "tokens=.* would do nothing with attack='none'"),
        ({"attack": "none", "attack_steps": 2}, "attack_steps=.* would do nothing with attack='none'"),
        ({"attack": "none", "attack_lr": 0.1}, "attack_lr=.* would do nothing with attack='none'"),
        ({"attack": "none", "warmup": 3}, "warmup=.* would do nothing with attack='none'"),
        ({"mode": "iter", "gamma": 0.3}, "gamma=.* would do nothing with mode='iter'"),
        ({"retain_steps": 2}, "retain_steps=.* would do nothing with mode='reg'"),
    ],
)
def test_refuses_what_would_not_be_read(how, message) -> None:
    with pytest.raises(InputError, match=message):
        AdvUnlearn(**how)


def test_refuses() -> None:
    with pytest.raises(InputError, match="eta must be above 0"):
        AdvUnlearn(eta=-1)
    with pytest.raises(InputError, match="the attack never begins"):
        AdvUnlearn(steps=100)
    with pytest.raises(InputError, match="several text encoders"):
        ONE.apply(pipeline("sdxl"), CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="there are 0 prompts to keep"):
        ONE.apply(pipeline(), Concepts(erase=("cat",)), rng=seeded(0))
    asked = replace(CONCEPTS, preserve=("church near a golf ball", "dog"))
    with pytest.raises(InputError, match="'church near a golf ball' contains 'golf ball'"):
        ONE.apply(pipeline(), asked, rng=seeded(0))
    with pytest.raises(InputError, match="more do not fit"):
        replace(ONE, tokens=7).apply(pipeline(), CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="blocks is 3"):
        replace(ONE, blocks=3).apply(pipeline(), CONCEPTS, rng=seeded(0))
    peft, model = pytest.importorskip("peft"), pipeline()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), model.text_encoder)
    with pytest.raises(InputError, match="is of LoRA"):
        ONE.apply(model, CONCEPTS, rng=seeded(0))
    model = pipeline()
    model.text_encoder.gain = torch.nn.Parameter(torch.zeros(1))  # whatever it is called
    with pytest.raises(InputError, match="gain is not of CLIPTextModel"):
        ONE.apply(model, CONCEPTS, rng=seeded(0))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch) -> None:
    model, method = pipeline(), replace(ONE, steps=4, warmup=1, mode="iter", lr=1e-3, pool=1)
    whole = method.apply(model, CONCEPTS, rng=seeded(0))
    seconds, calls, attack = count(0, 60), count(), AdvUnlearn.soft_prompt
    monkeypatch.setattr("unweave.fit.training.monotonic", lambda: next(seconds))

    def killed(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return attack(*args)

    monkeypatch.setattr(AdvUnlearn, "soft_prompt", killed)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        method.apply(model, CONCEPTS, rng=seeded(0))
    with resumable(tmp_path):
        again = method.apply(model, CONCEPTS, rng=seeded(0))
    assert next(calls) == 4  # three attacks, one of them begun twice
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
