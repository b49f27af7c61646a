"""What the unlearners share, and what every one of them refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from tests.contract import world
from tests.contract.edits import EDITS
from unweave import Mask, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.masks.layers import free
from unweave.tasks import accuracy
from unweave.unlearn import (
    SCRUB,
    SSD,
    BoundaryExpand,
    BoundaryShrink,
    FineTune,
    GradientAscent,
    Influence,
    L1Sparse,
    LogitMask,
    NegGradPlus,
    Newton,
    RandomLabels,
    RewindToDelete,
    SalUn,
    SFRon,
    ShortRetrain,
    Unprune,
)
from unweave.unlearn._train import (
    Trainee,
    check_request,
    expected_accuracy,
    learning,
    reinitialise_,
    sgd,
)

EVERY = [row for row in EDITS if row.on == "request"]
CERTAIN: dict[str, Any] = {
    "norm_bound": 3.0, "hessian_lipschitz": 2.0, "smallest_eigenvalue": 0.0, "epsilon": 1.0, "delta": 1e-3,
    "curvature": "hessian",
}  # fmt: skip
around = partial(Unprune, unlearn=FineTune(), recipe=world.RECIPE)


class Unlabelled:
    """A task that knows losses and outputs, and no labels."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])


def unlabelled() -> Request:
    request = world.request()
    parts = (replace(d, task=Unlabelled()) for d in (request.forget, request.retain, request.heldout))
    return Request(*parts)


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.name)
def test_every_one_refuses_to_draw_from_the_global_generator(row: Any) -> None:
    model = world.model(sparse=not row.dense)
    with pytest.raises(InputError, match="rng must be a torch.Generator; got None"):
        row.make().apply(model, world.request(), rng=None)


@pytest.mark.parametrize(
    "method",
    [
        BoundaryExpand(), BoundaryShrink(), GradientAscent(), GradientAscent(target=0.5), LogitMask(classes=(1,)),
        RandomLabels(), SalUn(), SCRUB(), SCRUB(rewind=True),
    ],
    ids=repr,
)  # fmt: skip
def test_a_task_without_labels_is_refused_by_those_that_read_them(method: Any) -> None:
    with pytest.raises(
        InputError, match=r"needs a task that is (Labelled|Perturbing) .*Unlabelled has no classes"
    ):
        method.apply(world.model(), unlabelled(), rng=seeded(0))


