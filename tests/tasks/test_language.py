from __future__ import annotations

import pytest
import torch

from tests.language_world import llama, text
from unweave.errors import InputError
from unweave.tasks import CausalLM, Classify, Padded
from unweave.tasks.language import windows


def test_losses_are_those_of_transformers() -> None:
    model, batch = llama(), next(text().batches())
    with torch.no_grad():
        mine = CausalLM().losses(model, batch)
        theirs = [model(input_ids=row[None], labels=row[None]).loss for row in batch[0]]
    torch.testing.assert_close(mine, torch.stack(theirs))


def test_padding_and_ignored_labels_count_nowhere() -> None:
    model, (ids,) = llama(), next(text().batches())
    ids = ids[:2]
    labels = ids.clone()
    labels[:, :5] = -100
    attention = torch.ones_like(ids)
    attention[1, 10:] = 0
    batch = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    with torch.no_grad():
        losses = CausalLM().losses(model, batch)
        each, counted = CausalLM().token_losses(model, batch)
        short = CausalLM().token_losses(model, ids[1:, :10])[0]
    assert counted.sum(1).tolist() == [11, 5]
    assert losses[1] == pytest.approx(float(short[0, 4:].mean()), abs=1e-5)
    assert losses[0] == pytest.approx(float(each[0, 4:].mean()), abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing_that_counts(side: str) -> None:
    model, (ids,) = llama(), next(text().batches())
    bare, padding = ids[:1, :10], torch.zeros(1, 4, dtype=torch.long)
    here, there = torch.ones_like(bare), torch.zeros_like(padding)
    join = lambda a, b: torch.cat([b, a] if side == "left" else [a, b], 1)  # noqa: E731
    batch = {"input_ids": join(bare, padding), "attention_mask": join(here, there)}
    with torch.no_grad():
        _, counted = CausalLM().token_losses(model, batch)
        torch.testing.assert_close(
            CausalLM().losses(model, batch), CausalLM().losses(model, bare), rtol=1e-4, atol=1e-5
        )
    assert counted.sum() == 9


def test_windows_drop_the_rest() -> None:
    data = windows(torch.arange(11), 4, batch_size=2)
    assert len(data) == 2
    assert data.examples[1][0].tolist() == [4, 5, 6, 7]


def test_refuses() -> None:
    with pytest.raises(InputError, match="2 <= length <= 3"):
        windows(torch.arange(3), 4)
    with pytest.raises(InputError, match=r"\[n, t\]"):
        CausalLM().ids(torch.arange(3))
    model, (ids,) = llama(), next(text().batches())
    with pytest.raises(InputError, match="no token to predict"):
        CausalLM().losses(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)})
    with pytest.raises(InputError, match="must return"):
        CausalLM().outputs(_Flat(), ids)


class _Flat(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids.float()


def test_present_is_where_the_mask_says_so() -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert CausalLM().present((ids,)).tolist() == [[True] * 3] * 2
    assert CausalLM().present({"input_ids": ids, "attention_mask": mask}).tolist() == (mask == 1).tolist()
    assert isinstance(CausalLM(), Padded)
    assert not isinstance(Classify(2), Padded)
