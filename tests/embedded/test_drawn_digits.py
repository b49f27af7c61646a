"""The small world of drawn digits, without training it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from unweave import seeded
from unweave.embedded import drawn_digits
from unweave.embedded.drawn_digits import (
    DIGITS,
    TEMPLATES,
    DrawnDigits,
    Judge,
    concepts,
    prompt,
    real_images,
    small_world,
)
from unweave.errors import InputError
from unweave.random import global_seed

TINY = DrawnDigits(architecture="dit", seed=1, steps=3, batch_size=4)


def test_what_is_kept_in_the_cache_is_found_again() -> None:
    """The names under which trained pipelines were kept: another spelling would train them all anew."""
    one = DrawnDigits(architecture="unet", seed=1, without=("three",))
    assert one.name == "unet-1-0d4febb82250"
    assert DrawnDigits(architecture="dit", seed=1, without=("three",)).name == "dit-1-782e10d21e5c"
    assert DrawnDigits(seed=1, without=("three", "three"), steps=1000, batch_size=96).name == one.name
    assert DrawnDigits(without=("nine", "one")) == DrawnDigits(without=("one", "nine"))
    assert (DrawnDigits(architecture="dit").steps, DrawnDigits(architecture="dit").batch_size) == (2000, 128)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"architecture": "vit"}, 'architecture must be "unet" or "dit"'),
        ({"without": ("ten",)}, "DrawnDigits.without must name some of zero, one"),
        ({"without": DIGITS}, "not all"),
        ({"steps": 0}, "steps must be a whole number at least 1, or None"),
        ({"lr": float("nan")}, "lr must be above 0"),
    ],
)
def test_refuses(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DrawnDigits(**how)


def test_words_by_hand() -> None:
    assert prompt(3) == "a plain drawing of the digit three"
    assert prompt(7, style=1, template=0, numeral=1) == "a negative 7"
    asked = concepts("three", preserve=("one",))
    assert (asked.erase, asked.preserve, asked.guide) == (("three",), ("one",), "digit")
    assert asked.prompts("three")[:2] == ["a plain three", "a negative three"]
    assert asked.base_prompts("three")[:2] == ["a plain digit", "a negative digit"]
    assert concepts("three", "five").preserve == tuple(d for d in DIGITS if d not in ("three", "five"))


class Trained:
    """Stands in for `fit_`: keeps what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drawn_digits, "fit_", self)

    def __call__(self, pair: Any, data: Any, objective: Any, optimizer: Any, **how: Any) -> None:
        self.pair, self.data, self.objective, self.how = pair, data, objective, how


def test_what_is_returned_is_a_running_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(monkeypatch)
    made = TINY.build()
    live, name = trained.pair.live, next(n for n, _ in made.denoiser.named_parameters())
    start = live.denoiser.get_parameter(name).detach().clone()
    expected = start.clone()
    for k, keep in ((1, 1 / 11), (2, 2 / 12), (10**6, 0.995)):
        with torch.no_grad():
            live.denoiser.get_parameter(name).add_(1.0)
        trained.how["after_step"](SimpleNamespace(index=k))
        expected = keep * expected + (1 - keep) * live.denoiser.get_parameter(name).detach()
    assert torch.allclose(made.denoiser.get_parameter(name), expected, atol=1e-6)
    assert made is trained.pair.average


def test_the_training_loss_is_that_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(monkeypatch)
    how = DrawnDigits(architecture="dit", seed=1, steps=25, batch_size=8, without=("three",))
    how.build()
    live = trained.pair.live
    images, labels, _ = real_images([d for d in DIGITS if d != "three"])
    plain, kinds = images[: len(images) // 2], labels[: len(images) // 2]
    (at, styles, rows) = next(iter(trained.data.batches()))
    assert set(styles.tolist()) == {0, 1}
    words = [prompt(d, s, t, k) for d in range(10) for s in range(2) for t in range(4) for k in (0, 1)] + [""]
    for digit, style, row in zip(kinds[at].tolist(), styles.tolist(), rows.tolist(), strict=True):
        text = words[row]
        assert text == "" or text in [
            prompt(digit, style, t, k) for t in range(len(TEMPLATES)) for k in (0, 1)
        ]
    everything = torch.cat([batch[2] for batch in trained.data.batches()])
    assert len(everything) == 200
    assert 0.03 < float((everything == len(words) - 1).float().mean()) < 0.2  # a tenth without a prompt
    with global_seed(3):
        found = trained.objective(trained.pair, (at, styles, rows)).item()
    with global_seed(3):
        t = torch.randint(1000, (8,))
        noise = torch.randn(8, 1, 8, 8)
    total = 0.0
    with torch.no_grad():
        for i in range(8):
            clean, a = plain[at[i]] * (-1 if styles[i] else 1), float(live.alphas_cumprod[t[i]])
            x = (a**0.5 * clean + (1 - a) ** 0.5 * noise[i])[None]
            answer = live(x, int(t[i]), live.encode([words[rows[i]]]))
            total += float((answer - noise[i : i + 1]).square().mean()) / 8
    assert found == pytest.approx(total, rel=1e-4)


def test_it_is_trained_once_and_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TINY.trained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [TINY.name]
    monkeypatch.setattr(DrawnDigits, "build", lambda _: pytest.fail("trained again"))
    again = TINY.trained(tmp_path)
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in made.named_parameters())
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        small_world("dit", seed=1, cache=tmp_path)  # of as many steps as it takes
    assert any(not torch.equal(p, TINY.initial().get_parameter(n)) for n, p in made.named_parameters())


def test_real_images_come_in_both_styles() -> None:
    images, digits, styles = real_images(("three", "five"))
    half = len(images) // 2
    assert set(digits.tolist()) == {3, 5}
    assert torch.equal(images[half:], -images[:half])
    assert styles.tolist() == [0] * half + [1] * half
    assert float(images.min()) == -1
    mixed, which, _ = real_images(("three", "five"), rng=seeded(0))
    assert not torch.equal(mixed, images)
    assert sorted(which.tolist()) == sorted(digits.tolist())


def test_a_judge_rejects_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    logits = torch.tensor([[0.0] * 9 + [5.0], [0.0] * 10])
    monkeypatch.setattr(judge, "forward", lambda _: (logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    images = torch.zeros(2, 1, 8, 8)
    assert judge.digits(images).tolist() == [9, -1]
    assert judge.digits(images, reject=0.05).tolist() == [9, 0]
    assert judge.styles(images).tolist() == [0, 1]
