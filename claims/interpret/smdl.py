"""SMDL against occlusion, gradients and greedy search by one term, on right and wrong predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential
from torch.optim import Adam

from claims.effects import Effect
from claims.framework import Claim
from unweave import fit_, seeded
from unweave.embedded.digits import digits, of_tensors
from unweave.interpret import SMDL, Viewer, gradient_times_input, occlusion, trace
from unweave.interpret.regions import grid
from unweave.random import global_seed
from unweave.tasks import predict

SEARCHES = {
    "consistency alone": SMDL(effectiveness=0.0, collaboration=0.0),
    "all weights 1": SMDL(confidence=1.0, effectiveness=1.0),
    "SMDL": SMDL(),
}
ARMS = ("random", "occlusion", "gradient x input", *SEARCHES)
RIGHT, WRONG, PASTED = 40, 25, 30

claim = Claim(
    statement="Regions found greedily by the four-term score explain right predictions and repair wrong ones better than regions ranked one by "
    "one.",
    reported="against HSIC attribution: right predictions +2.5 % insertion and +4.9 % deletion; wrong ones +18.4 % insertion and +81.0 % of the "
    "average highest confidence (faces and birds)",
    data="scikit-learn's digits with noise 0.35, a small CNN, 4 x 4 regions, 40 right and 25 wrong held-out images, target the true class; 30 "
    "images of 16 x 16 pixels of noise with a digit pasted in one quarter",
    figures={
        **{f"{f}, {side}, {a}": "% (area under the curve)" for f in ("insertion", "deletion") for side in ("right", "wrong") for a in ARMS},
        **{f"best within a quarter, {side}, {a}": "% probability" for side in ("right", "wrong") for a in ARMS},
        **{f"pointing, {a}": "% of first regions within the digit" for a in ARMS},
    },
    baseline="occlusion of single regions, gradient x input, random orders; greedy by consistency alone; the paper's equal weights",
    criterion="insertion at least 2 points over occlusion on right images and 5 on wrong ones; deletion not above greedy by consistency alone; first "
    "region within a pasted digit on 80 % of images, and not less often than by consistency alone",
    effects=(
        Effect("insertion over occlusion, right", better="insertion, right, SMDL", worse="insertion, right, occlusion", margin=2.0),
        Effect("insertion over occlusion, wrong", better="insertion, wrong, SMDL", worse="insertion, wrong, occlusion", margin=5.0),
        Effect("deletion under consistency alone, right", better="deletion, right, SMDL", worse="deletion, right, consistency alone", higher=False),
        Effect("pointing: at least 80 %", better="pointing, SMDL", worse=80.0),
        Effect("pointing: not below consistency alone", better="pointing, SMDL", worse="pointing, consistency alone", margin=-5.0),
        Effect("default weights over all 1, insertion, wrong", better="insertion, wrong, SMDL", worse="insertion, wrong, all weights 1", headline=False),
        Effect("best within a quarter over occlusion, wrong", better="best within a quarter, wrong, SMDL", worse="best within a quarter, wrong, occlusion", headline=False),
    ),
    settings={"regions": "4 x 4", "fill": "black", "weights": "0, 0.05, 1, 1"},
    note="Both curves are what the search climbs, so they flatter it; pointing is not.",
)  # fmt: skip


def _cnn(side: int, seed: int) -> Module:
    with global_seed(seed):
        return Sequential(
            Conv2d(1, 16, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d(16, 32, 3, padding=1),
            ReLU(),
            Flatten(),
            Linear(32 * (side // 2) ** 2, 48),
            ReLU(),
            Linear(48, 10),
        )


def _trained(x: Tensor, y: Tensor, seed: int, epochs: int = 6) -> Module:
    net, data = _cnn(x.shape[-1], seed), of_tensors(x, y, classes=10, batch_size=32)
    fit_(
        net,
        data,
        lambda m, b: data.task.losses(m, b).mean(),
        Adam(net.parameters(), 3e-3),
        epochs=epochs,
        rng=seeded(seed),
    )
    return net.eval()


def _pasted(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Digits [n, 1, 8, 8] in one quarter of noise, [n, 1, 16, 16], and which quarter."""
    rng = seeded(seed)
    canvas = 0.3 * torch.rand(len(x), 1, 16, 16, generator=rng)
    where = torch.randint(4, (len(x),), generator=rng)
    for i, q in enumerate(where.tolist()):
        top, left = 8 * (q // 2), 8 * (q % 2)
        canvas[i, :, top : top + 8, left : left + 8] = x[i]
    return canvas, where


def _orders(viewer: Viewer, target: int, seed: int) -> dict[str, Tensor]:
    rng = seeded(seed)
    return {
        "random": torch.randperm(viewer.m, generator=rng),
        "occlusion": occlusion(viewer, target),
        "gradient x input": gradient_times_input(viewer, target),
        **{name: how.search(viewer, target, rng=rng)[0] for name, how in SEARCHES.items()},
    }


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    train, heldout = digits(0.35, seed)
    (x, y), (tx, ty) = (
        (t[0].view(-1, 1, 8, 8), t[1]) for t in (train.examples.tensors, heldout.examples.tensors)
    )
    net = _trained(x, y, seed)
    said = predict(net, of_tensors(tx, ty, classes=10)).argmax(1)
    sums: dict[str, list[float]] = {}
    for side, at in (("right", (said == ty).nonzero()[:RIGHT]), ("wrong", (said != ty).nonzero()[:WRONG])):
        for i in at.flatten().tolist():
            viewer = Viewer.of(net, tx[i], grid(8, 8, 4, 4))
            for arm, order in _orders(viewer, int(ty[i]), seed + i).items():
                told = trace(viewer, order, int(ty[i]))
                for name, value in (
                    ("insertion", told.insertion_area),
                    ("deletion", told.deletion_area),
                    ("best within a quarter", told.best(0.25)[1]),
                ):
                    sums.setdefault(f"{name}, {side}, {arm}", []).append(100 * value)
    clean, clean_held = digits(0.0, seed)
    big, _ = _pasted(clean.examples.tensors[0].view(-1, 1, 8, 8), seed)
    new, where = _pasted(clean_held.examples.tensors[0].view(-1, 1, 8, 8), seed + 1)
    labels = clean_held.examples.tensors[1]
    net = _trained(big, clean.examples.tensors[1], seed, epochs=10)
    right = (predict(net, of_tensors(new, labels, classes=10)).argmax(1) == labels).nonzero().flatten()
    for i in right[:PASTED].tolist():
        viewer = Viewer.of(net, new[i], grid(16, 16, 4, 4))
        for arm, order in _orders(viewer, int(labels[i]), seed + i).items():
            first, q = int(order[0]), int(where[i])
            sums.setdefault(f"pointing, {arm}", []).append(
                100.0 * (first // 4 // 2 == q // 2 and first % 4 // 2 == q % 2)
            )
    return {name: sum(values) / len(values) for name, values in sums.items()}
