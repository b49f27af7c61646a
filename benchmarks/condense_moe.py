"""What condensing keeps of a small mixture of experts at 72.5 % of its memory, beside four baselines, and what choosing costs.

Run: python -m benchmarks.condense_moe [seeds | selection]. Writes benchmarks/results/condense_moe.json; "selection" alone
measures what choosing costs and leaves the rest of that file.

Quality is the share of the loss gap to a unigram model that is kept: (unigram - edited) / (unigram - original), in nats a
character on held-out windows; the unigram counts characters of the training windows, one added to each.
Speed is the ratio of tokens a second of forward passes of both models in turns, the median of the turns' ratios.
"""

from __future__ import annotations

import json
import platform
import sys
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter
from typing import Any

import torch
from torch.nn import Module

from claims.experts._world import calibration, heldout, loss, model
from unweave import seeded
from unweave.embedded.char_moe import SYMBOLS, CharMoE, char_texts
from unweave.experts import CDMoE, ExpertPruning, HCSMoE
from unweave.experts.cd_moe.states import capture, distance
from unweave.models.moe import Condensed, moe_layers
from unweave.models.moe.dense import swap_
from unweave.tasks import evaluating

OUT = Path(__file__).parent / "results" / "condense_moe.json"
MEMORY, TUNING, LR, TURNS = 0.725, 80, 1e-3, 15


def unigram() -> float:
    """Held-out nats a character of a model that knows how frequent characters are; on what the network predicts too."""
    train, _ = char_texts()
    ids = torch.cat([row[0] for row in train.examples])  # type: ignore[index, attr-defined]
    p = (torch.bincount(ids, minlength=SYMBOLS) + 1).double()
    held = torch.cat([heldout().task.ids(b)[:, 1:].flatten() for b in heldout().batches()])
    return -float((p / p.sum()).log()[held].mean())


def speedup(before: Module, after: Module, batch: int) -> float:
    """Tokens a second of the second over the first's, 64 tokens a text."""
    ids = torch.randint(SYMBOLS, (batch, 64), generator=seeded(0))
    ratios = []
    with evaluating(before), evaluating(after):
        for _ in range(TURNS):
            took = []
            for net in (before, after):
                began = perf_counter()
                net(input_ids=ids)
                took.append(perf_counter() - began)
            ratios.append(took[0] / took[1])
    return median(ratios[2:])


def measure(seed: int) -> dict[str, float]:
    """One seed's figures."""
    original, low = model(seed), unigram()
    train, _ = char_texts()
    some = train.subset(range(0, len(train), len(train) // (12 * TUNING))[: 12 * TUNING])
    tuned: Any = {"recover": "lm", "recover_lr": LR, "memory": MEMORY, "examples": 10}
    row = {"unigram": low, "original": loss(original)}
    made = {}
    for name, how, data in (
        ("CD-MoE SR", CDMoE(memory=MEMORY), calibration()),
        ("CD-MoE SR tuned", CDMoE(**tuned), some),
        ("REAP", ExpertPruning(memory=MEMORY), calibration()),
        ("HC-SMoE", HCSMoE(memory=MEMORY), calibration()),
        ("layer trim", CDMoE(mode="layer trim", memory=MEMORY), calibration()),
        ("block trim", CDMoE(mode="block trim", memory=MEMORY), calibration()),
    ):
        made[name] = net = how.apply(original, data, rng=seeded(seed))  # type: ignore[attr-defined]
        size = sum(p.numel() for p in net.parameters()) / sum(p.numel() for p in original.parameters())
        row[f"{name}, loss"], row[f"{name}, memory"] = loss(net), size
        row[f"{name}, quality %"] = 100 * (low - row[f"{name}, loss"]) / (low - row["original"])
    for batch in (1, 8, 32):
        row[f"speed-up at batch {batch}"] = speedup(original, made["CD-MoE SR"], batch)
    return row


def selection(experts: int = 64, k: int = 6) -> dict[str, float]:
    """Passes of the model and seconds for the experts of one layer: ours, and the published one pass a candidate."""
    net = (
        CharMoE(layers=2, experts=experts, top_k=k).initial(seeded(0)).eval().double()
    )  # no near ties by rounding
    net.set_experts_implementation("eager")  # the fast ones know no float64
    data = char_texts(20_000)[0].subset(range(4))
    passes = [0]
    hook = net.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    began = perf_counter()
    ours = CDMoE(layers=1, k=k, examples=4).choose(net, data, rng=seeded(0))
    seconds, choosing = perf_counter() - began, passes[0]
    moe = moe_layers(net)[0]
    with evaluating(net):
        passes[0] = 0
        seen = capture(net, data, moe)
        one = passes[0]
        passes[0], began = 0, perf_counter()
        chosen: list[int] = []
        full = _weights(moe, seen)
        for _ in range(k):
            found = {}
            for e in (e for e in range(experts) if e not in chosen):
                kept = [*chosen, e]
                old = swap_(net, moe.name, Condensed.of_block(moe, kept, full[kept]))
                states = _layer(net, moe.layer, data)
                swap_(net, moe.name, old)
                found[e] = distance(seen.layer, states, seen.share)
            chosen.append(min(found, key=lambda e: (found[e], e)))
        published, slow = passes[0], perf_counter() - began
    hook.remove()
    return {
        "of": experts, "k": k, "passes a layer": one, "passes a layer, published": published,
        "ratio of passes": published / one, "the same experts": chosen == list(ours.kept[moe.name]), "ours": list(ours.kept[moe.name]), "published": chosen,
        "passes of all of choosing (2 layers, and which)": choosing, "seconds of all of choosing": seconds,
        "seconds a layer, published": slow,
    }  # fmt: skip


def _weights(moe: Any, seen: Any) -> torch.Tensor:
    from unweave.experts.cd_moe.choose import condensation_weights

    return condensation_weights(moe, seen)


def _layer(net: Module, name: str, data: Any) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    hook = net.get_submodule(name).register_forward_hook(
        lambda _, __, out: rows.append((out if isinstance(out, torch.Tensor) else out[0]).flatten(0, 1))
    )
    for batch in data.batches():
        data.task.outputs(net, batch)
    hook.remove()
    return torch.cat(rows)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    alone = sys.argv[1:] == ["selection"]
    seeds = [] if alone else [int(s) for s in sys.argv[1:]] or [0, 1, 2, 3, 4]
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    found |= {
        "memory": MEMORY, "quality": "(unigram - edited) / (unigram - original), held-out nats a character",
        "python": platform.python_version(), "torch": torch.__version__, "threads": 1,
    }  # fmt: skip
    if alone:
        found["selection"] = selection()
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found["selection"], indent=1), flush=True)
        return
    found["rows"] = []
    for seed in seeds:
        found["rows"].append({"seed": seed} | measure(seed))
        print(json.dumps(found["rows"][-1]), flush=True)
        columns = {n: [r[n] for r in found["rows"]] for n in found["rows"][0] if n != "seed"}
        found["mean"] = {n: mean(v) for n, v in columns.items()}
        if len(found["rows"]) > 2:
            t = {3: 4.303, 4: 3.182, 5: 2.776}.get(len(found["rows"]), 2.0)
            found["half of the 95 % interval"] = {n: t * stdev(v) / sqrt(len(v)) for n, v in columns.items()}
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
