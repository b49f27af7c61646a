"""The training loop survives kills, NaN and strange optimisers, and leaves a model as it found it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from tests.faults import damages, disk_full_at, one_line, partials
from tests.processes import run_and_kill, run_python
from unweave import Data, Fit, Mask, Step, fit_, resumable, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError, IntegrityError, NonFiniteError, StorageError
from unweave.fit import Loop
from unweave.fit.keeper import Snapshot
from unweave.fit.recipe import mean_loss, warm_cosine
from unweave.tasks.classify import Classify


class Sam(Optimizer):
    """Two passes a step: climb by rho along the gradient, take the gradient there, come back, descend."""

    def __init__(self, parameters: Any, lr: float, rho: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        moved = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    climb = group["rho"] * p.grad / (p.grad.norm() + 1e-12)
                    p.add_(climb)
                    moved.append((p, climb, group["lr"]))
        with torch.enable_grad():
            closure()
        for p, climb, lr in moved:
            p.sub_(climb)
            self.state[p]["velocity"] = (
                0.9 * self.state[p].get("velocity", torch.zeros_like(p)) + p.grad + 0.01 * p
            )
            p.sub_(lr * self.state[p]["velocity"])
        return loss


def _data(n: int = 40, batch_size: int = 8, seed: int = 0) -> Data[Classify]:
    rng = seeded(seed)
    inputs = torch.randn(n, 6, generator=rng)
    return of_tensors(
        inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long(), classes=3, batch_size=batch_size
    )


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )


_OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "momentum": lambda ps: SGD(ps, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda ps: AdamW(ps, 0.02, weight_decay=0.1),
    "sam": lambda ps: Sam(ps, 0.05),
}


def _mask(model: nn.Module, seed: int = 1) -> Mask:
    rng = seeded(seed)
    return Mask(
        {n: torch.rand(p.shape, generator=rng) < 0.4 for n, p in model.named_parameters() if p.ndim > 1}
    )


class Crash(BaseException):
    """A kill, as far as Python code can be killed from inside."""


def _train(
    name: str, checkpoint: Path | None = None, crash_at: int = -1, epochs: int = 3
) -> tuple[nn.Module, Fit, Optimizer]:
    model = _net()
    mask = _mask(model)
    mask.apply_(model)
    optimizer = _OPTIMIZERS[name](model.parameters())
    data = _data()

    def after(step: Step) -> None:
        if step.index == 7:
            step.hold = mask & _mask(model, 2)  # pruned further on the way, as gradual pruning does
        if step.index == crash_at:
            raise Crash

    fitted = fit_(
        model, data, mean_loss(data), optimizer, epochs=epochs, rng=seeded(3), hold=mask,
        loop=Loop(clip=2.0, schedule=warm_cosine(optimizer, 5 * epochs)),
        after_step=after, checkpoint=checkpoint,
        checkpoint_seconds=-1.0,
    )  # fmt: skip
    return model, fitted, optimizer


def _bits(model: nn.Module) -> dict[str, bytes]:
    return {
        k: v.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        for k, v in model.state_dict().items()
    }


def _tensors(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)
    else:
        yield tree.tolist() if isinstance(tree, Tensor) else tree


@pytest.mark.parametrize("name", list(_OPTIMIZERS))
def test_a_crash_at_any_step_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    whole, fitted, optimizer = _train(name)
    assert fitted.steps == 15
    for crash_at in range(1, 16):
        path = tmp_path / f"{crash_at}"
        with pytest.raises(Crash):
            _train(name, path, crash_at)
        resumed, again, other = _train(name, path)
        assert _bits(resumed) == _bits(whole)
        assert again == fitted
        assert list(_tensors(other.state_dict())) == list(_tensors(optimizer.state_dict()))
        assert not partials(tmp_path)


def test_a_finished_training_is_loaded_not_repeated(tmp_path: Path) -> None:
    whole, fitted, _ = _train("adamw", tmp_path / "c")
    calls = []
    model = _net()
    _mask(model).apply_(model)
    data = _data()
    optimizer = _OPTIMIZERS["adamw"](model.parameters())
    again = fit_(
        model, data, lambda m, b: calls.append(1) or mean_loss(data)(m, b), optimizer, epochs=3,
        rng=seeded(3),
        hold=_mask(model), loop=Loop(clip=2.0, schedule=warm_cosine(optimizer, 15)), checkpoint=tmp_path / "c",
    )  # fmt: skip
    assert not calls
    assert _bits(model) == _bits(whole)
    assert again == fitted


def _two_fits(folder: Path | None, crash_in: int = 0) -> nn.Module:
    model, data = _net(), _data()
    rng = seeded(9)
    for number in (1, 2):
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9)

        def after(step: Step, number: int = number) -> None:
            if number == crash_in and step.index == 4:
                raise Crash

        fit_(
            model,
            data,
            mean_loss(data),
            optimizer,
            epochs=2,
            rng=rng,
            after_step=after,
            checkpoint_seconds=-1.0,
        )
    return model


@pytest.mark.parametrize("crash_in", [1, 2])
def test_two_fits_in_a_resumable_block(tmp_path: Path, crash_in: int) -> None:
    whole = _two_fits(None)
    with pytest.raises(Crash), resumable(tmp_path):
        _two_fits(tmp_path, crash_in)
    assert len(list(tmp_path.iterdir())) == crash_in
    with resumable(tmp_path):
        resumed = _two_fits(tmp_path)
    assert _bits(resumed) == _bits(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit-0001.safetensors", "fit-0002.safetensors"]


_KILLED = """
import sys, time
from pathlib import Path
import torch
import tests.fit.test_fit_resume as t
from unweave import fit_, resumable, seeded
from unweave.io.checkpoint import save_model
from unweave.fit import Loop
from unweave.fit.recipe import mean_loss, warm_cosine
folder, slow = Path(sys.argv[1]), float(sys.argv[2])
data, rng = t._data(), seeded(4)
model = t._net()
mask = t._mask(model); mask.apply_(model)
with resumable(folder / "work"):
    for name in t._OPTIMIZERS:
        optimizer = t._OPTIMIZERS[name](model.parameters())
        def objective(m, b):
            time.sleep(slow)
            return mean_loss(data)(m, b)
        fit_(model, data, objective, optimizer, epochs=3, rng=rng, hold=mask,
             loop=Loop(schedule=warm_cosine(optimizer, 15)), checkpoint_seconds=-1.0)
