from __future__ import annotations

from dataclasses import replace
from math import e, exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.contract import world
from unweave import Data, Mask, Request, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.fit import recording, resumable
from unweave.io.nested import join, split
from unweave.random import global_seed
from unweave.tasks import Classify, predict, read_labels
from unweave.unlearn import LAF
from unweave.unlearn import laf as module
from unweave.unlearn._density import VAE, Gaussian, vae_loss
from unweave.unlearn.laf import alignment, bounded

SMALL = LAF(least_steps=60, lr_unlearn=5e-4, lr_align=5e-3, hidden=(12,), latent=4, density_epochs=3)


def one_class() -> Request:
    """Forget every training example of class 2."""
    train, heldout = world.points()
    return Request.of(train, heldout, (read_labels(train) == 2).nonzero().flatten())


def signed(seed: int = 0) -> nn.Sequential:
    """A network whose representation may be negative: 8-24-6, linear head."""
    with global_seed(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 6), nn.Linear(6, 3))


def representations(model: nn.Module, data: Data) -> Tensor:
    return predict(model, data, data.task.features)


# the losses


@pytest.mark.parametrize(("f", "r", "tau"), [(1, 1, 1.0), (3, 5, 5.0), (6, 2, 20.0)])
def test_alignment_against_the_equation(f: int, r: int, tau: float) -> None:
    forget, retain = (torch.rand(n, generator=seeded(n), dtype=torch.float64) for n in (f, r))
    total = sum(log(exp(retain[i]) / sum(exp(forget[j] / tau) for j in range(f))) for i in range(r))
    assert alignment(forget, retain, tau).item() == pytest.approx(total, rel=1e-12)


