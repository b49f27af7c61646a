from __future__ import annotations

import torch

from tests.prune.world import points, trained
from unweave import seeded
from unweave.prune import Global, Prune, RandomScores


def test_depends_on_its_seed_and_nothing_else() -> None:
    first, second = (
        RandomScores(seed=1).score(trained(), points()),
        RandomScores(seed=1).score(trained(), points()),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = RandomScores(seed=2).score(trained(), points())
    assert float((first["1.weight"] - other["1.weight"]).abs().mean()) > 0.2


def test_is_uniform() -> None:
    model = torch.nn.Linear(400, 400)
    scores = RandomScores(seed=0).score(model, points())["weight"]
    assert abs(float(scores.mean()) - 0.5) < 0.005  # 6 standard errors
    assert abs(float(scores.var()) - 1 / 12) < 0.002


def test_without_a_seed_prune_seeds_it() -> None:
    prune = Prune(score=RandomScores(), budget=Global(0.5))
    masks = [prune.mask(trained(), points(), rng=seeded(s)) for s in (0, 0, 1)]
    assert masks[0] == masks[1]
    assert masks[0].iou(masks[2]) < 0.6  # chance is 1/3
