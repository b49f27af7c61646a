"""ZO-SAM: SAM whose ascent direction comes from differences of the loss, so that a step needs one backward pass.

Ji, Li, Deng, Afghah, Ma, "ZO-SAM: Zero-Order Sharpness-Aware Minimization for Efficient Sparse Training", 2026,
arXiv 2603.13115: ghat = (1/m) sum_i [L(w + delta u_i) - L(w - delta u_i)] / (2 delta) u_i, eps = rho ghat / ||ghat||,
the step uses the exact gradient at w + eps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ..settings import Range, Whole, checked
from .two_pass import Rho
from .vectors import copy_, norm, shift_
from .wrapper import Closure, Wrapper

_PRIME = 1_000_003


@final
class ZOSAM(Wrapper):
    """SAM with 2 m forward passes in place of its first backward pass.

    With m = 1, eps is a random direction of length rho that points uphill: only the sign of the difference matters, not
    delta. Its mean cosine to the gradient is sqrt(2 / (pi d)) for d weights, so that at SAM's rho the first-order rise
    of the loss is far below SAM's; `directions="guided"` (not in the paper) takes the last step's gradient as the first
    of the m directions.

    Weights of exactly zero in tensors of two and more dimensions are taken for pruned and not moved; directions are
    drawn into the weights' own memory, and anew from the seed, so that the one extra copy is that of the weights
    ("guided" keeps the last gradient too). Over several processes the differences are averaged, so that all perturb
    alike. The loss that `step` returns is the mean of the first pair of probes, which is that at w up to delta squared.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        m: directions a step; above 1 a step costs more than SAM's.
        delta: size of the probes along a direction; None is rho / sqrt(number of living weights), which makes a probe
            about as long as the perturbation.
        directions: "gaussian", the paper's; "rademacher" (signs); or "guided".
        seed: of the directions; step t draws from seed and t alone, the same on every process.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Attributes:
        skipped: steps without a perturbation, because no probe changed the loss.

    Raises:
        InputError: if a setting is out of its range, no weight lives, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "ZO-SAM: Zero-Order Sharpness-Aware Minimization for Efficient Sparse Training",
        "Ji, Li, Deng, Afghah, Ma", "arXiv", 2026, "2603.13115",
    )  # fmt: skip
    entries: ClassVar[tuple[str, ...]] = ("skipped",)

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        m: Annotated[int, Range(at_least=1, why="It is the number of directions a step.")] = 1,
        delta: Annotated[float, Range(above=0, why="It is the size of the probes.")] | None = None,
        directions: Literal["gaussian", "rademacher", "guided"] = "gaussian", seed: Whole = 0, foreach: bool = True,
        **keywords: Any,
    ) -> None:  # fmt: skip
        if m > 1:
            warnings.warn(f"ZOSAM with m = {m} costs {3 + 2 * m} forward passes a step, SAM 6.", stacklevel=3)
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.m, self.delta, self.directions, self.seed = m, delta, directions, seed
        self.skipped = 0

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Probe, perturb, look, step.

        Returns:
            The mean loss of the first pair of probes.
        """
        again = self.needed(closure)
        groups = [(p, g["rho"]) for g in self.param_groups for p in g["params"] if p.requires_grad]
        weights, rho = [p for p, _ in groups], [r for _, r in groups]
        living = sum(int(torch.count_nonzero(p)) if p.ndim > 1 else p.numel() for p in weights)
        if not living:
            raise InputError("ZOSAM: no weight lives, so there is nothing to perturb.")
        delta = self.delta or (max(rho) or 0.05) / math.sqrt(living)
        for p in weights:
            p.grad = None  # of the step before: no use, and room for the copy
        self.keep(weights)
        try:
            loss = self._climb(again, rho, delta)
            self.gradient(again)
        finally:
            self.restore()
        if self.directions == "guided":
            self.remember(self.trained())
        self.base.step()
        return loss

    def _climb(self, closure: Closure, rho: list[float], delta: float) -> Tensor:
        weights, saved = self._kept, self._values
        slopes: list[float] = []
        for i in range(self.m):
            for old, u in zip(saved, self._direction(weights, saved, i, weights), strict=True):
                u.mul_(delta).add_(old)
            up = self.probe(closure)
            for p, old in zip(weights, saved, strict=True):
                p.neg_().add_(old, alpha=2)
            down = self.probe(closure)
            slopes.append((float(up) - float(down)) / (2 * delta))
            if i == 0:
                loss = (up + down) / 2
        self._perturb(_over_processes(slopes, weights[0].device), rho)
        return loss

    def _perturb(self, slopes: list[float], rho: list[float]) -> None:
        weights, saved = self._kept, self._values
        if not any(slopes):
            self.skipped += 1
            copy_(weights, saved, foreach=self.foreach)
            return
        if self.m == 1:
            # the mirrored probe still lies in the weights: saved - weights is delta u
            shift_(weights, saved, [-1.0] * len(weights), foreach=self.foreach)
            length = math.copysign(norm(weights), -slopes[0])
        else:
            for p in weights:
                p.zero_()
            for i, slope in enumerate(slopes):
                for p, u in zip(weights, self._direction(weights, saved, i), strict=True):
                    p.add_(u, alpha=slope / self.m)
            length = norm(weights)
        for p, old, r in zip(weights, saved, rho, strict=True):
            if length:
                p.mul_(r / length).add_(old)
            else:
                p.copy_(old)

    def _direction(
        self, weights: list[Tensor], saved: list[Tensor], i: int, into: list[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """One tensor at a time, in the memory of `into` if given, so that a direction is never a copy of its own."""
        last = [self.state[p].get("last") for p in weights]
        if self.directions == "guided" and i == 0 and all(g is not None for g in last):
            size = norm(g for g in last if g is not None)
            # as long as a Gaussian one
            root = math.sqrt(sum(int(torch.count_nonzero(s)) if s.ndim > 1 else s.numel() for s in saved))
            for k, (g, old) in enumerate(zip(last, saved, strict=True)):
                u = torch.empty_like(old) if into is None else into[k]
                u.copy_(g).mul_(root / size if size else 0.0)
                yield u.masked_fill_(old == 0, 0) if old.ndim > 1 else u
            return
        seed = (self.seed * _PRIME + self.backwards) * _PRIME + i
        generators = {d: torch.Generator(d).manual_seed(seed % 2**63) for d in {p.device for p in weights}}
        for k, old in enumerate(saved):
            u = torch.empty_like(old) if into is None else into[k]
            u.normal_(generator=generators[old.device])
            if self.directions == "rademacher":
                u.sign_()
            yield u.masked_fill_(old == 0, 0) if old.ndim > 1 else u


def _over_processes(values: list[float], device: torch.device) -> list[float]:
    """Mean of each value over the processes of a distributed training; the values themselves in one process."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized() or group.get_world_size() == 1:
        return values
    mean = torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    group.all_reduce(mean)
    return [float(v) / group.get_world_size() for v in mean]
