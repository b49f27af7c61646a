"""OMS on the small world under a schedule that never reaches pure noise: the brightness of what is drawn."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.framework import Claim
from claims.generate import _world as world
from unweave import seeded
from unweave.embedded.drawn_digits import DIGITS, prompt, real_images
from unweave.generate import OMS, Informed, Pictures

N = 400

claim = Claim(
    statement="One informed step before the sampler's first takes away the pull of brightness to the middle.",
    reported="the paper shows it by examples and pixel statistics on SD 1.5, SD 2.1, SDXL",
    data=f"{world.DATA}; UNet of 800 steps under a linear schedule of 250 levels, the last with 8 % of the signal's "
    "variance; 400 pictures, 20 trailing steps of DDIM at guidance 1; W1 is between the brightness of drawn and real "
    "pictures",
    figures={
        "W1 plain": "from pure noise, lower is better",
        "W1 OMS": "from informed noise, lower is better",
        "W1 oracle": "from noised real pictures of the prompt's own digit and style, lower is better",
        "digit plain": "per cent of digits as asked, higher is better",
        "digit OMS": "the same, higher is better",
        "digit oracle": "the same, higher is better",
        "style plain": "per cent of styles as asked, higher is better",
        "style OMS": "the same, higher is better",
    },
    baseline="the same pipeline from the same pure noise; real pictures noised to the first level as the "
    "best beginning",
    criterion="W1 of OMS is at most 0.6 of the plain and at most 1.6 of the oracle's; digits at least 10 points better",
    effects=(
        Effect(
            "W1, of the plain",
            better=lambda r: r["W1 OMS"] / r["W1 plain"],
            worse=0.6,
            unit="ratio",
            higher=False,
        ),
        Effect("digits over the plain", better="digit OMS", worse="digit plain", margin=10),
        Effect(
            "W1, of the oracle's",
            better=lambda r: r["W1 OMS"] / r["W1 oracle"],
            worse=1.6,
            unit="ratio",
            higher=False,
        ),
    ),
    seeds=world.SEEDS,
    settings={"network": "mlp", "width": 128, "steps": 600, "pictures": N},
)


def measure(seed: int) -> dict[str, float]:
    model = world.Flawed(seed=seed, steps=800).trained()
    images, digits, styles = real_images(rng=seeded(seed))
    shown = Pictures(
        images, [prompt(int(d), int(s), i % 4) for i, (d, s) in enumerate(zip(digits, styles, strict=True))]
    )
    psi = OMS(network="mlp", width=128, steps=600).apply(model, shown, rng=seeded(seed))
    wanted = [
        (next(k for k, w in enumerate(DIGITS) if p.endswith(w)), int("negative" in p)) for p in world.asked(N)
    ]
    own = torch.stack(
        [
            images[((digits == d) & (styles == s)).nonzero().flatten()[i % 50]]
            for i, (d, s) in enumerate(wanted)
        ]
    )
    done = [0]

    def oracle(_: object, noise: torch.Tensor, share: float) -> torch.Tensor:
        part = own[done[0] : done[0] + len(noise)]
        done[0] += len(noise)
        return share**0.5 * part + (1 - share) ** 0.5 * noise

    found = {}
    for name, start in (("plain", None), ("OMS", Informed(psi)), ("oracle", oracle)):
        drawn = world.drawn(model, N, seed, start=start)
        found |= {f"W1 {name}": world.brightness_gap(drawn), f"digit {name}": world.digit_accuracy(drawn)}
        if name != "oracle":
            found[f"style {name}"] = world.style_accuracy(drawn)
    return found
