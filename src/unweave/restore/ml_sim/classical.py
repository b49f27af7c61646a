"""Structured illumination the classical way, with known parameters, and what needs none: the baselines of ML-SIM.

Three phases of an orientation give, by a 3x3 system, the picture's spectrum at its own place and shifted by the fringes
to either side; each is moved back and all are combined by a Wiener filter (Gustafsson, J. Microsc. 2000):

    S(k) = sum_o conj(H_o(k)) D_o(k) / (sum_o |H_o(k)|^2 + w^2)

with H_o the transfer function, moved like its order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import InputError
from .simulator import Microscope, transfer


def classical(stack: Tensor, scope: Microscope, *, regular: float = 0.05, target: bool = True) -> Tensor:
    """The picture from a raw stack and a microscope whose parameters are believed.

    Args:
        stack: [N_a N_s, w, w], angle-major.
        scope: the parameters.
        regular: w, of the Wiener filter.
        target: end with the ideal microscope's transfer function, so that nothing rings.

    Returns:
        [w, w].

    Raises:
        InputError: if the frames are not N_a N_s.
    """
    angles, phases = len(scope.angles), len(scope.phases[0])
    if len(stack) != angles * phases:
        raise InputError(
            f"{angles} angles of {phases} phases are {angles * phases} frames; got {len(stack)}."
        )
    side = stack.shape[-1]
    lens = transfer(scope.psf, side).to(torch.complex128)
    above = torch.zeros(side, side, dtype=torch.complex128)
    below = torch.full((side, side), regular**2, dtype=torch.float64)
    for i, wave in enumerate(scope.waves(side)):
        seen = torch.fft.fft2(stack[i * phases : (i + 1) * phases].double())
        orders = _orders(seen, scope.phases[i], scope.modulation)
        for order, spectrum in zip((0, 1, -1), orders, strict=True):
            moved, response = _moved(spectrum, wave, order), _moved(lens, wave, order, lens=True)
            weight = angles if order == 0 else 1  # the centre comes once an angle; count it once in all
            above += response.conj() * moved / weight
            below += response.abs().square() / weight
    whole = above / below
    if target:
        whole = whole * transfer(scope.psf * (1 + scope.reach), side)
    made: Tensor = torch.fft.ifft2(whole).real
    return made.to(stack.dtype)


def widefield(stack: Tensor) -> Tensor:
    """The mean of the frames, [w, w]: what is seen without fringes."""
    return stack.mean(0)


def wiener(picture: Tensor, psf: float, regular: float = 0.1) -> Tensor:
    """A blurred picture [w, w], sharpened by the lens' transfer function."""
    lens = transfer(psf, picture.shape[-1])
    spectrum = torch.fft.fft2(picture.double()) * lens / (lens.square() + regular**2)
    made: Tensor = torch.fft.ifft2(spectrum).real
    return made.to(picture.dtype)


def ring_correlation(made: Tensor, truth: Tensor, inner: float, outer: float) -> float:
    """Correlation of two spectra between two frequencies, in cycles a picture: the Fourier ring correlation there.

    Args:
        made: [w, w].
        truth: [w, w].
        inner: where the ring begins.
        outer: where it ends.
    """
    a, b = (torch.fft.fft2(x.double() - x.double().mean()) for x in (made, truth))
    side = made.shape[-1]
    at = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64)
    radius = (at[:, None].square() + at[None, :].square()).sqrt()
    ring = (radius > inner) & (radius < outer)
    sizes = a[ring].abs().square().sum() * b[ring].abs().square().sum()
    return float((a[ring] * b[ring].conj()).sum().real / sizes.sqrt().clamp_min(1e-30))


def _orders(seen: Tensor, phases: tuple[float, ...], modulation: float) -> Tensor:
    """Spectra of the orders 0, +1 and -1, [3, w, w], each of the size of the picture's own."""
    shifts = torch.tensor(phases, dtype=torch.float64)
    turn = torch.exp(1j * shifts)
    mix = torch.stack([0.5 * torch.ones_like(turn), modulation / 4 * turn, modulation / 4 * turn.conj()], 1)
    return torch.einsum("of,fyx->oyx", torch.linalg.pinv(mix), seen)


def _moved(spectrum: Tensor, wave: tuple[float, float], order: int, *, lens: bool = False) -> Tensor:
    """A spectrum, moved by `order` fringes; of a lens, its values around its own centre."""
    if order == 0:
        return spectrum
    side = spectrum.shape[-1]
    at = torch.arange(side, dtype=torch.float64) - (0 if lens else side / 2)
    at = (at + side / 2) % side - side / 2 if lens else at
    turn = -2 * math.pi / side * order * (wave[0] * at[None, :] + wave[1] * at[:, None])
    moved: Tensor = torch.fft.fft2(torch.fft.ifft2(spectrum) * torch.exp(1j * turn))
    return moved