save_model(model, folder / "done.safetensors", mask=mask)
"""


def _path(root: Path) -> str:
    return os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.slow
def test_kill_9_at_random_moments_ends_in_the_same_bits(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()

    def finish(name: str) -> None:
        done = run_python(_KILLED, str(tmp_path / name), "0", cwd=root)
        assert done.returncode == 0, done.stderr

    finish("whole")
    rng = random.Random(1)
    work = tmp_path / "killed" / "work"
    killed = 0
    for _ in range(4):
        began = time.time()
        killed += run_and_kill(
            _KILLED,
            str(tmp_path / "killed"),
            "0.02",
            ready=lambda began=began: any(p.stat().st_mtime > began for p in work.glob("fit-*")),
            after=rng.uniform(0, 0.3),
            cwd=root,
        )
    assert killed >= 2
    finish("killed")
    for name in ("done.safetensors", "done.mask.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("damage", list(damages(b"0123456789")))
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c"
    with pytest.raises(Crash):
        _train("momentum", path, 4)
    whole = path.read_bytes()
    path.write_bytes(damages(whole)[damage])
    with pytest.raises(IntegrityError, match="Remove it to start afresh") as caught:
        _train("momentum", path)
    assert str(path) in one_line(caught.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.integers(-2, 2) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["seed", "model", "step"]), inner)
        ),
        max_leaves=5,
    )
)
def test_any_state_as_checkpoint_gives_our_error(tmp_path: Path, state: Any) -> None:
    from unweave.io.nested import save_nested

    save_nested(state, tmp_path / "c")
    with pytest.raises(InputError, match="Remove it to start afresh"):
        _train("momentum", tmp_path / "c")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_nested_skeleton_gives_our_error_or_a_value(tmp_path: Path, data: st.DataObject) -> None:
    import json

    from safetensors.torch import save_file

    from unweave.io.nested import load_nested

    node = st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.fixed_dictionaries(
                {"kind": st.sampled_from(["tensor", "dict", "list", "tuple", "code", 3])},
                optional={
                    "at": st.sampled_from(["a", "b"]),
                    "items": st.lists(st.lists(inner, max_size=2), max_size=2) | inner,
                },
            )
        ),
        max_leaves=8,
    )
    save_file({"a": torch.ones(2)}, tmp_path / "n", metadata={"unweave": json.dumps(data.draw(node))})
    try:
        load_nested(tmp_path / "n")
    except IntegrityError:
        pass
    (tmp_path / "n").write_bytes(data.draw(st.binary(max_size=100)))
    with pytest.raises(IntegrityError):
        load_nested(tmp_path / "n")


def test_another_training_does_not_take_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        _train("momentum", tmp_path / "c", 4)
    with pytest.raises(InputError, match="number of epochs"):
        _train("momentum", tmp_path / "c", epochs=4)
    model, data = _net(), _data()
    with pytest.raises(InputError, match="another seed"):
        fit_(
            model,
            data,
            mean_loss(data),
            SGD(model.parameters(), 0.1),
            epochs=3,
            rng=seeded(4),
            checkpoint=tmp_path / "c",
        )


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    whole, _, _ = _train("momentum")
    with disk_full_at(9), pytest.raises(StorageError, match="No space left") as caught:
        _train("momentum", tmp_path / "c")
    one_line(caught.value)
    assert not partials(tmp_path)
    resumed, _, _ = _train("momentum", tmp_path / "c")
    assert _bits(resumed) == _bits(whole)


@pytest.mark.parametrize("name", list(_OPTIMIZERS))
@pytest.mark.parametrize("how", ["loss", "gradient", "input"])
def test_nan_stops_within_a_step_and_keeps_the_last_good_state(name: str, how: str) -> None:
    def run(bad_at: int) -> tuple[nn.Module, Optimizer]:
        model, data = _net(), _data()
        optimizer = _OPTIMIZERS[name](model.parameters())
        per_step = 2 if name == "sam" else 1
        calls = [0]

        def objective(m: nn.Module, batch: Any) -> Tensor:
            calls[0] += 1
            bad = calls[0] == bad_at * per_step
            if bad and how == "input":
                batch = (batch[0] * float("nan"), batch[1])  # also poisons the running statistics
            loss = data.task.losses(m, batch).mean()
            if bad and how == "loss":
                loss = loss * float("inf")
            if bad and how == "gradient":  # the loss is finite, the gradient of sqrt at 0 is not
                loss = loss + (m[0].weight * 0).sum().sqrt()
            return loss

        def stop(step: Step) -> None:
            step.stop = step.index == 6

        if bad_at < 0:
            fit_(model, data, objective, optimizer, epochs=3, rng=seeded(0), after_step=stop)
        else:
            with pytest.raises(NonFiniteError, match=f"at step {bad_at}; .*were kept") as caught:
                fit_(model, data, objective, optimizer, epochs=3, rng=seeded(0))
            one_line(caught.value)
        return model, optimizer

    good, _ = run(-1)
    stopped, _ = run(7)
    assert _bits(stopped) == _bits(good)
    assert all(m.training for m in stopped.modules())
    assert all(p.grad is None for p in stopped.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_overflow_are_taken_back(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 3).to(dtype)
    data = _data()
    before = _bits(model)
    largest = torch.finfo(dtype).max
    with pytest.raises(NonFiniteError, match="a weight became infinite or NaN at step 1"):
        fit_(
            model, data, lambda m, b: 1e4 * m.weight.float().sum(), SGD(model.parameters(), lr=largest / 100),
            epochs=1, rng=seeded(0),
        )  # fmt: skip
    assert _bits(model) == before


@pytest.mark.parametrize("bad", ["loss", "update"])
def test_a_resumable_training_keeps_no_second_copy_and_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    remembered = list[int]()
    begin = Snapshot.__init__

    def spy(self: Snapshot, tensors: Sequence[Tensor]) -> None:
        remembered.append(sum(t.numel() for t in tensors))
        begin(self, tensors)

    monkeypatch.setattr(Snapshot, "__init__", spy)
    model, data = _net(), _data()
    before, calls = _bits(model), [0]

    def objective(m: nn.Module, batch: Any) -> Tensor:
        calls[0] += 1
        loss = data.task.losses(m, batch).mean()
        return loss * float("nan") if bad == "loss" and calls[0] == 1 else loss

    lr = 1e38 if bad == "update" else 0.1
    told = "those before it are in the last checkpoint alone" if bad == "update" else "were kept"
    with pytest.raises(NonFiniteError, match=f"at step 1; .*{told}"), resumable(tmp_path):
        fit_(model, data, objective, SGD(model.parameters(), lr, weight_decay=1e38), epochs=1, rng=seeded(0))
    buffers = sum(b.numel() for b in model.buffers())
    assert remembered == [buffers]
    assert buffers > 0
    assert (_bits(model) == before) == (bad == "loss")  # a forward pass alone moved no more than statistics


@pytest.mark.parametrize("name", list(_OPTIMIZERS))
def test_held_zeros_stay_to_the_bit(name: str) -> None:
    model, data = _net(), _data()
    mask = _mask(model)
    free = _net()
    optimizer = _OPTIMIZERS[name](free.parameters())
    mask.apply_(free)
    fit_(free, data, mean_loss(data), optimizer, epochs=1, rng=seeded(0))
    assert all(
        (free.get_parameter(n)[~keep] != 0).any() for n, keep in mask.keep.items()
    )  # control: they do move

    optimizer = _OPTIMIZERS[name](model.parameters())
    dense = fit_(
        model, data, mean_loss(data), optimizer, epochs=1, rng=seeded(0)
    )  # momentum in dead places beforehand
    assert dense.steps == 5

    def check(step: Step) -> None:
        for n, keep in mask.keep.items():
            assert torch.equal(
                model.get_parameter(n)[~keep].view(torch.int32),
                torch.zeros(int((~keep).sum()), dtype=torch.int32),
            )

    fit_(model, data, mean_loss(data), optimizer, epochs=2, rng=seeded(0), hold=mask, after_step=check)


@pytest.mark.parametrize("name", list(_OPTIMIZERS))
def test_only_these_may_move(name: str) -> None:
    model, data = _net(), _data()
    only = _mask(model)
    before = {n: model.get_parameter(n).detach().clone() for n in only.keep}
    fit_(
        model,
        data,
        mean_loss(data),
        _OPTIMIZERS[name](model.parameters()),
        epochs=2,
        rng=seeded(0),
        only=only,
    )
    for n, moves in only.keep.items():
        after = model.get_parameter(n).detach()
        assert torch.equal(after[~moves].view(torch.int32), before[n][~moves].view(torch.int32))
        assert (after[moves] != before[n][moves]).float().mean() > 0.9


def test_sam_calls_twice_and_others_once() -> None:
    counts = {name: _train(name)[1].calls for name in _OPTIMIZERS}
    assert counts == {"momentum": 15, "adamw": 15, "sam": 30}


def test_a_closure_without_gradients_only_looks() -> None:
    class Walk(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
            with torch.no_grad():
                losses = [float(closure()) for _ in range(3)]
                assert all(p.grad is None for g in self.param_groups for p in g["params"])
                for group in self.param_groups:
                    for p in group["params"]:
                        p.mul_(0.99)
            return losses[-1]

    model, data = nn.Linear(6, 3), _data()
    before = model.weight.detach().clone()
    fitted = fit_(model, data, mean_loss(data), Walk(model.parameters()), epochs=1, rng=seeded(0))
    assert fitted.calls == 15
    assert torch.allclose(model.weight, before * 0.99**5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_comes_back_as_it_went_in(dtype: torch.dtype) -> None:
    model, data = _net().to(dtype), _data()
    model.eval()
    model[3].train()
    model[4].bias.requires_grad_(False)
    frozen = model[4].bias.detach().clone()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    fit_(model, data, mean_loss(data), SGD(model.parameters(), 0.1), epochs=1, rng=seeded(0))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False]
    assert torch.equal(model[4].bias, frozen)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(NonFiniteError):
        fit_(
            model,
            data,
            lambda m, b: m[0].weight.sum() * float("nan"),
            SGD(model.parameters(), 0.1),
            epochs=1,
            rng=seeded(0),
        )
    assert [m.training for m in model.modules()] == modes


def test_frozen_norms_keep_their_statistics() -> None:
    data = _data()
    model, free = _net(), _net()
    before = model[1].running_mean.clone()
    fit_(
        model,
        data,
        mean_loss(data),
        SGD(model.parameters(), 0.1),
        epochs=1,
        rng=seeded(0),
        loop=Loop(norms="frozen"),
    )
    fit_(free, data, mean_loss(data), SGD(free.parameters(), 0.1), epochs=1, rng=seeded(0))
    assert torch.equal(model[1].running_mean, before)
    assert (free[1].running_mean - before).abs().max() > 0.01
    assert model[1].training


def test_no_examples() -> None:
    model, data = _net(), _data()
    with pytest.raises(EmptyDataError):
        fit_(model, data.subset([]), mean_loss(data), SGD(model.parameters(), 0.1), epochs=1, rng=seeded(0))


_TWO = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from torch.optim import SGD
import tests.fit.test_fit_resume as t
from unweave import Mask, fit_, resumable, seeded
from unweave.errors import NonFiniteError
from unweave.io.checkpoint import save_model
from unweave.fit import Loop
from unweave.fit.recipe import mean_loss
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
data = t._data(37, 8)  # the last batch has 5 examples, 3 on one process and 2 on the other
mask = t._mask(model); mask.apply_(model)
optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
folder = Path(sys.argv[1])
fitted = fit_(model, data, mean_loss(data), optimizer, epochs=4, rng=seeded(0), hold=mask, loop=Loop(clip=1.0),
              checkpoint=folder / "state", checkpoint_seconds=-1.0)
one = t._data(9, 8)  # and here the last batch has 1
fit_(model, one, mean_loss(one), SGD(model.parameters(), 0.1), epochs=1, rng=seeded(1), hold=mask)
rank = int(os.environ.get("RANK", "0"))
def poisoned(m, batch):
    loss = mean_loss(data)(m, batch)
    return loss * float("nan") if rank == 1 else loss  # only one of them sees it; both must stop
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    try:
        fit_(model, data, poisoned, optimizer, epochs=1, rng=seeded(0))
    except NonFiniteError:
        pass
    else:
        raise SystemExit(5)
if rank == 0:
    save_model(model, folder / "done.safetensors", mask=mask)
    (folder / "losses").write_text(repr(fitted.losses))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    from unweave.io.weights import load_weights

    root = Path(__file__).parents[2]
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    env = {**os.environ, "PYTHONPATH": _path(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "one")], check=True, cwd=root, env=env, timeout=100
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two")], cwd=root, env=env, timeout=200, capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_weights(tmp_path / name / "done.safetensors") for name in ("one", "two"))
    worst = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert worst < 1e-5
    losses = [eval((tmp_path / name / "losses").read_text()) for name in ("one", "two")]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-5


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_slices_of_a_batch_cover_it_once(n: int, count: int) -> None:
    from unweave.fit.processes import Processes

    data = of_tensors(torch.arange(float(n))[:, None], torch.zeros(n).long(), classes=2, batch_size=8)
    whole = data.examples.tensors[0].mean()  # type: ignore[attr-defined]
    total = torch.zeros(())
    for rank in range(count):
        ((inputs, _),) = data.batches(part=(rank, count))
        assert len(inputs) >= 1
        total += inputs.mean() * Processes(nn.Identity(), rank, count).share(n) / count
    assert torch.allclose(total, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """As float32 from the same weights, rounded once at the end; steps taken in half precision would be lost."""
    half, data = _net().to(dtype), _data()
    start = {n: p.detach().clone() for n, p in half.named_parameters()}
    whole, naive = deepcopy(half).float(), deepcopy(half)
    for model in (half, whole):
        fit_(model, data, mean_loss(data), SGD(model.parameters(), 3e-5), epochs=40, rng=seeded(0))
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name).to(dtype))
    assert any(not torch.equal(p, start[n]) for n, p in half.named_parameters())
    optimizer = SGD(naive.parameters(), 3e-5)
    for _ in range(40):
        for batch in data.batches():
            optimizer.zero_grad()
            mean_loss(data)(naive, batch).backward()
            optimizer.step()
    weight = start["0.weight"].float()
    moved, lost = ((m[0].weight.float() - weight).norm() for m in (whole, naive))
    assert lost < 0.8 * moved  # the control: what half precision takes

    def crash(step: Step) -> None:
        if step.index == 7:
            raise Crash

    def train(after: Callable[[Step], None] | None = None) -> nn.Module:
        model = _net().to(dtype)
        fit_(
            model, data, mean_loss(data), SGD(model.parameters(), 3e-5), epochs=40, rng=seeded(0),
            checkpoint=tmp_path / "c", checkpoint_seconds=-1.0, after_step=after,
        )  # fmt: skip
        return model

    with pytest.raises(Crash):
        train(crash)
    assert _bits(train()) == _bits(half)
