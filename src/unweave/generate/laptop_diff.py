"""LAPTOP-Diff: take whole layers out of a denoiser, those whose absence changes its answers least.

Zhang, Li, Chen, Xie, Lu, "LAPTOP-Diff: Layer Pruning and Normalized Distillation for Compressing Diffusion Models",
2024, arXiv 2404.11098. With eps(r) the prediction without the units r:

    L_i = mean ||eps(e_i) - eps(0)||^2 over the same noisy latents, times and prompts for every unit
    min over r of sum_i r_i L_i   such that the parameters that go are at least the share asked for

The sum stands for the joint loss, which it is near to where units do not make up for one another; the choice is exact
(a mixed-integer program). What is left is trained on:

    L = ||eps - S||^2 + ||T - S||^2 + sum_l a_l ||f_T^l - f_S^l||^2,   a_l = 1 / mean(f_T^l ^2)

over the outputs of the stages, so that each counts by its relative error and none by its size. The scaling of a_l is
the source's idea in our reading: per batch, without gradient.

Units are those that diffusers' own settings can leave out (see `removable`), so that plain diffusers reads the result;
of single residual branches in the middle of a UNet's stage it could not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module, ModuleList
from torch.optim import AdamW

from ..errors import InputError
from ..models.text_to_image import TextToImage, noise_like, pick, train_steps_
from ..paper import Paper
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, NonNegative, Positive, Range, Whole, refuse_idle, settings
from .pictures import Pictures
from .removable import Unit, renaming, units_of, without

_SURPRISE = 2.0
"""Joint loss over its prediction from which units are said to make up for one another (the source's advice)."""


@dataclass(frozen=True)
class Choice:
    """Which units go.

    Attributes:
        removed: these.
        losses: unit -> L_i, its own effect.
        predicted: sum of the removed units' losses.
        joint: the loss when all of them are gone.
        kept: share of the denoiser's parameters that stays.
    """

    removed: tuple[Unit, ...]
    losses: dict[str, float]
    predicted: float
    joint: float
    kept: float


@settings
class LaptopDiff:
    """Remove layers by their effect on the output, with an exact choice under the size asked for, and train on.

    Attributes:
        keep: largest share of the denoiser's parameters to keep.
        criterion: "output" is the paper's; "task" is by how much the training loss changes, for comparison.
        calibration: noisy latents, with their times and prompts, that every unit is scored on.
        steps: of AdamW after the removal; 0 leaves it at that.
        batch_size: pictures a step, and latents scored at once.
        lr: of AdamW.
        output: weight of the teacher's prediction.
        features: weight of its features.
        normalise: divide each stage's error by the size of the teacher's features; without it the largest dominate.
    """

    keep: Annotated[float, Range(above=0, below=1, why="It is the share of the parameters that stays.")] = 0.5
    criterion: Literal["output", "task"] = "output"
    calibration: Count = 256
    steps: Whole = 1000
    batch_size: Count = 64
    lr: Positive = 5e-5
    output: NonNegative = 1.0
    features: NonNegative = 1.0
    normalise: bool = True

    paper: ClassVar[Paper] = Paper(
        "LAPTOP-Diff: Layer Pruning and Normalized Distillation for Compressing Diffusion Models",
        "Zhang, Li, Chen, Xie, Lu", "arXiv", 2024, "2404.11098",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.steps:
            refuse_idle(self, "lr", "output", "features", "normalise", when="with steps=0")
        elif not self.features:
            refuse_idle(self, "normalise", when="with features=0")

    def apply(self, model: TextToImage, data: Pictures, *, rng: Generator) -> TextToImage:
        """A pipeline with the smaller denoiser; it shares the other parts.

        Args:
            model: left unchanged; the teacher.
            data: pictures of the kind that it draws (`Pictures.drawn`, or real ones).
            rng: governs the run.

        Raises:
            InputError: if the denoiser has no unit to remove, all of them are too few, or the pictures do not fit.
            NonFiniteError: if training diverges.
        """
        return self.retrained(model, self.choose(model, data, rng=rng), data, rng=rng)

    def choose(self, model: TextToImage, data: Pictures, *, rng: Generator) -> Choice:
        """Score every unit and choose; raises as `apply` does."""
        require_generator(rng)
        data.require_fit(model, "LaptopDiff")
        units, total = units_of(model.denoiser), sum(p.numel() for p in model.denoiser.parameters())
        wanted = (1 - self.keep) * total
        most = sum(u.size for u in units) - sum(a.shared(b) for i, a in enumerate(units) for b in units[:i])
        if wanted > most:
            raise InputError(
                f"LaptopDiff.keep of {self.keep:g} asks for {wanted:,.0f} of {total:,} parameters to go; "
                "the {len(units)} "
                f"units that can go hold {most:,}. Keep at least {1 - most / total:.2f}."
            )
        losses, seen = self._scored(model, data, units, rng)
        return self._choice(model, seen, units, losses, knapsack(units, losses, wanted))

    def assess(
        self, model: TextToImage, data: Pictures, removed: Sequence[Unit], *, rng: Generator
    ) -> Choice:
        """What a choice by hand comes to, on the same latents that `choose` would draw."""
        units = units_of(model.denoiser)
        losses, seen = self._scored(model, data, units, rng)
        return self._choice(model, seen, units, losses, removed)

    def _scored(
        self, model: TextToImage, data: Pictures, units: Sequence[Unit], rng: Generator
    ) -> tuple[list[float], _Seen]:
        with global_seed(draw_seed(rng)):
            seen = _calibration(model, data, self.calibration)
        return [self._effect(model, seen, (unit,)) for unit in units], seen

    def _choice(
        self,
        model: TextToImage,
        seen: _Seen,
        units: Sequence[Unit],
        losses: Sequence[float],
        removed: Sequence[Unit],
    ) -> Choice:
        total = sum(p.numel() for p in model.denoiser.parameters())
        predicted = sum(loss for unit, loss in zip(units, losses, strict=True) if unit in removed)
        joint = self._effect(model, seen, removed)
        if joint > _SURPRISE * predicted:
            times = joint / max(predicted, 1e-30)
            warnings.warn(
                f"LaptopDiff: without {len(removed)} units the output is {times:.1f} times as far off as their own "
                "effects add up to: they make up for one another. Remove less, or in several runs.",
                stacklevel=3,
            )
        named = {unit.name: loss for unit, loss in zip(units, losses, strict=True)}
        return Choice(tuple(removed), named, predicted, joint, 1 - _size(removed) / total)

    def retrained(self, model: TextToImage, choice: Choice, data: Pictures, *, rng: Generator) -> TextToImage:
        """The pipeline without the chosen units, trained on."""
        student = model.editable()
        student.denoiser = without(model.denoiser, choice.removed)
        if not self.steps:
            return student
        latents, text, rows = data.encoded(model)
        teacher_of = _counterparts(model.denoiser, choice.removed)
        weights = list(student.denoiser.parameters())

        def loss(_: int) -> Tensor:
            at, t = pick(self.batch_size, len(latents)), pick(self.batch_size, model.timesteps)
            noise, asked = noise_like(latents[at]), text[rows[at]]
            x = model.add_noise(latents[at], noise, t)
            with torch.no_grad(), watched(model.denoiser, teacher_of.values()) as theirs:
                goal = model(x.to(model.dtype), t, asked.to(model.dtype)).float()
            with watched(student.denoiser, teacher_of) as own:
                answer = student(x, t, asked)
            found = F.mse_loss(answer, model.truth(latents[at], noise, t)) + self.output * F.mse_loss(
                answer, goal
            )
            pairs = [(own[s], theirs[t]) for s, t in teacher_of.items()]
            return found + self.features * feature_loss(pairs, normalise=self.normalise)

        train_steps_(
            student, loss, weights, AdamW(weights, lr=self.lr), steps=self.steps, rng=rng, label="LAPTOP-Diff"
        )  # fmt: skip
        return student

    @torch.no_grad()
    def _effect(self, model: TextToImage, seen: _Seen, removed: Sequence[Unit]) -> float:
        """Mean change of the output, or of the training loss, without these units."""
        small = model.editable()
        small.denoiser = without(model.denoiser, removed)
        total = 0.0
        for low in range(0, len(seen.x), self.batch_size):
            part = slice(low, low + self.batch_size)
            x, t, asked, truth = seen.x[part], seen.t[part], seen.text[seen.rows[part]], seen.truth[part]
            full, less = (m(x, t, asked).double() for m in (model, small))
            if self.criterion == "output":
                total += float((full - less).square().mean((1, 2, 3)).sum())
            else:
                total += float(((less - truth).square() - (full - truth).square()).mean((1, 2, 3)).sum())
        return abs(total) / len(seen.x)


def knapsack(units: Sequence[Unit], losses: Sequence[float], wanted: float) -> tuple[Unit, ...]:
    """The units of least summed loss whose parameters are at least `wanted`; one that reads the prompt always stays.

    Exact: a mixed-integer program over whether each goes, and whether both of an overlapping pair do, since what they
    share goes once. Among equals the fewest parameters.

    Raises:
        InputError: if no choice reaches the size.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(i, j) for i in range(len(units)) for j in range(i) if units[i].shared(units[j])]
    n, many = len(units), len(units) + len(pairs)
    scale = max(max(losses), 1e-30)
    cost = np.zeros(many)
    cost[:n] = np.asarray(losses) / scale
    sizes = np.array([u.size for u in units] + [-units[i].shared(units[j]) for i, j in pairs], dtype=float)
    reading = np.array([float(u.reads_prompts) for u in units] + [0.0] * len(pairs))
    rules = [
        LinearConstraint(sizes / sizes.sum(), lb=wanted / sizes.sum()),
        LinearConstraint(reading, ub=max(0.0, reading.sum() - 1)),
    ]
    for k, (i, j) in enumerate(pairs):
        row = np.zeros(many)
        row[[i, j]], row[n + k] = 1, -1
        rules.append(LinearConstraint(row, ub=1))  # both gone means the shared part is counted off
    found = milp(cost + 1e-9 * np.abs(sizes) / sizes.sum(), constraints=rules, integrality=np.ones(many),
                 bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0})  # fmt: skip
    if found.x is None:
        raise InputError(
            f"no choice among {n} units takes {wanted:,.0f} parameters out and leaves one that reads the "
            "prompt. Keep more."
        )
    return tuple(u for u, gone in zip(units, found.x[:n], strict=True) if gone > 0.5)


def feature_loss(pairs: Sequence[tuple[Tensor, Tensor]], *, normalise: bool = True) -> Tensor:
    """Sum over stages of the squared error, in float32, each divided by the mean square of the teacher's features.

    Args:
        pairs: (student's, teacher's) features of one shape.
        normalise: whether to divide.
    """
    total = torch.zeros((), device=pairs[0][0].device) if pairs else torch.zeros(())
    for own, theirs in pairs:
        goal = theirs.detach().float()
        error = F.mse_loss(own.float(), goal)
        total = total + (error / goal.square().mean().clamp_min(1e-12) if normalise else error)
    return total


@contextmanager
def watched(denoiser: Module, names: Any) -> Iterator[dict[str, Tensor]]:
    """What these modules of a denoiser return inside the block, by name; of several things the first."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Module, _args: Any, out: Any) -> None:
            found[name] = out[0] if isinstance(out, tuple) else out

        return hook

    handles = [denoiser.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Seen:
    x: Tensor
    t: Tensor
    rows: Tensor
    text: Any
    truth: Tensor


def _calibration(model: TextToImage, data: Pictures, n: int) -> _Seen:
    """Noisy latents with times and prompts, the same for every unit."""
    latents, text, rows = data.encoded(model)
    at, t = pick(n, len(latents)), pick(n, model.timesteps)
    noise = noise_like(latents[at])
    x, truth = model.add_noise(latents[at], noise, t), model.truth(latents[at], noise, t)
    return _Seen(x.to(model.dtype), t, rows[at], text.to(model.dtype), truth)


def _counterparts(denoiser: Module, removed: Sequence[Unit]) -> dict[str, str]:
    """Stage of the student -> the teacher's: what a UNet's stages return, or a transformer's blocks that are left."""
    gone = {name for unit in removed for name in unit.modules}
    back = {old.rstrip("."): new.rstrip(".") for old, new in renaming(denoiser, removed).items()}
    found = dict[str, str]()
    for name, child in denoiser.named_children():
        stages = [f"{name}.{i}" for i in range(len(child))] if isinstance(child, ModuleList) else []
        stages += [name] if name == "mid_block" else []
        found |= {back.get(stage, stage): stage for stage in stages if stage not in gone}
    return found


def _size(removed: Sequence[Unit]) -> int:
    own: dict[str, int] = {}
    for unit in removed:
        own |= unit.weights
    return sum(own.values())
