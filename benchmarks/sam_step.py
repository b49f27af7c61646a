"""Steps of SGD, SAM and ZO-SAM beside one another and beside pytorch_optimizer's: python -m benchmarks.sam_step

Times are medians over rounds in which each contender runs in turn; ratios are medians of the rounds' ratios, which
other work on the machine disturbs least. Memory is the most that live tensors hold during a step.
"""

from __future__ import annotations

import json
import platform
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cifar import resnet20
from unweave import seeded
from unweave.io.files import write_text
from unweave.optim import SAM, ZOSAM

Times = dict[str, list[float]]


class Peak(TorchDispatchMode):
    """The most bytes of tensors made inside the block that live at once.

    Attributes:
        most: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        if not size or where in self._known:
            return
        self.live += size
        self.most = max(self.most, self.live)
        self._known[where] = weakref.finalize(storage, self._gone, where, size)

    def _gone(self, where: int, size: int) -> None:
        del self._known[where]
        self.live -= size


def stepper(
    make: Callable[..., Any], model: Module, inputs: Tensor, labels: Tensor, *, before: bool = False
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


def timed(makers: dict[str, Callable[[], None]], rounds: int) -> Times:
    """Seconds of a step of each, measured in turns, forwards and backwards."""
    times: Times = {name: [] for name in makers}
    for step in makers.values():
        step()
    for k in range(rounds):
        for name, step in list(makers.items())[:: -1 if k % 2 else 1]:
            began = perf_counter()
            step()
            times[name].append(perf_counter() - began)
    return times


def medians(times: Times) -> dict[str, float]:
    return {name: median(found) for name, found in times.items()}


def ratio(times: Times, one: str, other: str) -> float:
    return median(a / b for a, b in zip(times[one], times[other], strict=True))


def theirs(params: Any, lr: float, momentum: float) -> Any:
    import pytorch_optimizer

    return pytorch_optimizer.SAM(params, SGD, rho=0.05, lr=lr, momentum=momentum)


def on_resnet() -> Times:
    images, labels = torch.randn(64, 3, 32, 32, generator=seeded(0)), torch.arange(64) % 10

    def stepping(make: Callable[..., Any], *, before: bool = False) -> Callable[[], None]:
        torch.manual_seed(0)
        return stepper(make, resnet20(), images, labels, before=before)

    makers = {
        "SGD": stepping(SGD), "ZO-SAM": stepping(ZOSAM), "SAM": stepping(SAM), "theirs": stepping(theirs, before=True)
    }  # fmt: skip
    return timed(makers, 24)


def small() -> Module:
    torch.manual_seed(0)
    return Sequential(*(Linear(8, 8) for _ in range(50)))


def on_small() -> Times:
    inputs, labels = torch.randn(4, 8, generator=seeded(0)), torch.arange(4)
    makers = {
        "foreach": stepper(SAM, small(), inputs, labels),
        "one by one": stepper(partial(SAM, foreach=False), small(), inputs, labels),
        "theirs": stepper(theirs, small(), inputs, labels, before=True),
    }
    return timed(makers, 400)


def without_passes(*, base: bool) -> Times:
    """What the optimiser itself does in a step: perturb, restore and, if asked, the base's own step."""

    def alone(foreach: bool) -> Callable[[], None]:
        optimizer = SAM(
            small().parameters(), partial(SGD, foreach=foreach), foreach=foreach, lr=1e-4, momentum=0.9
        )
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)

        def step() -> None:
            optimizer.first_step()
            optimizer.second_step() if base else optimizer.restore()

        return step

    return timed({"foreach": alone(True), "one by one": alone(False)}, 1000)


def extra_memory(make: Callable[..., Any], model: Callable[[], Module], inputs: Tensor) -> float:
    """Peak of the third step above SGD's, in copies of the weights."""

    def peak(of: Callable[..., Any]) -> int:
        built = model()
        step = stepper(of, built, inputs, torch.zeros(len(inputs), dtype=torch.long))
        with Peak() as seen:
            for _ in range(3):
                step()
        return seen.most

    weights = sum(p.numel() * p.element_size() for p in model().parameters())
    return (peak(make) - peak(SGD)) / weights


def main() -> None:
    torch.set_num_threads(1)
    big, little, own, both = on_resnet(), on_small(), without_passes(base=False), without_passes(base=True)
    layers = lambda: Sequential(*(Linear(512, 512) for _ in range(8)))  # noqa: E731
    one_layer = lambda: Linear(1024, 1024)  # noqa: E731
    result = {
        "ResNet-20, batch 64": {
            "seconds a step": medians(big),
            "over SGD": {name: ratio(big, name, "SGD") for name in big},
            "our SAM over pytorch_optimizer's": ratio(big, "SAM", "theirs"),
            "ZO-SAM over SAM": ratio(big, "ZO-SAM", "SAM"),
        },
        "100 tensors of 8 or 64 weights": {
            "seconds a step": medians(little),
            "our SAM over pytorch_optimizer's": ratio(little, "foreach", "theirs"),
            "one by one over foreach, with passes": ratio(little, "one by one", "foreach"),
            "one by one over foreach, perturb and restore": ratio(own, "one by one", "foreach"),
            "one by one over foreach, perturb, restore and SGD": ratio(both, "one by one", "foreach"),
        },
        "memory above SGD's, in copies of the weights": {
            f"{name}, {shape}": extra_memory(make, model, torch.randn(2, width, generator=seeded(0)))
            for name, make in {"ZO-SAM": ZOSAM, "SAM": SAM}.items()
            for shape, model, width in (("8 layers", layers, 512), ("1 layer", one_layer, 1024))
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
    }
    print(json.dumps(result, indent=1))
    write_text(Path(__file__).parent / "results" / "sam_step.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
