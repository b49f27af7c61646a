"""Every method over every model of the zoo that its role takes: a right result, or a refusal that names why.

Never a traceback, never a part passed over in silence. The methods' settings are those of their contract rows.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from tests.contract.edits import EDITS, EditRow
from tests.contract.scores import SCORES, ScoreRow
from unweave import Mask, Supervised, prune, seeded
from unweave.catalogue import find, needs_of
from unweave.errors import UnweaveError
from unweave.masks import Scope
from unweave.random import global_seed

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented:UserWarning"
)

OWN = ("recipe", "checkpoint")
MODULES = [m for m in zoo.ZOO if m.kind != "pipeline"]
CLASSIFIERS = [m for m in MODULES if m.kind.startswith("classifier")]
"""What the unlearners' role takes so far; of other kinds one each shows that they are refused."""
OTHERS = [
    next(m for m in MODULES if m.kind == k) for k in ("causal LM", "segmenter", "seq2seq", "contrastive")
]
SECOND_ORDER = ("Newton", "Influence", "FisherForgetting")
"""Their time grows with the weights times the examples: the smallest models are enough."""
UNLEARNERS = [
    r for r in EDITS if r.on == "request" and not set(needs_of(find(r.name).cls)) & set(OWN) and r.dense
]
PRUNERS = [r for r in EDITS if r.on == "data" and not set(needs_of(find(r.name).cls)) & set(OWN)]
SPARSE = {
    "RigL": prune.RigL(every=1),
    "SET": prune.SET(every=1),
    "DSR": prune.DSR(every=1),
    "ITOP": prune.ITOP(every=1),
}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def refused(error: UnweaveError) -> None:
    """A refusal is one or two sentences that say what was asked of what."""
    text = str(error)
    assert 20 < len(text) < 900, text
    assert "\n" not in text, text


def assert_whole(before: dict[str, torch.Tensor], model: nn.Module, edited: nn.Module) -> None:
    """The input kept its bits; the result has its names, shapes and dtypes, and is finite."""
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "changed its input"
    after = edited.state_dict()
    assert {n: (v.shape, v.dtype) for n, v in after.items()} == {
        n: (v.shape, v.dtype) for n, v in before.items()
    }
    assert all(bool(v.isfinite().all()) for v in after.values() if v.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("row", UNLEARNERS, ids=lambda row: row.name)
@pytest.mark.parametrize("member", [*CLASSIFIERS, *OTHERS], ids=str)
def test_unlearners(row: EditRow, member: zoo.Member) -> None:
    model, data = member.model(), member.request()
    if row.name in SECOND_ORDER and sum(p.numel() for p in model.parameters()) > 3000:
        pytest.skip("minutes, not seconds")
    before = state(model)
    try:
        edited = row.make().apply(model, data, rng=seeded(0))
    except UnweaveError as error:
        refused(error)
        return
    assert_whole(before, model, edited)
    after = edited.state_dict()
    assert any(not torch.equal(after[k], before[k]) for k in before), "did nothing, and did not say so"


@pytest.mark.slow
@pytest.mark.parametrize("row", PRUNERS, ids=lambda row: row.name)
@pytest.mark.parametrize("member", MODULES, ids=str)
def test_pruners(row: EditRow, member: zoo.Member) -> None:
    model, data = member.model(), member.data()
    before = state(model)
    try:
        edited = row.make().apply(model, data, rng=seeded(0))
    except UnweaveError as error:
        refused(error)
        return
    assert_whole(before, model, edited)
    assert_pruned(model, edited, row.zeroed)


def assert_pruned(model: nn.Module, edited: nn.Module, share: float = 0.45) -> None:
    """Of all matrix weights at least this share is zero, and what an embedding holds is as dense as before."""
    tables = {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    for name in tables:
        held, now = model.get_submodule(name).weight, edited.get_submodule(name).weight
        assert int((now == 0).sum()) <= int((held == 0).sum()), f"pruned the embedding {name}"
    shared = {id(model.get_submodule(n).weight) for n in tables}
    matrices = [
        n for n, p in model.named_parameters() if p.ndim > 1 and p.shape[0] > 1 and id(p) not in shared
    ]
    zeros = sum(int((edited.get_parameter(n) == 0).sum()) for n in matrices)
    total = sum(model.get_parameter(n).numel() for n in matrices)
    assert zeros >= share * total, f"{100 * zeros / total:.0f} % of the matrix weights are zero"


@pytest.mark.parametrize("row", SCORES, ids=lambda row: row.name)
@pytest.mark.parametrize("member", MODULES, ids=str)
def test_scores(row: ScoreRow, member: zoo.Member) -> None:
    model, data = member.model(), member.data()
    before = state(model)
    try:
        with global_seed(0):
            scores = row.make().score(model, data)
    except UnweaveError as error:
        refused(error)
        return
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {n: s.shape for n, s in scores.items()} == {n: w.shape for n, w in Scope().weights(model).items()}
    assert all(bool(s.isfinite().all()) for s in scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPARSE))
@pytest.mark.parametrize("member", MODULES, ids=str)
def test_sparse_trainings(name: str, member: zoo.Member) -> None:
    def network() -> Any:
        return member.model()

    data = member.data()
    try:
        model = Supervised(network=network, epochs=1, lr=1e-3, sparse=SPARSE[name]).build(data, rng=seeded(0))
    except UnweaveError as error:
        refused(error)
        return
    assert Mask.of(model).density() < 0.5
    assert_pruned(member.model(), model)


def test_the_zoo_has_a_model_that_each_test_takes() -> None:
    """A control: where everything were refused, nothing above would be tested."""
    member = next(m for m in MODULES if m.name == "mlp")
    model = member.model()
    edited = prune.Prune(budget=prune.Global(0.5)).apply(model, member.data(), rng=seeded(0))
    assert_whole(state(model), model, edited)
    assert_pruned(model, edited)
    with pytest.raises(AssertionError, match="0 % of the matrix weights"):
        assert_pruned(model, deepcopy(model))
