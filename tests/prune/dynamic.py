"""What every sparse training must do, checked on the contract's tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.contract import world
from unweave import Mask, fit_, seeded
from unweave.fit import Step
from unweave.fit.recipe import mean_loss

EPOCHS = 6
STEPS = EPOCHS * 6


def train(
    method: Any, *, watch: Any = None, checkpoint: Path | None = None, optimizer: Any = SGD
) -> tuple[Any, list[Mask]]:
    """Train the tiny network sparsely; the masks after each step."""
    model, data = world.network(), world.points()[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    mask, change = method.begin(model, data, steps=STEPS, rng=seeded(5))
    masks = [mask]

    def after(step: Step) -> None:
        change(step)
        masks.append(step.hold)
        if watch is not None:
            watch(step)

    kw = {"momentum": 0.9} if optimizer is SGD else {}
    fit_(
        model, data, mean_loss(data), optimizer(model.parameters(), lr=0.05, **kw),
        epochs=EPOCHS, rng=seeded(1), hold=mask, after_step=after, checkpoint=checkpoint, checkpoint_seconds=0.0,
    )  # fmt: skip
    return model, masks


def counts(mask: Mask) -> dict[str, int]:
    return {name: int(alive.sum()) for name, alive in mask.keep.items()}


def same(a: Mask, b: Mask) -> bool:
    return all(torch.equal(a.keep[name], b.keep[name]) for name in a.keep)


def changes(masks: list[Mask]) -> list[int]:
    """Steps after which the mask was another one."""
    return [i for i in range(1, len(masks)) if not same(masks[i - 1], masks[i])]


def assert_dead_weights_are_zero(model: Any, mask: Mask) -> None:
    for _, weight, alive in mask.match(model):
        assert not weight[~alive].any()


def assert_resumes(method: Any, tmp_path: Path, at: int = 20) -> None:
    """Killed after a step, a training goes on to the same bits."""

    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.index == at + 1:
            raise Killed

    whole, masks = train(method)
    with pytest.raises(Killed):
        train(method, watch=kill, checkpoint=tmp_path / "half.safetensors")
    again, later = train(method, checkpoint=tmp_path / "half.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True))
    assert same(masks[-1], later[-1])


def assert_state_is_reset(method: Any, first: int, optimizer: type[Optimizer] = AdamW) -> None:
    """Right after the first exchange, moments are zero where the mask changed."""
    seen: list[Any] = []

    def look(step: Step) -> None:
        if step.index == first:
            seen.append([(step.optimizer.state[w], w, a.clone()) for _, w, a in step.hold.match(step.model)])
            seen.append([{k: v.clone() for k, v in s.items() if torch.is_tensor(v)} for s, _, _ in seen[0]])

    _, masks = train(method, watch=look, optimizer=optimizer)
    assert first in changes(masks)
    for (_, _, now), states, name in zip(seen[0], seen[1], masks[0].keep, strict=True):
        moved = now != masks[first - 1].keep[name]
        for key, value in states.items():
            if value.shape == moved.shape:
                assert not value[moved].any(), key
                assert value[now & ~moved].any(), key
