"""Examples set aside from training."""

from __future__ import annotations

import pytest
import torch

from unweave import Data, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.fit.batches import set_aside
from unweave.random import child


def numbered(n: int) -> Data:
    return of_tensors(torch.arange(n)[:, None].float(), torch.arange(n) % 2, classes=2, batch_size=4)


def ids(data: Data) -> list[int]:
    return [int(x) for batch in data.batches() for x in batch[0]]


@pytest.mark.parametrize(
    ("n", "share", "kept"),
    [
        (20, 0.25, 5), (22, 0.25, 6), (20, 0.02, 1),
        (20, 0.15, 4), (21, 0.2, 5),  # 3 and 4 would leave 17 = 4 x 4 + 1, so that a batch of one came last
    ],
)  # fmt: skip
def test_a_share_is_kept_and_the_rest_stays_in_order(n: int, share: float, kept: int) -> None:
    train, aside = set_aside(numbered(n), share, who="Test", rng=seeded(0))
    assert len(aside) == kept
    assert ids(train) == sorted(ids(train))
    assert sorted(ids(train) + ids(aside)) == list(range(n))
    assert ids(aside) == torch.randperm(n, generator=child(seeded(0)))[:kept].tolist()


def test_refuses() -> None:
    with pytest.raises(InputError, match="Test needs examples beside the 8 for validation; got 8"):
        set_aside(numbered(8), 0.9, who="Test", rng=seeded(0))
    with pytest.raises(InputError, match="torch.Generator"):
        set_aside(numbered(9), 0.5, who="Test", rng=None)
