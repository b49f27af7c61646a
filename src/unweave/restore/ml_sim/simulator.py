"""What a structured-illumination microscope would see of a picture: fringes, a lens, noise.

The model of Christensen et al., arXiv 2003.11064. With S the picture, w pixels a side, the lens' transfer function O
that of an Airy disc |2 J1(a r) / (a r)|^2, which ends at k_c = a w / pi cycles a picture:

    I_ij = m0 + m1 cos(2 pi (k2 / w) (cos t_i, sin t_i) . (x - w/2) + phi_ij);   D_ij = O * (S I_ij) + noise

with t_i = i pi / N_a + alpha and phi_ij = 2 pi j / N_s, each with an error. The stack is angle-major and scaled to
[0, 1] as a whole. The released command line puts fringes beyond what its lens can project; here k2 < k_c is enforced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from scipy.special import j1
from torch import Generator, Tensor

from ...errors import InputError
from ...settings import Count, NonNegative, Positive, Range, Share, settings


@settings
class Simulator:
    """A microscope that is drawn anew for every picture: all numbers uniform around their middle.

    Attributes:
        angles: orientations of the fringes, N_a.
        phases: shifts of each, N_s.
        psf: a, of the point spread, in radians a pixel.
        psf_error: largest deviation of it.
        fringes: k2 as a share of the lens' cut-off k_c.
        fringes_error: largest deviation of that share.
        modulation: contrast of the fringes.
        modulation_error: largest deviation of it.
        turn: largest rotation of all orientations together, in radians.
        angle_error: largest error of each orientation, in radians.
        phase_error: largest error of each phase, in radians.
        noise: deviation of the Gaussian noise as a share of a frame's own deviation.
        sharp: the target is the picture itself; else what an ideal microscope of reach k_c + k2 would show of it.
        beyond: allow fringes beyond the cut-off, for light that does not pass the lens.
    """

    angles: Count = 3
    phases: Count = 3
    psf: Positive = 0.9
    psf_error: NonNegative = 0.05
    fringes: Positive = 0.85
    fringes_error: NonNegative = 0.1
    modulation: Share = 0.8
    modulation_error: NonNegative = 0.15
    turn: NonNegative = math.pi / 6
    angle_error: NonNegative = math.radians(5)
    phase_error: NonNegative = 0.5
    noise: Annotated[float, Range(at_least=0)] = 0.08
    sharp: bool = False
    beyond: bool = False

    def __post_init__(self) -> None:
        if self.fringes + self.fringes_error >= 1 and not self.beyond:
            raise InputError(
                f"Simulator: fringes up to {self.fringes + self.fringes_error:g} of the cut-off cannot pass the lens. "
                "Lower fringes or fringes_error, or say beyond=True where the light takes another path."
            )
        if self.phases < 3:
            raise InputError(
                f"Simulator.phases must be at least 3, to tell the three orders apart; got {self.phases}."
            )

    def draw(self, rng: Generator) -> Microscope:
        """One microscope."""

        def around(middle: float, reach: float) -> float:
            return middle + reach * (2 * float(torch.rand((), generator=rng)) - 1)

        psf, turn = around(self.psf, self.psf_error), around(0, self.turn)
        return Microscope(
            psf=psf,
            reach=around(self.fringes, self.fringes_error),
            modulation=min(1.0, max(0.0, around(self.modulation, self.modulation_error))),
            angles=tuple(
                i * math.pi / self.angles + turn + around(0, self.angle_error) for i in range(self.angles)
            ),
            phases=tuple(
                tuple(2 * math.pi * j / self.phases + around(0, self.phase_error) for j in range(self.phases))
                for _ in range(self.angles)
            ),
            noise=self.noise,
        )

    def simulate(self, pictures: Tensor, *, rng: Generator) -> tuple[Tensor, Tensor]:
        """Raw stacks and targets.

        Args:
            pictures: [n, 1, w, w] in [0, 1].
            rng: of microscopes and noise.

        Returns:
            Stacks [n, N_a N_s, w, w] and targets [n, 1, w, w], both in [0, 1].

        Raises:
            InputError: if the pictures are not square and grey.
        """
        _require_square(pictures)
        stacks, targets = [], []
        for picture in pictures[:, 0]:
            scope = self.draw(rng)
            stacks.append(scaled(scope.frames(picture, rng)))
            targets.append(scaled(picture if self.sharp else scope.ideal(picture))[None])
        return torch.stack(stacks), torch.stack(targets)


@dataclass(frozen=True)
class Microscope:
    """One microscope, all numbers known.

    Attributes:
        psf: a, in radians a pixel.
        reach: k2 as a share of the cut-off.
        modulation: contrast of the fringes.
        angles: of the fringes, in radians.
        phases: of each angle.
        noise: as a share of a frame's deviation.
    """

    psf: float
    reach: float
    modulation: float
    angles: tuple[float, ...]
    phases: tuple[tuple[float, ...], ...]
    noise: float

    def cutoff(self, side: int) -> float:
        """k_c, in cycles a picture of this side."""
        return self.psf * side / math.pi

    def waves(self, side: int) -> list[tuple[float, float]]:
        """(k_x, k_y) of each orientation's fringes, in cycles a picture."""
        k2 = self.reach * self.cutoff(side)
        return [(k2 * math.cos(t), k2 * math.sin(t)) for t in self.angles]

    def patterns(self, side: int) -> Tensor:
        """The light, angle-major, [N_a N_s, side, side]."""
        at = torch.arange(side, dtype=torch.float64) - side / 2
        made = []
        for (kx, ky), phases in zip(self.waves(side), self.phases, strict=True):
            wave = 2 * math.pi / side * (kx * at[None, :] + ky * at[:, None])
            made += [0.5 + 0.5 * self.modulation * torch.cos(wave + phase) for phase in phases]
        return torch.stack(made)

    def frames(self, picture: Tensor, rng: Generator) -> Tensor:
        """Raw frames [N_a N_s, side, side] of a picture [side, side]; periodic borders."""
        side = picture.shape[-1]
        lit = picture.double() * self.patterns(side)
        seen = torch.fft.ifft2(torch.fft.fft2(lit) * transfer(self.psf, side)).real
        spread = seen.std((1, 2), keepdim=True) * self.noise
        noisy: Tensor = seen + spread * torch.randn(seen.shape, generator=rng, dtype=torch.float64)
        return noisy.to(picture.dtype)

    def ideal(self, picture: Tensor) -> Tensor:
        """What a lens of reach k_c + k2 would show of the picture: all that can be known of it."""
        side = picture.shape[-1]
        wide = transfer(self.psf * (1 + self.reach), side)
        shown: Tensor = torch.fft.ifft2(torch.fft.fft2(picture.double()) * wide).real
        return shown.to(picture.dtype)


@lru_cache(maxsize=64)
def transfer(psf: float, side: int) -> Tensor:
    """The transfer function of an Airy disc on a periodic grid, largest value 1, float64 [side, side]."""
    at = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64)
    r = psf * (at[:, None].square() + at[None, :].square()).sqrt()
    disc = torch.where(r > 0, 2 * torch.from_numpy(j1(r.numpy())) / r.clamp_min(1e-12), 1.0).square()
    seen: Tensor = torch.fft.fft2(disc).abs()
    return seen / seen.max()


def scaled(x: Tensor) -> Tensor:
    """The whole from 0 to 1; zeros where it is constant."""
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else torch.zeros_like(x)


def _require_square(pictures: Tensor) -> None:
    if pictures.ndim != 4 or pictures.shape[1] != 1 or pictures.shape[2] != pictures.shape[3]:
        raise InputError(
            f"the simulator reads square grey pictures [n, 1, w, w]; got {tuple(pictures.shape)}."
        )
