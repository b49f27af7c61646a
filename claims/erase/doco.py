"""DoCo on the small world: trained on half of the prompts, tested on the others, beside a squared error and no surgery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from claims.effects import Effect
from claims.erase._world import DATA, JUDGED, SEEDS, drawn, original, shaken, the_judge
from claims.framework import Claim
from unweave import seeded
from unweave.embedded.drawn_digits import BASES, DIGITS, STYLES, TEMPLATES, concepts, prompt
from unweave.erase import ConceptAblation, Concepts, DoCo, TextToImage

SETTINGS = {"steps": 250, "batch_size": 16, "lr": 3e-4, "images": 64, "sampler_steps": 10, "guidance": 3.0}
HERE = partial(DoCo, warmup=80, critic_lr=5e-4, **SETTINGS)
SHOWN, HELD_OUT, THREE, EIGHT = (0, 2), (1, 3), 3, 8

claim = Claim(
    statement="Passing for the anchor before a discriminator erases a concept also for prompts that training did not see, "
    "better than the squared error to the anchor, and the projected gradient keeps the anchor.",
    reported="the paper reports erasure also for prompts outside the training set with a small loss of utility (its tables "
    "were not readable here); SD 1.4, instances, styles, nudity",
    data=f"{DATA}; UNet. Training sees two of the four templates. {JUDGED}",
    figures={
        "F unseen": "per cent of images of `three` still named so, anchor `eight`: two held-out templates and the numeral 3 "
        "in all four, lower is better",
        "F seen": "the same for the two templates trained on, lower is better",
        "P": "per cent of images of the other digits, the anchor included, higher is better",
        "anchor": "per cent of images of `eight`, higher is better",
        "F unseen MSE": "Concept Ablation, lower is better",
        "P MSE": "higher is better",
        "F unseen no surgery": "L_u + 0.1 L_p, lower is better",
        "P no surgery": "higher is better",
        "anchor no surgery": "higher is better",
        "F unseen released": "the projection of the authors' code, lower is better",
        "P released": "higher is better",
        "anchor released": "higher is better",
        "least product": "smallest <g, g_p> of a tensor over the whole training, higher is better",
        "digit: F unseen": "anchor `digit`, lower is better",
        "digit: P": "higher is better",
        "digit: F unseen MSE": "Concept Ablation, lower is better",
        "digit: P MSE": "higher is better",
        "F unseen random": "after a random change of the same size, lower is better",
    },
    baseline="Concept Ablation (squared error to the original's prediction) at equal steps in all, so with more steps of the "
    "pipeline, batch and learning rate, at which it works best of 1e-4, 3e-4 and 1e-3; no surgery; the released "
    "projection; a random change of the same size",
    criterion="mean F unseen is at least 5 points below Concept Ablation's with mean P at most 3 points below its; surgery "
    "raises the anchor's accuracy by at least 3 points with F unseen at most 5 points above that without it; no tensor's "
    "step has an inner product below -1e-6 with g_p",
    effects=(
        Effect(
            "F unseen below Concept Ablation's",
            better="F unseen",
            worse="F unseen MSE",
            higher=False,
            margin=5,
        ),
        Effect("P near Concept Ablation's", better="P", worse="P MSE", margin=-3),
        Effect("surgery keeps the anchor", better="anchor", worse="anchor no surgery", margin=3),
        Effect(
            "surgery at no cost in F unseen",
            better="F unseen",
            worse="F unseen no surgery",
            higher=False,
            margin=-5,
        ),
        Effect(
            "no step against the anchor",
            better="least product",
            worse=-1e-6,
            unit="inner product",
            every=True,
        ),
    ),
    seeds=SEEDS,
    settings={"erase": "three", "guide": "eight", "warm-up": 80, "critic lr": 5e-4, "t_max": 800, **SETTINGS},
    note="The learning rates are those planned before; none was tuned here. Before the criterion was written DoCo was "
    "timed once at seed 0, on all templates: F 0, P 96.",
)


@dataclass(frozen=True, kw_only=True)
class Watched(DoCo):
    """Notes the least inner product of a tensor's step with g_p."""

    least: list[float] = field(default_factory=list)

    def step(self, erasing: Sequence[Tensor], preserving: Sequence[Tensor]) -> list[Tensor]:
        steps = super().step(erasing, preserving)
        self.least.append(min(float((g * p).sum()) for g, p in zip(steps, preserving, strict=True)))
        return steps


