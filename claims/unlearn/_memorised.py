"""Small worlds in which a network has its training set by heart: what random deletions are hard in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from claims.data import fashion_mnist
from unweave import Request, Supervised, seeded
from unweave.audit import Auditor
from unweave.audit.result import Audit
from unweave.embedded.digits import of_tensors
from unweave.parallel import build_models

REFERENCES = 8
SHARE = 0.2


class Plain(nn.Module):
    """One convolution and two linear layers on 14 x 14 pixels; 19,434 weights, no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.full, self.out = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(392, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.full(F.relu(self.conv(x)).flatten(1))))


def normed(width: int = 16) -> nn.Module:
    """Three convolutions with batch normalisation and a linear layer on 16 x 16 pixels; 33,946 weights."""
    layers: list[nn.Module] = []
    for a, b, stride in ((3, width, 2), (width, 2 * width, 1), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, 10))


@dataclass(frozen=True)
class World:
    """A recipe, what it is trained on, and a request to delete a random fifth of that.

    words: for tables.
    """

    words: str
    recipe: Supervised
    request: Request[Any]
    train: Any

    def references(self, cache: Any = None) -> dict[str, list[nn.Module]]:
        """Models retrained without the examples, and models that hold them."""
        retain = self.request.retain
        return {
            "oracles": build_models(self.recipe, retain, range(1000, 1000 + REFERENCES), jobs=1, cache=cache),
            "holders": build_models(
                self.recipe, self.train, range(2000, 2000 + REFERENCES), jobs=1, cache=cache
            ),
        }

    def judged(self, edited: nn.Module, original: nn.Module, references: dict[str, list[nn.Module]]) -> Audit:
        """The audit of an edited model."""
        return self.auditor(original, references).audit(edited)

    def auditor(self, original: nn.Module, references: dict[str, list[nn.Module]]) -> Auditor:
        """What judges edits of one original."""
        return Auditor.of(self.request, original=original, rng=seeded(0), quick=True, **references)


def figures(found: Audit) -> dict[str, Any]:
    """Outcome, positions, accuracies beside the retrained models' mean in points, and the memory gauge.

    "under": position of the margins under a last layer made anew; None where there are none.
    """
    by_name = {m.name: m for m in found.measurements}

    def gap(where: str) -> float:
        # of a class that is gone, the held-out figure is that "of the remaining classes"
        m = next(m for name, m in by_name.items() if name.startswith(f"accuracy on {where} examples"))
        assert m.value is not None
        assert m.oracle_mean is not None
        return m.value - m.oracle_mean

    return {
        "outcome": found.verdict.outcome, "position": found.verdict.position,
        "heldout": gap("held-out"), "retained": gap("retained"), "forgotten": gap("forgotten"),
        "gauge": by_name["memory gauge"].value,
        "under": next((m.value for n, m in by_name.items() if n.startswith("position under")), None),
    }  # fmt: skip


def fashion() -> World:
    """1,200 images of Fashion-MNIST at 14 x 14, a network without normalisation, 25 epochs."""
    data, held = fashion_mnist(1200, 1000)
    recipe = Supervised(network=Plain, epochs=25, lr=0.1)
    return world("Fashion-MNIST 14 x 14, CNN without normalisation", recipe, data, held)


def world(words: str, recipe: Supervised, data: Any, held: Any) -> World:
    """The world of these images, halved in width and height."""
    train = _halved(data)
    gone = torch.randperm(len(train), generator=seeded(77))[: round(SHARE * len(train))]
    return World(words, recipe, Request.of(train, _halved(held), gone), train)


def _halved(data: Any) -> Any:
    images, labels = data.examples.tensors
    return of_tensors(F.avg_pool2d(images, 2), labels, classes=10, batch_size=64)
