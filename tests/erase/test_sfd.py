from __future__ import annotations

from dataclasses import replace
from itertools import count

import diffusers
import pytest
import torch

from tests.erase.first_step import follows
from tests.erase.pipelines import CONCEPTS, KINDS, loaded, pipeline
from unweave import Mask, seeded
from unweave.erase import SFD, Concepts, one_step
from unweave.erase.sfd import _Clipped, _Losses, matching
from unweave.errors import InputError
from unweave.fit import resumable
from unweave.io.pipeline_folder import save_pipeline
from unweave.models.text_to_image.one_step import draws_in_one_step, level, started_at
from unweave.random import global_seed

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
ONE = SFD(distil=0, steps=1, batch_size=2, lr=1e-4, fake_lr=1e-4, alpha=1.2, forget=0.7, fake_forget=0.4)
PROMPTS = ASKED.prompts(*ASKED.erase)
GUIDES = ASKED.guide_prompts(*ASKED.erase)
KEPT = ASKED.prompts(*ASKED.preserve)


def telling(kind="sd"):
    """A pipeline whose prompts matter: random weights hardly read them."""
    model = pipeline(kind)
    with torch.no_grad():
        for layer in model.linears("cross_kv").values():
            layer.weight.mul_(20)
    return model


def everything(model) -> set[str]:
    return {n for n, _ in model.named_parameters() if n.startswith("denoiser.")}


def nearest(model, ratio: float) -> int:
    a = model.alphas_cumprod
    return int(((1 - a).sqrt() / a.sqrt()).log().sub(torch.tensor(ratio).log()).abs().argmin())


class Naive:
    """Both losses image by image in float64, with draws from torch's global generator in the documented order."""

    def __init__(self, method, model, fake=None) -> None:
        self.m, self.model, self.fake = method, model.editable("denoiser", "text_encoder").double(), fake
        self.t0, low, high = (nearest(model, r) for r in (method.start, method.low, method.high))
        self.range = (low, high)

    def text(self, prompts):
        return [self.model.encode([p]).detach() for p in prompts]

    def draw(self, prompts):
        return torch.randint(len(prompts), (2,)).tolist()

    def noise(self):
        z = torch.randn(2, *self.model.shape).double()
        t = self.range[0] + torch.randint(self.range[1] - self.range[0] + 1, (2,))
        return z, t.tolist(), torch.randn(2, *self.model.shape).double()

    def clean(self, net, x, t, prompt, guidance=1.0):
        a = self.model.alphas_cumprod[t]
        text, null = self.text([prompt])[0], self.text([""])[0]
        eps = (
            net(x, t, null) + guidance * (net(x, t, text) - net(x, t, null))
            if guidance != 1
            else net(x, t, text)
        )
        return (x - (1 - a).sqrt() * eps) / a.sqrt(), eps

    def psi_loss(self, psi, theta):
        total = 0.0
        for prompts, weight in ((KEPT, 1.0), (PROMPTS, self.m.fake_forget)):
            rows = self.draw(prompts)
            z, ts, e = self.noise()
            for i, (row, t) in enumerate(zip(rows, ts, strict=True)):
                with torch.no_grad():
                    x0 = self.clean(theta, z[i : i + 1], self.t0, prompts[row])[0]
                a = self.model.alphas_cumprod[t]
                x = a.sqrt() * x0 + (1 - a).sqrt() * e[i]
                eps = self.clean(psi, x, t, prompts[row], self.m.fake_guidance)[1]
                total = total + weight * (eps - e[i]).square().sum() / 2
        return total

    def theta_loss(self, theta):
        total = 0.0
        for prompts, goals, weight in ((KEPT, KEPT, 1.0), (PROMPTS, GUIDES, self.m.forget)):
            rows = self.draw(prompts)
            z, ts, e = self.noise()
            for i, (row, t) in enumerate(zip(rows, ts, strict=True)):
                x0 = self.clean(theta, z[i : i + 1], self.t0, prompts[row])[0]
                a = self.model.alphas_cumprod[t]
                x = a.sqrt() * x0 + (1 - a).sqrt() * e[i]
                real = self.clean(self.model, x, t, goals[row], self.m.guidance)[0]
                false = self.clean(self.fake, x, t, prompts[row], self.m.fake_guidance)[0]
                w = float((real - x0).detach().abs().mean())
                total = (
                    total
                    + weight * ((real - false) * ((real - x0) - self.m.alpha * (real - false))).sum() / w / 2
                )
        return total


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_first_steps_follow_the_equations(guidance) -> None:
    model, method = telling(), replace(ONE, guidance=guidance, fake_guidance=guidance)
    psi = replace(method, keep="steps").apply(model, ASKED, rng=seeded(3))
    naive = Naive(method, model)
    first = lambda wide: naive.psi_loss(wide, naive.model)  # noqa: E731
    assert follows(model, psi, seeded(3), first, everything(model)) > 0.99
    theta = method.apply(model, ASKED, rng=seeded(3))
    theta.alphas_cumprod = model.alphas_cumprod
    then = Naive(method, model, psi.editable("denoiser", "text_encoder").double())

    def second(wide):
        with torch.no_grad():
            then.psi_loss(then.model, then.model)  # draws as much as the step before did
        return then.theta_loss(wide)

    assert follows(model, theta, seeded(3), second, everything(model)) > 0.99


