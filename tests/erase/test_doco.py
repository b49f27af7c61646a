from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.erase.pipelines import CONCEPTS, pipeline
from tests.erase.test_esd import named, telling
from unweave import Mask, resumable, seeded
from unweave.erase import DoCo
from unweave.erase.doco import patch_critic, projected
from unweave.errors import InputError
from unweave.random import draw_seed, global_seed

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
FEW = DoCo(
    steps=5,
    warmup=2,
    batch_size=2,
    lr=1e-3,
    critic_lr=1e-3,
    images=5,
    sampler_steps=2,
    guidance=2.0,
    t_max=600,
)


def released(erasing: torch.Tensor, preserving: torch.Tensor) -> torch.Tensor:
    """The authors' code: cosine of both, without the length of what it is taken from."""
    unit = preserving / preserving.norm()
    cosine = (erasing / erasing.norm() * unit).sum()
    return erasing - cosine * unit if cosine < 0 else erasing


def test_a_projection_worked_by_hand() -> None:
    erasing, preserving = torch.tensor([[3.0, 1.0]]), torch.tensor([[-2.0, 2.0]])
    # <g_u, g_p> = -4, |g_p|^2 = 8: g_u + g_p / 2
    assert projected(erasing, preserving).tolist() == [[2.0, 2.0]]
    assert projected(erasing, preserving, 0.5).tolist() == [[2.5, 1.5]]
    assert projected(erasing, -preserving) is erasing
    assert projected(erasing, torch.zeros(1, 2)) is erasing


