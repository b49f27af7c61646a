"""How often the verdict on pipelines is right, where the answer is known: the very audit that `unweave erase` runs.

The small world of digits, "three" to erase, two digits to keep and the judge's three nearest others; and four digits to
erase at once, of which one was left. A pipeline trained without threes stands for a perfect erasure; no retrained pipeline
is given to the audit. Every draw has its own noise, attack and wreck. What was measured is kept after each draw, and a run
goes on where it was stopped.

    python -m benchmarks.erasure_error_rates 30     # draws; about a minute of one core each, and the small world once
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator

import unweave
from unweave.audit.drawing.judges import DigitsJudge
from unweave.audit.result import Rates
from unweave.embedded.drawn_digits import concepts, small_world
from unweave.erase import UCE, Concepts, TextToImage
from unweave.io.files import strict_json, write_text
from unweave.jobs import EraseJob, PipelineSubject
from unweave.random import seeded
from unweave.statistics import wilson

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "results" / "erasure_error_rates.json"
SHIPPED = ROOT / "src" / "unweave" / "audit" / "erasure_error_rates.json"
HOW = {"images": 3, "steps": 8, "guidance": 3.0, "attack_prompts": 8}
FOUR = ("three", "four", "seven", "nine")
RETRAINED = "retrained"


@dataclass(frozen=True)
class Given:
    """An edit that hands out a pipeline made before."""

    made: TextToImage

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        return self.made


def between(original: TextToImage, edited: TextToImage, share: float) -> TextToImage:
    """Weights part of the way from the original to an edit of it."""
    made = original.editable()
    with torch.no_grad():
        for w, a, b in zip(made.parameters(), original.parameters(), edited.parameters(), strict=True):
            if a is not b:
                w.copy_(a + share * (b - a))
    return made


def wrecked(original: TextToImage, rng: Generator) -> TextToImage:
    """Every weight of the denoiser moved by about one standard deviation of its tensor."""
    made = original.editable()
    with torch.no_grad():
        for w in made.denoiser.parameters():
            w += torch.randn(w.shape, generator=rng) * (w.std() if w.numel() > 1 else 1)
    return made


def one_request(
    made: dict[str, TextToImage], asked: Concepts, original: TextToImage, seed: int
) -> dict[str, dict[str, Any]]:
    """The audit's word on each pipeline, and its reason."""
    subject = PipelineSubject(original=original, concepts=asked, judge=DigitsJudge(), name="small world")
    job = EraseJob(
        subject=subject, edits={name: Given(m) for name, m in made.items()}, seed=1000 + seed, **HOW
    )
    with tempfile.TemporaryDirectory() as folder:
        done = job.run(Path(folder) / "run")
    return {a.method: {"word": a.verdict.outcome, "reason": a.verdict.reason} for a in done.audits}


def draw(seed: int) -> dict[str, dict[str, Any]]:
    """One draw of every kind of pipeline."""
    original, never = small_world("unet", 0), small_world("unet", 0, ("three",))
    rng = seeded(seed)
    wide = concepts("three")
    erased = UCE().apply(original, wide, rng=rng)
    erased.erased = ()
    asked = concepts("three", preserve=("two", "eight"))
    found = one_request(
        {
            RETRAINED: never,
            "half edited": between(original, erased, 0.5),
            "hidden, brought back by attack (UCE)": erased,
            "wrecked": wrecked(original, rng),
        },
        asked, original, seed,
    )  # fmt: skip
    left = FOUR[seed % len(FOUR)]
    others = UCE().apply(original, concepts(*(d for d in FOUR if d != left)), rng=rng)
    others.erased = ()
    name = "one of four concepts left"
    return found | one_request({name: others}, concepts(*FOUR, preserve=("two", "eight")), original, seed)


def rates(draws: list[dict[str, dict[str, Any]]]) -> Rates:
    """What a report prints of these draws."""
    good = [d[RETRAINED]["word"] for d in draws]
    bad = [told["word"] for d in draws for kind, told in d.items() if kind != RETRAINED]
    accepted, rejected = good.count("erased"), sum(w in ("not erased", "damaged") for w in bad)
    unsure = good.count("inconclusive") + bad.count("inconclusive")
    wrong = bad.count("erased") + len(good) - accepted - good.count("inconclusive")
    n = len(good) + len(bad)
    return Rates(
        oracles=len(good), oracles_accepted=accepted / len(good), oracles_interval=wilson(accepted, len(good)),
        unedited=len(bad), unedited_rejected=rejected / len(bad), unedited_interval=wilson(rejected, len(bad)),
        inconclusive=unsure / n, wrong=wrong / n,
        source=f"{len(good)} draws with a retrained pipeline, {len(bad)} with pipelines half edited, wrecked, hiding the "
        "concept, or with one of four concepts left; small world of digits, 24 images a concept, no retrained pipeline "
        "given",
    )  # fmt: skip


def main() -> None:
    """Measure what is missing, and store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("draws", type=int, nargs="?", default=30)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no further draw after so many"
    )
    asked = parser.parse_args()
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {"draws": []}
    began = time.monotonic()
    for seed in range(len(stored["draws"]), asked.draws):
        if time.monotonic() - began > asked.seconds:
            break
        stored["draws"].append(draw(seed))
        kinds = list(stored["draws"][0])
        stored |= {
            "words": {k: dict(Counter(d[k]["word"] for d in stored["draws"])) for k in kinds},
            "settings": {**HOW, "erase": "three, or four digits", "preserve": "two, eight"},
            "versions": {"unweave": unweave.__version__, "torch": torch.__version__},
            "machine": platform.platform(),
        }
        write_text(STORED, strict_json(stored) + "\n")
        write_text(SHIPPED, strict_json({"rates": [asdict(rates(stored["draws"]))]}) + "\n")


if __name__ == "__main__":
    main()
