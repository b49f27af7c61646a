"""Rows of the methods that erase concepts: each edits a tiny pipeline of Stable Diffusion's classes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Generator, Tensor

from tests.contract.others import PlainRow


def edited(method: Any, rng: Generator, kind: Any = "sd", guide: str = "") -> dict[str, Tensor]:
    """All weights of the edited pipeline; checks that the input kept its own bits, flags and modes."""
    from tests.erase.pipelines import CONCEPTS, pipeline

    model = pipeline(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    out = method.apply(model, replace(CONCEPTS, guide=guide), rng=rng)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "changed its input"
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [p.requires_grad for p in out.parameters()] == flags
    assert not any(m.training for m in out.modules())
    assert {n: (v.shape, v.dtype) for n, v in out.state_dict().items()} == {
        n: (v.shape, v.dtype) for n, v in before.items()
    }
    moved = sum(float((out.state_dict()[n] - v).abs().sum()) for n, v in before.items())
    assert moved > 1e-4, "moved by no more than rounding"
    return dict(out.state_dict())


def unseen(method: Any) -> Any:
    """A call on a concept that the tokenizer cannot see."""

    def call() -> Any:
        from tests.erase.pipelines import pipeline
        from unweave import seeded
        from unweave.erase import Concepts

        asked = Concepts(erase=("zeppelin",), templates=("a {}",))
        return method.apply(pipeline("pixart"), asked, rng=seeded(0))

    return (call, "cannot see 'zeppelin'")


def _attacked(rng: Generator) -> dict[str, Tensor]:
    import torch

    from tests.erase.pipelines import pipeline
    from tests.erase.test_unlearn_diff_atk import SMALL, Says, targets

    found = SMALL.attack(pipeline(), targets(), Says(), rng=rng)
    return {"ids": torch.tensor([a.ids for a in found.attempts])}


def _rows() -> list[PlainRow]:
    from unweave import erase

    def row(name: str, method: Any, *bad: Any, random: bool = True, guide: str = "") -> PlainRow:
        run = partial(edited, method, guide=guide)
        return PlainRow(name=name, run=run, random=random, bad=(unseen(method), *bad))

    return [
        # one row a method, in the order of the alphabet
        row(
            "AdvUnlearn",
            erase.AdvUnlearn(
                steps=2, warmup=0, attack_steps=2, lr=1e-3, retain_batch=2, sampler_steps=2, pool=1
            ),
            (lambda: erase.AdvUnlearn(eta=-1), "eta must be above 0"),
        ),
        row(
            "ConceptAblation",
            erase.ConceptAblation(steps=2, lr=1e-3, images=4, sampler_steps=2),
            (lambda: erase.ConceptAblation(steps=0), "steps must be a whole number at least 1"),
        ),
        row(
            "ConceptPrune",
            erase.ConceptPrune(density=0.1, steps=4, record=2),
            (lambda: erase.ConceptPrune(density=0), "density must be above 0 and at most 1"),
        ),
        row(
            "ConceptSalUn",
            erase.ConceptSalUn(steps=2, lr=1e-3, images=4, sampler_steps=2),
            (lambda: erase.ConceptSalUn(density=0), "density must be above 0 and at most 1"),
        ),
        row(
            "DoCo",
            erase.DoCo(steps=3, warmup=1, lr=1e-3, images=4, sampler_steps=2),
            (lambda: erase.DoCo(warmup=2000), "warmup must be below its steps"),
        ),
        row(
            "ESD",
            erase.ESD(steps=2, lr=1e-3, sampler_steps=4),
            (lambda: erase.ESD(eta=0), "eta must be above 0"),
        ),
        row(
            "FIA",
            erase.FIA(r2=0.2, steps=4, record=2),
            (lambda: erase.FIA(alpha=0), "alpha must be above 0 and at most 1"),
        ),
        row(
            "SculptingMemory",
            erase.SculptingMemory(steps=5, warmup=1, update_every=2, lr=1e-3, images=4, sampler_steps=2),
            (lambda: erase.SculptingMemory(kd=-1), "kd must be at least 0"),
            guide="bird",
        ),
        row(
            "SFD",
            erase.SFD(distil=1, steps=1, batch_size=2, lr=1e-4, fake_lr=1e-4),
            (lambda: erase.SFD(alpha=0), "alpha must be above 0"),
        ),
        row("UCE", erase.UCE(), (lambda: erase.UCE(strength=-1), "strength must be above 0"), random=False),
        PlainRow(
            name="UnlearnDiffAtk",
            run=_attacked,
            bad=((lambda: erase.UnlearnDiffAtk(levels=0), "levels must be a whole number at least 1"),),
        ),
    ]


ERASERS = _rows()
