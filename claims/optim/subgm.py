"""SubGM recovers a low-rank matrix from wrong measurements without its rank; a photograph as a harder case."""

from __future__ import annotations

import math

import torch

from claims.effects import Effect
from claims.framework import Claim
from unweave import seeded
from unweave.optim.subgm import Dense, SubGM

D, RANK, M = 20, 2, 1200
ALPHAS = (1.0, 1e-3, 1e-6)
WRONG = (0.3, 0.4, 0.6, 0.8)
SIZES = (400, 800)

claim = Claim(
    statement="From a small start the sub-gradient method recovers a low-rank matrix from corrupted measurements although its factor "
    "has full width, with an error that falls with the start's size.",
    reported="a theorem: error of the order of alpha after log(1/alpha) steps, whatever the width, for any share of outliers below one",
    data="synthetic, as in the paper: 20 x 20 matrices of rank 2 from 1,200 Gaussian measurements, of which a share is replaced by noise ten "
    "times as large; and the digits' Gram matrix (its best rank-6 part) measured the same way",
    figures={
        **{f"alpha {a:g}": "log10 of the relative error, 30 % wrong, lower is better" for a in ALPHAS},
        **{f"{round(100 * w)} % wrong": "log10 of the relative error, alpha 1e-6" for w in WRONG[1:]},
        **{f"{m} measurements": "log10 of the relative error, 30 % wrong, alpha 1e-6" for m in SIZES},
        "least squares": "log10 of the relative error of gradient descent on squares, 30 % wrong",
        "rank found": "1 if the rank was found",
        "digits": "log10 of the relative error on the digits' Gram matrix, 30 % wrong",
        "digits, least squares": "the same for squares",
        **{f"20 x 12, alpha {a:g}": "log10 of the relative error of U V^T, 30 % wrong, lower is better" for a in ALPHAS},
        "indefinite": "log10 of the relative error of U V^T on a symmetric matrix with eigenvalues 1 and -1, 30 % wrong",
        "indefinite, U U^T": "the same for U U^T, which cannot be it",
    },
    baseline="gradient descent on squared residuals from the same start, at the best of three step sizes",
    criterion="in every seed the error with alpha 1e-6 is at most 1e-4 and a thousandth of that with alpha 1, that of least squares at least "
    "0.5, and the rank is found",
    effects=(
        Effect(
            "error at alpha 1e-6 at most 1e-4", better="alpha 1e-06", worse=-4.0, unit="powers of ten", higher=False, every=True
        ),
        Effect(
            "error a thousandth of that at alpha 1", better="alpha 1e-06", worse="alpha 1", unit="powers of ten", higher=False,
            margin=3, every=True,
        ),
        Effect(
            "error of least squares at least 0.5", better="least squares", worse=math.log10(0.5), unit="powers of ten", every=True
        ),
        Effect("the rank is found", better="rank found", worse=1.0, unit="share of seeds", every=True),
    ),
    seeds=(0, 1, 2, 3, 4),
    settings={"eta": 0.3, "decay": 0.99, "steps": 1500},
    note="The paper is about U U^T; the figures of U V^T, an extension, stand beside the criterion.",
)  # fmt: skip


def _problem(x: torch.Tensor, wrong: float, m: int, seed: int) -> tuple[Dense, torch.Tensor]:
    rng = seeded(seed)
    a = Dense(torch.randn(m, *x.shape, generator=rng, dtype=torch.float64))
    y = a.of(x)
    hit = torch.rand(m, generator=rng) < wrong
    return a, torch.where(
        hit, 10 * float(y.abs().mean()) * torch.randn(m, generator=rng, dtype=torch.float64), y
    )


def _error(found: torch.Tensor, x: torch.Tensor) -> float:
    gap = float((found - x).norm() / x.norm())
    return float(torch.tensor(min(max(gap, 1e-16), 1e6), dtype=torch.float64).log10())


def _squares(a: Dense, y: torch.Tensor, x: torch.Tensor) -> float:
    best = 6.0
    scale = float(y.abs().median())
    for eta in (0.003, 0.01, 0.03):
        u = 1e-3 * torch.randn(len(x), len(x), generator=seeded(0), dtype=torch.float64)
        for _ in range(600):
            total = a.back(a.of(u @ u.T) - y / scale)
            u = u - eta * (2 / len(y)) * ((total + total.T) / 2) @ u
        found = u @ u.T * scale
        best = min(best, _error(found, x) if bool(found.isfinite().all()) else 6.0)
    return best


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    q = torch.linalg.qr(torch.randn(D, RANK, generator=seeded(100 + seed), dtype=torch.float64)).Q
    x = q @ q.T
    a, y = _problem(x, 0.3, M, seed)
    how = {alpha: SubGM(alpha=alpha, steps=1500).recover(a, y) for alpha in ALPHAS}
    found = {f"alpha {alpha:g}": _error(r.x, x) for alpha, r in how.items()}
    found["rank found"] = float(how[1e-6].rank == RANK)
    for wrong in WRONG[1:]:
        found[f"{round(100 * wrong)} % wrong"] = _error(
            SubGM(steps=1500).recover(*_problem(x, wrong, M, seed)).x, x
        )
    for m in SIZES:
        found[f"{m} measurements"] = _error(SubGM(steps=1500).recover(*_problem(x, 0.3, m, seed)).x, x)
    found["least squares"] = _squares(a, y, x)
    real = _gram(seed)
    b, z = _problem(real, 0.3, M, seed)
    found["digits"] = _error(SubGM(steps=1500).recover(b, z).x, real)
    found["digits, least squares"] = _squares(b, z, real)
    oblong = q @ torch.linalg.qr(torch.randn(12, RANK, generator=seeded(200 + seed), dtype=torch.float64)).Q.T
    c, w = _problem(oblong, 0.3, M, seed)
    for alpha in ALPHAS:
        solved = SubGM(alpha=alpha, steps=1500, symmetric=False).recover(c, w)
        found[f"20 x 12, alpha {alpha:g}"] = _error(solved.x, oblong)
    mixed = q @ torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)) @ q.T
    e, v = _problem(mixed, 0.3, M, seed)
    found["indefinite"] = _error(SubGM(steps=1500, symmetric=False).recover(e, v).x, mixed)
    found["indefinite, U U^T"] = _error(SubGM(steps=1500).recover(e, v).x, mixed)
    return found


def _gram(seed: int) -> torch.Tensor:
    from sklearn.datasets import load_digits

    pictures = torch.tensor(load_digits().data, dtype=torch.float64)
    chosen = pictures[torch.randperm(len(pictures), generator=seeded(seed))[:D]]
    u, s, _ = torch.linalg.svd(chosen @ chosen.T)
    return (u[:, :6] * s[:6]) @ u[:, :6].T / float(s[0])