@pytest.mark.parametrize(
    "method",
    [FineTune(), L1Sparse(), NegGradPlus(), SSD(alpha=1.5), SFRon(), Newton(), Influence()],
    ids=repr,
)
def test_the_others_ask_for_none(method: Any) -> None:
    edited = method.apply(world.model(), unlabelled(), rng=seeded(0))
    told = method.apply(world.model(), world.request(), rng=seeded(0))
    for p, q in zip(edited.parameters(), told.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Influence, inverse="cg", samples=5), "samples=5 would do nothing with inverse='cg'"),
        (partial(Influence, inverse="cg", memory_gib=1.0), "memory_gib=.* would do nothing"),
        (partial(Influence, curvature="hessian"), "curvature=.* would do nothing with inverse='woodfisher'"),
        (partial(Influence, steps=5), "steps=.* would do nothing"),
        (partial(Influence, tolerance=0.1), "tolerance=.* would do nothing"),
        (partial(Influence, scale=1.0, slack=0.1), "slack=.* would do nothing unless scale is 'retain'"),
        (partial(Influence, scale="heldout", slack=0.1), "slack=.* would do nothing"),
        (partial(NegGradPlus, alpha=1.0, cap=2.0), "cap=.* would do nothing with alpha=1"),
        (partial(Newton, repeats=3), "repeats=.* would do nothing with solver='cg'"),
        (partial(Newton, samples=3), "samples=.* would do nothing"),
        (partial(Newton, lissa_scale=3.0), "lissa_scale=.* would do nothing"),
        (partial(Newton, solver="lissa", tolerance=0.1), "tolerance=.* would do nothing with solver='lissa'"),
        (partial(Newton, gradient_bound=1.0), "gradient_bound=.* would do nothing without a certificate"),
        (partial(Newton, std=0.5, **CERTAIN), "std=.* would do nothing with a certificate"),
        (partial(SalUn, density=1.0, accumulate="abs"), "accumulate=.* would do nothing with density=1"),
        (partial(SCRUB, momentum=0.5), "momentum=.* would do nothing with optimizer='adam'"),
        (partial(SCRUB, max_epochs=0, forget_batch_size=8), "forget_batch_size=.* would do nothing with max_epochs=0"),
        (partial(SCRUB, max_epochs=0, alpha=0.0, temperature=1.0), "temperature=.* would do nothing"),
        (partial(SCRUB, epochs=3, decay=0.5), "decay=.* would do nothing where no epoch is one of decay_epochs"),
        (partial(SCRUB, decay_epochs=(), decay=0.5), "decay=.* would do nothing"),
        (partial(SFRon, coefficient=0.0, exponent=1.0), "exponent=.* would do nothing with coefficient=0"),
        (partial(SFRon, coefficient=0.0, clip=1.0), "clip=.* would do nothing"),
        (partial(ShortRetrain, recipe=world.RECIPE, recover_epochs=0, recover_lr=1.0), "recover_lr=.* would do nothing"),
        (partial(ShortRetrain, recipe=world.RECIPE, epochs=4, of=3), "of must be at least epochs; got 3 of 4"),
        (partial(around, init="zero"), "init=.* would do nothing in mode='scout'"),
        (partial(around, growth=0.5), "growth=.* would do nothing in mode='scout'"),
        (partial(around, rounds=2), "rounds=.* would do nothing in mode='scout'"),
        (partial(around, mode="rewind", scout_epochs=3), "scout_epochs=.* would do nothing in mode='rewind'"),
        (partial(around, mode="paper", scout_lr=0.1), "scout_lr=.* would do nothing in mode='paper'"),
        (partial(around, mode="paper", scout_of=9), "scout_of=.* would do nothing"),
        (partial(around, recover_lr=0.1), "recover_lr=.* would do nothing with recover_epochs=0"),
        (partial(RewindToDelete, checkpoint="x", smoothness=1.0), "lacks gradient_bound"),
    ],
)  # fmt: skip
def test_settings_that_nothing_would_read_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_each_of_them_is_taken_where_it_is_read() -> None:
    made = Influence(inverse="cg", curvature="hessian", steps=5, tolerance=0.1, slack=0.1)
    assert (made.steps, made.tolerance, made.slack) == (5, 0.1, 0.1)
    Influence(samples=5, memory_gib=1.0)
    NegGradPlus(alpha=0.99, cap=2.0)
    Newton(solver="lissa", repeats=3, samples=3, lissa_scale=3.0, std=0.5)
    Newton(**CERTAIN, gradient_bound=1.0, tolerance=0.1)
    SalUn(density=0.9, accumulate="abs")
    SCRUB(optimizer="sgd", momentum=0.5, max_epochs=1, forget_batch_size=8)
    SCRUB(max_epochs=0, alpha=0.1, temperature=1.0)
    SCRUB(max_epochs=1, alpha=0.0, temperature=1.0)
    SCRUB(epochs=4, decay=0.5)
    SFRon(coefficient=0.1, exponent=1.0, clip=1.0)
    ShortRetrain(recipe=world.RECIPE, recover_epochs=1, recover_lr=1.0, epochs=4, of=4)
    around(scout_epochs=3, scout_lr=0.1, scout_of=3)
    around(mode="rewind", init="zero", growth=0.5, rounds=2, rewind=0.0, recover_epochs=1, recover_lr=0.1)


def test_check_request_names_the_part_that_is_empty() -> None:
    request = world.request()
    for part, words in (("forget", "forget set"), ("retain", "retain set"), ("heldout", "held-out set")):
        bare = replace(request, **{part: request.forget.subset([])})
        with pytest.raises(EmptyDataError, match=rf"^Z \({words}\) needs at least one example"):
            check_request("Z", bare, seeded(0), ("forget", "retain", "heldout"))
        check_request("Z", bare, seeded(0), [p for p in ("forget", "retain", "heldout") if p != part])
    check_request("Z", replace(request, heldout=request.forget.subset([])), seeded(0))


