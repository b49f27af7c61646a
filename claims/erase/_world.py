"""What the claims of erasing share: the small world of digits, its judge, scores, and sweeps of strength.

Every model of a seed draws the same prompts from the same noise. F is the share of images of erased digits that the
judge still names rightly (lower is better), P that of the other digits, overall = 2 P (1 - F) / (P + 1 - F); images
that look like no digit count as wrong in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import torch

from unweave import seeded
from unweave.embedded.drawn_digits import DIGITS, Judge, concepts, judge, prompt, small_world
from unweave.erase import Concepts, TextToImage

SEEDS = (0, 1, 2)
FIVE = ("one", "three", "four", "seven", "nine")
DATA = "scikit-learn digits in two styles, drawn from prompts by a diffusion model trained on them (the small world)"
JUDGED = "10 steps of DDIM at guidance 3; a convolutional judge (98.6 % of held-out real digits), rejecting below 0.5"
STEPS, GUIDANCE = 10, 3.0


@dataclass(frozen=True)
class Scores:
    """In per cent.

    forgotten: F, of prompts that name erased digits as words: lower is better.
    numeral: the same of prompts that name them as numerals, which no method was told of.
    preserved: P, of the other digits' prompts: higher is better.
    style: images in the style that the prompt asked for, over the other digits.
    overall: 2 P (1 - F) / (P + 1 - F): higher is better.
    """

    forgotten: float
    numeral: float
    preserved: float
    style: float

    @property
    def overall(self) -> float:
        p, gone = self.preserved, 100 - self.forgotten
        return 2 * p * gone / (p + gone) if p + gone else 0.0


@lru_cache(maxsize=8)
def original(architecture: Literal["unet", "dit"], seed: int) -> TextToImage:
    """The pipeline that knows all digits; never change it."""
    return small_world(architecture, seed)


@lru_cache(maxsize=8)
def oracle(architecture: Literal["unet", "dit"], seed: int, without: tuple[str, ...]) -> TextToImage:
    """Retrained without these digits: kept are dit without FIVE, unet without ("three",), at seeds 0, 1, 2."""
    return small_world(architecture, seed, without)


@lru_cache(maxsize=1)
def the_judge() -> Judge:
    return judge()


def request(*erase: str, preserve: Sequence[str] | None = None, guide: str = "digit") -> Concepts:
    """The request to erase these digits; the others are preserved."""
    return concepts(*erase, preserve=preserve, guide=guide)


def drawn(model: TextToImage, prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Images of these prompts [n, 1, 8, 8]; the same noise for every model of a seed."""
    return model.sample(prompts, steps=STEPS, guidance=GUIDANCE, rng=seeded(10_000 + seed), batch_size=128)


def scores(model: TextToImage, erased: Iterable[str], seed: int, *, each: int = 2) -> Scores:
    """Draw 8 prompts x `each` images of every digit by word, and of the erased by numeral; about 5 s of one core.

    each: images a prompt; 2 gives 16 a digit. Standard error of F for one erased digit is then about 12 points where
        it is 50: use more images for few digits (`each=6`).
    """
    gone = [DIGITS.index(d) for d in erased]
    asked = [(d, s, t, 0) for d in range(10) for s in (0, 1) for t in range(4) for _ in range(each)]
    asked += [(d, s, t, 1) for d in gone for s in (0, 1) for t in range(4) for _ in range(each)]
    images = drawn(model, [prompt(*a) for a in asked], seed)
    table = torch.tensor(asked)
    right = the_judge().digits(images) == table[:, 0]
    styled = the_judge().styles(images) == table[:, 1]
    erase, numeral = torch.isin(table[:, 0], torch.tensor(gone)), table[:, 3] == 1

    def share(hit: torch.Tensor, of: torch.Tensor) -> float:
        return 100 * float(hit[of].float().mean())

    return Scores(
        share(right, erase & ~numeral), share(right, numeral), share(right, ~erase), share(styled, ~erase)
    )


def tuned(
    make: Callable[[float], TextToImage],
    settings: Sequence[float],
    erased: Sequence[str],
    seed: int,
    *,
    each: int = 2,
) -> tuple[float, Scores]:
    """The setting of the highest overall score on other noise, and its scores on this seed's noise."""
    made = [(setting, make(setting)) for setting in settings]
    setting, model = max(made, key=lambda pair: scores(pair[1], erased, 500 + seed, each=each).overall)
    return setting, scores(model, erased, seed, each=each)


