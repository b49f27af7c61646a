"""PDU: flattened logits, and a price that follows the retain loss."""

from __future__ import annotations

import pytest
import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    caught,
    llama,
    logits,
    nll,
    request,
)
from unweave import seeded
from unweave.language import PDU
from unweave.language.pdu import mean_loss


@pytest.mark.parametrize("flatten", ["true", "largest"])
def test_loss_is_the_equation(flatten) -> None:
    model, parts = llama(1), []
    found = caught(PDU(flatten=flatten, alpha=1.5), llama(0))
    for text in FORGET:
        z, y = logits(model, text)
        parts += [
            ((row[k] if flatten == "true" else row.max()) - row.mean()) ** 2
            for row, k in zip(z, y, strict=True)
        ]
    model.register_buffer("price_of_retain_loss", torch.tensor(1.5))
    due = torch.stack(parts).mean() + 1.5 * nll(model, KEPT)
    assert_equal(found["objective"](model, next(found["data"].batches())), due)


def test_the_price_follows_the_excess_of_each_epoch_and_does_not_stay_behind() -> None:
    model, data = llama(0), request()
    seen: list[tuple[float, float]] = []
    found = caught(PDU(dual_lr=2.0, slack=0.0), model, data)
    after, student = found["after_step"], found["student"]
    start = mean_loss(model, data.retain)

    class Step:
        last_of_epoch = True
        model = student

    with torch.no_grad():
        student.lm_head.weight.mul_(1.5)
    excess = mean_loss(student, data.retain) - start
    after(Step())
    seen.append((float(student.price_of_retain_loss), max(0.0, 1 + 2 * excess)))
    assert abs(seen[0][0] - seen[0][1]) < 1e-6
    assert abs(excess) > 0.01
    edited = PDU(epochs=1, lr=0.01).apply(model, data, rng=seeded(0))
    assert edited.state_dict().keys() == model.state_dict().keys()
