from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tests.interpret import world
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.interpret import Dictionary, SparseAutoencoder
from unweave.interpret.dictionary import geometric_median
from unweave.interpret.learner import Learner, Rules

SMALL = {"latents": 48, "k": 3, "batch_size": 100, "buffer": 300, "lr": 5e-3}


def held(*tensors: Tensor, batch_size: int = 100) -> Data[None]:  # type: ignore[type-var]
    return Data(TensorDataset(*tensors), None, batch_size)  # type: ignore[type-var]


def pair(how: Dictionary, k_aux: int = 4, dead_after: int = 50, window: int = 200) -> Learner:
    gate = {"token": "topk", "gate": "gated"}.get(how.ration, "jumprelu")
    sae = SparseAutoencoder(24, how.latents, gate=gate, k=3 if gate == "topk" else None, rng=seeded(5))  # type: ignore[arg-type]
    learner = Learner(sae, Rules(how, k_aux, dead_after, window, 100))
    with torch.no_grad():
        for i, p in enumerate(sae.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(i)))
    return learner.double()


@pytest.mark.parametrize("score", ["activation", "additive", "product"])
def test_the_loss_of_a_token_ration_equals_the_slow_equations(score: str) -> None:
    beta = {"beta": 2.0} if score == "additive" else {}
    learner = pair(Dictionary(**SMALL, score=score, auxiliary="none", **beta))  # type: ignore[arg-type]
    sae = learner.sae
    x, g = (t[:9].double() for t in world.vectors())
    z = sae.affinities(x).relu()
    u = torch.stack([torch.stack([(sae.W_dec[j] @ g[i]).abs() for j in range(48)]) for i in range(9)])
    u = u / u.mean()
    ranked = {"activation": z, "additive": z + 2.0 * z * u, "product": z * u}[score]
    hat = []
    for i in range(9):
        best = ranked[i].argsort(descending=True)[:3]
        hat.append(sum((z[i, j] * sae.W_dec[j] for j in best), sae.b_dec))
    expected = (x - torch.stack(hat)).square().sum() / (x - x.mean(0)).square().sum()
    assert torch.allclose(learner(x, g), expected)
    (slope,) = torch.autograd.grad(learner(x, g), sae.W_dec, retain_graph=True)
    rows = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    assert (slope * rows).sum(1).abs().max() < 1e-9 < slope.abs().max(), (
        "a gradient along a row changes its norm"
    )


def test_silent_latents_predict_what_is_left_over() -> None:
    learner = pair(Dictionary(**SMALL, coefficient=0.25), k_aux=4)
    x = world.vectors()[0][:9].double()
    plain = learner(x)
    learner.silent[:] = 0
    learner.silent[[2, 7, 30]] = 50  # dead: fewer than k_aux, so that the loss counts for 3 / 4
    found = learner(x)
    sae = learner.sae
    a = sae.affinities(x)
    left = x - sae(x)
    extra = sum(a[:, [j]].relu() * sae.W_dec[j] for j in (2, 7, 30))
    around = (x - x.mean(0)).square().sum()
    expected = left.square().sum() / around + 0.25 * 0.75 * (left - extra).square().sum() / around
    assert torch.allclose(found, expected)
    assert not torch.allclose(found, plain)


def test_latents_below_their_law_take_part_by_how_far() -> None:
    learner = pair(Dictionary(**SMALL, auxiliary="under-used"))
    assert not learner.weak().any()
    learner.expected[:] = 0.2
    learner.density[:] = 0.2
    learner.density[3], learner.density[4], learner.density[5] = 0.05, 0.0, 0.9
    expected = torch.zeros(48, dtype=torch.float64)
    expected[3], expected[4] = 0.75, 1.0
    assert torch.allclose(learner.weak(), expected)
    learner.silent[9] = 50
    assert float(learner.weak()[9]) == 1


