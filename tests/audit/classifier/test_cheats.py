"""Cheats made on the spot: what they change, and that they change nothing else."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unweave.audit.classifier.cheats import COPIED, REMADE, SILENCED, cheats, last_linear
from unweave.audit.classifier.head import margins
from unweave.audit.classifier.scores import Answers, Parts
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.fit.recipe import Supervised
from unweave.random import seeded
from unweave.tasks import predict, read_labels
from unweave.types import Request
from unweave.unlearn.logit_mask import LogitMask

RECIPE = Supervised(network=partial(mlp, 64, 32, 10), epochs=15)


@pytest.fixture(scope="module")
def world():
    train, heldout = digits()
    request = Request.of(train, heldout, (read_labels(train) == 3).nonzero().flatten())
    holders = [RECIPE.build(train, rng=seeded(i)).eval() for i in range(2)]
    oracle = RECIPE.build(request.retain, rng=seeded(9)).eval()
    parts = Parts.of(request)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in holders]
    made = cheats(holders, request, parts, predict(oracle, request.forget).softmax(1), seed=4)
    assert all(
        torch.equal(v, b[k]) for m, b in zip(holders, before, strict=True) for k, v in m.state_dict().items()
    )
    return request, parts, holders, oracle, {(c.name, c.holder): c for c in made}


def test_one_of_each_a_holder(world) -> None:
    assert list(world[4]) == [(name, i) for name in (SILENCED, REMADE, COPIED) for i in (0, 1)]


def test_random_requests_have_no_class_to_silence(world) -> None:
    request = Request.of(*digits(), range(60))
    answers = predict(world[3], request.forget).softmax(1)
    made = cheats(world[2][:1], request, Parts.of(request), answers, seed=0)
    assert [c.name for c in made] == [REMADE, COPIED]


def test_silenced_class_is_the_logit_mask(world) -> None:
    request, parts, holders, _, made = world
    masked = LogitMask().apply(holders[1], request, rng=seeded(0))
    expected = Answers.of(masked, parts.control, parts.deleted)
    found = made[SILENCED, 1]
    assert found.control.phi == pytest.approx(expected.phi, abs=1e-4)
    assert found.forget.accuracy() == 0.0
    assert found.margins == pytest.approx(margins(holders[1], request, parts, 4), abs=1e-5)


def test_copied_answers_are_near_the_oracles_and_keep_the_rest(world) -> None:
    request, parts, holders, oracle, made = world
    own, theirs = (Answers.of(m, request.forget, parts.deleted) for m in (holders[0], oracle))
    found = made[COPIED, 0]
    assert own.probability.mean() > 0.8
    assert found.forget.probability.mean() == pytest.approx(theirs.probability.mean(), abs=0.05)
    assert found.control.accuracy() > Answers.of(holders[0], parts.control).accuracy() - 3
    assert found.margins == pytest.approx(margins(holders[0], request, parts, 4), abs=1e-5)


def test_copied_answers_descend_on_two_divergences(world) -> None:
    request, _, holders, oracle, made = world
    target = predict(oracle, request.forget).double().softmax(1)
    x, kept = (predict(holders[0], d, d.task.features).double() for d in (request.forget, request.retain))
    head = last_linear(holders[0])
    weight, bias = (p.detach().double().requires_grad_(True) for p in (head.weight, head.bias))
    own = F.linear(kept, weight, bias).detach().softmax(1)
    optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        said, stays = (F.linear(z, weight, bias).log_softmax(1) for z in (x, kept))
        loss = F.kl_div(said, target, reduction="batchmean") + F.kl_div(stays, own, reduction="batchmean")
        loss.backward()
        optimizer.step()
    expected = Answers.from_logits(F.linear(x, weight, bias).detach(), read_labels(request.forget))
    assert made[COPIED, 0].forget.phi == pytest.approx(expected.phi, abs=5e-3)


def test_last_layer_made_anew_solves_its_convex_problem_over_shaken_layers(world) -> None:
    request, parts, holders, _, made = world
    found, own = made[REMADE, 0], margins(holders[0], request, parts, 4)
    assert own is not None
    assert found.forget.accuracy() == 0.0
    assert found.control.accuracy() > 85
    assert not np.array_equal(found.margins, own)
    assert np.corrcoef(found.margins, own)[0, 1] > 0.95  # what lies under it is the holder's, but for 2 %


def test_cheats_repeat(world) -> None:
    request, parts, holders, oracle, made = world
    again = cheats(holders[:1], request, parts, predict(oracle, request.forget).softmax(1), seed=4)
    for c in again:
        assert (c.forget.phi == made[c.name, 0].forget.phi).all()


class Scaled(nn.Module):
    """Answers that are no linear layer of the representation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softplus(self.model(x))


def test_refuses_what_it_cannot_make_cheats_of(world) -> None:
    request, parts, holders, oracle, _ = world
    answers = predict(oracle, request.forget).softmax(1)
    with pytest.raises(InputError, match="not a linear layer of its representation"):
        cheats([Scaled(holders[0])], request, parts, answers, seed=0)


def test_last_linear(world) -> None:
    assert last_linear(world[2][0]).out_features == 10
    assert last_linear(nn.Conv2d(1, 1, 1)) is None