@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 0.9), other=st.floats(1e-3, 1e3))
def test_a_projection_is_orthogonal_and_the_released_one_overshoots(seed, size, other) -> None:
    rng = seeded(seed)
    erasing, preserving = (torch.randn(7, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    if (erasing * preserving).sum() > 0:
        preserving = -preserving
    erasing, preserving = erasing * (size / erasing.norm()), preserving * (other / preserving.norm())
    ours, theirs = projected(erasing, preserving), released(erasing, preserving)
    assert abs(float((ours * preserving).sum())) < 1e-14 * other
    assert float((theirs * preserving).sum()) > 0
    one = erasing / erasing.norm()
    assert torch.allclose(projected(one, preserving), released(one, preserving))


@pytest.mark.parametrize(
    ("side", "layers", "logits"), [(64, 4, 3), (32, 4, 1), (16, 3, 1), (8, 2, 1), (4, 1, 1)]
)
def test_the_discriminator_fits_the_latents(side, layers, logits) -> None:
    critic = patch_critic(4, side, side)
    convolutions = [m for m in critic if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [*(64, 128, 256, 512)[:layers], 1]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in critic) == layers - 1
    assert critic(torch.zeros(2, 4, side, side)).shape == (2, 1, logits, logits)


def test_the_discriminator_stops_where_a_side_would_be_left_with_one_position() -> None:
    critic = patch_critic(4, 12, 20)  # 12, 6, 3: halved again it were 1
    assert sum(isinstance(m, nn.Conv2d) for m in critic) == 3
    assert critic(torch.zeros(1, 4, 12, 20)).shape == (1, 1, 2, 4)


def naive(model, asked, how: DoCo, rng):
    """Two optimisers, one backward pass a loss, example by example."""
    live = model.editable()
    weights = [p for n, p in live.named_parameters() if n in named(model, "cross_kv")]
    olds = [p for c in asked.erase for p in asked.prompts(c)]
    news = [p for c in asked.erase for p in asked.guide_prompts(c)]
    wanted = [news[i % 4] for i in range(5)]
    images = model.sample(wanted, steps=2, guidance=2.0, noise=model.noise(5, rng), decode=False)
    with global_seed(draw_seed(rng)):
        critic = patch_critic(*model.shape).to(images)
    judge = torch.optim.Adam(critic.parameters(), lr=how.critic_lr, betas=(0.5, 0.999))
    mover = torch.optim.AdamW(weights, lr=how.lr)
    seen = []

    def noised(levels):
        at, t = torch.randint(5, (2,)), torch.randint(levels, (2,))
        noise = torch.randn(2, *model.shape).to(images)
        a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
        return a.sqrt() * images[at] + (1 - a).sqrt() * noise, a, t, at, noise

    def predict(pipe, x, t, prompts):
        return torch.cat([pipe(x[[i]], int(t[i]), model.encode([prompts[i]]).detach()) for i in range(2)])

    def step(warm):
        x, a, t, at, _ = noised(how.t_max + 1)
        asks, anchors = [olds[k % 4] for k in at], [news[k % 4] for k in at]
        real = (x - (1 - a).sqrt() * predict(model, x, t, anchors).detach()) / a.sqrt()
        fake = (x - (1 - a).sqrt() * predict(live, x, t, asks)) / a.sqrt()
        seen.append(int(t.max()))
        if not warm:
            with torch.random.fork_rng():
                state = deepcopy(critic.state_dict())
                F.softplus(critic(fake)).mean().backward()
                critic.load_state_dict(state)  # its running statistics
            erase = [p.grad.clone() for p in weights]
            mover.zero_grad()
            x, a, t, at, noise = noised(1000)
            (predict(live, x, t, [news[k % 4] for k in at]) - noise).square().mean().backward()
            keep = [p.grad.clone() for p in weights]
            if how.surgery == "off":
                erase = [u + how.prior * p for u, p in zip(erase, keep, strict=True)]
            for side in (erase, keep):
                total = sum(float(g.square().sum()) for g in side) ** 0.5
                if total > 1:
                    for g in side:
                        g /= total
            everything = sum(float((u * p).sum()) for u, p in zip(erase, keep, strict=True))
            everything, length = min(0.0, everything), sum(float(p.square().sum()) for p in keep)
            for p, u, k in zip(weights, erase, keep, strict=True):
                share = min(0.0, float((u * k).sum())) / float((k * k).sum())
                if how.surgery == "global":
                    share = everything / length
                p.grad = u if how.surgery == "off" else u - how.strength * share * k
            mover.step()
            mover.zero_grad()
        judge.zero_grad()
        ((F.softplus(critic(real)).mean() + F.softplus(-critic(fake.detach())).mean()) / 2).backward()
        judge.step()

    for p in weights:
        p.requires_grad_(True)
    with global_seed(draw_seed(rng)):
        for _ in range(how.warmup):
            step(True)
    with global_seed(draw_seed(rng)):
        for _ in range(how.steps - how.warmup):
            step(False)
    assert max(seen) <= how.t_max
    return dict(live.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surgery", "strength"), [("tensor", 1.0), ("tensor", 0.4), ("global", 1.0), ("off", 1.0)]
)
def test_training_follows_the_equations(surgery, strength) -> None:
    model = telling().double()
    how = replace(FEW, surgery=surgery, strength=strength)
    edited = how.apply(model, ASKED, rng=seeded(3))
    moves = named(model, "cross_kv")
    for name, expected in naive(model, ASKED, how, seeded(3)).items():
        value, before = edited.get_parameter(name).detach(), model.get_parameter(name).detach()
        assert torch.allclose(value, expected.detach(), rtol=0, atol=1e-8), name
        assert (name in moves) == bool((value - before).abs().max() > 1e-4)


def test_the_step_never_goes_against_the_anchor() -> None:
    rng, how = seeded(0), DoCo()
    erasing, preserving = (
        [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((4, 3), (5,), (2, 2))] for _ in range(2)
    )
    before = [float((u * p).sum()) for u, p in zip(erasing, preserving, strict=True)]
    after = [float((u * p).sum()) for u, p in zip(how.step(erasing, preserving), preserving, strict=True)]
    assert min(before) < -0.1
    assert min(after) > -1e-12
    whole = replace(how, surgery="global").step(erasing, [-u for u in erasing])
    assert all(float(g.abs().max()) < 1e-12 for g in whole)


@pytest.mark.parametrize(("surgery", "kept"), [("tensor", True), ("global", True), ("off", False)])
def test_surgery_keeps_what_erasing_would_spoil(surgery, kept) -> None:
    """Erasing pulls w to (4, 4), preserving pulls w_0 to 0: with surgery only w_1 may go along."""
    how, w = DoCo(surgery=surgery), torch.tensor([0.1, 0.0])
    for _ in range(400):
        (step,) = how.step([w - 4.0], [torch.tensor([w[0], 0.0])])
        w = w - 0.02 * step
    assert float(w[1]) > 3
    assert (abs(float(w[0]) - 0.1) < 1e-3) if kept else float(w[0]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 4])
def test_a_killed_run_comes_to_the_same_bits(tmp_path, monkeypatch, at) -> None:
    model, ticks = telling(), iter(range(10**9))
    whole = FEW.apply(model, ASKED, rng=seeded(0))
    monkeypatch.setattr("unweave.fit.training.monotonic", lambda: 100.0 * next(ticks))
    step, calls = torch.optim.AdamW.step, []

    def dying(self, closure):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", dying)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        FEW.apply(model, ASKED, rng=seeded(0))
    with resumable(tmp_path):
        again = FEW.apply(model, ASKED, rng=seeded(0))
    assert len(calls) == 6
    assert all(torch.equal(p, whole.get_parameter(n)) for n, p in again.named_parameters())


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
        ("critic_lr", 0, "critic_lr must be above 0"),
        ("strength", 0, "strength must be above 0"),
        ("prior", -1, "prior must be at least 0"),
        ("surgery", "tensors", 'Did you mean "tensor"'),
        ("warmup", 2000, "warmup must be below its steps"),
    ],
)
def test_refuses_settings(field, value, message) -> None:
    with pytest.raises(InputError, match=message):
        DoCo(**{field: value})


def test_refuses_what_would_not_be_read() -> None:
    with pytest.raises(InputError, match="strength=.* would do nothing with surgery='off'"):
        DoCo(surgery="off", strength=0.5)
    with pytest.raises(InputError, match="prior=.* would do nothing with surgery='global'"):
        DoCo(surgery="global", prior=0.5)


def test_refuses_what_would_erase_nothing() -> None:
    model = pipeline()
    with pytest.raises(InputError, match="below the pipeline's 1000 noise levels"):
        replace(FEW, t_max=1000).apply(model, ASKED, rng=seeded(0))
    with torch.no_grad():
        model.text_encoder.get_input_embeddings().weight.zero_()
    with pytest.raises(InputError, match="encoded just as its concept"):
        FEW.apply(model, ASKED.only("cat"), rng=seeded(0))
