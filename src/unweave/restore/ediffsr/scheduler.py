"""The mean-reverting diffusion of EDiffSR (IR-SDE) as a sampler with the calls of diffusers' schedulers.

Luo, Gustafsson, Zhao et al., "Image Restoration with Mean-Reverting Stochastic Differential Equations", ICML 2023; Xiao
et al., IEEE TGRS 2024. Pictures drift from x_0 to a mean mu (the enlarged small picture) plus a little noise:

    dx = theta_t (mu - x) dt + sigma_t dw,   sigma_t^2 = 2 lambda^2 theta_t
    x_t = mu + (x_0 - mu) e^{-T_t} + v_t e,   v_t^2 = lambda^2 (1 - e^{-2 T_t}),   T_t = dt (theta_1 + ... + theta_t)

dt is such that e^{-T_T} = delta. Steps may be strided: from t to s, theta dt becomes T_t - T_s everywhere below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ...errors import InputError, require
from ...settings import Count, Inner, Positive, settings

Mode = Literal["sde", "ode", "posterior"]


@dataclass
class Stepped:
    """What a step returns, named as diffusers names it.

    Attributes:
        prev_sample: x at the next, less noisy step.
        pred_original_sample: the clean picture as this step sees it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


@settings
class MeanReverting:
    """A schedule; what samples with it is a `Sampler`.

    Attributes:
        steps: T, of training.
        spread: lambda, deviation of the noise at the end, for pictures in [0, 1]; the paper's 50 of 255.
        delta: share of the clean picture that is left at the end.
        kind: of theta: "cosine" is the paper's; "linear" grows evenly; "constant".
    """

    steps: Count = 100
    spread: Positive = 50 / 255
    delta: Inner = 0.005
    kind: Literal["cosine", "linear", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.spread > 1:
            raise InputError(
                f"MeanReverting.spread is for pictures in [0, 1] and must be at most 1; got {self.spread:g}. Of 255 "
                f"levels that is {self.spread / 255:.4f}."
            )

    @property
    def thetas(self) -> Tensor:
        """theta_0 ... theta_T, float64 [T + 1]; theta_0 is not used by any step."""
        n = self.steps
        if self.kind == "constant":
            return torch.ones(n + 1, dtype=torch.float64)
        if self.kind == "linear":
            return torch.linspace(0, 1, n + 1, dtype=torch.float64)
        u = torch.arange(n + 3, dtype=torch.float64) / (n + 2)
        a = torch.cos((u + 0.008) / 1.008 * torch.pi / 2).square()
        return 1 - (a / a[0])[1 : n + 2]

    @property
    def dt(self) -> float:
        """Length of a step."""
        return float(-torch.log(torch.tensor(self.delta, dtype=torch.float64)) / self.thetas[1:].sum())

    @property
    def passed(self) -> Tensor:
        """T_0 = 0, ..., T_T: how far the picture has gone, float64 [T + 1]."""
        thetas = self.thetas
        thetas[0] = 0
        return thetas.cumsum(0) * self.dt

    def sampler(self) -> Sampler:
        """A sampler of its own."""
        return Sampler(self)


class Sampler:
    """Samples with a schedule, by the calls of diffusers' schedulers; set the mean first.

    Attributes:
        schedule: of it.
        timesteps: t of every step, from the last to the first, int64.
        init_noise_sigma: deviation of the noise that is begun with, around the mean.
        order: calls of the network a step.
    """

    order = 1

    def __init__(self, schedule: MeanReverting) -> None:
        self.schedule, self.passed = schedule, schedule.passed
        self.init_noise_sigma = schedule.spread
        self.mean: Tensor | None = None
        self.set_timesteps(schedule.steps)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose the steps, evenly spread over those of training.

        Raises:
            InputError: unless there are 1 to T of them.
        """
        most = self.schedule.steps
        if not 1 <= num_inference_steps <= most:
            raise InputError(
                f"the sampler takes 1 to {most} steps, those of training; got {num_inference_steps}."
            )
        at = torch.linspace(most, 0, num_inference_steps + 1).round().long()
        self.timesteps, self._next = (
            at[:-1].to(device),
            dict(zip(at[:-1].tolist(), at[1:].tolist(), strict=True)),
        )

    def set_mean(self, mean: Tensor) -> None:
        """What the pictures revert to, [n, c, h, w]."""
        self.mean = mean

    def begin(self, noise: Tensor) -> Tensor:
        """x_T of standard normal noise."""
        return self._mean() + self.schedule.spread * noise

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of clean pictures [n, ...], standard normal noise and steps [n]."""
        mean, (kept, spread) = self._mean(), self._at(timesteps, original_samples)
        return mean + (original_samples - mean) * kept + spread * noise

    def clean(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """x_0 of the predicted noise."""
        mean, (kept, spread) = self._mean(), self._at(timestep, sample)
        return mean + (sample - mean - spread * model_output) / kept

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *,
        generator: Generator | None = None,
        mode: Mode = "sde",
        return_dict: bool = True,
    ) -> Any:
        """One step of the reverse process.

        Args:
            model_output: predicted noise e, of the sample's shape.
            timestep: t, one of `timesteps`.
            sample: x_t.
            generator: of the noise; torch's own unless given. "ode" draws none.
            mode: "sde" is the paper's Euler step, with noise at every step; "ode" its flow without noise; "posterior"
                draws from what x_s is given x_t and the predicted x_0, for few steps.
            return_dict: False returns a tuple that begins with the new sample.

        Raises:
            InputError: if the step is none of `timesteps`.
        """
        t = int(timestep)
        if t not in self._next:
            raise InputError(f"the sampler takes no step at {t}; its steps are {self.timesteps.tolist()}.")
        s = self._next[t]
        clean = self.clean(model_output, t, sample)
        if mode == "posterior":
            clean = clean.clamp(0, 1)
            made = self.best(sample, clean, t, s)
            spread = self._posterior(t, s)
        else:
            made = self.euler(model_output, sample, t, s, half=mode == "ode")
            spread = (
                0.0
                if mode == "ode"
                else self.schedule.spread * float(2 * (self.passed[t] - self.passed[s])) ** 0.5
            )
        if spread:
            noise = torch.randn(sample.shape, generator=generator, dtype=sample.dtype).to(sample.device)
            made = made + spread * noise
        return Stepped(made, clean) if return_dict else (made, clean)

    def euler(self, noise: Tensor, x: Tensor, t: Any, s: Any = None, *, half: bool = False) -> Tensor:
        """The mean of the reverse step, x - ((mu - x) g - 2 lambda^2 g score) with g = T_t - T_s.

        Args:
            noise: predicted.
            x: x_t.
            t: a number, or [n].
            s: where to; t - 1 unless given.
            half: half of the score's part, for the flow without noise.
        """
        t = torch.as_tensor(t)
        gone = self._shaped(self.passed[t] - self.passed[torch.as_tensor(t - 1 if s is None else s)], x)
        _, spread = self._at(t, x)
        score = -noise / spread
        drift = 2 * self.schedule.spread**2 * (0.5 if half else 1.0)
        return x - gone * ((self._mean() - x) - drift * score)

    def best(self, x: Tensor, clean: Tensor, t: Any, s: Any = None) -> Tensor:
        """x*: the mean of x_s given x_t and x_0, the training target."""
        t = torch.as_tensor(t)
        s = torch.as_tensor(t - 1 if s is None else s)
        a, b, c = (p.exp() for p in (self.passed[s] - self.passed[t], -self.passed[t], -self.passed[s]))
        mean = self._mean()
        from_x = self._shaped(a * (1 - c**2) / (1 - b**2), x)
        from_clean = self._shaped(c * (1 - a**2) / (1 - b**2), x)
        return mean + from_x * (x - mean) + from_clean * (clean - mean)

    def as_scheduler(self) -> Any:
        """The same as an object that diffusers' pipelines take (SchedulerMixin), sharing this one's state.

        Raises:
            MissingExtraError: if diffusers is absent.
        """
        diffusers: Any = require("diffusers", extra="diffusion", purpose="a diffusers scheduler")
        ours = self

        class MeanRevertingScheduler(diffusers.SchedulerMixin, diffusers.ConfigMixin):  # type: ignore[misc]
            """IR-SDE, by the calls of a scheduler."""

            config_name = "scheduler_config.json"
            order = 1
            init_noise_sigma = ours.init_noise_sigma

            @diffusers.configuration_utils.register_to_config  # type: ignore[untyped-decorator]
            def __init__(
                self,
                num_train_timesteps: int = 100,
                spread: float = 50 / 255,
                delta: float = 0.005,
                kind: str = "cosine",
            ) -> None:
                made = MeanReverting(steps=num_train_timesteps, spread=spread, delta=delta, kind=kind)  # type: ignore[arg-type]
                self.inner = ours if made == ours.schedule else made.sampler()

            def __len__(self) -> int:
                return self.inner.schedule.steps

            def __getattr__(self, name: str) -> Any:
                if name in (
                    "timesteps",
                    "set_timesteps",
                    "set_mean",
                    "begin",
                    "scale_model_input",
                    "add_noise",
                    "step",
                ):
                    return getattr(self.__dict__["inner"], name)
                return super().__getattr__(name)

        told = self.schedule
        return MeanRevertingScheduler(told.steps, told.spread, told.delta, told.kind)

    def _posterior(self, t: int, s: int) -> float:
        a, b, c = ((-p).exp() for p in (self.passed[t] - self.passed[s], self.passed[t], self.passed[s]))
        variance = float((1 - a**2) * (1 - c**2) / (1 - b**2))
        return float(self.schedule.spread) * math.sqrt(variance)

    def _at(self, t: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """e^{-T_t} and v_t, shaped to multiply pictures."""
        passed = self.passed[torch.as_tensor(t)]
        spread = self.schedule.spread * (-torch.expm1(-2 * passed)).sqrt()
        return self._shaped((-passed).exp(), like), self._shaped(spread, like)

    @staticmethod
    def _shaped(value: Tensor, like: Tensor) -> Tensor:
        return value.reshape(-1, *[1] * (like.ndim - 1)).to(like)

    def _mean(self) -> Tensor:
        if self.mean is None:
            raise InputError(
                "the sampler has no mean to revert to. Call set_mean with the enlarged small pictures."
            )
        return self.mean