def zeroed(model: TextToImage, density: float, rank: Callable[[torch.Tensor], torch.Tensor]) -> TextToImage:
    """The control of pruning: this share of every feed-forward output layer at zero, the weights of highest `rank`."""
    edited = model.editable()
    with torch.no_grad():
        for layer in edited.linears("ff_out").values():
            k = round(density * layer.weight.numel())
            layer.weight.view(-1)[rank(layer.weight).flatten().topk(k).indices] = 0
    return edited


def each_alone(
    edited: Callable[[str], TextToImage], seed: int, digits: Sequence[str] = DIGITS, *, each: int = 2
) -> Scores:
    """Scores of erasing every one of these digits alone, averaged over them."""
    rows = [scores(edited(digit), (digit,), seed, each=each) for digit in digits]
    return averaged(rows)


def averaged(rows: Sequence[Scores]) -> Scores:
    """Mean F and P of several measurements; the overall score is that of the means."""
    return Scores(*(sum(getattr(r, f.name) for r in rows) / len(rows) for f in fields(Scores)))


def alike(model: TextToImage, seed: int, digits: Sequence[str] = DIGITS, *, each: int = 2) -> Scores:
    """`each_alone` of a model that was edited without regard to the digit (magnitude, random): drawn once."""
    asked = [(d, s, t) for d in range(10) for s in (0, 1) for t in range(4) for _ in range(each)]
    images = drawn(model, [prompt(*a) for a in asked], seed)
    right = (the_judge().digits(images) == torch.tensor(asked)[:, 0]).float().view(10, -1).mean(1)
    styled = float((the_judge().styles(images) == torch.tensor(asked)[:, 1]).float().mean())
    own = [float(right[DIGITS.index(d)]) for d in digits]
    others = [(float(right.sum()) - one) / 9 for one in own]
    f, p = (100 * sum(side) / len(side) for side in (own, others))
    return Scores(f, f, p, 100 * styled)


def sweep(
    make: Callable[[float], TextToImage],
    strengths: Sequence[float],
    erased: Sequence[str],
    seed: int,
    *,
    each: int = 2,
) -> list[Scores]:
    """Scores of one method at several strengths (its density, learning rate, steps ...), in their order."""
    return [scores(make(strength), erased, seed, each=each) for strength in strengths]


def best(points: Sequence[Scores]) -> Scores:
    """The point of the highest overall score: a method at its tuned best."""
    return max(points, key=lambda point: point.overall)


def forgotten_at(points: Sequence[Scores], preserved: float) -> float:
    """Lowest F among the points that preserve at least so much; 100 if none does. Matched preservation."""
    return min((p.forgotten for p in points if p.preserved >= preserved), default=100.0)


def preserved_at(points: Sequence[Scores], forgotten: float) -> float:
    """P where F falls to this value, linear between neighbouring strengths; the highest if it does so twice.

    Where every point's F is higher, the P of the point of the lowest F. Matched forgetting.
    """
    found = [p.preserved for p in points if p.forgotten == forgotten]
    for a, b in zip(points, points[1:], strict=False):
        if min(a.forgotten, b.forgotten) < forgotten < max(a.forgotten, b.forgotten):
            share = (forgotten - a.forgotten) / (b.forgotten - a.forgotten)
            found.append(a.preserved + share * (b.preserved - a.preserved))
    if found:
        return max(found)
    last = min(points, key=lambda p: p.forgotten)
    return last.preserved


def shaken(model: TextToImage, edited: TextToImage, seed: int) -> TextToImage:
    """The control of training: a random change of the same size in every parameter that the edit moved."""
    rng, control = seeded(seed), model.editable("denoiser", "text_encoder")
    with torch.no_grad():
        for name, before in model.named_parameters():
            moved = (edited.get_parameter(name) - before).norm()
            if moved > 0:
                drawn = torch.randn(before.shape, generator=rng)
                control.get_parameter(name).add_(drawn * (moved / drawn.norm()))
    return control
