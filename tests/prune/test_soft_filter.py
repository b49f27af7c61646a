from __future__ import annotations

import pytest
import torch

from tests.prune.world import convolutional, images, points, trained
from unweave import seeded
from unweave.errors import InputError
from unweave.prune import SoftFilter, shrink, soft_filter


def dead(weight: torch.Tensor) -> set[int]:
    return set((weight == 0).flatten(1).all(1).nonzero().flatten().tolist())


def test_zeroes_the_asked_share_of_filters_in_all_but_the_last_layer() -> None:
    pruned = SoftFilter(rate=0.5, epochs=1).apply(convolutional(), images(), rng=seeded(0))
    assert [len(dead(pruned[i].weight)) for i in (0, 3, 6)] == [2, 4, 8]
    assert not dead(pruned[11].weight)


def test_filters_grow_back_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    history = []
    train = soft_filter.fit_

    def watched(*args, after_step, **rest):
        def both(step):
            before = dead(step.model[1].weight)
            after_step(step)
            history.append((step.last_of_epoch, before, dead(step.model[1].weight)))

        return train(*args, after_step=both, **rest)

    monkeypatch.setattr(soft_filter, "fit_", watched)
    SoftFilter(rate=0.25, epochs=4, lr=0.1).apply(trained(), points(), rng=seeded(0))
    cuts = [after for last, _, after in history if last]
    assert [len(c) for c in cuts] == [4] * 4
    assert any(len(before) < 4 for last, before, _ in history[3:] if not last)  # momentum revives them


def test_dead_filters_can_be_removed_exactly() -> None:
    data = images()
    pruned = SoftFilter(rate=0.5, epochs=1).apply(convolutional(), data, rng=seeded(0))
    pytest.importorskip("torch_pruning")
    inputs = data.examples.tensors[0]
    torch.testing.assert_close(shrink(pruned, inputs).model.eval()(inputs), pruned.eval()(inputs))


def test_refuses() -> None:
    with pytest.raises(
        InputError,
        match=r"SoftFilter\.rate must be at least 0 and below 1; got 1\.0\. It is the share of filters",
    ):
        SoftFilter(rate=1.0)
    with pytest.raises(InputError, match="epochs"):
        SoftFilter(epochs=0)
    with pytest.raises(InputError, match="cuts no filter"):
        SoftFilter(rate=0.01).apply(trained(), points(), rng=seeded(0))