def test_bounds_against_the_equations() -> None:
    u = torch.tensor([0.0, 0.3, 1.0, 9.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(bounded(u), torch.tensor([exp(v / (v + 1)) for v in u.tolist()]).double())
    assert bounded(u).max() < e
    tanh = torch.tensor([2 * (exp(v) - 1) / (exp(v) + 1) for v in (0.0, 0.3, 1.0, 9.0)])  # 2 tanh(v / 2)
    torch.testing.assert_close(bounded(u[:4], phi="tanh", level=2.0), tanh.double())
    assert bounded(u, phi="clip", level=2.0).tolist() == [0.0, 0.3, 1.0, 2.0, 2.0]


def test_vae_loss_against_the_equation() -> None:
    x, y = torch.randn(2, 4, 5, generator=seeded(0), dtype=torch.float64)
    mean, log_variance = torch.randn(2, 4, 3, generator=seeded(1), dtype=torch.float64)
    total = 0.0
    for i in range(4):
        total += sum(float(y[i, k] - x[i, k]) ** 2 for k in range(5))
        for k in range(3):
            m, s = float(mean[i, k]), float(log_variance[i, k])
            normal, prior = (torch.distributions.Normal(a, b) for a, b in ((m, exp(s / 2)), (0.0, 1.0)))
            total += 0.025 * float(torch.distributions.kl_divergence(normal, prior))
    assert vae_loss(x, y, mean, log_variance, 0.025).item() == pytest.approx(total / 4, rel=1e-6)


@pytest.mark.parametrize("out", ["linear", "sigmoid"])
def test_vae_is_encoder_sampled_latent_and_mirrored_decoder(out: Any) -> None:
    with global_seed(0):
        vae = VAE(5, (4, 3), 2, out).double()
    x = torch.randn(7, 5, generator=seeded(0), dtype=torch.float64)
    w = dict(vae.named_parameters())
    assert [tuple(p.shape) for n, p in w.items() if n.endswith("weight")] == [
        (4, 5), (3, 4), (2, 3), (2, 3), (3, 2), (4, 3), (5, 4),
    ]  # fmt: skip
    with global_seed(1):
        noise = torch.randn(7, 2, dtype=torch.float64)
    (w1, b1, w2, b2, wm, bm, ws, bs, v1, c1, v2, c2, v3, c3) = w.values()
    hidden = ((x @ w1.T + b1).clamp(min=0) @ w2.T + b2).clamp(min=0)
    mean, spread = hidden @ wm.T + bm, hidden @ ws.T + bs
    z = mean + noise * torch.exp(0.5 * spread)
    y = ((z @ v1.T + c1).clamp(min=0) @ v2.T + c2).clamp(min=0) @ v3.T + c3
    y = 1 / (1 + torch.exp(-y)) if out == "sigmoid" else y
    with global_seed(1):
        torch.testing.assert_close(vae(x)[0], y, rtol=1e-12, atol=1e-12)
    with global_seed(1):
        torch.testing.assert_close(vae.distance(x), ((y - x) ** 2).sum(1), rtol=1e-12, atol=1e-12)


def test_gaussian_distance_against_the_equation() -> None:
    x = torch.randn(9, 4, generator=seeded(0), dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5, 0.0])
    mean = [float(x[:, k].mean()) for k in range(4)]
    variance = [sum((float(v) - mean[k]) ** 2 for v in x[:, k]) / 9 for k in range(4)]
    floor = 1e-3 * sum(variance) / 4
    wanted = [
        sum((float(x[i, k]) - mean[k]) ** 2 / (variance[k] + floor) for k in range(4)) / 4 for i in range(9)
    ]
    torch.testing.assert_close(Gaussian(x).distance(x), torch.tensor(wanted).double())


# the step


class Fixed(nn.Module):
    """A density whose distance is a quadratic form known to the test."""

    def __init__(self, centre: float) -> None:
        super().__init__()
        self.centre = centre

    def distance(self, x: Tensor) -> Tensor:
        return (x - self.centre).square().sum(1)


def test_first_pair_of_steps_against_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    # One batch of each set, so one pair of steps: Adam's first step is lr g / (|g| + 1e-8), each with its own state.
    given = iter([Fixed(0.3), Fixed(-0.2)])  # h of all, then h_f
    monkeypatch.setattr(LAF, "_fitted", lambda *_: next(given))
    request, start = world.request(), signed()
    method = LAF(epochs=1, least_steps=0, batch_size=100, lr_unlearn=0.01, lr_align=0.02, temperature=5.0)
    edited = method.apply(start, request, rng=seeded(0))
    x_f, x_r = (
        torch.cat([b[0] for b in part.batches()]).double() for part in (request.forget, request.retain)
    )
    w = [p.detach().double().requires_grad_() for p in list(start.parameters())[:4]]

    def g(x: Tensor, w: list[Tensor]) -> Tensor:
        return (x @ w[0].T + w[1]).clamp(min=0) @ w[2].T + w[3]

    before_f, before_r = g(x_f, w).detach(), g(x_r, w).detach()

    def phi(v: Tensor) -> Tensor:
        return torch.exp(v / (v + 1))

    l_ue = sum(phi(((row - 0.3) ** 2).sum()) for row in g(x_r, w)) - sum(
        phi(((row + 0.2) ** 2).sum()) for row in g(x_f, w)
    )
    first = torch.autograd.grad(l_ue, w)
    w = [(p - 0.01 * d / (d.abs() + 1e-8)).detach().requires_grad_() for p, d in zip(w, first, strict=True)]

    def delta(now: Tensor, before: Tensor) -> list[Tensor]:
        return [1 - (a @ b) / (a.norm() * b.norm()) for a, b in zip(now, before, strict=True)]

    d_f, d_r = delta(g(x_f, w), before_f), delta(g(x_r, w), before_r)
    l_ra = sum(torch.log(torch.exp(i) / sum(torch.exp(j / 5.0) for j in d_f)) for i in d_r)
    second = torch.autograd.grad(l_ra, w)
    for p, q, d in zip(w, edited.parameters(), second, strict=False):
        clear = d.abs() > 1e-4  # elsewhere float32 cannot tell the sign
        assert clear.double().mean() > 0.5
        torch.testing.assert_close(
            q.detach().double()[clear], (p - 0.02 * d / (d.abs() + 1e-8))[clear], atol=2e-5, rtol=0
        )
    assert torch.equal(edited[-1].weight, start[-1].weight)


def test_the_adams_have_their_own_states_and_both_survive_saving() -> None:
    p = nn.Parameter(torch.tensor([1.0]))
    optimizer = module._InTurn([p], lrs=[0.1, 0.01])
    slopes = [1.0, -4.0]

    def closure() -> Tensor:
        p.grad = torch.tensor([slopes[optimizer.turn]])
        return torch.zeros(())

    optimizer.step(closure)
    assert p.item() == pytest.approx(1 - 0.1 + 0.01)
    other = module._InTurn([p], lrs=[0.1, 0.01])
    other.load_state_dict(join(*split(optimizer.state_dict())))
    moments = [one.state[p]["exp_avg"].item() for one in other.each]
    assert moments == pytest.approx([0.1, -0.4])


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Any) -> None:
    method, request = replace(SMALL, least_steps=6, epochs=3), world.request()
    whole = method.apply(world.model(), request, rng=seeded(0))
    with resumable(tmp_path):
        method.apply(world.model(), request, rng=seeded(0))
    with resumable(tmp_path):  # every training is there: nothing is trained again
        again = method.apply(world.model(), request, rng=seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


# what it reads and how long it goes


def test_no_label_is_read() -> None:
    class Blind(Classify):
        def labels(self, batch: Any) -> Tensor:
            raise AssertionError("labels were read")

    def blinded(part: Data) -> Data:
        x = torch.cat([b[0] for b in part.batches()])
        unknown = torch.full((len(x),), torch.nan)
        return Data(TensorDataset(x, unknown), Blind(3), part.batch_size)

    request, model = world.request(), world.model()
    blind = Request(blinded(request.forget), blinded(request.retain), blinded(request.heldout))
    a, b = (SMALL.apply(model, r, rng=seeded(0)) for r in (request, blind))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(AssertionError, match="labels were read"):
        replace(SMALL, repair=0.1).apply(model, blind, rng=seeded(0))


@pytest.mark.parametrize(
    ("forget", "epochs", "least", "pairs"),
    [(12, 3, 0, 9), (12, 2, 7, 9), (12, 5, 15, 15), (60, 1, 0, 8), (62, 2, 0, 14)],
)
def test_pairs_are_as_many_as_the_smaller_set_has_batches(
    forget: int, epochs: int, least: int, pairs: int
) -> None:
    # 90 examples in batches of 4: of 12 forgotten 3; of 60 the 30 kept are the smaller set, 8; of 62 the 28, 7
    train, heldout = world.points()
    request = Request.of(train, heldout, range(forget))
    with recording() as done:
        replace(SMALL, epochs=epochs, least_steps=least, batch_size=4).apply(
            world.model(), request, rng=seeded(0)
        )
    assert done[-1].steps == pairs
    assert done[-1].calls == 2 * pairs


def test_the_sets_keep_their_roles_where_the_forget_set_is_the_larger() -> None:
    train, heldout = world.points()
    request = Request.of(train, heldout, (read_labels(train) != 2).nonzero().flatten())
    model = signed()
    edited = LAF(lr_unlearn=0.0, lr_align=5e-3, least_steps=100).apply(model, request, rng=seeded(0))

    def drift(part: Data) -> float:
        a, b = representations(model, part), representations(edited, part)
        return float((1 - torch.cosine_similarity(a, b)).mean())

    assert drift(request.forget) > drift(request.retain) + 0.1


def test_only_a_share_of_the_retain_set_is_read_and_repaired_on() -> None:
    seen: set[Any] = set()
    taught: set[Any] = set()

    class Watching(Classify):
        def features(self, model: nn.Module, batch: Any) -> Tensor:
            seen.update(map(tuple, batch[0].tolist()))
            return super().features(model, batch)

        def outputs(self, model: nn.Module, batch: Any) -> Tensor:
            seen.update(map(tuple, batch[0].tolist()))
            return super().outputs(model, batch)

        def labels(self, batch: Any) -> Tensor:
            taught.update(map(tuple, batch[0].tolist()))
            return super().labels(batch)

    request = world.request()
    watched = replace(
        request,
        forget=replace(request.forget, task=Watching(3)),
        retain=replace(request.retain, task=Watching(3)),
    )
    replace(SMALL, retain_share=0.5, repair=0.25).apply(world.model(), watched, rng=seeded(0))
    kept = round(0.5 * len(request.retain))
    assert len(seen) == len(request.forget) + kept
    assert len(taught) == round(0.25 * kept)


# what moves


def test_forgets_a_class_and_keeps_the_rest_against_control() -> None:
    model, request = world.model(), one_class()
    edited = replace(SMALL, least_steps=150).apply(model, request, rng=seeded(0))
    right = {n: (predict(edited, d).argmax(1) == read_labels(d)).double().mean() for n, d in
             (("forget", request.forget), ("retain", request.retain))}  # fmt: skip
    before = (predict(model, request.forget).argmax(1) == read_labels(request.forget)).double().mean()
    assert before > 0.9
    assert right["forget"] < before - 0.5
    assert right["retain"] > 0.9


def test_the_density_step_moves_the_forget_set_out_of_its_own_density() -> None:
    model, request = signed(), one_class()
    kept = Gaussian(torch.cat([representations(model, d) for d in (request.forget, request.retain)]))
    lost = Gaussian(representations(model, request.forget))
    method = LAF(lr_unlearn=2e-3, lr_align=0.0, density="gaussian", least_steps=100)
    edited = method.apply(model, request, rng=seeded(0))

    def distances(m: nn.Module) -> tuple[float, float]:
        of_lost, of_kept = (representations(m, d) for d in (request.forget, request.retain))
        return float(lost.distance(of_lost).mean()), float(kept.distance(of_kept).mean())

    assert distances(edited)[0] > 2 * distances(model)[0]
    assert distances(edited)[1] < 1.5 * distances(model)[1]


def test_the_head_moves_only_in_a_repair_and_then_alone() -> None:
    model, request = world.model(), world.request()
    plain = SMALL.apply(model, request, rng=seeded(0))
    mended = replace(SMALL, repair=1.0, repair_lr=0.01).apply(model, request, rng=seeded(0))
    assert torch.equal(plain[-1].weight, model[-1].weight)
    assert not torch.equal(plain[1].weight, model[1].weight)
    assert torch.equal(mended[1].weight, plain[1].weight)
    loss = [float(predict(m, request.retain, request.retain.task.losses).mean()) for m in (plain, mended)]
    assert loss[1] < loss[0] - 1e-3


def test_batch_normalisation_keeps_its_statistics_unless_told_otherwise() -> None:
    model, request = world.model(batch_norm=True), world.request()
    frozen, trained = (
        replace(SMALL, norms=norms).apply(model, request, rng=seeded(0)) for norms in ("frozen", "train")
    )
    assert torch.equal(frozen[2].running_mean, model[2].running_mean)
    assert not torch.equal(trained[2].running_mean, model[2].running_mean)


def test_dropout_is_off_while_norms_are_frozen() -> None:
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    seen: set[bool] = set()
    network[2].register_forward_hook(lambda layer, *_: seen.add(layer.training))
    SMALL.apply(network, world.request(), rng=seeded(0))
    assert seen == {False}
    replace(SMALL, norms="train").apply(network, world.request(), rng=seeded(0))
    assert seen == {False, True}


def test_off_a_mask_every_weight_keeps_its_bits() -> None:
    model, request = world.model(), world.request()
    only = Mask({n: torch.arange(p.numel()).view_as(p) % 2 == 0 for n, p in model.named_parameters()})
    edited = replace(SMALL, repair=0.5).apply(model, request, rng=seeded(0), only=only)
    for (name, p), q in zip(model.named_parameters(), edited.parameters(), strict=True):
        assert torch.equal(p[~only.keep[name]], q[~only.keep[name]])
        assert not torch.equal(p, q)


@pytest.mark.parametrize("change", [
    {"decoder": "sigmoid"}, {"phi": "tanh"}, {"phi": "clip"}, {"density_epochs": 9}, {"density_lr": 0.01}, {"kl": 1.0},
    {"latent": 2}, {"hidden": (9, 5)}, {"temperature": 5.0}, {"batch_size": 7}, {"retain_share": 0.6},
])  # fmt: skip
def test_each_setting_does_something(change: dict[str, Any]) -> None:
    model, request = world.model(), world.request()
    a, b = (m.apply(model, request, rng=seeded(0)) for m in (SMALL, replace(SMALL, **change)))
    assert float((a[1].weight - b[1].weight).detach().abs().max()) > 1e-4


# where the representation is


def test_the_layer_above_the_representation_can_be_named() -> None:
    model, request = world.model(), world.request()
    a, b = (m.apply(model, request, rng=seeded(0)) for m in (SMALL, replace(SMALL, layer="3")))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    lower = replace(SMALL, layer="2").apply(model, request, rng=seeded(0))
    assert not torch.equal(lower[1].weight, a[1].weight)


def test_a_task_without_features_needs_a_layer() -> None:
    class Bare:
        def losses(self, model: nn.Module, batch: Any) -> Tensor:
            return Classify(3).losses(model, batch)

        def outputs(self, model: nn.Module, batch: Any) -> Tensor:
            return Classify(3).outputs(model, batch)

    request, model = world.request(), world.model()
    bare = Request(*(replace(d, task=Bare()) for d in (request.forget, request.retain, request.heldout)))  # type: ignore[type-var]
    with pytest.raises(
        InputError, match=r"LAF without layer needs a task that is Representing .* has no features"
    ):
        SMALL.apply(model, bare, rng=seeded(0))
    a, b = (
        replace(SMALL, layer="3").apply(model, bare, rng=seeded(0)),
        SMALL.apply(model, request, rng=seeded(0)),
    )
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Odd(nn.Module):
    """A layer that never runs, one called by keyword alone, one whose input is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.full, self.keyed = nn.Linear(8, 8), nn.Linear(8, 6), Keyed()
        self.image, self.head = nn.Flatten(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.image(self.keyed(x=self.full(x)).view(-1, 2, 3)))


class Keyed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_refuses() -> None:
    request, model = world.request(), world.model()
    with pytest.raises(InputError, match=r"LAF.layer='top' is no module of the model.*among 0, 1, 2, 3"):
        replace(SMALL, layer="top").apply(model, request, rng=seeded(0))
    for layer, message in [
        ("never", "was given no input; name a layer that the model calls"),
        ("keyed", "was given no input"),
        (
            "image",
            r"shape \[n, width\]; the input of 'image' has \[12, 2, 3\].*after the pooling or flattening",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            replace(SMALL, layer=layer).apply(Odd(), request, rng=seeded(0))
    with pytest.raises(EmptyDataError, match="LAF .forget set"):
        SMALL.apply(model, replace(request, forget=request.forget.subset([])), rng=seeded(0))
    with pytest.raises(EmptyDataError, match="LAF .retain set"):
        SMALL.apply(model, replace(request, retain=request.retain.subset([])), rng=seeded(0))
    one = Request.of(world.points()[0], request.heldout, [4])
    with pytest.raises(InputError, match=r"LAF\(density='gaussian'\) needs examples .* differ; got 1 alike"):
        LAF(density="gaussian", least_steps=0).apply(model, one, rng=seeded(0))


def test_refuses_what_is_frozen() -> None:
    request, model = world.request(), world.model()
    model[-1].requires_grad_(False)
    with pytest.raises(
        InputError, match=r"LAF.repair trains the head, but every parameter above .* is frozen"
    ):
        replace(SMALL, repair=0.5).apply(model, request, rng=seeded(0))
    model = world.model()
    model[1].requires_grad_(False)
    with pytest.raises(
        InputError, match="LAF can train nothing: every parameter that the representation depends on"
    ):
        SMALL.apply(model, request, rng=seeded(0))


@pytest.mark.parametrize(("settings", "message"), [
    ({"lr_unlearn": 0.0, "lr_align": 0.0}, "must not both be 0"),
    ({"lr_unlearn": 0.0, "decoder": "sigmoid"}, "decoder='sigmoid' would do nothing with lr_unlearn=0"),
    ({"lr_align": 0.0, "temperature": 5.0}, "temperature=5.0 would do nothing with lr_align=0"),
    ({"density": "gaussian", "latent": 4}, "latent=4 would do nothing with density='gaussian'"),
    ({"level": 2.0}, "level=2.0 would do nothing with phi='ratio'"),
    ({"repair_epochs": 2}, "repair_epochs=2 would do nothing with repair=0"),
    ({"repair": 1.5}, "repair must be at least 0 and at most 1"),
    ({"retain_share": 0.0}, "retain_share must be above 0"),
    ({"temperature": 0.0}, "temperature must be above 0"),
    ({"density": "flow"}, 'density must be "vae" or "gaussian"'),
    ({"hidden": (0,)}, "hidden"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LAF(**settings)