def shaken(model, seed: int):
    """A copy whose denoiser answers otherwise."""
    other = model.editable()
    with torch.no_grad():
        for p in other.denoiser.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=seeded(seed)).to(p))
    return other


@pytest.mark.parametrize(("guidance", "fake_guidance"), [(1.0, 1.0), (2.0, 1.5)])
def test_the_losses_are_the_naive_ones(guidance, fake_guidance) -> None:
    model = telling("pixart").double()
    how = replace(ONE, guidance=guidance, fake_guidance=fake_guidance)
    theta, psi = shaken(model, 1), shaken(model, 2)
    naive = Naive(how, model, psi)
    with torch.no_grad():
        kept, asked, guides, null = (model.encode(p) for p in (KEPT, PROMPTS, GUIDES, [""]))
    losses = _Losses(
        how=how, original=model, theta=theta, psi=psi, t0=naive.t0, levels=naive.range, kept=kept, asked=asked,
        guides=guides, null=null,
    )  # fmt: skip
    for of_theta, wanted in ((True, naive.theta_loss), (False, lambda theta: naive.psi_loss(psi, theta))):
        with global_seed(5):
            found = losses.loss(of_theta, forgetting=True).item()
        with global_seed(5):
            assert found == pytest.approx(wanted(theta).item(), rel=1e-9)
        kept_alone = {"forget": 1e-12, "fake_forget": 1e-12}
        part = replace(losses, how=replace(how, **kept_alone))
        with global_seed(5):
            alone = losses.loss(of_theta, forgetting=False).item()
        with global_seed(5):
            assert alone == pytest.approx(part.loss(of_theta, forgetting=True).item(), rel=1e-6)
        assert abs(alone - found) > 1e-3 * abs(found)


def test_psi_is_trained_so_often_before_each_step_of_the_generator(monkeypatch) -> None:
    calls = []

    def loss(self, of_theta, forgetting):
        net = self.theta if of_theta else self.psi
        others = [self.original, self.psi if of_theta else self.theta]
        assert all(p.requires_grad for p in net.denoiser.parameters())
        assert not any(p.requires_grad for other in others for p in other.denoiser.parameters())
        calls.append((of_theta, forgetting))
        return sum(p.sum() for p in net.denoiser.parameters())

    monkeypatch.setattr("unweave.erase.sfd._Losses.loss", loss)
    model, how = pipeline("pixart"), replace(ONE, distil=1, steps=2, fake_steps=2, lr=1e-3, fake_lr=1e-2)
    theta, psi = how.pair(model, ASKED, rng=seeded(0))
    turn = [False, False, True]
    assert calls == [(t, False) for t in turn] + [(t, True) for t in turn * 2]
    # Adam without momentum on a constant gradient moves by lr a step: theta three times, psi six
    for name, before in model.denoiser.named_parameters():
        for net, moved in ((theta, 3e-3), (psi, 6e-2)):
            assert torch.allclose(
                before - net.denoiser.get_parameter(name), torch.full_like(before, moved), atol=1e-6
            )


