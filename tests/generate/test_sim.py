"""SIM: its gradient beside the exact one of a Gaussian, the whole loop where the answer is known, pipelines, refusals."""

from __future__ import annotations

import json
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.erase.pipelines import pipeline
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import SIM, Pictures, draw, mismatch
from unweave.generate.sim import Distance
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image.one_step import draws_in_one_step, one_step

SMALL = SIM(steps=2, warm_up=2, batch_size=3, lr=1e-3, fake_lr=1e-3)
PROMPTS = ["a photo of a cat", "a red church"]


class Gaussian(nn.Module):
    """The exact denoiser of N(mean, std^2), of one value; with conditions, one mean each."""

    def __init__(self, mean: float | list[float], std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(std, dtype=torch.float64).log())

    def forward(self, x: Tensor, sigma: Tensor, row: Tensor | None = None) -> Tensor:
        mean = self.mean if row is None else self.mean[row].view(-1, 1)
        variance, noise = (2 * self.log_std).exp(), sigma.view(-1, 1).square()
        return mean + variance / (variance + noise) * (x - mean)


class Wide(Gaussian):
    """Answers two values for one."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def forward(self, x: Tensor, sigma: Tensor, row: Tensor | None = None) -> Tensor:
        return super().forward(x, sigma).expand(-1, 2)


def quadrature(n: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of two independent standard normals, flat, with their weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    at, share = torch.tensor(nodes), torch.tensor(weights) / sqrt(2 * np.pi)
    z, e = torch.meshgrid(at, at, indexing="ij")
    return z.reshape(-1, 1), e.reshape(-1, 1), torch.outer(share, share).flatten()


def of_sim(distance: Distance, c: float, *, detach: bool = False) -> Tensor:
    """Gradient of the loss by the generator's mean and deviation: p = N(0.8, 0.5^2), q = N(0, 1), sigma 0.7."""
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 0.5))
    z, e, weights = quadrature()
    x0 = mean + std * z
    x = x0 + 0.7 * e
    x = x.detach() if detach else x
    sigma = torch.full((len(x),), 0.7, dtype=torch.float64)
    loss = mismatch(x0, Gaussian(0.0, 1.0)(x, sigma), Gaussian(0.8, 0.5)(x, sigma), distance, c)
    return torch.stack(torch.autograd.grad((weights * loss).sum(), (mean, std)))


def exact(distance: Distance, c: float) -> Tensor:
    """The same of E d(y), with the distribution of x held still, by quadrature over x itself."""
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 0.5))
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    x = 0.8 + sqrt(0.5**2 + 0.7**2) * torch.tensor(nodes)
    share = std**2 / (std**2 + 0.7**2)
    y = (mean + share * (x - mean)) - x / (1 + 0.7**2)
    d = y.square() if distance == "squared" else (y.square() + c * c).sqrt() - c
    loss = (torch.tensor(weights) / sqrt(2 * np.pi) * d).sum()
    return torch.stack(torch.autograd.grad(loss, (mean, std)))


@pytest.mark.parametrize(("distance", "c"), [("squared", 0.0), ("pseudo_huber", 0.2), ("smooth_l1", 0.2)])
def test_has_the_exact_gradient_and_needs_the_one_through_the_noised_copy(
    distance: Distance, c: float
) -> None:
    wanted, cut = exact(distance, c), of_sim(distance, c, detach=True)
    torch.testing.assert_close(of_sim(distance, c), wanted, rtol=1e-4, atol=0)
    assert float(((cut - wanted).abs() / wanted.abs()).max()) > 0.2


def test_the_papers_gradients_of_scores_are_multiples_of_these() -> None:
    # scores are clean predictions over sigma^2: 1.4504 and, at c = 0.3, 0.7651 in those units
    assert float(of_sim("squared", 0.0)[0]) / 0.7**4 == pytest.approx(1.4504, abs=2e-3)
    assert float(of_sim("pseudo_huber", 0.3 * 0.7**2)[0]) / 0.7**2 == pytest.approx(0.7651, abs=2e-3)


def test_robust_distances_are_of_the_picture_or_of_each_value() -> None:
    x0, real, fake = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    # gap (3, 4); <gap, fake - x0> = 3 * 2 + 4 * 3 = 18; norm^2 + c^2 = 25 + 144
    assert mismatch(x0, real, fake, "pseudo_huber", 12.0).tolist() == pytest.approx([-18 / 13])
    assert mismatch(x0, real, fake, "squared", 0.0).tolist() == pytest.approx([-36.0])
    assert mismatch(x0, real, fake, "smooth_l1", 4.0).tolist() == pytest.approx([-(6 / 5 + 12 / sqrt(32))])
    # mean |real - x0| = 1; half of it doubles the loss
    assert mismatch(x0 / 2, real, fake, "squared", 0.0, "error").tolist() == pytest.approx(
        [-2 * 2 * (7.5 + 14)]
    )


