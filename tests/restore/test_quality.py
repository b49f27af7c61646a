"""Figures of restored signals against slow versions."""

from __future__ import annotations

import math

import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.restore import psnr, si_sdr, spectral_angle, ssim

RNG = seeded(0)
A = torch.rand(2, 2, 12, 13, dtype=torch.float64, generator=RNG)
B = (A + 0.1 * torch.randn(A.shape, dtype=torch.float64, generator=RNG)).clamp(0, 1)


def test_similarity_is_the_papers_in_each_window() -> None:
    w = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)], dtype=torch.float64)
    w = torch.outer(w, w) / w.sum() ** 2
    for n in range(2):
        scores = []
        for c in range(2):
            for i in range(2):
                for j in range(3):
                    p, q = A[n, c, i : i + 11, j : j + 11], B[n, c, i : i + 11, j : j + 11]
                    mp, mq = (w * p).sum(), (w * q).sum()
                    vp, vq, both = (
                        (w * (p - mp) ** 2).sum(),
                        (w * (q - mq) ** 2).sum(),
                        (w * (p - mp) * (q - mq)).sum(),
                    )
                    scores.append(
                        (2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                    )
        assert float(ssim(A, B)[n]) == pytest.approx(float(sum(scores) / len(scores)))
    assert ssim(A, A).tolist() == pytest.approx([1, 1])


def test_angles_are_in_degrees_and_do_not_see_brightness() -> None:
    made, clean = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert float(spectral_angle(made, clean)) == pytest.approx(45)
    assert float(spectral_angle(3 * A, A).max()) < 1e-4
    assert float(spectral_angle(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))) == 0


def test_distortion_does_not_see_scale_and_psnr_does() -> None:
    t = torch.arange(800) / 100
    clean = torch.sin(2 * torch.pi * t)[None]
    noise = torch.cos(2 * torch.pi * t)[None]
    assert float(si_sdr(clean + 0.1 * noise, clean)) == pytest.approx(20, abs=0.01)
    assert float(si_sdr(5 * (clean + 0.1 * noise), clean)) == pytest.approx(20, abs=0.01)
    assert float(psnr(clean + 0.1, clean)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(clean, clean)) == 100


def test_unlike_shapes_are_refused() -> None:
    for figure in (psnr, si_sdr, spectral_angle, ssim):
        with pytest.raises(InputError, match="needs two of one shape"):
            figure(A, A[:1])
    with pytest.raises(InputError, match="sides of at least 11"):
        ssim(A[..., :10], A[..., :10])
