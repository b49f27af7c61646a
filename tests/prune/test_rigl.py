from __future__ import annotations

from pathlib import Path

import torch

from tests.contract import world
from tests.prune.dynamic import (
    STEPS,
    assert_dead_weights_are_zero,
    assert_resumes,
    assert_state_is_reset,
    changes,
    counts,
    train,
)
from unweave import fit_, seeded
from unweave.fit import Step
from unweave.fit.recipe import mean_loss
from unweave.prune import ERK, RigL

METHOD = RigL(budget=ERK(0.7), every=4, rate=0.5)


def test_keeps_every_layers_count_and_changes_when_due() -> None:
    model, masks = train(METHOD)
    assert all(counts(m) == counts(masks[0]) for m in masks)
    assert changes(masks)
    assert all(i % 4 == 0 and i <= 0.75 * STEPS for i in changes(masks))
    assert_dead_weights_are_zero(model, masks[-1])


def test_grows_the_largest_dense_gradients() -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def look(step: Step) -> None:
        seen[step.index] = {n: g.abs() for n, g in step.gradients().items()}

    _, masks = train(METHOD, watch=look)
    at = changes(masks)[0]
    for name, before in masks[at - 1].keep.items():
        now = masks[at].keep[name]
        grown, passed_over = now & ~before, ~now
        assert grown.any()
        # a dead weight is zero before and after the exchange, so the gradient is that of the same network
        survivors_only = seen[at][name]
        assert survivors_only[grown].min() > 0
        assert survivors_only[grown].mean() > 2 * survivors_only[passed_over].mean()


def test_dense_gradients_are_those_of_the_masked_network() -> None:
    model, data = world.model(sparse=True), world.points()[0]
    from unweave import Mask

    found: list[dict[str, torch.Tensor]] = []

    def look(step: Step) -> None:
        if step.index == 1:
            found.append(step.gradients())
            found.append({n: p.detach().clone() for n, p in step.model.named_parameters()})

    batches: list[object] = []
    task = data.task

    class Spy:
        def __call__(self, model: torch.nn.Module, batch: object) -> torch.Tensor:
            batches.append(batch)
            return task.losses(model, batch).mean()

    fit_(
        model, data, Spy(), torch.optim.SGD(model.parameters(), lr=0.1), epochs=1, rng=seeded(0), hold=Mask.of(model),
        after_step=look,
    )  # fmt: skip
    twin = world.network()
    twin.load_state_dict(found[1])
    mean_loss(data)(twin, batches[0]).backward()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(found[0][name], p.grad)
        if p.ndim > 1:
            assert p.grad[p == 0].any()  # dead positions have gradients too


def test_forgets_momentum_where_the_mask_changed() -> None:
    assert_state_is_reset(METHOD, first=4)


def test_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert_resumes(METHOD, tmp_path)


def test_running_statistics_are_those_of_training_alone() -> None:
    """Asking for gradients changes nothing that is trained."""
    data = world.points()[0]

    def run(asks: bool) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = world.network(batch_norm=True)
        fit_(
            model, data, mean_loss(data), torch.optim.SGD(model.parameters(), lr=0.1), epochs=2, rng=seeded(0),
            after_step=(lambda s: s.gradients() and None) if asks else None,
        )  # fmt: skip
        return model.state_dict()

    one, two = run(True), run(False)
    assert all(torch.equal(one[k], two[k]) for k in one)