def test_gates_equal_the_slow_equations() -> None:
    learner = pair(
        Dictionary(latents=48, ration="gate", l1=0.3, auxiliary="none", batch_size=100, buffer=300)
    )
    x, sae = world.vectors()[0][:9].double(), learner.sae
    pi = (x - sae.b_dec) @ sae.W_enc + sae.b_gate
    around = (x - x.mean(0)).square().sum()
    by_gate = x - (pi.relu() @ sae.W_dec + sae.b_dec)
    penalty = 0.3 * pi.relu().sum(1).mean() / (around / 9).sqrt()
    expected = ((x - sae(x)).square().sum() + by_gate.square().sum()) / around + penalty
    assert torch.allclose(learner(x), expected)


def test_what_is_remembered_of_batches() -> None:
    learner = pair(Dictionary(**SMALL, ration="batch", auxiliary="none"), window=200)
    learner.density[:] = 0.5
    codes = torch.zeros(50, 48, dtype=torch.float64)
    codes[:25, 0], codes[0, 1] = 2.0, 0.5
    learner._remember(codes)
    assert learner.density[:3].tolist() == pytest.approx([0.5, 0.375 + 0.25 * 0.02, 0.375])
    assert learner.silent[:3].tolist() == [0, 0, 50]


def test_thresholds_are_means_of_the_smallest_kept() -> None:
    x = world.vectors()[0][:200].double()
    learner = pair(Dictionary(**SMALL, ration="batch", auxiliary="none"))
    z = learner.sae.affinities(x).relu().detach()
    learner.calibrate_([(x[:100],), (x[100:],)])
    mean = sum(float(z[i : i + 100].flatten().sort(descending=True).values[299]) for i in (0, 100)) / 2
    assert learner.sae.threshold.tolist() == pytest.approx([mean] * 48, rel=1e-6)
    learner.ration[:] = 6
    learner.ration[0] = 12
    learner.calibrate_([(x[:100],), (x[100:],)])
    for j, m in ((0, 12), (1, 6), (47, 6)):
        parts = [z[i : i + 100, j].sort(descending=True).values[:m] for i in (0, 100)]
        heard = [float(p[p > 0][-1]) for p in parts if (p > 0).any()]
        assert float(learner.sae.threshold[j]) == pytest.approx(sum(heard) / len(heard), rel=1e-6)
    learner.calibrate_([(x[:100],)])
    kept = (learner.sae.encode(x[:100]) > 0).sum(0)
    assert torch.equal(kept, learner.ration.clamp(max=100).minimum((z[:100] > 0).sum(0))), (
        "one batch: just what it kept"
    )


@pytest.fixture(scope="module")
def runs() -> dict[str, SparseAutoencoder]:
    x, g = world.vectors()
    return {
        score: Dictionary(**SMALL, score=score, epochs=6).fit(held(x, g), rng=seeded(0))  # type: ignore[arg-type]
        for score in ("activation", "additive")
    } | {
        ration: Dictionary(**SMALL, ration=ration, epochs=6).fit(held(x), rng=seeded(0))  # type: ignore[arg-type]
        for ration in ("batch", "zipf")
    }


def unexplained(sae: SparseAutoencoder, x: Tensor) -> float:
    return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_training_explains_the_layer_and_keeps_rows_of_norm_one(runs: dict[str, SparseAutoencoder]) -> None:
    x = world.vectors()[0]
    begun = SparseAutoencoder(24, 48, k=3, rng=seeded(0)).requires_grad_(False)
    with torch.no_grad():
        begun.b_dec.copy_(geometric_median(x))
    for name, sae in runs.items():
        assert unexplained(sae, x) < 0.5 * unexplained(begun, x), name
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)
    active = (runs["activation"].encode(x) > 0).sum(1)
    assert int(active.max()) <= 3
    assert {runs[r].gate for r in ("batch", "zipf")} == {"jumprelu"}
    for ration in ("batch", "zipf"):
        assert 2 < float((runs[ration].encode(x) > 0).float().sum(1).mean()) < 4
    assert len(set(runs["zipf"].get_buffer("threshold").tolist())) > 20 > 1
    assert len(set(runs["batch"].get_buffer("threshold").tolist())) == 1