@dataclass(frozen=True, kw_only=True)
class Released(DoCo):
    """The authors' code: the cosine of both gradients is subtracted, without the length of the first."""

    def step(self, erasing: Sequence[Tensor], preserving: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for side in (erasing, preserving):
            norm = torch.stack([g.norm() for g in side]).norm().clamp_min(1)
            found.append([g / norm for g in side])
        steps = []
        for u, p in zip(*found, strict=True):
            unit = p / (p.norm() + 1e-8)
            cosine = (u / (u.norm() + 1e-8) * unit).sum()
            steps.append(u - cosine * unit if cosine < 0 else u)
        return steps


def asked(guide: str) -> Concepts:
    """The request in the templates that training sees."""

    def both(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(texts[i].replace("{style}", s) for i in SHOWN for s in STYLES)

    return concepts("three", guide=guide, templates=both(TEMPLATES), bases=both(BASES))


def judged(model: TextToImage, seed: int) -> dict[str, float]:
    """F of `three` over prompts unseen and seen, P, and the accuracy of the anchor."""
    rows = [(THREE, s, t, 0, 0) for s in (0, 1) for t in HELD_OUT for _ in range(8)]
    rows += [(THREE, s, t, 1, 0) for s in (0, 1) for t in range(4) for _ in range(4)]
    rows += [(THREE, s, t, 0, 1) for s in (0, 1) for t in SHOWN for _ in range(4)]
    rows += [
        (d, s, t, 0, 2)
        for d in range(len(DIGITS)) if d != THREE
        for s in (0, 1) for t in range(4) for _ in range(4 if d == EIGHT else 1)
    ]  # fmt: skip
    table = torch.tensor(rows)
    named = the_judge().digits(drawn(model, [prompt(*row[:4]) for row in rows], seed))
    right, kind = (named == table[:, 0]).float(), table[:, 4]
    each = [right[(table[:, 0] == d) & (kind == 2)].mean() for d in range(len(DIGITS)) if d != THREE]
    return {
        "F unseen": 100 * float(right[kind == 0].mean()),
        "F seen": 100 * float(right[kind == 1].mean()),
        "P": 100 * float(torch.stack(each).mean()),
        "anchor": 100 * float(right[table[:, 0] == EIGHT].mean()),
    }


def measure(seed: int) -> dict[str, float]:
    model, watched = original("unet", seed), Watched(**HERE.keywords)

    def run(method: DoCo | ConceptAblation, guide: str = "eight") -> TextToImage:
        return method.apply(model, asked(guide), rng=seeded(seed))

    ablation = ConceptAblation(teacher="original", **SETTINGS)
    edited = run(watched)
    own, mse = judged(edited, seed), judged(run(ablation), seed)
    off, released = judged(run(HERE(surgery="off")), seed), judged(run(Released(**HERE.keywords)), seed)
    digit, digit_mse = judged(run(HERE(), "digit"), seed), judged(run(ablation, "digit"), seed)
    return {
        **own,
        "F unseen MSE": mse["F unseen"],
        "P MSE": mse["P"],
        "F unseen no surgery": off["F unseen"],
        "P no surgery": off["P"],
        "anchor no surgery": off["anchor"],
        "F unseen released": released["F unseen"],
        "P released": released["P"],
        "anchor released": released["anchor"],
        "least product": min(watched.least),
        "digit: F unseen": digit["F unseen"],
        "digit: P": digit["P"],
        "digit: F unseen MSE": digit_mse["F unseen"],
        "digit: P MSE": digit_mse["P"],
        "F unseen random": judged(shaken(model, edited, seed), seed)["F unseen"],
    }
