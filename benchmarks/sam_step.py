"""Steps of SGD, SAM and ZO-SAM beside one another and beside pytorch_optimizer's: python -m benchmarks.sam_step"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential
from torch.optim import SGD

from benchmarks.cifar import resnet20
from unweave import seeded
from unweave.io.files import write_text
from unweave.optim import SAM, ZOSAM


def stepper(
    make: Callable[..., object], model: Module, inputs: Tensor, labels: Tensor, *, before: bool = False
) -> Callable[[], None]:
    optimizer = make(model.parameters(), lr=1e-4, momentum=0.9)

    def closure() -> Tensor:
        if torch.is_grad_enabled():
            optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        if loss.requires_grad:
            loss.backward()
        return loss

    def step() -> None:
        if before:
            closure()
        optimizer.step(closure)

    return step


def compared(makers: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of a step of each, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for step in makers.values():
        step()
    for _ in range(rounds):
        for name, step in makers.items():
            began = perf_counter()
            step()
            times[name].append(perf_counter() - began)
    return {name: median(found) for name, found in times.items()}


def main() -> None:
    import pytorch_optimizer

    theirs = lambda params, lr, momentum: pytorch_optimizer.SAM(
        params, SGD, rho=0.05, lr=lr, momentum=momentum
    )  # noqa: E731
    rng = seeded(0)
    images, labels = torch.randn(64, 3, 32, 32, generator=rng), torch.arange(64) % 10

    def on_resnet(make: Callable[..., object], **kw: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        return stepper(make, resnet20(), images, labels, **kw)

    big = compared(
        {"SGD": on_resnet(SGD), "ZO-SAM": on_resnet(ZOSAM), "SAM": on_resnet(SAM), "pytorch_optimizer's SAM": on_resnet(theirs, before=True)},
        15,
    )  # fmt: skip
    small_inputs = torch.randn(4, 8, generator=rng)

    def on_small(make: Callable[..., object], **kw: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        return stepper(
            make, Sequential(*(Linear(8, 8) for _ in range(50))), small_inputs, torch.arange(4), **kw
        )

    def update_only(make: Callable[..., SAM]) -> Callable[[], None]:
        """What the optimiser itself does in a step, without forward and backward passes."""
        torch.manual_seed(0)
        optimizer = make(Sequential(*(Linear(8, 8) for _ in range(50))).parameters(), lr=1e-4, momentum=0.9)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=rng)

        def step() -> None:
            optimizer.first_step()
            optimizer.second_step()

        return step

    small = compared(
        {"foreach": on_small(SAM), "one by one": on_small(partial(SAM, foreach=False)), "pytorch_optimizer's SAM": on_small(theirs, before=True)}, 300
    )  # fmt: skip
    update = compared(
        {
            "foreach": update_only(SAM),
            "one by one": update_only(partial(SAM, foreach=False, base=partial(SGD, foreach=False))),
        },
        300,
    )
    result = {
        "ResNet-20, batch 64, seconds a step": big,
        "over SGD": {name: value / big["SGD"] for name, value in big.items()},
        "ours over pytorch_optimizer's": big["SAM"] / big["pytorch_optimizer's SAM"],
        "100 small tensors, seconds a step": small,
        "100 small tensors, one by one over foreach": small["one by one"] / small["foreach"],
        "100 small tensors, pytorch_optimizer's over ours": small["pytorch_optimizer's SAM"]
        / small["foreach"],
        "100 small tensors, the optimiser's own work, one by one over foreach": update["one by one"]
        / update["foreach"],
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=1))
    write_text(Path(__file__).parent / "results" / "sam_step.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
