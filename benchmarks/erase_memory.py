"""Peak memory of an erasure beyond the pipeline itself, in multiples of its denoiser.

    python -m benchmarks.erase_memory [--millions 100] [--only uce esd-x] [--write]

A pipeline of random weights in Stable Diffusion's classes, its layers in the proportions of Stable Diffusion 1.5 (whose
cross-attention holds 5 % of the denoiser's weights, whose feed-forwards' second layers hold 6 %), no VAE, latents of
8 x 8: what is measured is weights, gradients and moments, not activations. Every edit runs in a process of its own that
has drawn one image first; the figure is that process's peak resident size over its size before the edit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

from unweave.erase import ESD, FIA, UCE, ConceptAblation, ConceptPrune, Concepts, ConceptSalUn, TextToImage
from unweave.random import global_seed, seeded

SHORT: dict[str, Any] = {"steps": 2, "sampler_steps": 2, "batch_size": 1}
METHODS: dict[str, tuple[Callable[[], Any], float]] = {
    "uce": (UCE, 0.3),
    "fia": (lambda: FIA(r2=0.2, steps=2, record=2, batch_size=2), 0.5),
    "concept-prune": (lambda: ConceptPrune(steps=2, record=2, batch_size=2), 0.5),
    "concept-ablation": (lambda: ConceptAblation(images=1, **SHORT), 1.0),
    "esd-x": (lambda: ESD(train="cross", **SHORT), 1.0),
    "esd-u": (lambda: ESD(train="not_cross", **SHORT), 2.2),
    "esd-all": (lambda: ESD(train="all", **SHORT), 2.2),
    "salun": (lambda: ConceptSalUn(images=1, **SHORT), 2.2),
}
"""Name -> edit, and the multiple of the denoiser that it should stay below."""
ASKED = Concepts(
    erase=("cat",), preserve=("dog",), guide="bird", templates=("a photo of a {}",), bases=("a photo",)
)


def pipeline(millions: float) -> TextToImage:
    """A pipeline of about so many million weights, random."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    words = ["<start>", "<end>", "<unknown>", "a", "photo", "of", "cat", "dog", "bird"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<start>", eos_token="<end>", pad_token="<end>",
        unk_token="<unknown>", model_max_length=10,
    )  # fmt: skip
    base = max(32, round(320 * (millions / 860) ** 0.5 / 32) * 32)
    with global_seed(0):
        denoiser = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=8,
            block_out_channels=(base, 2 * base, 4 * base, 4 * base), cross_attention_dim=768, attention_head_dim=8,
        )  # fmt: skip
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=768, intermediate_size=768, num_hidden_layers=1,
                num_attention_heads=12, max_position_embeddings=10, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
    return TextToImage(
        denoiser=denoiser, text_encoder=encoder, tokenizers=[tokenizer],
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
    )  # fmt: skip


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def measure(name: str, millions: float, dtype: str) -> dict[str, Any]:
    """Run one edit in this process and watch its size every two milliseconds."""
    import torch

    torch.set_num_threads(1)
    model = pipeline(millions)
    model = model.to(getattr(torch, dtype))
    model.sample(["a photo of a cat"], steps=1, rng=seeded(0))
    weights = sum(p.numel() * p.element_size() for p in model.denoiser.parameters())
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    METHODS[name][0]().apply(model, ASKED, rng=seeded(0))
    done.set()
    watcher.join()
    return {
        "method": name, "dtype": dtype, "denoiser MiB": weights / 2**20,
        "beyond the pipeline MiB": (peak[0] - before) / 2**20, "multiple": (peak[0] - before) / weights,
        "goal": METHODS[name][1],
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write benchmarks/results/erase_memory.json."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--millions", type=float, default=100)
    asked.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    asked.add_argument("--only", nargs="+", default=list(METHODS))
    asked.add_argument("--child", action="store_true")
    asked.add_argument("--write", action="store_true")
    options = asked.parse_args()
    if options.child:
        print(json.dumps(measure(options.only[0], options.millions, options.dtypes[0])))
        return
    rows = []
    for dtype in options.dtypes:
        for name in options.only:
            command = [
                sys.executable,
                "-m",
                "benchmarks.erase_memory",
                "--child",
                "--millions",
                str(options.millions),
            ]
            told = subprocess.run(
                [*command, "--only", name, "--dtypes", dtype], capture_output=True, text=True, check=False
            )
            if told.returncode:
                raise SystemExit(told.stderr)
            row = json.loads(told.stdout.strip().splitlines()[-1])
            rows.append(row)
            print(f"{name:17} {dtype:9} {row['multiple']:5.2f} (goal {row['goal']})", flush=True)
    if options.write:
        path = Path(__file__).parent / "results" / "erase_memory.json"
        told = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
