"""A small world of facts: topics with words of their own, and language models that learned every fact by heart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import AdamW

from unweave import Data, fit_, seeded
from unweave.fit import Loop
from unweave.random import global_seed
from unweave.tasks import predict
from unweave.tasks.language import CausalLM, Text, texts
from unweave.types import Batch

SUBJECTS, RELATIONS, OBJECTS = 12, 4, 12
SHARED = 6
"""Words of no topic: a filler, beginning, end and three that stand in every sentence."""
EACH = SUBJECTS + RELATIONS + OBJECTS
WIDTH, LAYERS, STEPS, LR = 64, 3, 500, 3e-3


def facts(topic: int, seed: int) -> Data[CausalLM]:
    """The facts of one topic: an object for each subject and relation, which alone is predicted."""
    first = SHARED + topic * EACH
    rng = seeded(1000 * seed + topic)
    found = []
    for s in range(SUBJECTS):
        for r in range(RELATIONS):
            said = int(torch.randint(OBJECTS, (), generator=rng))
            subject, relation = first + s, first + SUBJECTS + r
            found.append(Text([1, 3, subject, 4, relation, 5, first + SUBJECTS + RELATIONS + said], 6))
    return texts(found, batch_size=16)


def joined(parts: Sequence[Data[CausalLM]]) -> Data[CausalLM]:
    """Several topics as one data set."""
    rows = [part.examples[i] for part in parts for i in range(len(part))]
    return Data(rows, CausalLM(), 16, parts[0].collate)  # type: ignore[arg-type]


def recall(model: Module, data: Data[CausalLM]) -> float:
    """Facts whose object is the likeliest word, in %."""

    def right(m: Module, batch: Batch) -> Tensor:
        task = data.task
        found = task.outputs(m, batch)[:, -2].argmax(-1)
        return (found == task.ids(batch)[:, -1].to(found.device)).double()

    return 100 * float(predict(model, data, right).mean())


@lru_cache
def trained(topics: int, seed: int, experts: int = 0) -> Module:
    """A model that knows the facts of so many topics; a mixture of experts with a shared one, where there are any."""
    import transformers

    size: dict[str, Any] = {
        "vocab_size": SHARED + topics * EACH, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 16,
        "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    with global_seed(seed):
        model: Any
        if experts:
            config = transformers.Qwen2MoeConfig(
                **size, num_experts=experts, num_experts_per_tok=2, moe_intermediate_size=32,
                shared_expert_intermediate_size=32, decoder_sparse_step=1,
            )  # fmt: skip
            model = transformers.Qwen2MoeForCausalLM(config)
        else:
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**size))
    data = joined([facts(t, seed) for t in range(topics)])
    optimizer = AdamW(model.parameters(), LR, weight_decay=0.01)
    fit_(
        model, data, lambda m, batch: data.task.losses(m, batch).mean(), optimizer, epochs=-(-STEPS // data.steps),
        rng=seeded(seed), loop=Loop(clip=1.0, label="teach facts"),
    )  # fmt: skip
    done: Module = model.eval()
    return done
