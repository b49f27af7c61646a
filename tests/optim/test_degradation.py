from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from unweave import seeded
from unweave.errors import InputError
from unweave.optim import corruption_degradation
from unweave.random import child

Y, S = torch.arange(4) % 2, torch.arange(4) // 2


class Blind(Module):
    """Reads a class off the brightness; group 1 is darker, so noise of one size hurts it more."""

    def forward(self, x: Tensor) -> Tensor:
        m = x.mean(1)
        return torch.stack([-(m - 0.2).abs(), -(m - 0.8).abs()], 1)


def test_the_disparity_by_hand() -> None:
    y, g = torch.arange(400) % 2, (torch.arange(400) // 2) % 2
    images = torch.where(y == 1, 0.9, 0.1)[:, None].repeat(1, 4)
    images[g == 1] = torch.where(y == 1, 0.55, 0.45)[g == 1][:, None].repeat(1, 4)
    found = corruption_degradation(
        Blind(), images, y, g, corruptions={"brightness": (0.2,), "contrast": (0.0,)}, rng=seeded(0)
    )
    # brighter by 0.2: group 1's dark class (0.45) crosses the middle, group 0's (0.1) does not
    assert found.clean.tolist() == [100.0, 100.0]
    assert found.corrupted["brightness", 0.2].tolist() == [100.0, 50.0]
    assert found.corrupted["contrast", 0.0].tolist() == [100.0, 100.0]
    assert found.disparity == 25.0  # mean of 50 and 0
    assert found.interval[0] < 25 < found.interval[1]
    assert found.worst_group == 75.0
    assert found.overall == pytest.approx(87.5)
    swapped = corruption_degradation(
        Blind(), images, y, 1 - g, corruptions={"brightness": (0.2,), "contrast": (0.0,)}, rng=seeded(0)
    )
    assert swapped.disparity == found.disparity


def test_refuses() -> None:
    with pytest.raises(InputError, match="no corruption fog"):
        corruption_degradation(
            Blind(), torch.zeros(2, 4), Y[:2], S[:2], corruptions={"fog": (1.0,)}, rng=seeded(0)
        )
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        corruption_degradation(
            Blind(), torch.full((2, 4), 3.0), Y[:2], S[:2], corruptions={"contrast": (0.5,)}, rng=seeded(0)
        )
    with pytest.warns(UserWarning, match="mostly noise"):
        corruption_degradation(
            Blind(), torch.zeros(4, 4), Y[:4], S[:4], corruptions={"contrast": (0.5,)}, rng=seeded(0)
        )


def test_the_disparity_is_the_largest_fall_less_the_least_one() -> None:
    # each group loses another share under each corruption, and none loses nothing
    found = corruption_degradation(
        Reader(),
        PIXELS,
        LABELS,
        GROUPS,
        corruptions={"brightness": (0.1, 0.2), "contrast": (0.7,)},
        rng=seeded(0),
    )
    falls = {
        key: [100 * fall(key, group) for group in (0, 1, 2)]
        for key in (("brightness", 0.1), ("brightness", 0.2), ("contrast", 0.7))
    }
    assert min(min(f) for f in falls.values()) > 0
    assert found.clean.tolist() == pytest.approx([100.0, 80.0, 100.0])
    assert len({tuple(f) for f in falls.values()}) == 3
    spread = [max(f) - min(f) for f in falls.values()]
    assert found.disparity == pytest.approx(sum(spread) / 3, rel=1e-12)
    for key, expected in falls.items():
        assert (found.clean - found.corrupted[key]).tolist() == pytest.approx(expected, rel=1e-12)
    worst = [min(c.tolist()) for c in found.corrupted.values()]
    assert found.worst_group == pytest.approx(sum(worst) / 3)
    assert found.overall == pytest.approx(
        sum(100 * right(key, torch.ones(len(LABELS), dtype=torch.bool)) for key in falls) / 3
    )


class Reader(Module):
    """Class 1 where the first pixel is above 0.4."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.4 - x[:, 0], x[:, 0] - 0.4], 1)


GROUPS, LABELS = torch.arange(180) % 3, (torch.arange(180) // 3) % 2
# what is dark lies from 0.11 to 0.38, the more of it near the bottom the higher the group
PIXELS = 0.11 + 0.27 * torch.linspace(0.02, 1, 180) ** torch.tensor([1.0, 2.0, 4.0])[GROUPS]
PIXELS = torch.where(LABELS == 1, 0.9, PIXELS)[:, None].repeat(1, 2)
# a fifth of group 1 is told wrong even when clean
LABELS = torch.where((GROUPS == 1) & (torch.arange(180) % 5 == 0), 1 - LABELS, LABELS)


def right(key: tuple[str, float], among: Tensor) -> float:
    name, s = key
    x = PIXELS[:, 0]
    moved = (x + s if name == "brightness" else 0.5 + (1 - s) * (x - 0.5)).clamp(0, 1)
    return float(((moved > 0.4).long() == LABELS)[among].double().mean())


def fall(key: tuple[str, float], group: int) -> float:
    return right(("brightness", 0.0), GROUPS == group) - right(key, GROUPS == group)


def test_each_corruption_by_its_rule_clamped_and_always_by_the_same_noise() -> None:
    seen: list[Tensor] = []

    class Watcher(Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return torch.stack([x[:, 0], -x[:, 0]], 1)

    images = torch.rand(60, 5, generator=seeded(1))
    levels = {"gaussian": (0.3, 0.6), "impulse": (0.4,), "contrast": (0.25,), "brightness": (0.5,)}
    corruption_degradation(
        Watcher(), images, torch.arange(60) % 2, torch.arange(60) % 2, corruptions=levels, rng=seeded(9),
        prepare=lambda x: 2 * x,
    )  # fmt: skip
    seed = int(torch.randint(2**31, (), generator=child(seeded(9))))
    noise = torch.randn(images.shape, generator=seeded(seed))
    rng = seeded(seed)
    hit = torch.rand(images.shape, generator=rng) < 0.4
    salt = (torch.rand(images.shape, generator=rng) < 0.5).float()
    expected = [
        images, images + 0.3 * noise, images + 0.6 * noise, torch.where(hit, salt, images), 0.5 + 0.75 * (images - 0.5),
        images + 0.5,
    ]  # fmt: skip
    assert len(seen) == 6
    for got, told in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, 2 * told.clamp(0, 1))


def test_the_interval_is_the_middle_of_resamples_by_the_generator() -> None:
    corruptions = {"brightness": (0.1,)}
    found = corruption_degradation(
        Reader(), PIXELS, LABELS, GROUPS, corruptions=corruptions, rng=seeded(4), repeats=40
    )
    rng, draws = seeded(4), []
    child(rng)
    clean = ((PIXELS[:, 0] > 0.4).long() == LABELS).double()
    moved = (((PIXELS[:, 0] + 0.1).clamp(0, 1) > 0.4).long() == LABELS).double()
    for _ in range(40):
        at = torch.randint(180, (180,), generator=rng)
        falls = [100 * float((clean - moved)[at][GROUPS[at] == g].mean()) for g in (0, 1, 2)]
        draws.append(max(falls) - min(falls))
    draws.sort()
    assert found.interval == pytest.approx((draws[1], draws[38]))


@pytest.mark.parametrize(("n", "warned"), [(58, True), (60, False)])
def test_groups_of_fewer_than_thirty_are_warned_of(n: int, warned: bool) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        corruption_degradation(
            Reader(),
            PIXELS[:n],
            LABELS[:n],
            torch.arange(n) % 2,
            corruptions={"contrast": (0.5,)},
            rng=seeded(0),
        )
    assert [str(w.message) for w in told] == [
        "a group has 29 test examples; its degradation is mostly noise."
    ] * warned
    assert all(w.filename == __file__ for w in told)


def test_refuses_what_would_be_counted_wrongly() -> None:
    def run(**given) -> None:
        settings = {"corruptions": {"contrast": (0.5,)}, "rng": seeded(0), **given}
        corruption_degradation(Reader(), PIXELS, LABELS, settings.pop("groups", GROUPS), **settings)

    for groups in (GROUPS - 1, GROUPS.double()):
        with pytest.raises(InputError, match="groups that are integers from 0"):
            run(groups=groups)
    with pytest.raises(InputError, match="group 1 has no test example"):
        run(groups=2 * (GROUPS > 0).long())
    for corruptions in ({}, {"contrast": ()}):
        with pytest.raises(InputError, match="got no severity of a corruption"):
            run(corruptions=corruptions)
    for given, name in (({"corruptions": {"contrast": (-1.0,)}}, "corruptions"), ({"repeats": 0}, "repeats")):
        with pytest.raises(InputError, match=f"corruption_degradation.{name} must be"):
            run(**given)
    with pytest.raises(InputError, match="rng must be"):
        run(rng=None)
    for outside in (1.01, -0.01):
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            corruption_degradation(
                Reader(), torch.full_like(PIXELS, outside), LABELS, GROUPS, corruptions={"contrast": (0.5,)},
                rng=seeded(0),
            )  # fmt: skip
