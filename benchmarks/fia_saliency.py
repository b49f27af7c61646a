"""What FIA's saliency costs over plain sampling of the same prompts, in one run; goal: 40 % time, 2 weight copies.

python benchmarks/fia_saliency.py [rounds] [size]

A pipeline of random weights in Stable Diffusion 1.x's layout (16 feed-forwards at three resolutions, widths a tenth
of its own), six prompts with a concept and six without, guidance 7.5, the first 10 of 50 steps. Time is the fastest of
the rounds, which take turns; memory is the peak of all tensors alive, measured by torch's profiler, with numpy's one
copy of the largest layer added by hand: all prompts in one batch, and in two, where running moments must be kept.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from unweave import seeded
from unweave.embedded.drawn_digits import DrawnDigits
from unweave.erase import FIA, Concepts, TextToImage
from unweave.random import global_seed

STORED = Path(__file__).parent / "results" / "fia_saliency.json"


def pipeline(size: int) -> TextToImage:
    from diffusers import UNet2DConditionModel

    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    with global_seed(0):
        unet = UNet2DConditionModel(
            sample_size=size, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(32, 64, 128, 128),
            down_block_types=(down, down, down, "DownBlock2D"), up_block_types=("UpBlock2D", up, up, up),
            cross_attention_dim=64, attention_head_dim=8, norm_num_groups=8,
        )  # fmt: skip
    small = DrawnDigits().initial()
    return TextToImage(
        denoiser=unet, text_encoder=small.text_encoder, tokenizers=small.tokenizers, scheduler=small.scheduler
    )


def peak(work: Callable[[], object]) -> int:
    """Bytes of tensors alive at most, over those alive before."""
    gc.collect()  # a cycle freed inside the profile would count as negative
    gc.disable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    gc.enable()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def main(rounds: int, size: int) -> None:
    torch.set_num_threads(1)
    model = pipeline(size)
    templates = ("a photo of {}", "a {}", "image of a {}", "a drawing of {}", "image of the {}", "the {}")
    bases = ("a photo", "a digit", "image of a digit", "a drawing", "image of the digit", "the digit")
    asked = Concepts(erase=("three",), templates=templates, bases=bases)
    noise = model.noise(1, seeded(0))
    prompts = [*asked.prompts("three"), *asked.base_prompts("three")]

    def look(batch: int = 12) -> object:
        return FIA(batch_size=batch).scores(model, asked, "three", noise)

    def sample(batch: int = 12) -> object:
        return model.sample(
            prompts,
            steps=50,
            stop=10,
            guidance=7.5,
            noise=noise.expand(len(prompts), -1, -1, -1),
            batch_size=batch,
        )

    look(), sample()
    times: dict[Callable[[], object], list[float]] = {look: [], sample: []}
    for i in range(rounds):
        for work in (look, sample) if i % 2 else (sample, look):
            began = time.perf_counter()
            work()
            times[work].append(time.perf_counter() - began)
    fastest = {work: min(spent) for work, spent in times.items()}
    layers = [w.weight.numel() * 4 for w in model.linears("ff_out").values()]
    print(f"sampling           {fastest[sample]:7.2f} s (fastest of {rounds})")
    print(f"with the saliency  {fastest[look]:7.2f} s: {100 * (fastest[look] / fastest[sample] - 1):+.1f} %")
    memory = {}
    for batch in (12, 6):
        extra = peak(lambda: look(batch)) - peak(lambda: sample(batch)) + max(layers)  # noqa: B023
        print(
            f"extra peak memory  {extra / sum(layers):7.2f} copies of the watched weights, {batch} prompts at once"
        )
        memory[f"{batch} prompts at once"] = extra / sum(layers)
    told = {
        "seconds": {"sampling": fastest[sample], "with the saliency": fastest[look]},
        "extra time, %": 100 * (fastest[look] / fastest[sample] - 1),
        "extra peak memory, copies of the watched weights": memory,
    }
    STORED.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(*(int(a) for a in (sys.argv[1:] + ["3", "16"][len(sys.argv) - 1 :])))