def test_finds_the_teachers_distribution_in_one_step() -> None:
    teacher = Gaussian([-1.0, 1.5], 0.7).eval()
    how = SIM(
        steps=150, fake_steps=2, warm_up=10, batch_size=256, lr=3e-2, fake_lr=6e-2, average=0.9, high=4.0
    )
    made = how.distil(teacher, [1], rng=seeded(0), conditions=torch.tensor([0, 1]))
    noise = torch.randn(20_000, 1, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        for row, mean in enumerate((-1.0, 1.5)):
            drawn, told = made(noise, torch.full((len(noise),), row)), torch.full((len(noise),), row)
            blurred = teacher(2.5 * noise, torch.full((len(noise),), 2.5), told)
            assert float(drawn.mean()) == pytest.approx(mean, abs=0.1)
            assert float(drawn.std()) == pytest.approx(0.7, abs=0.07)
            assert float(blurred.std()) < 0.25
    assert teacher.mean.tolist() == [-1.0, 1.5]


def test_distils_a_pipeline_that_its_folder_gives_back(tmp_path) -> None:
    model = pipeline("pixart")
    before = {n: p.clone() for n, p in model.state_dict().items()}
    made = SMALL.apply(model, PROMPTS, rng=seeded(0))
    assert draws_in_one_step(made)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    noise = torch.randn(2, *made.shape, generator=seeded(1))
    drawn = made.sample(PROMPTS, steps=1, guidance=1, noise=noise, decode=False)
    with torch.no_grad():  # one call of the denoiser on the noise itself
        once = made.clean_prediction(noise, made.timesteps - 1, made.encode(PROMPTS))
    torch.testing.assert_close(drawn, once, rtol=1e-4, atol=1e-4)
    save_pipeline(made, tmp_path / "made")
    again = load_pipeline(tmp_path / "made")
    torch.testing.assert_close(
        one_step(again, PROMPTS, rng=seeded(1)), one_step(made, PROMPTS, rng=seeded(1))
    )
    with pytest.raises(InputError, match="generator of one step, which knows one level"):
        draw(made, PROMPTS, steps=4, rng=seeded(0))
    with pytest.raises(InputError, match="generator of one step, which knows one level"):
        Pictures.drawn(made, PROMPTS, 2, rng=seeded(0))
    with pytest.raises(InputError, match="generator of one step already"):
        SMALL.apply(made, PROMPTS, rng=seeded(0))


def test_a_running_mean_moves_a_quarter_of_the_way_at_each_step_of_the_generator() -> None:
    teacher = Gaussian(1.0, 0.7).eval()
    first, last, mean = (
        SIM(steps=n, fake_steps=3, warm_up=1, batch_size=4, lr=1e-2, average=a)
        .distil(teacher, [1], rng=seeded(0))
        .net
        for n, a in ((1, 0.0), (2, 0.0), (2, 0.75))
    )
    begin = dict(teacher.named_parameters())
    for name, weight in mean.named_parameters():
        a, b, c = begin[name], first.get_parameter(name), last.get_parameter(name)
        torch.testing.assert_close(weight, 0.75 * (a + 0.25 * (b - a)) + 0.25 * c, rtol=1e-5, atol=1e-7)
        assert not torch.equal(a, b)


def test_refuses_by_name() -> None:
    teacher = Gaussian(0.0, 1.0)
    with pytest.raises(InputError, match="in train mode"):
        SIM().distil(teacher, [1], rng=seeded(0))
    with pytest.raises(InputError, match="answers"):
        SIM().distil(Wide().eval(), [1], rng=seeded(0))
    with pytest.raises(InputError, match="guide inside the net"):
        SIM(guidance=2.0).distil(teacher.eval(), [1], rng=seeded(0))
    with pytest.raises(InputError, match="at least one prompt"):
        SIM().apply(pipeline("sd"), [], rng=seeded(0))
    with pytest.raises(InputError, match="noise reaches"):
        SIM(start=200.0, high=300.0).apply(pipeline("sd"), PROMPTS, rng=seeded(0))
    with pytest.raises(InputError, match="start must lie between low and high"):
        SIM(start=20.0)
    with pytest.raises(InputError, match="low must be"):
        SIM(low=0.0)
    with pytest.raises(InputError, match="c must be"):
        SIM(c=0.0)
    with pytest.raises(InputError, match="would do nothing with distance='squared'"):
        SIM(distance="squared", kappa=0.5)
    with pytest.raises(InputError, match="warm_up must be at least 1"):
        SIM(warm_up=0)
    assert json.loads(json.dumps(SIM(warm_up=0, c=0.1).c)) == 0.1
