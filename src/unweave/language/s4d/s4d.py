"""S4D: a sequence layer from a diagonal linear recurrence, trained as a convolution and run step by step.

Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022
(https://arxiv.org/abs/2206.11893). Each channel has x' = A x + B u, y = 2 Re(C x) + D u with A diagonal and complex; of
N real states the N / 2 with positive imaginary part are held, their conjugates being implied. With a step of Delta

    zoh       Abar = exp(Delta A),                        Bbar = (Abar - 1) / A B
    bilinear  Abar = (1 + Delta A / 2) / (1 - Delta A / 2),  Bbar = Delta / (1 - Delta A / 2) B

the answer is the causal convolution with K_l = 2 Re sum_n C_n Bbar_n Abar_n^l (section 3.2) or, the same, the
recurrence x_k = Abar x_{k-1} + Bbar u_k. Beginnings of A (section 4), n from 0 to N / 2 - 1:

    lin   -1/2 + i pi n
    inv   -1/2 + i N / pi (N / (2 n + 1) - 1)
    legs  the eigenvalues of the normal part of HiPPO-LegS with positive imaginary part
    real  -(n + 1), never with an imaginary part
    random  -1/2 + i times a uniform draw from [0, pi N / 2], the range of lin: the ablation

Decided here. Powers are taken as exp(l log Abar), not by repeated products. The kernel and the transforms are computed
in float32 or wider whatever the model's dtype, and complex parameters are held as pairs of reals, so that optimisers
and safetensors take them. Backwards in time (`bidirectional`) is a second kernel over the same poles, and the mixing
layer reads both answers, 2 H of them, each with a skip of its own. Where a pole touches 0, (Abar - 1) / A is its limit.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module, Parameter
from torch.utils.checkpoint import checkpoint

from ...errors import InputError
from ...masks.layers import copied
from ...paper import Paper
from ...settings import Count, Part, Positive, checked

Init = Literal["lin", "inv", "legs", "real", "random"]
State = Tensor
"""What a layer remembers of what it has read, complex [n, H, N / 2]."""
_PIECE = 16_384  # steps of a kernel that are in memory at once


class S4D(Module):
    """Read a sequence [n, H, L] and answer with one of that shape: recurrence, GELU, dropout, gated mixing of channels.

    First weights are drawn from torch's global generator. `rate` may be set at any time: a model trained at 16 kHz
    reads 8 kHz with rate 2 (see `at_rate`).

    Args:
        width: H, channels.
        states: N, real states a channel; even.
        init: where the poles begin; see the module.
        disc: how the recurrence is made discrete.
        dt_min: shortest time step; its inverse is about the longest memory. Steps are drawn log-uniformly a channel.
        dt_max: longest time step.
        real_part: how the real part of the poles stays at most 0: minus the exponential of a parameter, minus its ReLU,
            or the parameter as it is, which may come to grow without bound.
        poles: how many sets of poles there are, which neighbouring channels share; one a channel unless given.
        train_b: learn B, which is 1 otherwise.
        bidirectional: also read from the end to the beginning; such a layer cannot be streamed.
        dropout: share of what is mixed that is dropped in training.
        mode: how a whole sequence is read; all three answer alike. "chunked" reads `chunk` steps at a time and carries
            the state, in memory for one piece.
        chunk: steps of a piece.
        rate: factor on every time step.

    Raises:
        InputError: if a setting is out of its range, `states` is odd, or the channels cannot share the poles evenly.

    Example:
        >>> layer = S4D(8, states=4)
        >>> layer(torch.zeros(2, 8, 100)).shape
        torch.Size([2, 8, 100])
    """

    paper: ClassVar[Paper] = Paper(
        "On the Parameterization and Initialization of Diagonal State Space Models",
        "Gu, Gupta, Goel, Re", "NeurIPS", 2022, "2206.11893",
    )  # fmt: skip

    @checked
    def __init__(
        self,
        width: Count = 128,
        *,
        states: Count = 64,
        init: Init = "lin",
        disc: Literal["zoh", "bilinear"] = "zoh",
        dt_min: Positive = 1e-3,
        dt_max: Positive = 0.1,
        real_part: Literal["exp", "relu", "none"] = "exp",
        poles: Count | None = None,
        train_b: bool = False,
        bidirectional: bool = False,
        dropout: Part = 0.0,
        mode: Literal["conv", "recurrent", "chunked"] = "conv",
        chunk: Count = 1024,
        rate: Positive = 1.0,
    ) -> None:
        super().__init__()
        sets = width if poles is None else poles
        if states % 2:
            raise InputError(f"S4D.states must be even, for states come in conjugate pairs; got {states}.")
        if width % sets:
            raise InputError(
                f"S4D.poles must divide width, {width}, so that each set has as many channels; got {poles}."
            )
        if dt_min > dt_max:
            raise InputError(f"S4D.dt_min must be at most dt_max; got {dt_min:g} and {dt_max:g}.")
        if mode != "chunked" and chunk != 1024:
            raise InputError(f"S4D.chunk={chunk} would do nothing with mode={mode!r}. Leave it at 1024.")
        if bidirectional and mode != "conv":
            raise InputError(
                "S4D.mode must be 'conv' with bidirectional, which needs the whole sequence at once."
            )
        self.width, self.states, self.disc, self.real_part = width, states, disc, real_part
        self.mode, self.chunk, self.rate = mode, chunk, rate
        n, ways = states // 2, 2 if bidirectional else 1
        a = first_poles(init, states)
        held = {"exp": torch.log, "relu": lambda t: t, "none": torch.neg}[real_part](-a.real.expand(sets, n))
        self.a_real = Parameter(held.to(torch.get_default_dtype()).clone())
        imaginary = a.imag.expand(sets, n).to(torch.get_default_dtype()).clone()
        if init == "real":
            self.register_buffer("a_imag", imaginary)
        else:
            self.a_imag = Parameter(imaginary)
        drawn = torch.rand(width) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)
        self.log_dt = Parameter(drawn)
        self.c = Parameter(torch.randn(ways, width, n, 2) * 0.5**0.5)
        self.b = Parameter(torch.tensor([1.0, 0.0]).expand(width, n, 2).clone()) if train_b else None
        self.d = Parameter(torch.randn(ways, width))
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Conv1d(ways * width, 2 * width, 1)

    @property
    def bidirectional(self) -> bool:
        """Whether it also reads from the end."""
        return len(self.c) == 2

    def poles(self) -> Tensor:
        """A of every channel, complex [H, N / 2], float32 or wider."""
        real = _wide(self.a_real)
        real = (
            torch.exp(real)
            if self.real_part == "exp"
            else F.relu(real)
            if self.real_part == "relu"
            else -real
        )
        a = torch.complex(-real, _wide(self.a_imag).expand_as(real))
        return a.repeat_interleave(self.width // len(a), 0)

    def discrete(self) -> tuple[Tensor, Tensor]:
        """Log of Abar, and Bbar, complex [H, N / 2], at the present `rate`."""
        a, dt = self.poles(), (_wide(self.log_dt).exp() * self.rate)[:, None]
        b = torch.ones_like(a) if self.b is None else torch.view_as_complex(_wide(self.b))
        if self.disc == "zoh":
            return dt * a, dt * _phi(dt * a) * b
        half = dt * a / 2
        return torch.log((1 + half) / (1 - half)), dt / (1 - half) * b

    def readout(self) -> Tensor:
        """C, complex [1 or 2, H, N / 2]."""
        return torch.view_as_complex(_wide(self.c))

    def kernel(self, length: int) -> Tensor:
        """K of each direction, [1 or 2, H, L]; pieces of a long one are computed anew for the gradient."""
        log_a, b = self.discrete()
        weights = self.readout() * b
        begins = range(0, length, _PIECE)
        pieces = [
            _powers(weights, log_a, at, min(length, at + _PIECE))
            if len(begins) == 1
            else checkpoint(_powers, weights, log_a, at, min(length, at + _PIECE), use_reentrant=False)
            for at in begins
        ]
        return torch.cat(pieces, -1)

    def convolve(self, u: Tensor) -> Tensor:
        """The recurrence's answers to whole sequences, skips added: [n, H, L] -> [n, H or 2 H, L], float32 or wider.

        Raises:
            InputError: if `u` is not [n, H, L] with at least one step.
        """
        u = self._read(u)
        with torch.autocast(u.device.type, enabled=False):
            if self.mode == "recurrent":
                return self._stepped(u)
            if self.mode == "chunked":
                return self._chunked(u)
            kernels, length = self.kernel(u.shape[-1]), u.shape[-1]
            ways = [(u, kernels[0])]
            if self.bidirectional:
                ways.append((u.flip(-1), kernels[1]))
            answers = [_causal(x, k, length) for x, k in ways]
            if self.bidirectional:
                answers[1] = answers[1].flip(-1)
            skips = _wide(self.d)
            return torch.cat([y + d[:, None] * u for y, d in zip(answers, skips, strict=True)], 1)

    def forward(self, u: Tensor) -> Tensor:
        """Sequences [n, H, L] -> [n, H, L]."""
        return self._mixed(self.convolve(u).to(u.dtype))

    def start(self, n: int) -> State:
        """The state before the first step of `n` sequences: zeros."""
        a = self.poles()
        return torch.zeros(n, self.width, self.states // 2, dtype=a.dtype, device=a.device)

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of a stream: what came in [n, H] and the state before it -> the answer [n, H], the state after.

        Raises:
            InputError: of a bidirectional layer, which has to know the end.
        """
        if self.bidirectional:
            raise InputError(
                "S4D: a bidirectional layer reads from the end as well, so it cannot go step by step."
            )
        y, state = self._advance(_wide(u), state, *self.discrete())
        return self._mixed(y.to(u.dtype)[..., None])[..., 0], state

    def norms(self) -> Tensor:
        """How much each state can say: |C Bbar| / |Re A|, summed over directions, [H, N / 2]; what to thin out by."""
        _, b = self.discrete()
        return (self.readout() * b).abs().sum(0) / self.poles().real.abs().clamp_min(1e-12)

    def thinned(self, states: int) -> S4D:
        """A copy whose channels keep their `states` real states of largest norm, each channel with poles of its own.

        Raises:
            InputError: if `states` is odd, below 2 or more than there are.
        """
        if states % 2 or not 2 <= states <= self.states:
            raise InputError(f"S4D.thinned: states must be even, from 2 to {self.states}; got {states}.")
        keep = self.norms().topk(states // 2, -1).indices.sort(-1).values
        made: S4D = copied(self)
        made.states = states
        each = self.width // len(self.a_real)
        for name in ("a_real", "a_imag"):
            value: Tensor = getattr(self, name).detach().repeat_interleave(each, 0).gather(1, keep)
            if name in dict(self.named_parameters()):
                setattr(made, name, Parameter(value))
            else:
                made.register_buffer(name, value)
        made.c = Parameter(self.c.detach().take_along_dim(keep[None, :, :, None], 2))
        if self.b is not None:
            made.b = Parameter(self.b.detach().take_along_dim(keep[..., None], 1))
        return made

    def _read(self, u: Tensor) -> Tensor:
        if u.ndim != 3 or u.shape[1] != self.width or not u.shape[2]:
            turned = " Is it transposed? Time comes last." if u.ndim == 3 and u.shape[2] == self.width else ""
            raise InputError(
                f"S4D reads [n, {self.width}, L] with L at least 1; got {list(u.shape)}.{turned}"
            )
        return _wide(u)

    def _mixed(self, y: Tensor) -> Tensor:
        mixed: Tensor = F.glu(self.mix(self.dropout(F.gelu(y))), 1)
        return mixed

    def _advance(self, u: Tensor, state: State, log_a: Tensor, b: Tensor) -> tuple[Tensor, State]:
        state = log_a.exp() * state + b * u[..., None]
        return 2 * (self.readout()[0] * state).sum(-1).real + _wide(self.d)[0] * u, state

    def _stepped(self, u: Tensor) -> Tensor:
        state, known, out = self.start(len(u)), self.discrete(), []
        for at in range(u.shape[-1]):
            y, state = self._advance(u[..., at], state, *known)
            out.append(y)
        return torch.stack(out, -1)

    def _chunked(self, u: Tensor) -> Tensor:
        log_a, b = self.discrete()
        state, out, c = self.start(len(u)), [], self.readout()[0]
        kernel = self.kernel(min(self.chunk, u.shape[-1]))[0]
        for piece in torch.split(u, self.chunk, -1):
            length = piece.shape[-1]
            steps = torch.arange(length, device=u.device)
            powers = torch.exp(log_a[..., None] * steps)  # Abar^l, [H, N / 2, L]
            carried = 2 * torch.einsum("hn,bhn,hnl->bhl", c, log_a.exp() * state, powers).real
            out.append(_causal(piece, kernel[:, :length], length) + carried)
            read = torch.einsum("hnl,bhl->bhn", powers.flip(-1), piece.to(powers.dtype))
            state = torch.exp(log_a * length) * state + b * read
        return torch.cat(out, -1) + _wide(self.d)[0][:, None] * u


def first_poles(init: Init, states: int) -> Tensor:
    """Where the poles of one channel begin, complex128 [N / 2].

    Args:
        init: see the module.
        states: N, even.
    """
    n = torch.arange(states // 2, dtype=torch.float64)
    half = torch.full_like(n, -0.5)
    if init == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    if init == "lin":
        return torch.complex(half, math.pi * n)
    if init == "inv":
        return torch.complex(half, states / math.pi * (states / (2 * n + 1) - 1))
    if init == "random":
        return torch.complex(half, torch.rand(len(n)).double() * math.pi * states / 2)
    root = (2 * torch.arange(states, dtype=torch.float64) + 1).sqrt()
    below = -torch.tril(root[:, None] * root, -1) / 2
    skew = torch.complex(torch.zeros_like(below), below - below.T)  # i S, whose eigenvalues are real
    return torch.complex(half, torch.linalg.eigvalsh(skew)[states // 2 :])


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _phi(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, with its limit 1 at 0."""
    none = z == 0
    safe = torch.where(none, torch.ones_like(z), z)
    return torch.where(none, torch.ones_like(z), torch.expm1(safe) / safe)


def _powers(weights: Tensor, log_a: Tensor, begin: int, end: int) -> Tensor:
    """2 Re sum_n weights_n Abar_n^l for l from `begin` to `end`, [ways, H, l]."""
    steps = torch.arange(begin, end, device=log_a.device)
    found: Tensor = torch.einsum("whn,hnl->whl", weights, torch.exp(log_a[..., None] * steps)).real
    return 2 * found


def _causal(u: Tensor, kernel: Tensor, length: int) -> Tensor:
    """Causal convolution along time; zeros up to twice the length keep the end from wrapping round to the beginning."""
    product = torch.fft.rfft(u, 2 * length) * torch.fft.rfft(kernel, 2 * length)
    answers: Tensor = torch.fft.irfft(product, 2 * length)
    return answers[..., :length]
