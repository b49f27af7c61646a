"""A feed-forward that skips idle rows beside the dense one, one token at a time: python -m benchmarks.prosparse_ffn"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace

import torch
from torch.nn import Linear

from unweave import seeded
from unweave.io.files import write_text
from unweave.prune import FATReLU, SparseFeedForward

WIDTH, INNER, TOKENS = 2048, 5632, 40


def main() -> None:
    torch.manual_seed(0)
    block = SimpleNamespace(
        gate_proj=Linear(WIDTH, INNER, bias=False), up_proj=Linear(WIDTH, INNER, bias=False),
        down_proj=Linear(INNER, WIDTH, bias=False), act_fn=FATReLU(),
    )  # fmt: skip
    tokens = torch.randn(TOKENS, WIDTH, generator=seeded(0))
    with torch.no_grad():
        gates = block.gate_proj(tokens).flatten()
    told = {}
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        block.act_fn = FATReLU(max(0.0, float(gates.sort().values[int(sparsity * gates.numel())])))
        fast, times = SparseFeedForward(block), {"dense": [], "skipping": []}
        zeros = []
        with torch.no_grad():
            for x in tokens.split(1):
                began = perf_counter()
                active = block.act_fn(block.gate_proj(x))
                block.down_proj(active * block.up_proj(x))
                times["dense"].append(perf_counter() - began)
                began = perf_counter()
                fast(x)
                times["skipping"].append(perf_counter() - began)
                zeros.append(float((active == 0).float().mean()))
        dense, skipping = (median(t[5:]) for t in times.values())
        told[f"{100 * sum(zeros) / len(zeros):.0f} % zeros"] = {
            "dense, s": dense,
            "skipping, s": skipping,
            "speed-up": dense / skipping,
        }
        print(told, flush=True)
    result = {"width": WIDTH, "inner width": INNER, "threads": torch.get_num_threads(), **told}
    write_text(Path(__file__).parent / "results" / "prosparse_ffn.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
