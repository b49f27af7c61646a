"""Facts of one topic unlearned in one expert, in all weights, in an expert drawn at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.nn import Module

from claims.effects import Effect
from claims.framework import Claim
from claims.topics import facts, joined, recall, trained
from unweave import Request, seeded
from unweave.experts import UOE
from unweave.language import GradDiff

EXPERTS, GONE, PASSES, LR = 8, 20.0, 30, 2e-3
UNLEARNERS = {"ascent": GradDiff.ascent(epochs=1, lr=LR), "difference": GradDiff(epochs=1, lr=LR)}
ARMS = ("everything", "one expert", "random expert", "one expert, no anchor")

claim = Claim(
    statement="At equal forgetting, unlearning in one expert and its router keeps more of the rest than unlearning in all "
    "weights does.",
    reported="Qwen1.5-MoE, WMDP: MMLU after ascent 33.9 % in all weights and 50.1 % in one expert, forgotten alike",
    data="three topics of 48 facts in words of their own; a mixture of 8 experts, 3 layers, width 64, that knows them by heart; "
    "one topic is unlearned, pass by pass, until at most 20 % of it is known",
    figures={
        **{f"{name}, {arm}": "% of the other topics' facts still known; 0 where the topic was not unlearned in 30 passes"
           for name in UNLEARNERS for arm in ARMS},
        **{f"{name}, {arm}, left": "% of the unlearned topic's facts" for name in UNLEARNERS for arm in ARMS},
        "specialisation": "largest affinity to the topic over the same expert's to the others",
    },
    baseline="the same unlearner, rate and stopping rule on all weights; an expert drawn at random",
    criterion="with ascent, `one expert` keeps at least 15 points more of the other topics than `everything`",
    effects=(
        Effect("one expert over all weights, ascent", better="ascent, one expert", worse="ascent, everything",
               unit="points", margin=15.0),
        Effect("one expert over all weights, difference", better="difference, one expert",
               worse="difference, everything", unit="points", headline=False),
        Effect("chosen over random, left of the topic", better="ascent, one expert, left",
               worse="ascent, random expert, left", higher=False, unit="points", headline=False),
        Effect("anchor over none", better="ascent, one expert", worse="ascent, one expert, no anchor",
               unit="points", headline=False),
    ),
    note="Experts of so small a model need not specialise in topics; `specialisation` says how far they did.",
    settings={"lr": LR, "passes": PASSES, "experts": EXPERTS},
)  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    model = trained(3, seed, EXPERTS)
    gone, kept = facts(0, seed), joined([facts(1, seed), facts(2, seed)])
    request = Request(gone, kept, facts(3, seed))
    row: dict[str, float] = {}
    for name, unlearn in UNLEARNERS.items():
        best = UOE(unlearn=unlearn).chosen(model, request, rng=seeded(seed))[0]
        drawn = UOE(unlearn=unlearn, pick="random").chosen(model, request, rng=seeded(seed))[0]
        chosen = UOE(unlearn=unlearn, expert=(best.layer, best.expert))
        arms: dict[str, Any] = {
            "everything": unlearn, "one expert": chosen,
            "random expert": replace(chosen, expert=(drawn.layer, drawn.expert)),
            "one expert, no anchor": replace(chosen, alpha=0.0),
        }  # fmt: skip
        for arm, method in arms.items():
            row |= _run(f"{name}, {arm}", method, model, request, seed)
        others = UOE(unlearn=unlearn).affinities(model, Request(kept, kept, kept))
        row["specialisation"] = best.affinity / max(float(others[best.layer][best.expert]), 1e-9)
    return row


def _run(name: str, method: Any, model: Module, request: Request[Any], seed: int) -> dict[str, float]:
    edited = model
    for i in range(PASSES):
        edited = method.apply(edited, request, rng=seeded(100 * seed + i))
        if recall(edited, request.forget) <= GONE:
            break
    left = recall(edited, request.forget)
    return {name: recall(edited, request.retain) if left <= GONE else 0.0, f"{name}, left": left}
