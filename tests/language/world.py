"""A tiny Llama and a handful of texts of different lengths; losses as methods compute them, and as equations say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from unweave import Data, Request, seeded
from unweave.language import _tune
from unweave.tasks.language import IGNORED, Text, texts

VOCABULARY = 24


@lru_cache
def _llama(seed: int) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).eval()


def llama(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    from copy import deepcopy

    return deepcopy(_llama(seed)).to(dtype)


def some(count: int, seed: int, *, prompts: bool = True) -> list[Text]:
    """Texts of 4 to 9 tokens, of which 2 or 3 are the prompt."""
    rng = seeded(seed)
    found = []
    for i in range(count):
        ids = torch.randint(1, VOCABULARY, (4 + (i * 3) % 6,), generator=rng).tolist()
        found.append(Text(ids, 2 + i % 2 if prompts else 0))
    return found


def others(given: Sequence[Text], seed: int) -> list[Text]:
    """Another answer, one token longer, to each prompt."""
    rng = seeded(seed)
    return [
        Text(
            [
                *t.ids[: t.prompt],
                *torch.randint(1, VOCABULARY, (len(t.ids) - t.prompt + 1,), generator=rng).tolist(),
            ],
            t.prompt,
        )
        for t in given
    ]


FORGET, RETAIN = some(6, 1), some(9, 2)
OTHER = others(FORGET, 3)


def request(*, alternatives: bool = True, batch_size: int = 6) -> Request[Any]:
    return Request(
        texts(FORGET, alternatives=OTHER if alternatives else None, batch_size=batch_size),
        texts(RETAIN, batch_size=batch_size),
        texts(some(4, 4), batch_size=batch_size),
    )


class _CaughtError(Exception):
    pass


@contextmanager
def _catching(found: dict[str, Any]) -> Any:
    def caught(student: Module, data: Any, objective: Any, optimizer: Any, **rest: Any) -> None:
        found.update(student=student, data=data, objective=objective, optimizer=optimizer, **rest)
        raise _CaughtError

    original = _tune.fit_
    _tune.fit_ = caught
    try:
        yield
    except _CaughtError:
        pass
    finally:
        _tune.fit_ = original


def caught(method: Any, model: Module, data: Request[Any] | None = None) -> dict[str, Any]:
    """What a method hands to the training loop: student, data, objective, optimizer."""
    found: dict[str, Any] = {}
    with _catching(found):
        method.apply(model, data or request(), rng=seeded(5))
    return found


def loss_of(method: Any, data: Request[Any] | None = None) -> Tensor:
    """A method's loss on its first step's texts, in order, started from model 0 and read at model 1."""
    found = caught(method, llama(0), data)
    return found["objective"](llama(1), next(found["data"].batches()))


def gradient(found: dict[str, Any], model: Module) -> Tensor:
    """Of what was caught, on the first step's texts in order, as one vector."""
    model.zero_grad()
    found["objective"](model, next(found["data"].batches())).backward()
    return torch.cat(
        [
            p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten()
            for p in model.parameters()
        ]
    )


def logits(model: Module, text: Text) -> tuple[Tensor, Tensor]:
    """Logits that predict each token of the answer, and these tokens: one text alone, nothing padded."""
    ids = torch.tensor(text.ids)
    out = model(input_ids=ids[None]).logits[0]
    first = max(1, text.prompt)
    return out[first - 1 : -1], ids[first:]


def token_nll(model: Module, text: Text) -> Tensor:
    """-log p of each token of the answer, straight from the definition of softmax."""
    z, y = logits(model, text)
    return torch.stack([torch.logsumexp(row, 0) - row[k] for row, k in zip(z, y, strict=True)])


def nll(model: Module, of: Sequence[Text]) -> Tensor:
    """Mean over all tokens of all texts."""
    return torch.cat([token_nll(model, t) for t in of]).mean()


def mean(each: Callable[[Text], Tensor], of: Sequence[Text] = FORGET) -> Tensor:
    return torch.stack([each(t) for t in of]).mean()


def assert_equal(found: Tensor, due: Tensor) -> None:
    assert abs(float(found.detach() - due.detach())) < 1e-12 * max(1.0, abs(float(due.detach()))), (
        float(found),
        float(due),
    )


KEPT = RETAIN[:6]
"""What the first step's batch of the retain set holds, in order."""
__all__ = ["FORGET", "IGNORED", "KEPT", "OTHER", "RETAIN", "Data"]
