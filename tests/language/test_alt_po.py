"""AltPO: alternatives drawn from the model, then DPO."""

from __future__ import annotations

import pytest
import torch

from tests.language.world import (
    FORGET,
    assert_equal,
    llama,
    loss_of,
    request,
)
from unweave import seeded
from unweave.errors import InputError
from unweave.language import DPO, AltPO
from unweave.language.alt_po import texts_in
from unweave.tasks.language import texts


def test_draws_another_answer_to_each_prompt() -> None:
    forget, model = request(alternatives=False, batch_size=4).forget, llama()
    made = AltPO().answered(model, forget, seeded(0))
    assert len(made) == len(forget)
    for batch in made.batches():
        for text, other in zip(
            texts_in(made.task, batch), texts_in(made.task, made.task.alternative(batch)), strict=True
        ):
            assert (text.prompt, len(text.ids)) == (other.prompt, len(other.ids))
            assert list(text.ids[: text.prompt]) == list(other.ids[: text.prompt])
            assert list(text.ids) != list(other.ids)
    assert [list(t.ids) for b in made.batches() for t in texts_in(made.task, b)] == [
        list(t.ids) for t in FORGET
    ]


def test_is_dpo_where_alternatives_are_given() -> None:
    assert_equal(loss_of(AltPO(beta=0.4)), loss_of(DPO(beta=0.4)))


def test_refuses_a_model_that_is_too_sure_and_texts_without_prompts() -> None:
    data = request(alternatives=False)
    model = llama()
    sure = next(b for b in AltPO().answered(model, data.forget, seeded(0)).batches())
    from unweave.models.decoding import continued

    first = FORGET[0]
    greedy = continued(model, [torch.tensor(first.ids[: first.prompt])], [len(first.ids) - first.prompt])[0]
    from dataclasses import replace

    from unweave.tasks.language import Text

    known = texts([Text([*first.ids[: first.prompt], *greedy.tolist()], first.prompt)])
    assert sure
    with pytest.raises(InputError, match="drew no other answer to 1 prompts in 2 tries"):
        AltPO(temperature=1e-6, tries=2).apply(model, replace(data, forget=known), rng=seeded(0))
    with pytest.raises(InputError, match="is all answer"):
        AltPO().apply(model, replace(data, forget=texts([Text([1, 2, 3])])), rng=seeded(0))
