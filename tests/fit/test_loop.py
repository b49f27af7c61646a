"""`fit_` refuses what would do nothing, and does exactly what its settings say."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from unweave import Data, Mask, Step, fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError, IntegrityError
from unweave.fit import Loop, steps_of
from unweave.fit.batches import Mixed, Paired, cycled
from unweave.fit.recipe import mean_loss, warm_cosine
from unweave.io.nested import load_nested, save_nested
from unweave.io.told import tell
from unweave.optim import SAM


def _data(n: int = 24, batch_size: int = 8, dtype: torch.dtype = torch.float32) -> Data[Any]:
    rng = seeded(0)
    return of_tensors(
        torch.randn(n, 5, generator=rng).to(dtype), torch.randint(0, 3, (n,), generator=rng), classes=3,
        batch_size=batch_size,
    )  # fmt: skip


def _net(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(7)] if norm else []
    return nn.Sequential(nn.Linear(5, 7), *middle, nn.Tanh(), nn.Linear(7, 3))


def _run(model: nn.Module, data: Data[Any], optimizer: Optimizer | None = None, **more: Any) -> Any:
    optimizer = optimizer or SGD(model.parameters(), 0.1)
    return fit_(
        model,
        data,
        more.pop("objective", mean_loss(data)),
        optimizer,
        **{"epochs": 1, "rng": seeded(0)} | more,
    )


def _detached(model: nn.Module, batch: Any) -> Tensor:
    return mean_loss(_data())(model, batch).detach()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"epochs": -1}, "epochs must be at least 1; got -1"),
        ({"objective": _detached}, "depends on no parameter that the optimizer moves"),
        ({"rng": None}, "rng must be a torch.Generator; got None"),
        ({"optimizer": SGD(_net().parameters(), 0.1)}, "the optimizer holds no parameter of the model"),
    ],
)
def test_what_would_do_nothing_is_refused(change: dict[str, Any], words: str) -> None:
    model = _net()
    before = deepcopy(model.state_dict())
    with pytest.raises(InputError, match=words):
        _run(model, _data(), **change)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_an_objective_of_other_parameters_is_refused() -> None:
    model = _net()
    optimizer = SGD([model[0].weight], 0.1)
    with pytest.raises(InputError, match="depends on no parameter that the optimizer moves"):
        _run(model, _data(), optimizer, objective=lambda m, b: m[2].weight.square().sum())


@pytest.mark.parametrize(
    "setting", [{"clip": 0.0}, {"clip": float("nan")}, {"norms": "freeze"}, {"ordered": 1}]
)
def test_loop_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^Loop.{next(iter(setting))} must be"):
        Loop(**setting)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_a_gradient_is_cut_to_the_norm_and_only_if_it_is_longer(clip: float) -> None:
    data = _data(8, 8, torch.float64)
    model = _net().double()
    start = deepcopy(model)
    loss = data.task.losses(start, next(data.batches())).mean()
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    scale = min(1.0, clip / float(norm))
    _run(model, data, loop=Loop(clip=clip))
    for now, before, gradient in zip(model.parameters(), start.parameters(), gradients, strict=True):
        torch.testing.assert_close(now, before - 0.1 * scale * gradient, rtol=1e-9, atol=1e-12)


def test_what_is_dead_or_still_does_not_count_to_the_norm() -> None:
    """SAM climbs by rho over the norm of what may move: with dead gradients in it, it would climb less far."""
    data = _data(8, 8, torch.float64)
    alive = Mask({"0.weight": torch.rand(7, 5, generator=seeded(1)) < 0.2})
    for which in ("hold", "only"):
        model = _net().double()
        if which == "hold":
            alive.apply_(model)
        keep = alive.keep["0.weight"]
        start, batch = deepcopy(model), next(data.batches())

        def gradients(at: nn.Module, batch: Any = batch, keep: Tensor = keep) -> list[Tensor]:
            found = list(torch.autograd.grad(data.task.losses(at, batch).mean(), list(at.parameters())))
            return [found[0] * keep, *found[1:]]

        first = gradients(start)
        norm = torch.cat([g.flatten() for g in first]).norm()
        climbed = deepcopy(start)
        with torch.no_grad():
            for p, g in zip(climbed.parameters(), first, strict=True):
                p.add_(0.5 * g / norm)
        second = gradients(climbed)
        _run(model, data, SAM(model.parameters(), base=SGD, lr=0.1, rho=0.5), **{which: alive})
        for now, before, gradient in zip(model.parameters(), start.parameters(), second, strict=True):
            torch.testing.assert_close(now, before - 0.1 * gradient, rtol=1e-6, atol=1e-9)


def test_ordered_reads_in_order_and_schedule_is_stepped_once_a_step() -> None:
    seen: list[Tensor] = []
    data = _data()
    model = _net()
    optimizer = SGD(model.parameters(), 1.0)
    schedule = warm_cosine(optimizer, 6, warm=0.5)
    rates: list[float] = []

    def watch(m: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[0])
        rates.append(optimizer.param_groups[0]["lr"])
        return mean_loss(data)(m, batch)

    _run(model, data, optimizer, objective=watch, epochs=2, loop=Loop(ordered=True, schedule=schedule))
    assert torch.equal(torch.cat(seen), data.examples.tensors[0].repeat(2, 1))
    # a rise over half of six steps: 1/3, 2/3, 1; then half a cosine over the three that are left
    expected = [1 / 3, 2 / 3, 1.0, 1.0, 0.75, 0.25]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "size", "norms", "norm", "sizes"),
    [
        (9, 4, "train", True, [4, 5]), (9, 4, "train", False, [4, 4, 1]), (9, 4, "frozen", True, [4, 4, 1]),
        (10, 4, "train", True, [4, 4, 2]), (8, 4, "train", True, [4, 4]),
    ],
)  # fmt: skip
def test_a_last_batch_of_one_joins_the_one_before_under_batch_norm(
    n: int, size: int, norms: Any, norm: bool, sizes: list[int], tmp_path: Path
) -> None:
    model, data = _net(norm), _data(n, size)
    seen: list[int] = []

    def watch(m: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[0]))
        return mean_loss(data)(m, batch)

    loop = Loop(norms=norms)
    fitted = _run(model, data, objective=watch, epochs=2, loop=loop)
    assert seen == sizes * 2
    assert fitted.steps == 2 * len(sizes) == 2 * steps_of(model, data, loop)


def test_joined_batches_resume_to_the_same_bits(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def train(crash_at: int = -1, file: Path | None = None) -> nn.Module:
        def after(step: Step) -> None:
            assert step.last_of_epoch == (step.index % 2 == 0)
            assert step.epoch == (step.index - 1) // 2
            if step.index == crash_at:
                raise Crash

        model = _net(True)
        _run(model, _data(9, 4), Adam(model.parameters(), 0.01), epochs=3, after_step=after, checkpoint=file,
             checkpoint_seconds=0.0)  # fmt: skip
        return model

    whole = train()
    for crash_at in range(1, 7):
        file = tmp_path / str(crash_at)
        with pytest.raises(Crash):
            train(crash_at, file)
        again = train(file=file)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_a_set_of_one_example_freezes_batch_norm_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tell.cache_clear()
    models = [_net(True), _net(True)]
    statistics = {n: b.clone() for n, b in models[0].named_buffers()}
    for model, loop in zip(models, (Loop(), Loop(norms="frozen")), strict=True):
        _run(model, _data(1, 4), loop=loop)
    assert all(torch.equal(b, statistics[n]) for n, b in models[0].named_buffers())
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
    assert caplog.messages == [
        "the whole set to train on is one example: batch normalisation is frozen, for one has no spread."
    ]


def test_one_example_alone_in_a_step_is_normalised_by_running_statistics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell.cache_clear()
    data, alone = _data(8, 4), _data(1, 4)
    model, seen = _net(True), []

    def both(m: nn.Module, batch: Any) -> Tensor:
        own = data.task.losses(m, batch).mean()
        before = {n: b.clone() for n, b in m.named_buffers()}
        one = data.task.losses(m, next(alone.batches()))  # of one example
        assert all(torch.equal(b, before[n]) for n, b in m.named_buffers())
        assert m.training
        assert all(part.training for part in m.modules())
        seen.append(float(one.detach()))
        with torch.no_grad():
            expected = data.task.losses(deepcopy(m).eval(), next(alone.batches()))
        assert torch.equal(one.detach(), expected)
        return own + one.mean()

    _run(model, data, objective=both)
    assert len(seen) == 2
    assert "one example alone met batch normalisation" in caplog.messages[0]
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def test_batches_of_one_throughout_are_refused_in_a_sentence() -> None:
    with pytest.raises(
        InputError, match="a batch of one example cannot be trained under batch normalisation"
    ):
        _run(_net(True), _data(3, 1))
    bare = _net(True)
    for part in bare.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None  # type: ignore[assignment]
    with pytest.raises(InputError, match="a batch of one example cannot be trained"):
        _run(bare, _data(1, 4))

    def wrong(model: nn.Module, batch: Any) -> Tensor:
        raise ValueError("a bug of somebody's own")

    with pytest.raises(ValueError, match="a bug of somebody's own"):
        _run(_net(), _data(1, 4), objective=wrong)


def test_paired_and_mixed_data_join_too() -> None:
    main, other = _data(9, 4), _data(5, 4)
    pairs = list(Paired(main, other).batches(seeded(0), join=True))
    assert [len(a[0]) for a, _ in pairs] == [4, 5]
    assert [len(b[0]) for _, b in pairs] == [5, 5]
    assert [len(p) for _, p in Mixed(_data(4, 4), other).batches(join=True)] == [4, 5]
    endless = cycled(other, None, 0, join=True)
    assert [len(next(endless)[0]) for _ in range(3)] == [5, 5, 5]


@pytest.mark.parametrize("join", [False, True])
def test_cycles_go_on_where_they_were(join: bool) -> None:
    data = _data(9, 4)
    whole = cycled(data, seeded(3), 0, join=join)
    batches = [next(whole)[0] for _ in range(8)]
    for start in range(7):
        later = cycled(data, seeded(3), start, join=join)
        assert torch.equal(next(later)[0], batches[start])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_state_files_keep_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    value = (
        torch.tensor([1, 0, 3]).to(dtype) / 3
        if dtype.is_floating_point
        else torch.tensor([1, 0, 3]).to(dtype)
    )
    save_nested({"a": [value, 1.5]}, tmp_path / "s")
    (found, number) = load_nested(tmp_path / "s")["a"]
    assert found.dtype == dtype
    assert torch.equal(found, value)
    assert number == 1.5


def test_a_float64_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def train(stop: int | None, file: Path | None) -> nn.Module:
        def after(step: Step) -> None:
            if step.index == stop:
                raise KeyboardInterrupt

        model, data = _net().double(), _data(dtype=torch.float64)
        _run(model, data, Adam(model.parameters(), 1e-3), epochs=2, after_step=after, checkpoint=file,
             checkpoint_seconds=0.0)  # fmt: skip
        return model

    with pytest.raises(KeyboardInterrupt):
        train(4, tmp_path / "c")
    resumed, whole = train(None, tmp_path / "c"), train(None, None)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert next(resumed.parameters()).dtype == torch.float64


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    tree = {"weights": torch.arange(50.0), "step": 3}
    file = tmp_path / "s"
    save_nested(tree, file)
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        try:
            found = load_nested(file)
        except IntegrityError:
            refused += 1
        else:
            assert found["step"] == 3
            assert torch.equal(found["weights"], tree["weights"])
    assert refused > 150


def test_probes_without_gradients_may_read_a_detached_loss() -> None:
    class Walk(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        @torch.no_grad()
        def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
            loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.9)
            return loss

    model = _net()
    before = model[0].weight.detach().clone()
    _run(model, _data(), Walk(model.parameters()), objective=_detached)
    torch.testing.assert_close(model[0].weight.detach(), before * 0.9**3)


def test_after_a_step_the_epoch_is_the_one_that_the_step_was_of() -> None:
    seen: list[tuple[int, int, bool, float]] = []
    fit = _run(
        _net(), _data(20), epochs=2,
        after_step=lambda s: seen.append((s.index, s.epoch, s.last_of_epoch, s.loss)),
    )  # fmt: skip
    assert [s[:3] for s in seen] == [
        (1, 0, False), (2, 0, False), (3, 0, True), (4, 1, False), (5, 1, False), (6, 1, True)
    ]  # fmt: skip
    assert [s[3] for s in seen] == fit.losses
    assert (fit.steps, fit.calls, fit.stopped) == (6, 6, False)


def test_gradients_after_a_step_are_of_its_batch_and_leave_no_trace() -> None:
    model, data = _net(norm=True), _data()
    dead = torch.ones(7, 5, dtype=torch.bool)
    dead[2] = False
    batches = list(data.batches())

    def look(step: Step) -> None:
        before = {n: b.clone() for n, b in model.named_buffers()}
        found = step.gradients()
        assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
        assert all(p.grad is None for p in model.parameters())
        copy = deepcopy(model).train()
        mean_loss(data)(copy, batches[step.index - 1]).backward()
        assert list(found) == [n for n, _ in copy.named_parameters()]
        assert all(torch.equal(found[n], p.grad) for n, p in copy.named_parameters() if p.grad is not None)
        assert found["0.weight"][2].any()  # what is dead has one too

    _run(model, data, hold=Mask({"0.weight": dead}), loop=Loop(ordered=True), after_step=look)
    assert not model[0].weight[2].any()


def test_steps_of_an_epoch_are_those_that_are_taken() -> None:
    for n, norm, frozen, steps in (
        (1, True, False, 1), (1, False, False, 1), (9, True, False, 1), (9, True, True, 2), (9, False, False, 2),
        (16, True, False, 2), (10, True, False, 2),
    ):  # fmt: skip
        loop = Loop(norms="frozen" if frozen else "train")
        assert steps_of(_net(norm), _data(n), loop) == steps
        if n > 1 or not norm:
            assert _run(_net(norm), _data(n), loop=loop).steps == steps
