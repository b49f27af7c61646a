"""A brain made on the spot: voxels that see the tokens of a digit, in regions, with noise and distractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..random import child, seeded
from .digits import digits

TOKENS, WIDTH, REGIONS = 16, 32, 4
"""Tokens of an image, 2 x 2 pixels each; their width; regions of the brain that see something."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What was seen, and how the brain answered.

    Attributes:
        voxels: [n, v].
        tokens: of the image that is said to have been seen, [n, 16, 32]: some are another image's where distracted.
        clean: of the image itself, [n, 16, 32].
        labels: its digit, [n].
    """

    voxels: Tensor
    tokens: Tensor
    clean: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Brain:
    """Trials to train on and others, of one brain.

    Attributes:
        train: trials.
        test: trials of other images, without distractors.
        regions: the region of each voxel, int64 [v]: 0 to 3 see a quarter of the image each; 4 is noise.
    """

    train: Trials
    test: Trials
    regions: Tensor


def simulated_brain(
    train: int = 1200,
    test: int = 400,
    *,
    voxels: int = 600,
    noise: float = 0.3,
    silent: float = 0.3,
    distracted: float = 0.25,
    seed: int = 0,
) -> Brain:
    """Digits seen by tanh of mixed tokens.

    Args:
        train: trials to train on.
        test: others; with `train` at most 1,797.
        voxels: in all.
        noise: standard deviation, of all voxels.
        silent: share of voxels that are noise alone.
        distracted: share of training trials in which a third of the tokens are another image's.
        seed: of the brain and of what it sees.

    Raises:
        InputError: if there are fewer digits than trials.
    """
    rng = seeded(seed)
    held: list[Any] = [data.examples for data in digits(0.0, seed)]
    images, labels = (torch.cat(parts) for parts in zip(*(h.tensors for h in held), strict=True))
    if train < 1 or test < 1 or train + test > len(images):
        raise InputError(f"there are {len(images)} digits; {train} + {test} trials were asked for.")
    patches = images.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, TOKENS, 4)
    clean = patches @ torch.randn(4, WIDTH, generator=child(rng)) / 2
    quarter = torch.arange(TOKENS).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(REGIONS, -1)
    seeing = round((1 - silent) * voxels)
    regions = torch.cat([torch.arange(seeing) * REGIONS // seeing, torch.full((voxels - seeing,), REGIONS)])
    draws, answers = child(rng), torch.zeros(len(images), voxels)
    for r in range(REGIONS):
        mine = regions == r
        mix = torch.randn(quarter.shape[1] * WIDTH, int(mine.sum()), generator=draws)
        answers[:, mine] = torch.tanh(
            clean[:, quarter[r]].flatten(1) @ mix / (quarter.shape[1] * WIDTH) ** 0.5
        )
    answers = answers + noise * torch.randn(answers.shape, generator=child(rng))
    tokens, draws = clean.clone(), child(rng)
    for i in (torch.rand(train, generator=draws) < distracted).nonzero().flatten().tolist():
        other = int(torch.randint(train, (), generator=draws))
        which = torch.randperm(TOKENS, generator=draws)[: TOKENS // 3]
        tokens[i, which] = clean[other, which]
    parts = [
        Trials(voxels=answers[at], tokens=tokens[at], clean=clean[at], labels=labels[at])
        for at in (slice(train), slice(train, train + test))
    ]
    return Brain(train=parts[0], test=parts[1], regions=regions)
