"""What every method promises, checked on every method: the table says what differs, nothing here asks for a name."""

from __future__ import annotations

import dataclasses
import json
import re
from time import process_time
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import Module

from tests.contract import world
from tests.contract.edits import EDITS, EditRow
from unweave import Mask, seeded
from unweave.catalogue import Method, methods
from unweave.errors import EmptyDataError, InputError
from unweave.unlearn.suits import KINDS, why_unsuited

EVERY = pytest.mark.parametrize("row", EDITS, ids=lambda row: row.name)


def what(row: EditRow) -> Any:
    return world.request() if row.on == "request" else world.points()[0]


def start(row: EditRow, **kinds: Any) -> Module:
    return world.model(**{"sparse": not row.dense, **kinds})


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


@torch.no_grad()
def change(a: Module, b: Module) -> float:
    """Relative change of the weights."""
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    moved = sum(float((p - q).double().square().sum()) for p, q in pairs)
    return (moved / sum(float(p.double().square().sum()) for p, _ in pairs)) ** 0.5


@EVERY
def test_is_pure_and_deterministic(row: EditRow) -> None:
    model, data = start(row), what(row)
    model.eval()
    model[1].train()  # a mixture of modes must come back as it went in
    for_reading = data.retain if row.on == "request" else data
    order = [b[1].tolist() for b in for_reading.batches()]
    before, modes = world.state(model), [m.training for m in model.modules()]
    global_before = torch.get_rng_state()
    began = process_time()
    first = row.make().apply(model, data, rng=seeded(3))
    assert process_time() - began < 5, "more than five seconds of one core on a two-layer model"
    assert torch.equal(global_before, torch.get_rng_state()), "drew from torch's global generator"
    second = row.make().apply(model, data, rng=seeded(3))
    assert_same(before, world.state(model))
    assert_same(world.state(first), world.state(second))
    assert modes == [m.training for m in model.modules()]
    assert [m.training for m in first.modules()] == modes
    assert all(p.requires_grad for p in first.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert [b[1].tolist() for b in for_reading.batches()] == order
    assert first is not model
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in model.parameters()}


@EVERY
def test_acts_by_more_than_noise(row: EditRow) -> None:
    model, data = start(row), what(row)
    control = model if row.off is None else row.off().apply(model, data, rng=seeded(3))
    assert change(control, row.make().apply(model, data, rng=seeded(3))) > row.least


@EVERY
def test_keeps_zeros(row: EditRow) -> None:
    model, data = world.model(sparse=True), what(row)
    if row.zeros == "refused":
        with pytest.raises(InputError):
            row.make().apply(model, data, rng=seeded(3))
        return
    mask = Mask.of(model)
    edited = row.make().apply(model, data, rng=seeded(3))
    for name, weight, alive in mask.match(edited):
        if row.zeros == "kept":
            assert torch.equal(weight[~alive], torch.zeros_like(weight[~alive])), name
            assert not torch.signbit(weight[~alive]).any(), f"{name} has negative zeros"
        else:
            assert int((weight != 0).sum()) == int(alive.sum()), name


@EVERY
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_works_in_each_type(row: EditRow, dtype: str, batch_norm: bool) -> None:
    if dtype not in row.dtypes:
        pytest.skip(f"{row.name} does not support {dtype}")
    model = start(row, batch_norm=batch_norm, dtype=getattr(torch, dtype))
    make = row.make_normed if batch_norm and row.make_normed is not None else row.make
    edited = make().apply(model, what(row), rng=seeded(3))
    assert [p.dtype for p in edited.parameters()] == [p.dtype for p in model.parameters()]
    assert [p.device for p in edited.parameters()] == [p.device for p in model.parameters()]
    assert all(bool(t.isfinite().all()) for t in edited.state_dict().values())


@EVERY
def test_leaves_frozen_parameters(row: EditRow) -> None:
    model = start(row)
    frozen = model[-1].bias
    frozen.requires_grad_(False)
    if row.frozen == "refused":
        with pytest.raises(InputError, match="frozen"):
            row.make().apply(model, what(row), rng=seeded(3))
        return
    edited = row.make().apply(model, what(row), rng=seeded(3))
    assert torch.equal(edited[-1].bias, frozen)
    assert not edited[-1].bias.requires_grad


@EVERY
def test_saves_and_describes_itself(row: EditRow) -> None:
    model, method = start(row), row.make()
    edited = method.apply(model, what(row), rng=seeded(3))
    copy = start(row)
    copy.load_state_dict(load(save({k: v.contiguous() for k, v in edited.state_dict().items()})))
    inputs = torch.randn(4, 8)
    copy.eval(), edited.eval()
    assert torch.equal(copy(inputs), edited(inputs))
    assert dataclasses.is_dataclass(method)
    assert repr(method).startswith(type(method).__name__)
    assert json.dumps({f.name: repr(getattr(method, f.name)) for f in dataclasses.fields(method)})
    assert type(method).paper.title
    documented = type(method).__doc__ or ""
    assert all(f"{f.name}:" in documented for f in dataclasses.fields(method)), "a field has no line of prose"


@EVERY
def test_refuses_bad_input(row: EditRow) -> None:
    data = what(row)
    if row.on == "request":
        empty = dataclasses.replace(data, forget=data.forget.subset([]))
    else:
        empty = data.subset([])
    model = start(row)
    before = world.state(model)
    with pytest.raises(EmptyDataError):
        row.make().apply(model, empty, rng=seeded(3))
    assert_same(before, world.state(model))
    for construct, pattern in row.bad:
        with pytest.raises(InputError, match=pattern):
            construct()


UNLEARNERS = [m for m in methods() if m.family == "unlearn" and m.role == "Edit"]


@pytest.mark.parametrize("method", UNLEARNERS, ids=lambda m: m.name)
def test_says_which_requests_it_does_not_suit(method: Method) -> None:
    unsuited = vars(method.cls).get("unsuited")
    assert unsuited is not None, (
        f"{method.cls.__name__} does not say which requests it does not suit: add `unsuited: ClassVar[Unsuited] = ...` "
        f"with kinds of {', '.join(KINDS)} and what was measured on them, or {{}}"
    )
    assert set(unsuited) <= set(KINDS)
    for why in filter(None, unsuited.values()):
        assert re.fullmatch(r"[a-z].* .*[^.]", why), (
            f"{why!r} does not end a sentence that begins with a name"
        )
    assert method.suits == tuple(kind for kind in KINDS if not why_unsuited(method.cls, kind))