def test_a_trainee_holds_its_own_zeros_unless_told_which() -> None:
    model, request = world.model(sparse=True), world.request()
    objective = lambda m, b: request.retain.task.losses(m, b).mean()  # noqa: E731
    mask = Mask({"1.bias": torch.arange(24) > 3})
    for hold, dead in ((None, ~Mask.of(model).keep["1.weight"]), (mask, None)):
        student = Trainee.of("Z", world.model(sparse=True), partial(SGD, lr=0.1), seeded(0), hold=hold)
        student.train_(request.retain, objective, label="")
        if dead is not None:
            assert not student.model[1].weight[dead].any()
        else:
            assert torch.equal(student.model[1].bias == 0, torch.arange(24) <= 3)
            assert int((student.model[1].weight == 0).sum()) < 5


def test_sgd_has_the_methods_own_settings() -> None:
    parameter = nn.Parameter(torch.ones(1))
    (group,) = sgd(FineTune(lr=0.3, momentum=0.7, weight_decay=0.2))([parameter]).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.7, 0.2)
    (group,) = sgd(L1Sparse(lr=0.3))([parameter]).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.9, 0.0)


def test_free_parameters() -> None:
    model = world.model()
    model[1].weight.requires_grad_(False)
    assert [p.shape for p in free("Z", model)] == [(24,), (3, 24), (3,)]
    with pytest.raises(InputError, match="^Z can train nothing: every parameter is frozen"):
        free("Z", model.requires_grad_(False))


def test_learning_puts_flags_back_also_after_an_error() -> None:
    model = world.model()
    model[1].bias.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    with learning(model, [model[1].bias, model[3].weight]):
        assert [p.requires_grad for p in model.parameters()] == [False, False, True, False]
    with pytest.raises(ZeroDivisionError), learning(model, []):
        1 / 0  # noqa: B018
    assert [p.requires_grad for p in model.parameters()] == flags == [True, False, True, True]


def test_reinitialise_leaves_frozen_parameters_and_layers_without_any() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    model[2].requires_grad_(False)
    before = world.state(model)
    torch.manual_seed(1)
    reinitialise_(model.named_modules(), "Z", "Cure.")
    torch.manual_seed(1)
    first, last = nn.Linear(4, 4), nn.Linear(2, 2)  # the frozen layer draws nothing
    assert torch.equal(model[0].weight, first.weight)
    assert torch.equal(model[0].bias, before["0.bias"])
    assert torch.equal(model[2].weight, before["2.weight"])
    assert torch.equal(model[3].weight, last.weight)
    odd = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ParameterList([torch.ones(1)]))
    with pytest.raises(InputError, match=r"^Z cannot initialise 2 \(ParameterList\) afresh: .* Cure\.$"):
        reinitialise_(odd.named_modules(), "Z", "Cure.")


def test_expected_accuracy_in_per_cent() -> None:
    # held out: classes 0 0 0 1 2 with 2 of 3 right for 0, right for 1, wrong for 2. Retained: classes 0 and 1.
    # Forgotten: 0 1 2 2, half of known classes: 1/2 * 3/4 of the known held-out examples = 37.5 %
    given = torch.eye(3)
    right = {
        "heldout": ([0, 0, 1, 1, 0], [0, 0, 0, 1, 2]),
        "forget": ([0, 1, 2, 2],) * 2,
        "retain": ([0, 1],) * 2,
    }
    parts = {
        name: of_tensors(given[torch.tensor(shown)], torch.tensor(labels), classes=3)
        for name, (shown, labels) in right.items()
    }
    request = Request(**parts)
    assert accuracy(nn.Identity(), request.heldout) == pytest.approx(60)
    assert expected_accuracy(nn.Identity(), request) == pytest.approx(37.5)
    gone = replace(request, forget=request.forget.subset([2, 3]))
    assert expected_accuracy(nn.Identity(), gone) == 0.0
    unknown = replace(request, heldout=request.heldout.subset([4]))
    assert expected_accuracy(nn.Identity(), unknown) == 0.0
