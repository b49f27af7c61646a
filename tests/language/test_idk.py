"""IDK: the loss of the alternatives."""

from __future__ import annotations

import pytest

from tests.language.world import (
    KEPT,
    OTHER,
    assert_equal,
    llama,
    loss_of,
    nll,
    request,
)
from unweave import seeded
from unweave.errors import InputError
from unweave.language import IDK


def test_loss_is_the_equation() -> None:
    model = llama(1)
    assert_equal(loss_of(IDK(alpha=0.5)), nll(model, OTHER) + 0.5 * nll(model, KEPT))


def test_refuses_texts_without_an_alternative() -> None:
    with pytest.raises(InputError, match="has no `alternative`"):
        IDK(epochs=1).apply(llama(), request(alternatives=False), rng=seeded(0))