def test_latents_that_are_rationed_are_all_heard() -> None:
    x = world.vectors()[0]
    shares = {}
    for ration in ("batch", "feature"):
        how = Dictionary(**SMALL, ration=ration, auxiliary="none", epochs=3)  # type: ignore[arg-type]
        learner = pair(how)
        if ration == "feature":
            learner.rank_(expect=False, ration=300)
        kept = learner.rules.kept(
            learner.sae.affinities(x[:100].double()).relu(),
            learner.sae.affinities(x[:100].double()).relu(),
            learner.ration if ration == "feature" else None,
        )
        assert int(kept.sum()) == 300
        shares[ration] = kept.sum(0)
    assert (shares["feature"] >= 6).all()
    assert int(shares["batch"].min()) < 6


def test_most_a_token() -> None:
    how = Dictionary(**SMALL, ration="batch", max_per_token=4)
    z = torch.rand(100, 48, generator=seeded(0))
    z[0] += 5
    free = Rules(replace(how, max_per_token=None), 1, 1, 1, 100).kept(z, z)
    tame = Rules(how, 1, 1, 1, 100).kept(z, z)
    assert int(free[0].sum()) == 48
    assert int(tame.sum(1).max()) == 4
    assert not bool((tame & ~free).any())


def test_the_beginning_is_the_geometric_median() -> None:
    x = torch.randn(40, 3, generator=seeded(0), dtype=torch.float64)
    x[:5] += 100  # few and far away: they hardly move it
    at = geometric_median(x, rounds=200)
    pull = ((at - x) / (at - x).norm(dim=1, keepdim=True)).sum(0)
    assert pull.norm() < 1e-3
    assert at.norm() < 2 < x.mean(0).norm()


def test_refuses() -> None:
    x, g = world.vectors()
    for settings, words in (
        ({"k": 49}, "k must be at most the number of latents, 48; got 49"),
        ({"beta": 2.0}, "beta=2.0 would do nothing with score='activation'"),
        ({"label": "true"}, "label='true' would do nothing"),
        ({"score": "product", "beta": 2.0}, "beta=2.0 would do nothing with score='product'"),
        ({"auxiliary": "none", "k_aux": 3}, "k_aux=3 would do nothing"),
        ({"switch_at": 0.5}, "switch_at=0.5 would do nothing with ration='token'"),
        ({"ration": "gate"}, "k=3 would do nothing with ration='gate'"),
        ({"l1": 0.5}, "l1=0.5 would do nothing"),
        ({"max_per_token": 9}, "max_per_token=9 would do nothing"),
    ):
        with pytest.raises(InputError, match=words):
            Dictionary(**{**SMALL, **settings})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="47 activations cannot train 48 latents"):
        Dictionary(**SMALL).fit(held(x[:47]), rng=seeded(0))
    with pytest.raises(InputError, match="the activations do not vary"):
        Dictionary(**SMALL).fit(held(torch.ones(100, 24)), rng=seeded(0))
    with pytest.raises(InputError, match=r"score='additive' needs gradients: batches \(x, g\)"):
        Dictionary(**SMALL, score="additive").fit(held(x), rng=seeded(0))
    with pytest.raises(InputError, match="needs a gradient of width 24 for each of 9 activations"):
        pair(Dictionary(**SMALL, score="additive"))(x[:9].double(), g[:9, :5].double())
    for ration in ("feature", "zipf"):
        with pytest.raises(InputError, match=r"of at least the 48 latents.* got 3 x 10"):
            Dictionary(**{**SMALL, "batch_size": 10}, ration=ration).fit(
                held(x, batch_size=10), rng=seeded(0)
            )  # type: ignore[arg-type]
    model, train, _ = world.trained()
    with pytest.raises(EmptyDataError):
        Dictionary(**SMALL).learn(model, train.subset([]), world.LAYER, rng=seeded(0))
    with pytest.raises(InputError, match="rng must be"):
        Dictionary(**SMALL).fit(held(x), rng=None)  # type: ignore[arg-type]
