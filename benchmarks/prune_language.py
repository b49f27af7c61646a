"""stories260K pruned by SparseGPT, Wanda and magnitude, and recovered: python -m benchmarks.prune_language

Calibrated on 64 windows of 256 tokens that the dense model tells by itself, each of three draws; perplexity on 64 windows
of another draw and on Shakespeare, which it never saw. Every block's linear layers are pruned; head and embedding are one
tensor and stay. "Reference" is SparseGPT written down once more from its paper and its published settings, in float64
(blocks of 128, damping 0.01, the threshold that takes the weight at it too).
"""

from __future__ import annotations

import json
import math
import tempfile
from copy import deepcopy
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks.stories import PLACE, told_stories, write_folder
from unweave import Mask, seeded
from unweave.io.causal_lm import load_causal_lm
from unweave.io.files import write_text
from unweave.io.loading import read_tokenizer
from unweave.io.texts import read_sequences
from unweave.prune import NM, Magnitude, Prune, Recovery, SparseGPT, Uniform, Unstructured, WandaPrune
from unweave.tasks import perplexity
from unweave.tasks.language import windows

LENGTH, WINDOWS, DRAWS = 256, 64, 3
DAMPING, BLOCK = 0.01, 128


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(Path(place))
        model, tokenizer = load_causal_lm(folder), read_tokenizer(folder)
        shakespeare = read_sequences(PLACE / "text" / "tinyshakespeare.txt", tokenizer, LENGTH).data
    texts = {"stories": told(model, 1000), "Shakespeare": shakespeare.subset(range(0, WINDOWS * 40, 40))}
    draws = [told(model, seed) for seed in range(DRAWS)]
    result = {
        "windows": f"{WINDOWS} of {LENGTH} tokens, one every {LENGTH}: {WINDOWS * (LENGTH - 1):,} tokens predicted",
        "calibration": f"{WINDOWS} windows of {LENGTH} tokens told by the dense model, {DRAWS} draws",
        "torch": torch.__version__, "dense": {name: perplexity(model, text) for name, text in texts.items()},
        "pruned": {}, "recovered": {},
    }  # fmt: skip
    for shown, pattern in (("50 %", Unstructured()), ("2:4", NM(2, 4))):
        rows: dict[str, list[dict[str, float]]] = {}
        for draw in draws:
            for name, cut in pruned(model, draw, pattern).items():
                rows.setdefault(name, []).append(
                    {text: perplexity(cut, data) for text, data in texts.items()}
                )
        result["pruned"][shown] = {name: spread(found) for name, found in rows.items()}
        rises = [
            [math.log(row["stories"]) - math.log(result["dense"]["stories"]) for row in rows[name]]
            for name in ("SparseGPT", "reference")
        ]
        gaps = [abs(ours / theirs - 1) for ours, theirs in zip(*rises, strict=True)]
        result["pruned"][shown]["rise of the loss over the reference's, largest gap, %"] = 100 * max(gaps)
        print(json.dumps(result["pruned"][shown], indent=1))
    cut = SparseGPT(pattern=NM(2, 4), examples=WINDOWS).apply(model, draws[0], rng=seeded(0))
    for by in ("full", "lora", "distil"):
        again = deepcopy(cut)
        Recovery(by=by, epochs=5, lr=1e-3).train_(again, draws[0], original=model, rng=seeded(0))
        assert Mask.of(again) == Mask.of(cut)
        result["recovered"][by] = {text: perplexity(again, data) for text, data in texts.items()}
    print(json.dumps(result, indent=1))
    write_text(Path(__file__).parent / "results" / "prune_language.json", json.dumps(result, indent=1) + "\n")


def told(model: Any, seed: int) -> Any:
    """Windows of a text that the model tells."""
    return windows(told_stories(model, WINDOWS * LENGTH, seed=seed), LENGTH, batch_size=8)


def pruned(model: Any, draw: Any, pattern: Any) -> dict[str, Any]:
    """The model pruned by each method."""
    how = {"pattern": pattern, "examples": WINDOWS}
    edits = {
        "magnitude": Prune(score=Magnitude(), pattern=pattern, budget=Uniform(0.5)),
        "Wanda": WandaPrune(**how),
        "SparseGPT": SparseGPT(**how),
        "SparseGPT, refit": SparseGPT(**how, refit=True),
    }
    found = {name: edit.apply(model, draw, rng=seeded(0)) for name, edit in edits.items()}
    return found | {"reference": reference(model, draw, pattern)}


def spread(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Text -> mean and standard deviation over the draws."""
    return {t: [mean(r[t] for r in rows), stdev(r[t] for r in rows)] for t in rows[0]}


@torch.no_grad()
def reference(model: Any, data: Any, pattern: Any) -> Any:
    """SparseGPT block by block, each with the inputs that the blocks before it, already pruned, give it."""
    cut = deepcopy(model).double()
    for block in cut.model.layers:
        layers = {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
        hessians = {
            n: torch.zeros(m.in_features, m.in_features, dtype=torch.float64) for n, m in layers.items()
        }

        def add(name: str, x: Tensor, hessians: dict[str, Tensor] = hessians) -> None:
            rows = x.flatten(end_dim=-2)
            hessians[name] += 2 * rows.T @ rows

        hooks = [
            m.register_forward_pre_hook(lambda _, a, n=n, add=add: add(n, a[0])) for n, m in layers.items()
        ]
        for (ids,) in data.batches():
            cut(ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.weight.copy_(fasterprune(layer.weight, hessians[name], pattern))
    return cut.to(torch.float32)


def fasterprune(weight: Tensor, hessian: Tensor, pattern: Any, sparsity: float = 0.5) -> Tensor:
    """Algorithm 1 of the paper with the published choices of threshold and damping."""
    w, h = weight.clone(), hessian.clone()
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += DAMPING * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for low in range(0, w.shape[1], BLOCK):
        high = min(low + BLOCK, w.shape[1])
        part, here = w[:, low:high].clone(), inverse[low:high, low:high]
        errors = torch.zeros_like(part)
        gone = torch.zeros_like(part, dtype=torch.bool)
        if not isinstance(pattern, NM):
            cost = part**2 / here.diagonal() ** 2
            gone = cost <= cost.flatten().sort().values[int(cost.numel() * sparsity)]
        for i in range(high - low):
            if isinstance(pattern, NM) and i % pattern.m == 0:
                cost = part[:, i : i + pattern.m] ** 2 / here.diagonal()[i : i + pattern.m] ** 2
                gone.scatter_(1, i + cost.topk(pattern.m - pattern.n, dim=1, largest=False).indices, True)
            kept = part[:, i].masked_fill(gone[:, i], 0)
            error = (part[:, i] - kept) / here[i, i]
            part[:, i:] -= error[:, None] * here[i, i:]
            part[:, i], errors[:, i] = kept, error
        w[:, low:high] = part
        w[:, high:] -= errors @ inverse[low:high, high:]
    return w


if __name__ == "__main__":
    main()
