"""Peak memory of NPO: log-probabilities kept as numbers, beside a reference model held and run; adapters, beside reading.

    python -m benchmarks.language_memory [--width 512] [--layers 8] [--write]

Each arm runs in a process of its own; its figure is the most memory that process had, less what it had with the model
loaded and nothing else done. All arms read the same texts in the same batches, in float32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ARMS = ("inference", "cached", "reference", "cached, lora", "reference, lora")
RESULT = Path(__file__).parent / "results" / "language_memory.json"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--width", type=int, default=512)
    asked.add_argument("--layers", type=int, default=8)
    asked.add_argument("--arm", default="")
    asked.add_argument("--write", action="store_true")
    args = asked.parse_args()
    if args.arm:
        print(json.dumps(arm(args.arm, args.width, args.layers)))  # noqa: T201
        return
    found: dict[str, Any] = {"width": args.width, "layers": args.layers}
    for name in ARMS:
        command = [sys.executable, "-m", "benchmarks.language_memory", "--arm", name]
        command += ["--width", str(args.width), "--layers", str(args.layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)  # noqa: T201
    whole = {name: found[name]["model"] + found[name]["peak"] for name in ARMS}
    found["cached over reference"] = whole["cached"] / whole["reference"]
    found["cached over reference, lora"] = whole["cached, lora"] / whole["reference, lora"]
    found["lora over inference"] = whole["cached, lora"] / whole["inference"]
    print(json.dumps(found, indent=1))  # noqa: T201
    if args.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def arm(name: str, width: int, layers: int) -> dict[str, float]:
    """MiB of the model, and of what came on top of it at the most."""
    import transformers

    from unweave import Request, seeded
    from unweave.language import NPO
    from unweave.tasks import evaluating
    from unweave.tasks.language import windows

    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    data = windows(torch.arange(32 * 8) * 7 % 512, 32, batch_size=2)
    request = Request(data.subset(range(4)), data.subset(range(4, 8)), data)
    before = peak()
    method = NPO(epochs=1, lr=1e-4, lora=8 if name.endswith("lora") else None)
    if name == "inference":
        with evaluating(model):
            for batch in data.batches():
                data.task.outputs(model, batch)
    else:
        held = None
        if name.startswith("reference"):  # what others do: a copy that every step reads
            held = transformers.LlamaForCausalLM(config).eval()
            held.load_state_dict(model.state_dict())
            read = type(data.task).log_probabilities

            def both(self: Any, m: Any, batch: Any) -> Any:
                with torch.no_grad():
                    read(self, held, batch)
                return read(self, m, batch)

            type(data.task).log_probabilities = both  # type: ignore[method-assign]
        method.apply(model, request, rng=seeded(0))
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    return {"model": size, "peak": peak() - before}


def peak() -> float:
    """Most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