def test_clipped_steps_worked_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = _Clipped([{"params": [weight], "lr": 0.1}], clip=1.0)
    for slope in ([5.0, -0.5], [0.5, -0.5]):

        def closure(slope=slope):
            optimizer.zero_grad()
            loss = (weight * torch.tensor(slope)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    # the first entry's gradients count as 1 and 0.5: the second step is 0.5 / sqrt((0.999 + 0.25) / 1.999)
    second = 0.5 / ((0.999 * 1.0 + 0.25) / (1 + 0.999)) ** 0.5
    assert weight.tolist() == pytest.approx([0.9 - 0.1 * second, 1.2], abs=1e-6)


def test_the_generator_starts_where_its_schedule_ends() -> None:
    model = pipeline("pixart")
    made, how = model.editable(), model.alphas_cumprod.clone()
    made.index = {"scheduler": ["diffusers", "PNDMScheduler"], "other": 1}
    started = started_at(made, 600)
    assert started.timesteps == 601
    assert torch.allclose(started.scheduler.alphas_cumprod.double(), how[:601], atol=1e-6)
    assert started.sampler(1).timesteps.tolist() == [600]
    assert started.index == {"scheduler": ["diffusers", "DDIMScheduler"], "other": 1}
    assert draws_in_one_step(started)
    assert not draws_in_one_step(model)
    assert model.timesteps == 1000


def test_an_image_that_is_matched_already_is_not_divided_by_nothing() -> None:
    x0, real = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    # gap 1, weight at least 1e-5: 2 (1 (0 - 3)) / 1e-5
    assert matching(x0, real, real - 1, 3.0).tolist() == pytest.approx([-6e5])
    # weight 0.5: 2 (1 (0.5 - 3)) / 0.5
    assert matching(x0 / 2, real, real - 1, 3.0).tolist() == pytest.approx([-10.0])


def test_a_level_may_be_missed_by_a_twentieth() -> None:
    model = pipeline("pixart")
    a = model.alphas_cumprod
    top = float(((1 - a) / a).sqrt()[-1])
    assert level(model, 1.04 * top, "SFD") == 999
    assert level(model, 1e-9, "SFD") == 0
    with pytest.raises(InputError, match="Lower start or high"):
        level(model, 1.06 * top, "SFD")


def test_the_gradient_of_a_gaussian_passes_through_the_noised_image() -> None:
    # the original draws N(0, 1), the generator N(3, 1); a = 0.6, b = 0.8: f_phi(x) = 0.6 x, f_psi(x) = 0.6 x + 1.92.
    # gap -1.92 and d(0.6 x - x0)/dm = 0.36 - 1: each image's slope is 1.92 * 0.64 = 1.2288, half that of |gap|^2;
    # without the way through x it were 1.92
    z, e = torch.randn(2, 50, 1, 1, 1, generator=seeded(0)).double()
    m = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    for alpha in (1.0, 1.2):
        x0 = m + z
        x = 0.6 * x0 + 0.8 * e
        real, fake = 0.6 * x, 0.6 * x + 1.92
        weight = (real - x0).detach().abs().flatten()
        (slope,) = torch.autograd.grad((matching(x0, real, fake, alpha) * weight).mean(), m)
        assert float(slope) == pytest.approx(1.2288)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_draws_with_the_generator_in_one_step(kind, tmp_path) -> None:
    model = loaded(kind)
    made = replace(ONE, lr=1e-5).apply(model, ASKED, rng=seeded(0))
    save_pipeline(made, tmp_path / "made")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "made", local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    z = made.noise(1, seeded(1))
    extra = {"clean_caption": False, "use_resolution_binning": False} if kind == "pixart" else {}
    image = theirs(
        "a photo of a dog", num_inference_steps=1, guidance_scale=1.0, latents=z, output_type="latent", **extra
    ).images  # fmt: skip
    ours = made.sample(["a photo of a dog"], steps=1, guidance=1, noise=z, decode=False)
    t0, a = nearest(model, 2.5), model.alphas_cumprod[nearest(model, 2.5)].float()
    with torch.no_grad():
        eps = made(z, t0, made.encode(["a photo of a dog"]))
    assert torch.allclose(ours, (z - (1 - a).sqrt() * eps) / a.sqrt(), atol=1e-4)
    assert torch.allclose(image, ours, atol=1e-4)
    assert torch.equal(
        one_step(made, ["a cat"] * 2, rng=seeded(2)),
        made.sample(["a cat"] * 2, steps=1, guidance=1, rng=seeded(2)),
    )


def test_the_concept_is_drawn_as_its_guide() -> None:
    model = telling("pixart")
    asked = Concepts(erase=("cat",), guide="bird", preserve=("dog", "bird"), templates=("a {}",))
    method = SFD(
        distil=0, steps=24, batch_size=4, lr=1e-3, fake_lr=1.5e-3, forget=20.0, fake_forget=20.0, start=2.0, low=0.5,
        high=6.0,
    )  # fmt: skip
    z = model.noise(8, seeded(9))

    def gap(made) -> float:
        cat, bird = (
            made.sample([f"a {w}"] * 8, steps=1, guidance=1, noise=z, decode=False) for w in ("cat", "bird")
        )
        return float((cat - bird).square().mean())

    plain = replace(method, forget=1e-9, fake_forget=1e-9)
    forgot, kept = (sum(gap(m.apply(model, asked, rng=seeded(i))) for i in (0, 1)) for m in (method, plain))
    assert forgot < 0.5 * kept


def test_psi_is_a_pipeline_of_many_steps() -> None:
    model = pipeline()
    psi = replace(ONE, keep="steps").apply(model, ASKED, rng=seeded(0))
    assert psi.scheduler is model.scheduler
    assert psi.timesteps == model.timesteps
    with pytest.raises(InputError, match="this pipeline is none"):
        one_step(psi, ["a cat"], rng=seeded(0))


def test_pruned_weights_stay_pruned() -> None:
    model = pipeline()
    name = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with torch.no_grad():
        model.get_parameter(name)[::2] = 0
    edited = replace(ONE, steps=2).apply(model, ASKED, rng=seeded(0))
    assert torch.equal(Mask.of(edited).keep[name], Mask.of(model).keep[name])
    assert not torch.equal(edited.get_parameter(name), model.get_parameter(name))


def test_refuses() -> None:
    with pytest.raises(InputError, match="alpha must be above 0"):
        SFD(alpha=0)
    with pytest.raises(InputError, match="must lie between low and high"):
        SFD(start=0.1)
    with pytest.raises(InputError, match="none is preserved"):
        ONE.apply(pipeline(), replace(ASKED, preserve=()), rng=seeded(0))
    with pytest.raises(InputError, match="reaches 14"):
        replace(ONE, high=20.0).apply(pipeline(), ASKED, rng=seeded(0))
    with pytest.raises(InputError, match="one step already"):
        ONE.apply(ONE.apply(pipeline(), ASKED, rng=seeded(0)), ASKED, rng=seeded(0))
    assert level(pipeline(), 2.5, "SFD") == nearest(pipeline(), 2.5)
    model = pipeline()
    with torch.no_grad():
        model.text_encoder.get_input_embeddings().weight.zero_()
    with pytest.raises(InputError, match="nothing would be forgotten"):
        ONE.apply(model, ASKED.only("cat"), rng=seeded(0))


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch) -> None:
    model, method = pipeline(), replace(ONE, distil=2, steps=2, lr=1e-3, fake_lr=1e-3)
    whole = method.apply(model, ASKED, rng=seeded(0))
    seconds = count(0, 60)
    monkeypatch.setattr("unweave.fit.training.monotonic", lambda: next(seconds))
    calls = count()

    def killed(*args):
        if next(calls) == 4:  # in the second round of forgetting, whose rounds call it twice
            raise KeyboardInterrupt
        return matching(*args)

    monkeypatch.setattr("unweave.erase.sfd.matching", killed)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        method.apply(model, ASKED, rng=seeded(0))
    with resumable(tmp_path):
        again = method.apply(model, ASKED, rng=seeded(0))
    assert next(calls) == 7  # no round was done a second time
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
