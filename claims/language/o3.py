"""Three topics unlearned one after another behind a guard: what is left of them, and of two topics that stay."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch.nn import Module

from claims.effects import Effect
from claims.framework import Claim
from claims.topics import facts, recall, trained
from unweave import Request, seeded
from unweave.audit.classifier.membership import auc
from unweave.language import O3
from unweave.models.guarded import Guarded

HOW = O3(answers="random", epochs=30, lr=3e-3)
GONE, STAY = (0, 1, 2), (3, 4)

claim = Claim(
    statement="A guard keeps topics that were not to be forgotten, over several requests and without any of their texts, where "
    "the adapter alone harms them.",
    reported="ScienceQA, continual: 47.3 % of retained answers right with orthogonality and 32.4 % without; AUROC above .95",
    data="five topics of 48 facts in words of their own; a Llama of 3 layers and width 64 that knows them by heart; three topics "
    "are forgotten in turn, each with its own texts alone",
    figures={
        **{f"{arm}, {part}": f"% of the facts of the topics that {part}, after three requests"
           for arm in ("guarded", "adapter alone", "not orthogonal") for part in ("go", "stay")},
        "before, stay": "% of the facts of the topics that stay, before any request",
        "first, at once": "% of the first topic's facts after its own request",
        "first, later": "% of the first topic's facts after the third",
        "AUROC": "of the guard's weight, topics that go against topics that stay",
    },
    baseline="the same adapter without the detector; the same guard without orthogonality",
    criterion="`guarded` knows at least 15 points more of the topics that stay than `adapter alone`, and its AUROC is at least 0.95",
    effects=(
        Effect("guard over adapter alone, topics that stay", better="guarded, stay", worse="adapter alone, stay",
               unit="points", margin=15.0),
        Effect("AUROC above 0.95", better="AUROC", worse=0.95, unit="AUROC"),
        Effect("orthogonal over not, topics that go", better="guarded, go", worse="not orthogonal, go", higher=False,
               unit="points", headline=False),
        Effect("first topic stays forgotten", better="first, later", worse="first, at once", higher=False, unit="points",
               headline=False),
    ),
    note="Topics share no word of their own, so a detector has an easy task; words of two topics in one text are not tried.",
    settings={"guarded": repr(HOW)},
)  # fmt: skip


@lru_cache
def served(seed: int, orthogonal: float) -> tuple[Guarded, ...]:
    """The model after each request."""
    from dataclasses import replace

    method, found = replace(HOW, orthogonal=orthogonal), list[Guarded]()
    for topic in GONE:
        before: Module = found[-1] if found else trained(5, seed)
        request = Request(facts(topic, seed), facts(3, seed), facts(4, seed))
        found.append(method.apply(before, request, rng=seeded(10 * seed + topic)))
    return tuple(found)


def _known(model: Module, topics: tuple[int, ...], seed: int) -> float:
    return float(np.mean([recall(model, facts(t, seed)) for t in topics]))


def measure(seed: int) -> dict[str, float]:
    first, _, last = served(seed, HOW.orthogonal)
    loose = served(seed, 0.0)[-1]
    row = {
        "before, stay": _known(trained(5, seed), STAY, seed),
        "first, at once": recall(first, facts(0, seed)),
        "first, later": recall(last, facts(0, seed)),
    }
    for arm, model in (("guarded", last), ("not orthogonal", loose)):
        row |= {f"{arm}, go": _known(model, GONE, seed), f"{arm}, stay": _known(model, STAY, seed)}
    last.fixed(1.0)
    row |= {"adapter alone, go": _known(last, GONE, seed), "adapter alone, stay": _known(last, STAY, seed)}
    last.fixed(None)
    weights = [
        np.concatenate([
            last.weigh(batch["input_ids"], batch["attention_mask"]).numpy()
            for t in topics for batch in facts(t, seed).batches()
        ])
        for topics in (GONE, STAY)
    ]  # fmt: skip
    return row | {"AUROC": auc(weights[0], weights[1])}
