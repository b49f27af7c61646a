"""Rows of the methods that restore: each on a few small pictures, frames, cubes or sounds made on the spot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from tests.contract.others import PlainRow


def _pairs(degraded: tuple[int, ...], clean: tuple[int, ...], n: int = 4) -> Any:
    """Noise and noise of these shapes, values in [0, 1]."""
    from torch.utils.data import TensorDataset

    from unweave import Data, seeded
    from unweave.tasks import Restore

    rng = seeded(0)
    made = (torch.rand(n, *shape, generator=rng) for shape in (degraded, clean))
    return Data(TensorDataset(*made), Restore(), 2)


def _built(method: Any, data: Any, rng: Generator) -> dict[str, Tensor]:
    return dict(method.build(data, rng=rng).state_dict())


def _sesr(rng: Generator, skip: bool = True) -> dict[str, Tensor]:
    from unweave.restore import SESR

    method = SESR(features=4, blocks=1, width=8, skip=skip, epochs=2)
    return _built(method, _pairs((1, 4, 4), (1, 8, 8)), rng)


def _larger(rng: Generator, kernel: str = "square") -> dict[str, Tensor]:
    from unweave.restore import ESSAformer

    method = ESSAformer(scale=2, bands=2, dim=4, rounds=1, epochs=2, kernel=kernel)  # type: ignore[arg-type]
    return _built(method, _pairs((2, 4, 4), (2, 8, 8)), rng)


def _quieter(rng: Generator, every: int = 2) -> dict[str, Tensor]:
    from unweave.restore import FastFullSubNet

    small: dict[str, Any] = {"rate": 1000, "window": 64, "mels": 8, "full": (4, 4), "sub": 16, "merge": 8}
    return _built(FastFullSubNet(**small, every=every, lr=1e-2, epochs=3), _pairs((200,), (200,)), rng)


def _routed(rng: Generator, balance: float = 300.0) -> dict[str, Tensor]:
    from unweave.restore import PCSR

    small: dict[str, Any] = {
        "backbone": "convs",
        "width": 4,
        "depth": 1,
        "heavy": (4,),
        "light": (2,),
        "scale": 2.0,
    }
    method = PCSR(**small, channels=1, balance=balance, lr=1e-2, epochs=1, router_epochs=3)
    return _built(method, _pairs((1, 4, 4), (1, 8, 8)), rng)


def _seen(rng: Generator, scaling: str = "frame") -> dict[str, Tensor]:
    from unweave.restore import MLSIM

    method = MLSIM(groups=1, blocks=1, features=4, epochs=1, scaling=scaling, lr=1e-2)  # type: ignore[arg-type]
    return _built(method, _pairs((9, 8, 8), (1, 8, 8)), rng)


def _drawn(rng: Generator, kind: str = "cosine") -> dict[str, Tensor]:
    from unweave.restore import EDiffSR

    small: dict[str, Any] = {"channels": 1, "scale": 2, "width": 8, "encoder": (1,), "decoder": (1,)}
    method = EDiffSR(**small, lr=1e-2, kind=kind, epochs=3)  # type: ignore[arg-type]
    return _built(method, _pairs((1, 8, 8), (1, 16, 16), n=2), rng)


def _completed(rng: Generator, hole_weight: float = 5.0) -> dict[str, Tensor]:
    from unweave.restore import SuperInpaint

    small: dict[str, Any] = {
        "channels": 1,
        "features": 4,
        "blocks": 0,
        "hidden": 4,
        "layers": 1,
        "queries": 20,
    }
    data = _pairs((2, 4, 4), (1, 8, 8))
    data.examples.tensors[0][:, 1] = data.examples.tensors[0][:, 1].round()
    return _built(SuperInpaint(**small, hole_weight=hole_weight, lr=1e-2, epochs=2), data, rng)


def _brightened(rng: Generator, illumination: bool = True) -> dict[str, Tensor]:
    from unweave.restore import CUE

    small: dict[str, Any] = {
        "width": 2,
        "hidden": 2,
        "prior": 2,
        "patch": 8,
        "tokens": 16,
        "depth": 1,
        "window": 4,
    }
    method = CUE(**small, illumination=illumination, stages=2, lr=1e-2, prior_epochs=1, epochs=1)
    return _built(method, _pairs((3, 8, 16), (3, 8, 16), n=2), rng)


def _plain(name: str) -> Any:
    import unweave.restore

    return getattr(unweave.restore, name)


def _delivered(name: str, rng: Generator, **settings: Any) -> dict[str, Tensor]:
    """A method of delivery on six frames of 24 x 32; its networks and its label map."""
    from unweave import restore
    from unweave.embedded.clips import panned
    from unweave.restore.delivery import Backbone, Source
    from unweave.restore.delivery.patches import smaller

    high = panned(6, 24, 32).frames
    source = Source(smaller(high, 2), high, 2, 25.0)
    small = Backbone(name="espcn", blocks=1, width=4, residual=True)
    given = {"cell": 4, "steps": 6, "lr": 1e-2, "backbone": small} | settings
    made = getattr(restore, name)(**given).overfit(source, rng=rng)
    weights = {f"{i}.{n}": t for i, net in enumerate(made.nets) for n, t in net.state_dict().items()}
    return {"labels": made.labels.float(), **weights}


def _delivery_rows() -> list[PlainRow]:
    from functools import partial

    short = {"chunk_seconds": 0.12}
    rows = {
        "STDO": ({}, {"split": "time"}, {"k": 0}, "k must be"),
        "DyDCA": ({}, {"share": 0.2}, {"levels": 1}, "levels must be"),
        "AwDNN": ({}, {"lr": 1e-9}, {"steps": 0}, "steps must be"),
        "NAS": (short, {"chunk_seconds": 9.0}, {"chunk_seconds": 0.0}, "chunk_seconds must be"),
        "CaFM": (short, {"chunk_seconds": 9.0}, {"cell": 0}, "cell must be"),
        "EMT": (short, {**short, "later": 1.0}, {"later": 0.0}, "later must be"),
        "SRVC": ({**short, "share": 0.05}, {**short, "share": 1.0}, {"share": 0.0}, "share must be"),
        "LiveNAS": (short, {**short, "lr": 1e-9}, {"share": 0.0}, "share must be"),
    }
    return [
        PlainRow(
            name=name,
            run=partial(_delivered, name, **given),
            off=partial(_delivered, name, **off),
            bad=((partial(getattr(_restore(), name), **bad), says),),
        )
        for name, (given, off, bad, says) in rows.items()
    ]


def _restore() -> Any:
    from unweave import restore

    return restore


RESTORERS: list[PlainRow] = [
    *_delivery_rows(),
    PlainRow(
        name="SESR",
        run=_sesr,
        off=lambda rng: _sesr(rng, skip=False),
        bad=(
            (
                lambda: _built(_plain("SESR")(scale=4), _pairs((1, 4, 4), (1, 8, 8)), Generator()),
                "has scale 4",
            ),
            (lambda: _plain("SESR")(width=3), "width must be 0 or at least"),
        ),
    ),
    PlainRow(
        name="ESSAformer",
        run=_larger,
        off=lambda rng: _larger(rng, kernel="none"),
        bad=(
            (lambda: _plain("ESSAformer")(dim=6), "dim must be a multiple of 4"),
            (lambda: _plain("ESSAformer")(scale=6), "scale must be 2, 3, 4 or 8"),
        ),
    ),
    PlainRow(
        name="FastFullSubNet",
        run=_quieter,
        off=lambda rng: _quieter(rng, every=1),
        bad=(
            (
                lambda: _built(_plain("FastFullSubNet")(), _pairs((200,), (200,)), Generator()),
                "at least 512 samples",
            ),
            (lambda: _plain("FastFullSubNet")(mels=4).initial(Generator()), "more mels than neighbours"),
        ),
    ),
    PlainRow(
        name="PCSR",
        run=_routed,
        off=lambda rng: _routed(rng, balance=0.0),
        bad=(
            (
                lambda: _built(_plain("PCSR")(channels=1), _pairs((1, 4, 4), (1, 8, 8)), Generator()),
                "has scale 4",
            ),
            (lambda: _plain("PCSR")(heavy=(0,)), "heavy must be"),
        ),
    ),
    PlainRow(
        name="MLSIM",
        run=_seen,
        off=lambda rng: _seen(rng, scaling="stack"),
        bad=(
            (lambda: _built(_plain("MLSIM")(), _pairs((6, 8, 8), (1, 8, 8)), Generator()), "9 frames; got 6"),
            (lambda: _built(_plain("MLSIM")(), _pairs((9, 8, 8), (1, 9, 9)), Generator()), "on the grid"),
        ),
    ),
    PlainRow(
        name="EDiffSR",
        run=_drawn,
        off=lambda rng: _drawn(rng, kind="constant"),
        bad=(
            (lambda: _plain("EDiffSR")(encoder=(1, 1)), "as many levels"),
            (
                lambda: _built(_plain("EDiffSR")(channels=1), _pairs((1, 8, 8), (1, 16, 16)), Generator()),
                "scale 4",
            ),
        ),
    ),
    PlainRow(
        name="SuperInpaint",
        run=_completed,
        off=lambda rng: _completed(rng, hole_weight=1.0),
        bad=(
            (
                lambda: _built(_plain("SuperInpaint")(channels=1), _pairs((2, 4, 4), (1, 8, 8)), Generator()),
                "zeros and ones",
            ),
            (
                lambda: _built(_plain("SuperInpaint")(), _pairs((2, 4, 4), (1, 8, 8)), Generator()),
                "reads 4 channels",
            ),
        ),
    ),
    PlainRow(
        name="CUE",
        run=_brightened,
        off=lambda rng: _brightened(rng, illumination=False),
        bad=(
            (lambda: _plain("CUE")(tokens=20), "multiple of 16"),
            (lambda: _built(_plain("CUE")(), _pairs((3, 8, 8), (3, 8, 8)), Generator()), "multiples of 16"),
        ),
    ),
]
