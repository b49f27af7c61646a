"""CODE on digits that were spoilt in ways it is not told: beside SDEdit at the same nearness to the input."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from claims.effects import Effect
from claims.framework import Claim
from claims.generate import _world as world
from unweave import seeded
from unweave.embedded.drawn_digits import real_images
from unweave.generate import CODE, sdedit

N, STEPS, DEPTH = 120, 50, 0.4
HOW = {"steps": STEPS, "depth": DEPTH, "updates": 60, "step_size": 0.05}
DEPTHS = (0.1, 0.25, 0.4, 0.6, 0.8)
KINDS = ("fog", "blur", "block", "salt")

claim = Claim(
    statement="Walking to likelier codes along the probability-flow ODE repairs pictures without being told what is "
    "wrong with them, and looks more real at the same nearness to the input than noising and denoising them (SDEdit).",
    reported="the paper reports better FID at equal LPIPS and PSNR than SDEdit, on CelebA-HQ and LSUN under 47 "
    "corruptions",
    data=f"{world.DATA}, asked with its null prompt; {N} held-out digits under fog (contrast 0.3, brighter by 0.5), a "
    "3 x 3 blur, a bright block of 2 x 4 and 15 % salt; Fréchet distance in the judge's features to clean ones, and "
    "the judge's accuracy in per cent",
    figures={
        f"{who} {what}": f"{told}" for what in KINDS for who, told in (
            ("input", "Fréchet distance of the spoilt pictures"),
            ("SDEdit", "at CODE's nearness to the input, between the depths that enclose it"),
            ("CODE", "Fréchet distance, lower is better"), ("no clip", "CODE without clipping"),
        )
    } | {f"{who} digits": "accuracy under fog, per cent" for who in ("input", "SDEdit", "CODE")},
    baseline="SDEdit at five depths with the same steps, interpolated at CODE's distance to the input",
    criterion="CODE's distance at most 0.85 of SDEdit's under fog and under the block; 5 points more digits under fog; "
    "clipping lowers the block's distance",
    effects=(
        Effect("fog, of SDEdit's distance", better=lambda r: r["CODE fog"] / r["SDEdit fog"], worse=0.85, unit="ratio",
               higher=False),
        Effect("block, of SDEdit's distance", better=lambda r: r["CODE block"] / r["SDEdit block"], worse=0.85,
               unit="ratio", higher=False),
        Effect("digits under fog", better="CODE digits", worse="SDEdit digits", margin=5, unit="points"),
        Effect("clipping under the block", better="CODE block", worse="no clip block", higher=False),
    ),
    seeds=world.SEEDS,
    settings=HOW,
)  # fmt: skip


def spoilt(images: Tensor, what: str, rng: Generator) -> Tensor:
    """Pictures with one thing wrong, still between -1 and 1."""
    if what == "fog":
        return (0.3 * images + 0.5).clamp(-1, 1)
    if what == "blur":
        return torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    out = images.clone()
    if what == "salt":
        return torch.where(torch.rand(images.shape, generator=rng) < 0.15, torch.ones_like(out), out)
    for image in out:
        top, left = (
            int(torch.randint(n, (), generator=rng)) for n in (images.shape[2] - 1, images.shape[3] - 3)
        )
        image[:, top : top + 2, left : left + 4] = 1.0
    return out


def measure(seed: int) -> dict[str, float]:
    model, rng = world.original(seed), seeded(seed)
    clean, digits = (part[:N] for part in real_images(rng=seeded(500 + seed), heldout=True)[:2])
    found: dict[str, float] = {}
    for what in KINDS:
        given = spoilt(clean, what, rng)
        images = {"CODE": CODE(**HOW).edit(model, given, rng=seeded(seed))}  # type: ignore[arg-type]
        images["no clip"] = CODE(**HOW, clip=()).edit(model, given, rng=seeded(seed))  # type: ignore[arg-type]
        others = [sdedit(model, given, rng=seeded(seed), depth=d, steps=STEPS) for d in DEPTHS]
        at = _between([_far(o, given) for o in others], _far(images["CODE"], given))
        found |= {f"{k} {what}": world.distance(v) for k, v in {"input": given, **images}.items()}
        found[f"SDEdit {what}"] = sum(share * world.distance(others[i]) for i, share in at.items())
        if what == "fog":
            found |= {
                f"{k} digits": _right(v, digits) for k, v in {"input": given, "CODE": images["CODE"]}.items()
            }
            found["SDEdit digits"] = sum(share * _right(others[i], digits) for i, share in at.items())
    return found


def _far(images: Tensor, given: Tensor) -> float:
    return float((images - given).square().flatten(1).sum(1).sqrt().mean())


def _right(images: Tensor, digits: Tensor) -> float:
    return 100 * float((world.the_judge().digits(images) == digits).float().mean())


def _between(far: list[float], wanted: float) -> dict[int, float]:
    """Index -> share of the two depths whose distances to the input enclose the wanted one; the nearest past the ends."""
    order = sorted(range(len(far)), key=lambda i: far[i])
    if wanted <= far[order[0]]:
        return {order[0]: 1.0}
    for a, b in zip(order, order[1:], strict=False):
        if wanted <= far[b]:
            share = (wanted - far[a]) / (far[b] - far[a])
            return {a: 1 - share, b: share}
    return {order[-1]: 1.0}
