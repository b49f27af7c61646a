from __future__ import annotations

from functools import partial
from math import exp
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract import world
from unweave import Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.random import global_seed
from unweave.tasks import Classify, predict, read_labels
from unweave.unlearn import FineTune, RandomLabels
from unweave.unlearn.random_labels import wrong_labels


class Spy(Classify):
    """Notes which labels the model was trained on."""

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        SEEN.append((batch[0].clone(), batch[1].clone()))
        return super().losses(model, batch)


SEEN: list[tuple[torch.Tensor, torch.Tensor]] = []


def spied(classes: int = 3) -> tuple[Request, torch.Tensor]:
    """A request whose inputs say what they are: (position, 1 if to be forgotten)."""
    SEEN.clear()
    n = 40
    inputs = torch.stack([torch.arange(n), (torch.arange(n) < 10)], 1).float()
    labels = torch.arange(n) % classes
    data = of_tensors(inputs, labels, classes=classes, batch_size=8)
    data = type(data)(data.examples, Spy(classes), 8)
    return Request.of(data, data.subset([0, 1]), list(range(10))), labels


@pytest.mark.parametrize("order", ["sequential", "mixed"])
@pytest.mark.parametrize("classes", [2, 3])
def test_labels_are_always_wrong_on_forget_and_always_right_on_retain(order: Any, classes: int) -> None:
    request, labels = spied(classes)
    RandomLabels(epochs=6, lr=1e-6, order=order).apply(nn.Linear(2, classes), request, rng=seeded(0))
    inputs = torch.cat([x for x, _ in SEEN])
    given = torch.cat([y for _, y in SEEN])
    truth, forgets = labels[inputs[:, 0].long()], inputs[:, 1] == 1
    assert int(forgets.sum()) == 6 * 10
    assert len(inputs) == 6 * 40
    assert (given[forgets] != truth[forgets]).all()
    assert (given[~forgets] == truth[~forgets]).all()
    drawn = {(int(p), int(y)) for p, y in zip(inputs[forgets, 0], given[forgets], strict=True)}
    assert (
        len(drawn) == 10 if classes == 2 else len(drawn) > 15
    )  # anew in each epoch: 6 draws find both wrong classes
    first = inputs[: 10 if order == "sequential" else 24, 1]
    assert first.all() if order == "sequential" else 0 < first.sum() < 24


def test_wrong_labels_are_uniform() -> None:
    labels = torch.full((9000,), 2)
    with global_seed(0):
        counts = wrong_labels(labels, 4).bincount(minlength=4)
    assert counts[2] == 0
    # 3000 expected each, standard deviation 45
    assert (counts[[0, 1, 3]] - 3000).abs().max() < 4 * 45


def test_exact_two_classes() -> None:
    # Two logits w x with w = 0, x = 1, true class 0: p = (1/2, 1/2). One step towards class 1, alpha = 0:
    # gradient = p - onehot(1) = (1/2, -1/2), so w = -lr * (1/2, -1/2) = (-0.05, 0.05)
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    one = of_tensors(torch.ones(1, 1), torch.tensor([0]), classes=2)
    edited = RandomLabels(epochs=1, lr=0.1, alpha=0.0, weight_decay=0.0).apply(
        model, Request(one, one, one), rng=seeded(0)
    )
    torch.testing.assert_close(edited.weight, torch.tensor([[-0.05], [0.05]]))


def test_alpha_weighs_the_retain_set() -> None:
    # In both orders alpha = 1 keeps the retain loss low where alpha = 0 lets it rise.
    model, request = world.model(), world.request()

    def retain_loss(**settings: Any) -> float:
        edited = RandomLabels(lr=0.05, epochs=20, **settings).apply(model, request, rng=seeded(0))
        return float(predict(edited, request.retain, request.retain.task.losses).mean())

    for order in ("sequential", "mixed"):
        assert retain_loss(order=order, alpha=0.0) > 2 * retain_loss(order=order, alpha=1.0)


def test_forgets_where_fine_tuning_does_not() -> None:
    model, request = world.model(), world.request()

    def right(m: nn.Module) -> float:
        p = predict(m, request.forget).softmax(1)
        return float(p.gather(1, read_labels(request.forget)[:, None]).mean())

    control = right(FineTune(lr=0.05, epochs=20).apply(model, request, rng=seeded(0)))
    assert right(RandomLabels(lr=0.05, epochs=20).apply(model, request, rng=seeded(0))) < control - 0.3


def test_refuses() -> None:
    model, request = world.model(), world.request()
    with pytest.raises(EmptyDataError, match="RandomLabels .retain"):
        RandomLabels().apply(
            model, Request(request.forget, request.retain.subset([]), request.heldout), rng=seeded(0)
        )
    with pytest.raises(InputError, match="every parameter is frozen"):
        RandomLabels().apply(world.model().requires_grad_(False), request, rng=seeded(0))
    for bad, message in [
        (partial(RandomLabels, alpha=-0.1), "alpha"),
        (partial(RandomLabels, epochs=0), "epochs"),
        (partial(RandomLabels, lr=-1.0), "lr"),
        (partial(RandomLabels, order="backwards"), "order"),
    ]:
        with pytest.raises(InputError, match=message):
            bad()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_exact_weights_of_both_orders(alpha: float) -> None:
    # Two logits w x at w = 0: gradient of class y at x is x (1/2 - [y]). Forgotten x = 1, class 0, relabelled 1:
    # (1/2, -1/2). Retained x = 3, class 0: (-3/2, 3/2), times alpha. Mixed: one batch, the mean of the two.
    forget, retain = (
        of_tensors(torch.full((1, 1), x), torch.tensor([0]), classes=2, batch_size=4) for x in (1.0, 3.0)
    )
    settings = {"epochs": 1, "lr": 0.1, "weight_decay": 0.0, "momentum": 0.0, "alpha": alpha}

    def edited(order: Any) -> float:
        model = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(model.weight)
        made = RandomLabels(order=order, **settings).apply(
            model, Request(forget, retain, retain), rng=seeded(0)
        )
        assert made.weight[0, 0].item() == pytest.approx(-made.weight[1, 0].item())
        return made.weight[0, 0].item()

    assert edited("mixed") == pytest.approx(-0.1 * (0.5 - alpha * 1.5) / 2)
    # in turn: first -0.05; then at logits (-0.05, 0.05) * 3, p1 = 1 / (1 + e^-0.3): alpha (p0 - 1) * 3
    p0 = 1 / (1 + exp(0.3))
    assert edited("sequential") == pytest.approx(-0.05 - 0.1 * alpha * (p0 - 1) * 3)


def test_alpha_zero_reads_no_retained_example_in_sequence() -> None:
    request, _ = spied()
    RandomLabels(epochs=2, lr=1e-6, alpha=0.0).apply(nn.Linear(2, 3), request, rng=seeded(0))
    assert (torch.cat([x for x, _ in SEEN])[:, 1] == 1).all()
    assert sum(len(x) for x, _ in SEEN) == 2 * 10


@pytest.mark.parametrize(("order", "batches"), [("sequential", 1 + 5), ("mixed", 6)])
def test_running_statistics_as_asked(order: Any, batches: int) -> None:
    model, request = world.model(batch_norm=True), world.request()  # 12 and 78 examples in batches of 16
    kept, followed = (
        RandomLabels(epochs=2, order=order, norms=n).apply(model, request, rng=seeded(0))
        for n in ("frozen", "train")
    )
    assert torch.equal(kept[2].running_mean, model[2].running_mean)
    assert int(followed[2].num_batches_tracked) - int(model[2].num_batches_tracked) == 2 * batches
