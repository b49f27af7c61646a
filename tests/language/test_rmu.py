"""RMU: block outputs against a direction, adaptive lengths, which weights move."""

from __future__ import annotations

import pytest
import torch

from tests.language.world import (
    FORGET,
    KEPT,
    assert_equal,
    caught,
    llama,
    request,
)
from unweave import seeded
from unweave.errors import InputError
from unweave.language import RMU
from unweave.random import child


def hidden(model, text, layer):
    """Outputs of a block at the answer's tokens, by the model's own list of hidden states (layer + 1 of them)."""
    ids = torch.tensor(text.ids)[None]
    return model(input_ids=ids, output_hidden_states=True).hidden_states[layer + 1][0, text.prompt :]


@pytest.mark.parametrize("adaptive", [False, True])
def test_loss_is_the_equation(adaptive) -> None:
    start, model = llama(0), llama(1)
    found = caught(RMU(layer=0, coefficient=3.0, adaptive=adaptive, alpha=2.0), start)
    u = torch.rand(16, generator=child(seeded(5)))
    u = (u / u.norm()).double()
    gone, stays = [], []
    for text in FORGET:
        for h, before in zip(hidden(model, text, 0), hidden(start, text, 0), strict=True):
            c = 3.0 * (before.norm() if adaptive else 1.0)
            gone.append(((h - c * u) ** 2).mean())
    for text in KEPT:
        stays += [
            ((h - b) ** 2).mean() for h, b in zip(hidden(model, text, 0), hidden(start, text, 0), strict=True)
        ]
    due = torch.stack(gone).mean() + 2 * torch.stack(stays).mean()
    assert_equal(found["objective"](model, next(found["data"].batches())), due)


def test_a_window_moves_its_blocks_alone() -> None:
    start = llama(0)
    edited = RMU(layer=1, window=1, epochs=1, lr=0.01).apply(start, request(), rng=seeded(0))
    moved = {
        n for (n, a), b in zip(start.named_parameters(), edited.parameters(), strict=True) if not a.equal(b)
    }
    assert moved
    assert all(n.startswith("model.layers.1.") for n in moved)


def test_refuses_a_block_that_is_not_there() -> None:
    with pytest.raises(InputError, match="layer is 7, but the model has 2 blocks"):
        RMU().apply(llama(), request(), rng=seeded(0))
    with pytest.raises(InputError, match="has no list of equal blocks"):
        RMU().apply(torch.nn.Embedding(3, 3), request(), rng=seeded(0))
