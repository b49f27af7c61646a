from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Linear, ReLU, Sequential

from tests.contract import world
from unweave import Mask, fit_, seeded
from unweave.errors import InputError, LeftDenseWarning
from unweave.fit import Loop, resumable
from unweave.fit.recipe import mean_loss
from unweave.prune import ProgressiveNM, Scope
from unweave.prune.progressive_gradient_flow import Fading, freeze_, n_of_m

FLOWS = ("ste", "sr-ste", "mdgf-linear", "mdgf-exp", "sdgf-step", "sdgf-geometric")
HERE = {"n": 1, "m": 4, "epochs": 4, "scope": Scope(only=("2.weight",))}


def net() -> Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sequential(Linear(8, 32), ReLU(), Linear(32, 16), ReLU(), Linear(16, 3))


@given(st.integers(1, 3), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_exactly_n_of_m_live_and_they_are_the_largest(n: int, seed: int) -> None:
    w = torch.randint(-3, 4, (5, 12), generator=seeded(seed)).float()
    groups, alive = w.abs().view(5, 3, 4), n_of_m(w, n, 4).view(5, 3, 4)
    assert (alive.sum(-1) == n).all()
    least = groups.masked_fill(~alive, 9).amin(-1)
    assert (least >= groups.masked_fill(alive, -1).amax(-1)).all()


def test_convolutions_group_neighbouring_channels() -> None:
    w = torch.randn(2, 8, 3, 3, generator=seeded(0))
    assert (n_of_m(w, 2, 4).movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize("flow", FLOWS)
def test_ends_with_n_of_m_and_keeps_the_biases(flow: str) -> None:
    model, data = net(), world.points()[0]
    trained = ProgressiveNM(flow=flow, **HERE).apply(model, data, rng=seeded(0))
    weight = trained[2].weight
    assert ((weight.view(16, 8, 4) != 0).sum(-1) <= 1).all()
    assert float((weight != 0).float().mean()) == pytest.approx(0.25)
    assert (trained[2].bias != model[2].bias).any()
    assert set(trained.state_dict()) == set(model.state_dict())
    assert bool((trained[0].weight != 0).all())  # out of scope


def test_stages_by_hand() -> None:
    how = ProgressiveNM(n=1, m=16, flow="sdgf-step", dense=0.1, finetune=0.1)
    assert how.stage(5, 100) == (0, 0, 1.0)
    assert [how.stage(t, 100)[0] for t in (10, 26, 42, 58, 74, 89, 95)] == [15, 8, 4, 2, 1, 1, 1]
    how = ProgressiveNM(n=1, m=4, flow="sdgf-geometric", dense=0.0, finetune=0.0)
    assert [how.stage(t, 8)[:2] for t in (0, 2, 4, 6)] == [(8, 32), (4, 16), (2, 8), (1, 4)]
    for flow, middle in (("mdgf-linear", 0.5), ("mdgf-exp", 1000**-0.5)):
        how = ProgressiveNM(flow=flow, dense=0.0, finetune=0.0)
        assert how.stage(0, 100)[2] == 1.0
        assert how.stage(50, 100)[2] == pytest.approx(middle)
        assert how.stage(99, 100)[2] < 0.02
        assert how.stage(100, 100)[2] == 0.0


def gradient(
    flow: str, step: int, backward: str = "autodiff"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    pull = {"pull": 0.3} if flow == "sr-ste" else {}
    how = ProgressiveNM(n=1, m=4, flow=flow, backward=backward, dense=0.0, finetune=0.1, **pull)
    fading = Fading(how, 100)
    fading.step.fill_(step)
    w = torch.randn(3, 8, generator=seeded(0)).requires_grad_()
    coefficients = torch.randn(3, 8, generator=seeded(1))
    (fading(w) * coefficients).sum().backward()
    return w, coefficients, n_of_m(w.detach(), 1, 4), how.stage(step, 100)[2]


def test_the_gradients_of_each_flow() -> None:
    w, g, alive, _ = gradient("ste", 50)
    torch.testing.assert_close(w.grad, g)
    w, g, alive, _ = gradient("sr-ste", 50)
    torch.testing.assert_close(w.grad, g + 0.3 * (~alive) * w.detach())
    w, g, alive, b = gradient("mdgf-exp", 50)
    torch.testing.assert_close(w.grad, g * (alive + (~alive) * b))
    w, g, alive, _ = gradient("mdgf-exp", 50, "ste")
    torch.testing.assert_close(w.grad, g)


def test_without_fading_it_is_dense() -> None:
    fading = Fading(ProgressiveNM(flow="mdgf-linear", dense=0.0), 100)
    w = torch.randn(3, 16, generator=seeded(0))
    assert torch.equal(fading(w), w)


def test_keeps_a_models_own_zeros() -> None:
    model, data = net(), world.points()[0]
    with torch.no_grad():
        model[2].weight[:, ::4] = 0
    trained = ProgressiveNM(**HERE).apply(model, data, rng=seeded(0))
    assert not trained[2].weight[:, ::4].any()
    assert Mask.of(model).match(trained)


def test_a_resumed_training_is_in_step(tmp_path: Path) -> None:
    model, data, how = net(), world.points()[0], ProgressiveNM(flow="sdgf-step", **HERE)
    whole = how.apply(model, data, rng=seeded(0))

    class Killed(Exception):
        pass

    def train(checkpoint: Path, kill: bool) -> Sequential:
        work = net()
        held = how.attach_(work, 24)
        optimizer = torch.optim.AdamW(work.parameters(), how.lr, weight_decay=how.weight_decay)
        from unweave.fit.recipe import warm_cosine

        def tick(step) -> None:
            for fading in held.values():
                fading.step += 1
            if kill and step.index == 14:
                raise Killed

        fit_(
            work, data, mean_loss(data), optimizer, epochs=4, rng=seeded(0),
            loop=Loop(schedule=warm_cosine(optimizer, 24)),
            after_step=tick, checkpoint=checkpoint, checkpoint_seconds=0.0,
        )  # fmt: skip
        return freeze_(work)

    with pytest.raises(Killed):
        train(tmp_path / "half.safetensors", True)
    again = train(tmp_path / "half.safetensors", False)
    assert torch.equal(again[2].weight, whole[2].weight)
    with resumable(tmp_path / "work"):
        assert torch.equal(how.apply(model, data, rng=seeded(0))[2].weight, whole[2].weight)


def test_refuses() -> None:
    data = world.points()[0]
    for bad in ({"n": 0}, {"n": 4, "m": 4}, {"flow": "odd"}, {"dense": 0.6, "finetune": 0.5}, {"lr": 0.0}):
        with pytest.raises(InputError, match="ProgressiveNM"):
            ProgressiveNM(**bad)
    with pytest.raises(InputError, match='pull=0.3 would do nothing since flow is "ste"'):
        ProgressiveNM(flow="ste", pull=0.3)
    with pytest.raises(InputError, match='backward=.ste. would do nothing since flow is "sr-ste"'):
        ProgressiveNM(flow="sr-ste", backward="ste")
    with pytest.raises(
        InputError, match=r"NM\(8, 128\) fits no weight .* 0.weight \(128 does not divide its 8"
    ):
        ProgressiveNM(n=1, m=16, flow="sdgf-geometric", scope=Scope()).apply(net(), data, rng=seeded(0))
    with pytest.raises(InputError, match=r"NM\(8, 64\) fits no weight"):
        ProgressiveNM(n=1, m=8, flow="sdgf-geometric", scope=Scope(only=("2",))).apply(
            net(), data, rng=seeded(0)
        )


def test_a_layer_that_m_does_not_divide_stays_dense_and_is_named() -> None:
    data = world.points()[0]
    with pytest.warns(
        LeftDenseWarning, match=r"31.4 % of the weights in scope dense: 0.weight \(16 does not divide"
    ):
        trained = ProgressiveNM(n=1, m=16, epochs=1, scope=Scope()).apply(net(), data, rng=seeded(0))
    assert bool((trained[0].weight != 0).all())
    assert int((trained[2].weight != 0).sum()) == trained[2].weight.numel() // 16
