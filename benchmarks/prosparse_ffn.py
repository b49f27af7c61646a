"""A feed-forward that skips idle rows beside the dense one, one token at a time: python -m benchmarks.prosparse_ffn"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import Linear, Module

from unweave import seeded
from unweave.io.files import write_text
from unweave.prune import FATReLU, SparseFeedForward

WIDTH, INNER, TOKENS = 2048, 5632, 40


class Dense(Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = Linear(WIDTH, INNER, bias=False), Linear(WIDTH, INNER, bias=False)
        self.down, self.act = Linear(INNER, WIDTH, bias=False), FATReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


def main() -> None:
    torch.manual_seed(0)
    block = Dense()
    tokens = torch.randn(TOKENS, WIDTH, generator=seeded(0))
    with torch.no_grad():
        gates = block.gate(tokens).flatten()
    told = {}
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        block.act = FATReLU(max(0.0, float(gates.sort().values[int(sparsity * gates.numel())])))
        fast, times = SparseFeedForward(block), {"dense": [], "skipping": []}
        zeros = []
        with torch.no_grad():
            for x in tokens.split(1):
                began = perf_counter()
                active = block.act(block.gate(x))
                block.down(active * block.up(x))
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
