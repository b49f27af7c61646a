"""The memory gauge on models whose answers are written down: F is the first 200 of 600, the last 300 are held out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from unweave.audit.classifier.compared import Compared
from unweave.audit.classifier.gauge import advantage, gauge, in_words, memory_gauge, noise, not_healed
from unweave.audit.classifier.references import References
from unweave.audit.classifier.scores import Parts
from unweave.audit.result import Verdict
from unweave.embedded.digits import of_tensors
from unweave.random import seeded
from unweave.types import Measurement, Request


class Sure(nn.Module):
    """Logits (phi, 0) of class 0, looked up by the example's number; the forgotten ones are `surer`."""

    def __init__(self, seed: int, surer: float, forgotten: int = 200) -> None:
        super().__init__()
        draw = torch.randn(900, generator=seeded(seed))
        draw[:forgotten] += surer
        self.register_buffer("phi", draw)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phi = self.phi[x[:, 0].long()]
        own = torch.where(x[:, 0].long() % 2 == 0, phi, -phi)
        return torch.stack([own, torch.zeros_like(own)], 1)


def numbered(low: int, high: int):
    at = torch.arange(low, high)
    return of_tensors(at[:, None].float(), at % 2, classes=2, batch_size=100)


def measured(
    edited: float,
    original: float = 2.0,
    oracle: float = 0.0,
    forget: list[int] | None = None,
    oracles: int = 3,
) -> Measurement:
    forget = forget or list(range(200))
    request = Request.of(numbered(0, 600), numbered(600, 900), forget)
    others = [Sure(10 + i, oracle) for i in range(oracles)]
    references = References(request, Parts.of(request), [Sure(1, original)], others, 1)
    model = Sure(0, edited)
    return memory_gauge(Compared(references, model, references.look(model), quick=True))


def naive(surer: float, seed: int) -> float:
    """AUC - 1/2 by looking at every pair."""
    phi = Sure(seed, surer).phi.double().numpy()
    pairs = phi[:200, None] - phi[None, 600:]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2) - 0.5


def test_equals_the_slow_version() -> None:
    m = measured(1.0)
    original = naive(2.0, 1)
    assert m.value == pytest.approx(1 - naive(1.0, 0) / original, abs=1e-9)
    assert m.original == 0.0
    others = [1 - naive(0.0, 10 + i) / original for i in range(3)]
    assert (m.oracle_mean, m.oracle_spread) == pytest.approx((np.mean(others), np.std(others, ddof=1)))
    wide = 1.96 * noise(200, 300) / original
    assert m.interval == pytest.approx((m.value - wide, m.value + wide))
    assert m.n == 200


def test_noise_is_that_of_random_readings() -> None:
    draw = np.random.default_rng(0)
    read = [advantage(draw.normal(size=40), draw.normal(size=60)) for _ in range(2000)]
    assert np.std(read) == pytest.approx(noise(40, 60), rel=0.05)
    assert noise(400, 10**7) == pytest.approx(0.29 / 400**0.5, rel=0.01)  # the card's rule of thumb


def test_ends() -> None:
    assert gauge(0.3, 0.3) == 0
    assert gauge(0.0, 0.3) == 1
    assert gauge(-0.03, 0.3) == pytest.approx(1.1)


def test_tells_memory_from_healing() -> None:
    assert "memory of the deleted examples is left" in measured(2.0).note
    assert "need healing" in measured(0.0).note
    assert in_words(0.69, 0.2).startswith("memory of")
    assert in_words(0.71, 0.2).startswith("no more memory")
    assert in_words(0.71, 0.3).startswith("cannot tell: too noisy")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"forget": list(range(0, 600, 2))}, "whole classes go"),
        ({"forget": list(range(199))}, "199 examples to forget and 300 held-out ones; it needs 200"),
        ({"original": 0.0}, "the original hardly tells them from held-out ones"),
        ({"oracle": 2.0}, "retrained models tell them from held-out ones, too .* no random draw"),
    ],
)
def test_says_that_it_cannot_tell(given, why) -> None:
    m = measured(1.0, **given)
    assert m.value is None
    assert m.n == len(given.get("forget", range(200)))
    assert re.search(f"^cannot tell: .*{why}", m.note)


def test_speaks_without_retrained_models() -> None:
    m = measured(2.0, oracles=0)
    assert m.value is not None
    assert m.oracle_mean is None


@pytest.mark.parametrize("outcome", ["not forgotten", "partly forgotten"])
def test_a_model_that_has_not_healed_is_told_apart(outcome: str) -> None:
    verdict = Verdict(outcome=outcome, reason="", caveats=("one",))
    healed = not_healed(verdict, measured(0.0))
    assert healed.caveats[0] == "one"
    assert "healing rather than forgetting" in healed.caveats[1]
    assert not_healed(verdict, measured(2.0)) == verdict  # memory is left
    assert not_healed(verdict, measured(0.0, forget=list(range(199)))) == verdict  # it cannot tell
    other = Verdict(outcome="forgotten", reason="")
    assert not_healed(other, measured(0.0)) == other
