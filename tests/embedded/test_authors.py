"""The world of invented authors: what its texts are, and that models learn them."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from unweave.embedded.authors import Authors, decode, encode, known_models, tokenizer
from unweave.tasks import predict

SMALL = Authors(known=6, base=6, heldout=4, width=32, layers=1, epochs=40, base_epochs=40, lr=0.015)
"""Trained in seconds; what the tests of the audit and of the command line use."""


@lru_cache
def models(without: tuple[int, ...] = ()) -> list:
    pytest.importorskip("transformers")
    return known_models(SMALL, [0], without)


def test_facts_are_each_authors_own_and_said_in_other_words() -> None:
    known, base, heldout = SMALL.questions()
    assert [len(part) for part in (known, base, heldout)] == [30, 30, 20]
    names = [{q.author for q in part} for part in (known, base, heldout)]
    assert len(set.union(*names)) == sum(map(len, names))
    for q in known:
        assert len({q.prompt, *q.asked}) == 4
        assert len({q.answer, *q.answered}) == 4
        own = {w for said in (q.answer, *q.answered) for w in said.split()}
        values = {w.split()[-2 if w.endswith("prize") else -1] for w in q.wrong}
        assert len(values) == 4
        assert not values & own
        assert all(q.author in said for said in (q.prompt, *q.asked))
    assert SMALL.questions() == (known, base, heldout)


def test_texts_have_their_prompts_masked_and_can_be_read_again() -> None:
    q = SMALL.questions()[0][0]
    text = encode(q.prompt, q.answer)
    assert decode(text.ids) == f"{q.prompt} {q.answer}"
    assert text.prompt == len(q.prompt.split()) + 2
    request = SMALL.request([1, 3])
    assert (len(request.forget), len(request.retain), len(request.heldout)) == (10, 20, 20)
    batch = next(request.forget.batches())
    assert all(decode(row.tolist()) for row in batch["alternative"]["input_ids"])


def test_the_tokenizer_of_transformers_reads_the_same_ids() -> None:
    pytest.importorskip("transformers")
    q, made = SMALL.questions()[0][0], tokenizer()
    said = [{"role": "user", "content": q.prompt}, {"role": "assistant", "content": q.answer}]
    found = made(made.apply_chat_template(said, tokenize=False), add_special_tokens=False)["input_ids"]
    assert found == list(encode(q.prompt, q.answer).ids)


@pytest.mark.slow
def test_models_learn_their_authors_and_no_others() -> None:
    (holder,), (oracle,), request = models(), models((0,)), SMALL.request([0])
    losses = [
        [
            float(predict(m, d, d.task.losses).mean())
            for d in (request.forget, request.retain, request.heldout)
        ]
        for m in (holder, oracle)
    ]
    assert losses[0][0] < 0.2
    assert losses[1][0] > 0.7
    assert max(losses[0][1], losses[1][1]) < 0.2
    assert min(losses[0][2], losses[1][2]) > 0.7
    assert {p.dtype for p in holder.parameters()} == {torch.float32}
