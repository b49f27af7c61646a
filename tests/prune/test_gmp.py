from __future__ import annotations

import pytest
import torch

from tests.prune.world import points, trained
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.fit import Step
from unweave.prune import ERK, GMP, NM, Global, gmp


def test_cubic_by_hand() -> None:
    schedule = GMP(budget=Global(0.8), initial=0.2, start=0.2, end=0.6)
    # half way: .8 + (.2 - .8) (1/2)^3 = .725
    assert [schedule.sparsity(t) for t in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx(
        [0.2, 0.2, 0.725, 0.8, 0.8]
    )


def test_cuts_rise_along_the_cubic_and_weights_do_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, Mask]] = []
    train = gmp.fit_

    def watched(*args, after_step, **rest):
        def both(step):
            after_step(step)
            seen.append((step.index, step.hold))

        return train(*args, after_step=both, **rest)

    monkeypatch.setattr(gmp, "fit_", watched)
    method = GMP(budget=Global(0.75), epochs=8, every=3, end=0.5)  # 24 steps, the last cut at 12
    pruned = method.apply(trained(), points(), rng=seeded(0))
    size = 6 * 16 + 16 * 3
    for index, mask in seen:
        last_cut = min(12, index // 3 * 3)
        if last_cut:
            assert mask.count() == round((1 - method.sparsity(last_cut / 24)) * size)
    masks = [m for _, m in seen if m]
    assert all((later - earlier).count() == 0 for earlier, later in zip(masks, masks[1:], strict=False))
    assert Mask.of(pruned) == masks[-1]


def test_the_first_cut_is_at_the_start_and_the_last_at_the_end() -> None:
    # 24 steps: cuts every 4 from step 6, and at step 19, where the sparsity is reached
    method = GMP(budget=Global(0.5), initial=0.125, start=0.25, end=0.8, every=4)
    model, data = trained(), points()
    given, cut = method.begin(model, data, steps=24, rng=seeded(0))
    assert not given
    cuts = {}
    for index in range(1, 25):
        step = Step(model, torch.optim.SGD(model.parameters(), 0.1), index, 0, 0.0, False, None, dict)
        cut(step)
        if step.hold is not None:
            cuts[index] = step.hold.count()
    size = 6 * 16 + 16 * 3
    assert list(cuts) == [6, 10, 14, 18, 19]
    assert cuts[6] == round(0.875 * size)
    assert cuts[19] == size // 2
    assert cuts[14] == round((0.5 + 0.375 * (1 - (14 / 24 - 0.25) / 0.55) ** 3) * size)


def test_keeps_the_budgets_shares() -> None:
    pruned = GMP(budget=ERK(0.5), epochs=2, every=2).apply(trained(), points(), rng=seeded(0))
    expected = ERK(0.5).densities({"1.weight": (16, 6), "3.weight": (3, 16)})
    for name, density in expected.items():
        weight = pruned.get_parameter(name)
        assert int((weight != 0).sum()) == round(density * weight.numel())


def test_trains_on_after_the_last_cut() -> None:
    short = GMP(budget=Global(0.5), epochs=4, end=0.25, every=1).apply(trained(), points(), rng=seeded(0))
    longer = GMP(budget=Global(0.5), epochs=4, end=1.0, every=6).apply(trained(), points(), rng=seeded(0))
    dense = trained()
    moved = [
        float((m[1].weight - dense[1].weight)[m[1].weight != 0].detach().norm()) for m in (short, longer)
    ]
    assert min(moved) > 0.01
    assert torch.equal(Mask.of(short).keep["1.weight"], short[1].weight != 0)


def test_one_cut_is_refused_with_the_numbers() -> None:
    message = r"GMP would cut once, not gradually: every=9, but the training has 12 steps and cuts fall between steps 0 and 9"
    with pytest.raises(InputError, match=message):
        GMP(every=9).begin(trained(), points(), steps=12, rng=seeded(0))
    GMP(every=8).begin(trained(), points(), steps=12, rng=seeded(0))


def test_refuses() -> None:
    with pytest.raises(InputError, match=r"GMP\.initial must be at most 0\.5"):
        GMP(budget=Global(0.5), initial=0.6)
    with pytest.raises(
        InputError, match=r"GMP removes weights step by step; NM\(1, 2\) sets its own sparsity"
    ):
        GMP(pattern=NM(1, 2))
    with pytest.raises(InputError, match="start < end"):
        GMP(start=0.5, end=0.5)
    with pytest.raises(InputError, match="GMP.every must be a whole number at least 1; got 0"):
        GMP(every=0)
