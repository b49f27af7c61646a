"""One row an optimiser: how to make it. Checks are in test_optimizers.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """An optimiser's row.

    name: class name; the id of its tests.
    make: (parameters, lr=...) -> the optimiser, with SGD as its base where it wraps one.
    calls: closure calls of each of the first six steps that run backward.
    probes: closure calls of each step under `no_grad`.
    plain: its base with its own term switched off ("rho=0 is SGD"), to compare bit for bit with SGD(lr=..., momentum=0.9).
    plain_exact: whether to the bit, or to rounding (a mean of two equal gradients).
    zeros: whether a mask held by `fit_` makes sense for it ("kept"), or rotates coordinates ("warned").
    closure: whether it can do without a closure ("optional") or must have one ("needed").
    dtypes: floating types it works in.
    clean: how near the loss it returns is to that of the weights before the step; None where it is another one.
    bad: constructors, given the parameters, that must raise, each with a pattern of the message.
    """

    name: str
    make: Callable[..., Optimizer]
    calls: tuple[int, ...] = (1,) * 6
    probes: int = 0
    plain: Callable[..., Optimizer] | None = None
    plain_exact: bool = True
    zeros: Literal["kept", "warned"] = "kept"
    closure: Literal["optional", "needed"] = "needed"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    clean: float | None = 1e-6
    bad: tuple[tuple[Callable[[Iterable[Tensor]], Any], str], ...] = field(default=())


def _fair(params: Any, **settings: Any) -> Optimizer:
    """FairSAM whose objective is not asked: no weights."""
    from unweave.optim import FairSAM, GroupWeights

    return FairSAM(params, GroupWeights(lambda b: b, lambda m, b: b, torch.tensor([1, 1])), **settings)


def _modal(params: Any, **settings: Any) -> Optimizer:
    """M-SAM whose objective is not asked: every modality has the same share."""
    from unweave.optim import MSAM, Modalities

    return MSAM(params, Modalities(("a", "b"), lambda b: ({}, b), lambda m, i: i), **settings)


def _rows() -> list[OptimizerRow]:
    from functools import partial

    from unweave import optim

    momentum = {"momentum": 0.9}
    return [
        # one row an optimiser, in the order of the alphabet
        OptimizerRow(
            name="ASAM",
            make=partial(optim.ASAM, rho=0.5),
            calls=(2,) * 6,
            plain=partial(optim.ASAM, rho=0.0, **momentum),
            bad=(
                (lambda p: optim.ASAM(p, lr=0.1, eta=-1.0), "eta"),
                (lambda p: optim.ASAM(p, lr=0.1, rho=-1.0), "rho"),
            ),
        ),
        OptimizerRow(
            name="CrAM",
            make=partial(optim.CrAM, rho=0.05),
            calls=(2,) * 6,
            bad=((lambda p: optim.CrAM(p, lr=0.1, sparsities=(1.0,)), "sparsities"),),
        ),
        OptimizerRow(
            name="ESAM",
            make=partial(optim.ESAM, rho=0.05),
            calls=(2,) * 6,
            plain=partial(optim.ESAM, rho=0.0, **momentum),
            bad=((lambda p: optim.ESAM(p, lr=0.1, beta=0.0), "beta"),),
        ),
        OptimizerRow(
            name="FairSAM",
            make=_fair,
            calls=(2,) * 6,
            plain=partial(_fair, rho=0.0, **momentum),
            bad=((lambda p: _fair(p, lr=0.1, rho=-1.0), "rho"),),
        ),
        OptimizerRow(
            name="GSAM",
            make=partial(optim.GSAM, rho=0.05),
            calls=(2,) * 6,
            plain=partial(optim.GSAM, rho=0.0, alpha=0.0, **momentum),
            bad=((lambda p: optim.GSAM(p, lr=0.1, rho_min=1.0), "rho_min"),),
        ),
        OptimizerRow(
            name="LookSAM",
            make=partial(optim.LookSAM, rho=0.05, k=3),
            calls=(2, 1, 1, 2, 1, 1),
            plain=partial(optim.LookSAM, rho=0.0, alpha=0.0, **momentum),
            bad=((lambda p: optim.LookSAM(p, lr=0.1, k=0), "k must"),),
        ),
        OptimizerRow(
            name="MSAM",
            make=_modal,
            calls=(2,) * 6,
            plain=partial(_modal, rho=0.0, momentum=0.9),
            plain_exact=False,
            bad=(
                (lambda p: _modal(p, lr=0.1, rho=-1.0), "rho"),
                (lambda p: _modal(p, lr=0.1, decomposition="odd"), "decomposition"),
                (lambda p: _modal(p, lr=0.1, decomposition="encoder"), "no parameter group"),
            ),
        ),
        OptimizerRow(
            name="PerpGrad",
            make=partial(optim.PerpGrad, base=SGD),
            closure="optional",
            bad=((lambda p: optim.PerpGrad(p, lr=0.1, cap=0.5), "cap"),),
        ),
        OptimizerRow(
            name="S2SAM",
            make=partial(optim.S2SAM, rho=0.05),
            plain=partial(optim.S2SAM, rho=0.0, **momentum),
            bad=((lambda p: optim.S2SAM(p, lr=0.1, rho=-0.1), "rho"),),
        ),
        OptimizerRow(
            name="SAM",
            make=partial(optim.SAM, rho=0.05),
            calls=(2,) * 6,
            plain=partial(optim.SAM, rho=0.0, **momentum),
            bad=(
                (lambda p: optim.SAM(p, lr=0.1, rho=-0.1), "rho must be at least 0"),
                (lambda p: optim.SAM(p, lr=0.1, rho=float("inf")), "finite"),
            ),
        ),
        OptimizerRow(
            name="SOAP",
            make=optim.SOAP,
            closure="optional",
            bad=(
                (lambda p: optim.SOAP(p, lr=0.0), "lr must be above 0"),
                (lambda p: optim.SOAP(p, precondition_frequency=0), "precondition_frequency"),
            ),
        ),
        OptimizerRow(
            name="ZOSAM",
            make=partial(optim.ZOSAM, rho=0.05),
            probes=2,
            plain=partial(optim.ZOSAM, rho=0.0, **momentum),
            clean=1e-3,
            bad=(
                (lambda p: optim.ZOSAM(p, lr=0.1, m=0), "m must"),
                (lambda p: optim.ZOSAM(p, lr=0.1, delta=0.0), "delta"),
                (lambda p: optim.ZOSAM(p, lr=0.1, directions="north"), "directions"),
                (
                    lambda p: optim.ZOSAM(
                        [t.detach().fill_(0.0).requires_grad_() for t in p if t.ndim > 1], lr=0.1
                    ).step(lambda: 1 / 0),
                    "no weight lives",
                ),
            ),
        ),
    ]


OPTIMIZERS = _rows()
