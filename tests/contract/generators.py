"""Rows of the methods that draw: each on a tiny pipeline, or on numbers alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from tests.contract.others import PlainRow


def _guided(method: Any) -> dict[str, Tensor]:
    from unweave import seeded
    from unweave.generate import Step

    rng = seeded(0)
    x, told, null = (torch.randn(2, 1, 4, 4, generator=rng) for _ in range(3))
    return {"guided": method.guide()(told, null, Step(x, 0.6, 0.8, "epsilon"))}


def _copied(rng: Generator, lr: float = 1e-2) -> dict[str, Tensor]:
    from tests.erase.pipelines import pipeline
    from unweave.generate import SIMS

    model = pipeline("sd")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = SIMS(samples=4, sampler_steps=2, steps=2, batch_size=2, lr=lr).apply(
        model, ["a cat", "a dog"], rng=rng
    )
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "changed its input"
    return dict(copy.denoiser.state_dict())


def _informed(rng: Generator, trained: bool = True) -> dict[str, Tensor]:
    from tests.erase.pipelines import pipeline
    from unweave import seeded
    from unweave.generate import OMS, Informed, Pictures

    model = pipeline("sd")
    pictures = Pictures(torch.randn(6, *model.shape, generator=seeded(0)), ["a cat", "a dog"] * 3)
    psi = OMS(network="mlp", width=8, steps=5, batch_size=4).apply(model, pictures, rng=rng)
    noise = torch.randn(2, *model.shape, generator=seeded(1))
    if not trained:
        return {"start": 0.2**0.5 * noise}
    return {"start": Informed(psi)(model.encode(["a cat", "a dog"]), noise, 0.8)}


def _smaller(rng: Generator, steps: int = 2) -> dict[str, Tensor]:
    from tests.erase.pipelines import pipeline
    from unweave import seeded
    from unweave.generate import LaptopDiff, Pictures

    model = pipeline("pixart")
    shown = Pictures(torch.randn(4, *model.shape, generator=seeded(0)), ["a cat", "a dog"] * 2)
    more = {"lr": 1e-2} if steps else {}
    method = LaptopDiff(keep=0.75, calibration=4, batch_size=2, steps=steps, **more)  # type: ignore[arg-type]
    return dict(method.apply(model, shown, rng=rng).denoiser.state_dict())


def _adapters(rng: Generator, lr: float = 1e-2) -> dict[str, Tensor]:
    from tests.erase.pipelines import pipeline
    from unweave.generate import AGD, adapted

    model = pipeline("sd")
    method = AGD(width=8, high=4.0, trajectories=2, sampler_steps=2, steps=3, batch_size=2, lr=lr)
    adapters = method.apply(model, ["a cat", "a dog"], rng=rng)
    x = torch.ones(1, *model.shape)
    with torch.no_grad(), adapted(model.denoiser, adapters, 3.0):
        return {"answer": model(x, 300, model.encode(["a cat"])), **adapters.state_dict()}


def _repaired(rng: Generator, step_size: float = 0.1) -> dict[str, Tensor]:
    from unweave.generate import CODE, Prior

    shares = torch.linspace(0.999, 0.9, 20, dtype=torch.float64).cumprod(0)
    prior = Prior(
        lambda x, t: (1 - float(shares[t])) ** 0.5 * x, shares, lambda n: list(range(n))
    )  # of N(0, 1)
    more = {"updates": 8} if step_size else {}
    how = CODE(steps=10, depth=0.5, step_size=step_size, jitter=0.01, **more)  # type: ignore[arg-type]
    return {"edited": how.edit(prior, torch.full((2, 1, 3, 3), 0.9), rng=rng)}


def _distilled(rng: Generator, lr: float = 1e-2) -> dict[str, Tensor]:
    from unweave.generate import SIM
    from unweave.random import global_seed

    class Net(torch.nn.Linear):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) / (1 + sigma[:, None])

    with global_seed(0):
        teacher = Net(3, 3).eval()
    method = SIM(steps=3, warm_up=1, batch_size=4, lr=lr, fake_lr=1e-2)
    return dict(method.distil(teacher, [3], rng=rng).state_dict())


def _rows() -> list[PlainRow]:
    from unweave import generate

    def bad_pictures() -> Any:
        from tests.erase.pipelines import pipeline
        from unweave import seeded

        shown = generate.Pictures(torch.zeros(1, 4, 2, 2), ["a cat"])
        return generate.OMS(steps=1).apply(pipeline("sd"), shown, rng=seeded(0))

    return [
        PlainRow(
            name="AGD",
            run=_adapters,
            off=lambda rng: _adapters(rng, lr=1e-9),
            bad=((lambda: generate.AGD(low=5.0, high=2.0), "low must be below high"),),
        ),
        PlainRow(
            name="APG",
            run=lambda _: _guided(generate.APG(scale=6.0, threshold=2.0)),
            off=lambda _: _guided(generate.CFG(scale=6.0)),
            random=False,
            bad=((lambda: generate.APG(eta=1.5), "eta must be"),),
        ),
        PlainRow(
            name="CODE",
            run=_repaired,
            off=lambda rng: _repaired(rng, step_size=0.0),
            bad=((lambda: generate.CODE(depth=0.0), "depth must be"),),
        ),
        PlainRow(
            name="LaptopDiff",
            run=_smaller,
            off=lambda rng: _smaller(rng, steps=0),
            bad=((lambda: generate.LaptopDiff(keep=1.0), "keep must be"),),
        ),
        PlainRow(
            name="OMS",
            run=_informed,
            off=lambda rng: _informed(rng, trained=False),
            bad=((bad_pictures, "the pictures are of shape"),),
        ),
        PlainRow(
            name="SIM",
            run=_distilled,
            off=lambda rng: _distilled(rng, lr=1e-9),
            bad=((lambda: generate.SIM(start=0.01), "start must lie between"),),
        ),
        PlainRow(
            name="SIMS",
            run=_copied,
            off=lambda rng: _copied(rng, lr=1e-9),
            bad=((lambda: generate.SIMS(samples=0), "samples must be"),),
        ),
    ]


GENERATORS = _rows()
