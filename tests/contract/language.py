"""Rows of the methods that make language models forget texts: each edits a tiny Llama."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Generator, Tensor

from tests.contract.others import PlainRow


def edited(method: Any, rng: Generator) -> dict[str, Tensor]:
    """All weights of the edited model, which works in half precision; checks that the input kept bits, flags and modes.

    One bias-free layer is frozen and half of another's weights are pruned: both stay as they are.
    """
    import torch

    from tests.language.world import llama, request

    model = llama(0, torch.bfloat16)
    frozen, pruned = model.model.embed_tokens.weight.requires_grad_(False), model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        pruned.weight[:, ::2] = 0
    model.model.layers[1].train()  # a mixture of modes must come back as it went in
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, modes = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    out = method.apply(model, request(batch_size=3), rng=rng)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "changed its input"
    assert all(p.grad is None for p in model.parameters())
    assert (
        [p.requires_grad for p in out.parameters()] == [p.requires_grad for p in model.parameters()] == flags
    )
    assert [m.training for m in out.modules()] == [m.training for m in model.modules()] == modes
    after = out.state_dict()
    assert {n: (v.shape, v.dtype) for n, v in after.items()} == {
        n: (v.shape, v.dtype) for n, v in before.items()
    }
    assert not {p.data_ptr() for p in out.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert after["model.embed_tokens.weight"].equal(frozen)
    assert not after["model.layers.0.mlp.up_proj.weight"][:, ::2].any(), "pruned weights came back"
    moved = sum(float((after[n] - v).float().abs().sum()) for n, v in before.items())
    assert moved > 1e-2, "moved by no more than rounding"
    return dict(after)


def behind_a_guard(method: Any, rng: Generator) -> dict[str, Tensor]:
    """What a guarded model knows beside its own weights, which stay; checks that the input kept bits."""
    from tests.language.test_o3 import apart
    from tests.language.world import llama

    model, data = llama(0, torch_float()), apart()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = method.apply(model, data, rng=rng)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "changed its input"
    return {n: v for n, v in made.state_dict().items() if ".base." not in n}


def torch_float() -> Any:
    import torch

    return torch.float32


def empty(method: Any) -> Any:
    """A call with nothing to forget."""

    def call() -> Any:
        from tests.language.world import llama, request
        from unweave import seeded

        data = request()
        return method.apply(llama(), replace(data, forget=data.forget.subset([])), rng=seeded(0))

    return (call, "needs at least one example")


def _read(rng: Generator, **settings: Any) -> dict[str, Tensor]:
    """What an S4D layer makes of a fixed signal."""
    import torch

    from unweave import seeded
    from unweave.language import S4D
    from unweave.random import draw_seed, global_seed

    u = torch.randn(2, 4, 30, generator=seeded(0))
    with global_seed(draw_seed(rng)), torch.no_grad():
        return {"y": S4D(4, states=8, **settings)(u)}


def _asked(rng: Generator, **settings: Any) -> dict[str, Tensor]:
    """What a bigram model, whose labels hang on the last token alone, is unsure of."""
    import torch

    from tests.language.test_uq_icl import POOL, Told
    from unweave.language import UQICL

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.arange(576.0).view(24, 24).sin() * 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            from types import SimpleNamespace

            mean = (self.table[input_ids].cumsum(1) / torch.arange(1, input_ids.shape[1] + 1)[:, None]) * 2
            return SimpleNamespace(logits=self.table[input_ids] + mean)

    told = UQICL(sets=3, shots=4, **settings).decompose(Model(), POOL, [0, 5], Told(), rng=rng)
    return {"total": told.total, "between": told.between_demo, "probabilities": told.probabilities}


def _classified(rng: Generator, **settings: Any) -> dict[str, Tensor]:
    """Probabilities that a classifier gives to comments that it was trained on."""
    import torch

    from tests.language.test_problem_statements import comments
    from unweave.language import ReviewClassifier
    from unweave.random import draw_seed

    texts, y, reviewers = comments(60)
    made = ReviewClassifier("svm", seed=draw_seed(rng) % 1000, **settings).fit(texts, y, reviewers)
    return {"p": torch.from_numpy(made.predict_proba(texts))}


def _rows() -> list[PlainRow]:
    from unweave import language

    few: dict[str, Any] = {"epochs": 2, "lr": 0.01}

    def row(name: str, method: Any, field: str, told: str, value: Any = -1) -> PlainRow:
        bad = (lambda: replace(method, **{field: value}), told)
        return PlainRow(name=name, run=partial(edited, method), bad=(empty(method), bad))

    return [
        # one row a method, in the order of the alphabet
        row("AltPO", language.AltPO(**few), "temperature", "temperature must be above 0"),
        row("CEU", language.CEU(**few), "alpha", "alpha must be at least 0"),
        row("DPO", language.DPO(**few), "beta", "beta must be above 0"),
        row("GradDiff", language.GradDiff(**few), "gamma", "gamma must be above 0"),
        row("IDK", language.IDK(**few), "accumulate", "accumulate must be a whole number"),
        row("NPO", language.NPO(**few), "beta", "beta must be above 0"),
        PlainRow(
            name="O3",
            run=partial(behind_a_guard, language.O3(rank=2, **few)),
            bad=(
                empty(language.O3()),
                (lambda: language.O3(nu=0.0), "nu must be above 0"),
            ),
        ),
        row("PDU", language.PDU(**few), "flatten", "flatten must be", "all"),
        row("RMU", language.RMU(**few, layer=1), "coefficient", "coefficient must be above 0"),
        PlainRow(
            name="ReviewClassifier",
            run=_classified,
            bad=((lambda: language.ReviewClassifier("svm", lr=0.1), "lr=0.1 would do nothing"),),
        ),
        PlainRow(
            name="S4D",
            run=_read,
            off=partial(_read, init="real"),
            bad=((lambda: language.S4D(4, states=3), "states must be even"),),
        ),
        row("SatImp", language.SatImp(**few), "beta1", "beta1 must be at least 0"),
        row("SimNPO", language.SimNPO(**few), "gamma", "gamma must be above 0"),
        row("TaskVector", language.TaskVector(**few), "scale", "scale must be above 0"),
        row("UNDIAL", language.UNDIAL(**few), "beta", "beta must be above 0"),
        PlainRow(
            name="UQICL",
            run=_asked,
            off=partial(_asked, normalise_columns=False),
            bad=((lambda: language.UQICL(tokens=3), "tokens=3 would do nothing"),),
        ),
        row("WGA", language.WGA(**few), "beta", "beta must be at least 0"),
        row("WHP", language.WHP(**few, reinforce_lr=0.01), "strength", "strength must be above 0"),
    ]


LANGUAGE = _rows()
