"""What every optimiser around another promises: one set of groups, whole copies, exact ways back, words for wrong use."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module, Sequential
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from tests.optim.problem import assert_near, closure_of, gradient_at, loss_at, parameters, size
from unweave import optim, seeded
from unweave.errors import InputError
from unweave.optim import (
    ASAM,
    ESAM,
    GSAM,
    MSAM,
    S2SAM,
    SAM,
    SOAP,
    ZOSAM,
    CrAM,
    FairSAM,
    GroupWeights,
    LookSAM,
    Modalities,
    PerpGrad,
)
from unweave.optim.two_pass import climb_
from unweave.optim.wrapper import Wrapper

X, Y = torch.randn(20, 6, generator=seeded(0)), torch.arange(20) % 3
WRAPPERS = [ASAM, CrAM, ESAM, FairSAM, GSAM, LookSAM, MSAM, PerpGrad, S2SAM, SAM, ZOSAM]
HALVED = [ASAM, CrAM, ESAM, FairSAM, GSAM, SAM]


def groups_of(batch: Any) -> Tensor:
    return Y % 2


def losses(model: Module, batch: Any) -> Tensor:
    return torch.nn.functional.cross_entropy(model(X), Y, reduction="none")


def halves_of_x(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    return {"a": X[:, :3], "b": X[:, 3:]}, Y


def joined(model: Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(torch.cat([inputs["a"], inputs["b"]], 1))


def make(cls: type[Optimizer], params: Any, **settings: Any) -> Optimizer:
    more: dict[str, Any] = {}
    if cls is FairSAM:
        more = {"weights": GroupWeights(groups_of, losses, torch.tensor([10, 10]), eta=0.5)}
    if cls is MSAM:
        more = {"modalities": Modalities(("a", "b"), halves_of_x, joined)}
    more |= {LookSAM: {"k": 3}, ZOSAM: {"directions": "guided"}, PerpGrad: {"base": SGD}}.get(cls, {})
    return cls(params, **{"lr": 0.05, **more, **settings})


def network() -> Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sequential(Linear(6, 8), torch.nn.Tanh(), Linear(8, 3))


def closure_for(model: Module, optimizer: Optimizer) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        if torch.is_grad_enabled():
            optimizer.zero_grad()
        if isinstance(optimizer, FairSAM):
            loss = optimizer.weights.objective(model, None)
        elif isinstance(optimizer, MSAM):
            loss = optimizer.modalities.objective(model, None)
        else:
            loss = losses(model, None).mean()
        if loss.requires_grad:
            loss.backward()
        return loss

    return closure


def pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


def assert_same(one: Module, two: Module) -> None:
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("base", [{}, {"momentum": 0.9}, {"base": AdamW}], ids=["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("copy", [deepcopy, pickled])
@pytest.mark.parametrize("cls", WRAPPERS, ids=lambda c: c.__name__)
def test_a_copy_goes_on_to_the_same_bits(cls: type, copy: Callable[..., Any], base: dict[str, Any]) -> None:
    model = network()
    optimizer = make(cls, model.parameters(), **base)
    for _ in range(2):
        optimizer.step(closure_for(model, optimizer))
    other, its = copy((model, optimizer))
    assert type(its) is cls
    assert its.param_groups is its.base.param_groups
    assert all(p is q for p, q in zip(its.param_groups[0]["params"], other.parameters(), strict=True))
    assert (its.forwards, its.backwards) == (optimizer.forwards, optimizer.backwards)
    for _ in range(3):
        optimizer.step(closure_for(model, optimizer))
        its.step(closure_for(other, its))
    assert_same(model, other)
    assert its.backwards == optimizer.backwards


@pytest.mark.parametrize("copy", [deepcopy, pickled])
def test_a_copy_of_soap_goes_on_to_the_same_bits(copy: Callable[..., Any]) -> None:
    pytest.importorskip("pytorch_optimizer", reason="the optim extra is not installed")
    model = network()
    optimizer = SOAP(model.parameters(), lr=0.05, precondition_frequency=2)
    for _ in range(3):
        optimizer.step(closure_for(model, optimizer))
    other, its = copy((model, optimizer))
    for _ in range(3):
        optimizer.step(closure_for(model, optimizer))
        its.step(closure_for(other, its))
    assert_same(model, other)


@pytest.mark.parametrize("copy", [deepcopy, pickled])
@pytest.mark.parametrize("cls", HALVED, ids=lambda c: c.__name__)
def test_a_copy_between_the_halves_finds_its_way_back(cls: type, copy: Callable[..., Any]) -> None:
    model = network()
    optimizer = make(cls, model.parameters())
    closure_for(model, optimizer)()
    optimizer.first_step()
    other, its = copy((model, optimizer))
    for net, opt in ((model, optimizer), (other, its)):
        closure_for(net, opt)()
        opt.second_step()
    assert_same(model, other)
    assert float((model[0].weight - network()[0].weight).detach().norm()) > 1e-4


def test_a_copy_at_rest_carries_no_second_set_of_weights_and_no_schedule() -> None:
    model = network()
    optimizer = SAM(model.parameters(), lr=0.05)
    schedule = StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step(closure_for(model, optimizer))
    schedule.step()
    other, its = deepcopy((model, optimizer))
    assert its._kept == its._values == []
    assert its.param_groups[0]["lr"] == 0.025
    assert "step" in vars(optimizer), "the schedule no longer patches `step`: this test tests nothing"
    assert "step" not in vars(its)
    before = deepcopy(model)
    its.step(closure_for(other, its))
    assert_same(model, before)


@pytest.mark.parametrize("cls", HALVED, ids=lambda c: c.__name__)
def test_halves_are_the_step(cls: type) -> None:
    one, two = network(), network()
    whole, halves = make(cls, one.parameters(), rho=0.3), make(cls, two.parameters(), rho=0.3)
    for t in range(3):
        whole.step(closure_for(one, whole))
        closure_for(two, halves)()
        halves.first_step()
        closure_for(two, halves)()
        halves.second_step()
        assert_same(one, two)
        assert whole.backwards == halves.backwards == 2 * (t + 1)


def test_every_method_is_a_final_class_that_overrides_nothing() -> None:
    found = [c for c in vars(optim).values() if isinstance(c, type) and issubclass(c, Optimizer)]
    assert {*WRAPPERS, SOAP} == set(found)
    for cls in found:
        assert cls.__final__
        assert cls.__bases__ == ((Optimizer,) if cls is SOAP else (Wrapper,))
        own = {"__init__", "__module__", "__doc__", "__annotations__", "entries"}
        assert cls is SOAP or not (set(vars(cls)) & set(vars(Wrapper))) - own


@pytest.mark.parametrize("cls", [c for c in WRAPPERS if c is not ZOSAM], ids=lambda c: c.__name__)
@pytest.mark.parametrize("named", [False, True])
def test_sparse_gradients_are_refused_by_name(cls: type, named: bool) -> None:
    model = Sequential(Embedding(6, 4, sparse=True), torch.nn.Flatten(), Linear(8, 3))
    if named and "param_names" not in SGD(model.named_parameters(), 0.1).param_groups[0]:
        pytest.skip("this torch forgets names")
    before = deepcopy(model)
    optimizer = make(cls, model.named_parameters() if named else model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.arange(4).view(2, 2)), torch.arange(2))
        loss.backward()
        return loss

    whom = "0.weight" if named else r"a parameter of shape \(6, 4\)"
    with pytest.raises(InputError, match=f"{cls.__name__} got a sparse gradient for {whom}.*sparse=False"):
        optimizer.step(closure)
    assert_same(model, before)


def test_zosam_reads_no_gradient_and_takes_sparse_ones() -> None:
    weight = torch.randn(6, 4, generator=seeded(0)).requires_grad_()
    optimizer = ZOSAM([weight], lr=0.1)
    before = weight.detach().clone()

    def closure() -> Tensor:
        if torch.is_grad_enabled():
            optimizer.zero_grad()
        loss = torch.nn.functional.embedding(torch.arange(2), weight, sparse=True).square().sum()
        if loss.requires_grad:
            loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(weight[2:], before[2:])
    assert (weight[:2] != before[:2]).all()


@pytest.mark.parametrize("cls", [c for c in WRAPPERS if c is not PerpGrad], ids=lambda c: c.__name__)
@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.1"])
def test_a_groups_own_radius_is_checked_too(cls: type, rho: Any) -> None:
    model = network()
    with pytest.raises(InputError, match=rf"{cls.__name__}\.rho must be at least 0; got .*radius"):
        make(cls, model.parameters(), rho=rho)
    with pytest.raises(InputError, match=rf"{cls.__name__}\.rho must be at least 0"):
        make(cls, [{"params": model.parameters(), "rho": rho}])
    optimizer = make(cls, model[0].parameters())
    with pytest.raises(InputError, match=rf"{cls.__name__}\.rho must be at least 0"):
        optimizer.add_param_group({"params": model[2].parameters(), "rho": rho})


def test_a_base_with_a_rho_of_another_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="SAM keeps its radius .* where Adadelta keeps something else"):
        SAM(parameters(), torch.optim.Adadelta, lr=0.1)
    PerpGrad(parameters(), torch.optim.Adadelta, lr=0.1)  # has no radius


@pytest.mark.parametrize(("cls", "lacking"), [(SAM, "own, passes"), (CrAM, "own, passes, drawn")])
def test_the_state_of_another_optimiser_is_refused(cls: type, lacking: str) -> None:
    weights = parameters()
    optimizer = cls(weights, lr=0.1)
    with pytest.raises(InputError, match=f"{cls.__name__}.load_state_dict got a state without {lacking}."):
        optimizer.load_state_dict(SGD(weights, lr=0.1).state_dict())


def test_a_state_is_the_bases_with_ours_beside_it() -> None:
    weights = parameters()
    optimizer = CrAM(weights, lr=0.1, momentum=0.9)
    optimizer.step(closure_of(weights))
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups", "own", "passes", "drawn"]
    assert (state["passes"], state["drawn"], state["own"]) == ([0, 2], 1, {})
    assert torch.equal(state["state"][0]["momentum_buffer"], weights[0].grad)
    again = CrAM(parameters(), lr=0.3, momentum=0.9)
    again.load_state_dict(state)
    assert (again.backwards, again.forwards, again.drawn, again.param_groups[0]["lr"]) == (2, 0, 1, 0.1)
    assert again.param_groups is again.base.param_groups


@pytest.mark.parametrize("cls", [CrAM, GSAM, LookSAM, MSAM], ids=lambda c: c.__name__)
def test_a_parameter_without_a_gradient_in_the_second_pass_is_named_as_the_fault(cls: type) -> None:
    weights, calls = parameters(), []
    optimizer = make(cls, weights)
    before = [w.detach().clone() for w in weights]

    def closure() -> Tensor:
        calls.append(1)
        for w in weights:
            w.grad = None
        loss = loss_at(weights if len(calls) == 1 else [weights[0], weights[1].detach(), weights[2]])
        loss.backward()
        return loss

    with pytest.raises(InputError, match=f"{cls.__name__}: a later pass left no gradient"):
        optimizer.step(closure)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_a_first_half_that_fails_leaves_the_weights_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    optimizer = SAM(weights, lr=0.1)

    def failing() -> None:
        climb_(optimizer, weights, [w.grad for w in weights], 1.0)
        raise MemoryError("full")

    monkeypatch.setattr(optimizer, "first_step", failing)
    with pytest.raises(MemoryError):
        optimizer.step(closure_of(weights))
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_the_way_back_is_exact_and_minds_weights_that_changed_their_form() -> None:
    weights = [torch.full((3,), 1e8), torch.ones(2)]
    optimizer = SAM([w.requires_grad_() for w in weights], lr=0.1)
    with torch.no_grad():
        for _ in range(2):
            optimizer.keep(weights)
            weights[0].add_(0.123).mul_(1.1)
            optimizer.restore()
            assert torch.equal(weights[0], torch.full((3,), 1e8))
        first = optimizer._values
        optimizer.keep(weights)
        assert optimizer._values is first, "the memory is used again"
        optimizer.restore()
        optimizer.restore()  # a second time does nothing
        weights[1].data = torch.ones(2, dtype=torch.float64)
        optimizer.keep(weights)
        assert optimizer._values[1].dtype == torch.float64
        optimizer.restore()
        weights[1].data = torch.ones(5, dtype=torch.float64)
        optimizer.keep(weights)
        assert optimizer._values[1].shape == (5,)


@pytest.mark.parametrize("cls", HALVED, ids=lambda c: c.__name__)
def test_a_second_first_half_is_refused_before_the_weights_are_lost(cls: type) -> None:
    model = network()
    optimizer = make(cls, model.parameters())
    closure_for(model, optimizer)()
    optimizer.first_step()
    with pytest.raises(InputError, match=f"{cls.__name__}: the weights are away already"):
        optimizer.first_step()
    optimizer.restore()
    assert_same(model, network())


@pytest.mark.parametrize("foreach", [True, False])
def test_climbing_moves_by_rho_over_the_length_and_group_by_group(foreach: bool) -> None:
    weights = parameters()
    before = [w.detach().clone() for w in weights]
    optimizer = SAM(
        [{"params": weights[:1], "rho": 0.2}, {"params": weights[1:]}], lr=0.1, rho=0.5, foreach=foreach
    )
    closure_of(weights)()
    ways = [torch.full_like(w, 2.0) for w in weights]
    for length, radii, expected in (
        (4.0, None, (0.1, 0.25, 0.25)),
        (None, None, (0.4, 1.0, 1.0)),
        (4.0, [1.0, 2.0, 3.0], (0.5, 1.0, 1.5)),
        (0.0, None, (0.0, 0.0, 0.0)),
    ):
        with torch.no_grad():
            climb_(optimizer, weights, ways, length, radii=radii)
        assert_near(weights, [b + e for b, e in zip(before, expected, strict=True)])
        optimizer.restore()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [c for c in WRAPPERS if c is not PerpGrad], ids=lambda c: c.__name__)
def test_one_by_one_has_the_bits_of_all_at_once(cls: type, dtype: torch.dtype) -> None:
    ends = []
    for foreach in (True, False):
        weights = [w.detach().to(dtype).requires_grad_() for w in parameters()]
        optimizer = make(cls, weights, foreach=foreach, **({"rho": 0.3, "momentum": 0.9}))

        def closure(weights: list[Tensor] = weights) -> Tensor:
            if torch.is_grad_enabled():
                for w in weights:
                    w.grad = None
            loss = loss_at([w.double() for w in weights])
            if loss.requires_grad:
                loss.backward()
            return loss

        for _ in range(4):
            optimizer.step(closure)
        ends.append(weights)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(torch.isfinite(a).all() for a in ends[0])


def test_options_of_the_base_reach_it_and_ours_do_not() -> None:
    optimizer = SAM(parameters(), partial(SGD, nesterov=True), lr=0.1, momentum=0.9, rho=0.2, foreach=False)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["rho"]) == (True, 0.2)
    assert "rho" not in optimizer.base.defaults
    assert optimizer.base.defaults["foreach"] is None
    assert PerpGrad(parameters(), lr=0.1, foreach=False).base.defaults["foreach"] is False


def test_gradients_are_there_for_the_step_after_the_way_back() -> None:
    # the base steps by the gradient of the second pass, at the first weights
    weights = parameters()
    g = gradient_at(weights)
    there = gradient_at([w + 0.3 * d / size(g) for w, d in zip(weights, g, strict=True)])
    SAM(weights, lr=0.0, rho=0.3).step(closure_of(weights))
    assert_near([w.grad for w in weights], there)
    assert_near(weights, parameters())


class Overflow(Exception):  # noqa: N818 - not an error
    """A gradient that is not finite."""


def scaled(model: Module, optimizer: Optimizer, scaler: Any, spoil: int = 0) -> Callable[[], Tensor]:
    """The guide's recipe; the pass of that number (from 1) overflows."""
    passes = [0]

    def closure() -> Tensor:
        if torch.is_grad_enabled():
            optimizer.zero_grad()
        loss = (
            optimizer.weights.objective(model, None)
            if isinstance(optimizer, FairSAM)
            else losses(model, None).mean()
        )
        if loss.requires_grad:
            passes[0] += 1
            scaler.scale(loss * (float("inf") if passes[0] == spoil else 1.0)).backward()
            scaler.unscale_(optimizer)
            scaler.update()
            if not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
                raise Overflow
        return loss

    return closure


@pytest.mark.parametrize("cls", [c for c in WRAPPERS if c is not MSAM], ids=lambda c: c.__name__)
def test_a_gradient_scaler_in_the_closure_gives_the_plain_step(cls: type) -> None:
    plain, model = network(), network()
    ours, its = make(cls, plain.parameters()), make(cls, model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for _ in range(4):
        ours.step(closure_for(plain, ours))
        its.step(scaled(model, its, scaler))
        assert_same(plain, model)
    assert scaler.get_scale() > 2.0**10
    for spoil in range(1, 3):
        before, scale = deepcopy(model), scaler.get_scale()
        calls = its.backwards
        try:
            its.step(scaled(model, its, scaler, spoil))
        except Overflow:
            assert_same(before, model)
            assert scaler.get_scale() == scale / 2
        else:
            assert its.backwards - calls < spoil, "a pass overflowed unseen"
