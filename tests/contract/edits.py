"""Rows of edits of classifiers: how to make one for the tiny world, and what it can do. Checks are in test_edits.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.contract.world import FRESH, NORMED, RECIPE, early


@dataclass(frozen=True, kw_only=True)
class EditRow:
    """A method's row.

    name: class name; the id of its tests.
    make: the method, set up for the tiny world (about a second of work).
    on: what `apply` takes: a Request, or a Data.
    make_normed: the same for the world's network with batch normalisation, where the method must know the network.
    off: the same method with its own term switched off, as a control; None compares with the untouched model.
    zeros: what happens to a pruned model's zeros: "kept" in place, "counted" (as many a layer), "refused".
    frozen: whether a frozen bias of the last layer is left alone ("kept") or "refused".
    dense: whether it accepts a model without zeros.
    dtypes: floating types it works in.
    least: smallest relative change of the weights that counts as acting.
    zeroed: of a pruning, the least share of all matrix weights that is zero afterwards.
    bad: constructors that must raise InputError, each with a pattern of the message.
    """

    name: str
    make: Callable[[], Any]
    on: Literal["request", "data"] = "request"
    make_normed: Callable[[], Any] | None = None
    off: Callable[[], Any] | None = None
    zeros: Literal["kept", "counted", "refused"] = "kept"
    frozen: Literal["kept", "refused"] = "kept"
    dense: bool = True
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    least: float = 1e-4
    zeroed: float = 0.45
    bad: tuple[tuple[Callable[[], Any], str], ...] = field(default=())


def _rows() -> list[EditRow]:
    from unweave import prune, unlearn

    return [
        # one row a method, in the order of the alphabet
        EditRow(
            name="BadTeacher",
            make=lambda: unlearn.BadTeacher(lr=0.01),
            bad=((lambda: unlearn.BadTeacher(retain_share=0.0), "retain_share"),),
        ),
        EditRow(
            name="BoundaryExpand",
            make=lambda: unlearn.BoundaryExpand(lr=0.01),
            bad=((lambda: unlearn.BoundaryExpand(lr=0.0), "lr must be above 0"),),
        ),
        EditRow(
            name="BoundaryShrink",
            make=lambda: unlearn.BoundaryShrink(lr=0.01),
            bad=((lambda: unlearn.BoundaryShrink(step=0.0), "step must be above 0"),),
        ),
        EditRow(
            name="Continue",
            make=lambda: unlearn.Continue(recipe=RECIPE),
            bad=((lambda: unlearn.Continue(recipe=RECIPE, epochs=0), "epochs must be a whole number"),),
        ),
        EditRow(
            name="FineTune",
            make=lambda: unlearn.FineTune(lr=0.05),
            bad=((lambda: unlearn.FineTune(reset=True), "needs last_layers"),),
        ),
        EditRow(
            name="FisherForgetting",
            make=lambda: unlearn.FisherForgetting(),
            bad=((lambda: unlearn.FisherForgetting(alpha=0.0), "alpha must be above 0"),),
        ),
        EditRow(
            name="FixedMask",
            make=lambda: unlearn.FixedMask(unlearn=unlearn.FineTune(lr=0.05)),
            dense=False,
        ),
        EditRow(
            name="GMP",
            make=lambda: prune.GMP(epochs=3, every=2, budget=prune.Global(0.75)),
            off=lambda: prune.GMP(epochs=3, every=2, budget=prune.Global(0.0)),
            on="data",
            bad=((lambda: prune.GMP(every=0), "at least 1"),),
        ),
        EditRow(
            name="GradientAscent",
            make=lambda: unlearn.GradientAscent(epochs=20, lr=0.01),
            bad=(
                (lambda: unlearn.GradientAscent(target=1.0), "target"),
                (lambda: unlearn.GradientAscent(cap=0.0), "cap"),
            ),
        ),
        EditRow(
            name="Influence",
            make=lambda: unlearn.Influence(),
            bad=((lambda: unlearn.Influence(scale=-1.0), "scale must be above 0"),),
        ),
        EditRow(
            name="L1Sparse",
            make=lambda: unlearn.L1Sparse(epochs=4),
            off=lambda: unlearn.FineTune(epochs=4, weight_decay=0.0),
            bad=((lambda: unlearn.L1Sparse(gamma=0.0), "gamma"),),
        ),
        EditRow(
            name="LAF",
            make=lambda: unlearn.LAF(least_steps=60, lr_unlearn=5e-4, lr_align=5e-3, density_epochs=3),
            off=lambda: unlearn.LAF(least_steps=60, lr_unlearn=0.0, lr_align=5e-3),
            bad=(
                (lambda: unlearn.LAF(lr_unlearn=0.0, lr_align=0.0), "must not both be 0"),
                (lambda: unlearn.LAF(repair_epochs=2), "would do nothing with repair=0"),
            ),
        ),
        EditRow(
            name="LogitMask",
            make=lambda: unlearn.LogitMask(classes=(1,)),
            zeros="kept",
            frozen="refused",
            bad=((lambda: unlearn.LogitMask(classes=()), "at least one class"),),
        ),
        EditRow(
            name="NegGradPlus",
            make=lambda: unlearn.NegGradPlus(lr=0.05),
            off=lambda: unlearn.NegGradPlus(lr=0.05, alpha=1.0),
            bad=((lambda: unlearn.NegGradPlus(alpha=1.1), "alpha"),),
        ),
        EditRow(
            name="Newton",
            make=lambda: unlearn.Newton(damping=0.01),
            off=lambda: unlearn.Newton(damping=1e9),
            bad=((lambda: unlearn.Newton(norm_bound=1.0), "for a certificate"),),
        ),
        EditRow(
            name="ProgressiveNM",
            make=lambda: prune.ProgressiveNM(n=1, m=4, epochs=3),
            off=lambda: prune.ProgressiveNM(n=3, m=4, flow="ste", epochs=3),
            on="data",
            bad=((lambda: prune.ProgressiveNM(n=4, m=4), "n < m"),),
        ),
        EditRow(
            name="Prune",
            make=lambda: prune.Prune(budget=prune.Global(0.75)),
            on="data",
            bad=((lambda: prune.Prune(budget=prune.Global(1.0)), "sparsity must be"),),
        ),
        EditRow(
            name="PruneThenUnlearn",
            make=lambda: unlearn.PruneThenUnlearn(prune=prune.Prune(budget=prune.Global(0.7))),
            off=lambda: unlearn.FineTune(),
        ),
        EditRow(
            name="RandomLabels",
            make=lambda: unlearn.RandomLabels(epochs=4),
            off=lambda: unlearn.FineTune(epochs=4),
            bad=((lambda: unlearn.RandomLabels(alpha=-1.0), "alpha"),),
        ),
        EditRow(
            name="Retrain",
            make=lambda: unlearn.Retrain(recipe=RECIPE),
            make_normed=lambda: unlearn.Retrain(recipe=NORMED),
            zeros="refused",
        ),
        EditRow(
            name="RewindToDelete",
            make=lambda: unlearn.RewindToDelete(checkpoint=early(), epochs=3),
            make_normed=lambda: unlearn.RewindToDelete(checkpoint=early(batch_norm=True), epochs=3),
            bad=((lambda: unlearn.RewindToDelete(checkpoint="x", noise=-1.0), "noise"),),
        ),
        EditRow(
            name="SalUn",
            make=lambda: unlearn.SalUn(unlearn=unlearn.RandomLabels(epochs=4)),
            off=lambda: unlearn.RandomLabels(epochs=4),
            bad=((lambda: unlearn.SalUn(density=1.5), "density must be above 0 and at most 1"),),
        ),
        EditRow(
            name="SCRUB",
            make=lambda: unlearn.SCRUB(lr=0.01, forget_batch_size=4),
            off=lambda: unlearn.SCRUB(lr=0.01, max_epochs=0),
            bad=((lambda: unlearn.SCRUB(max_epochs=11), "max_epochs"),),
        ),
        EditRow(
            name="SFRon",
            make=lambda: unlearn.SFRon(),
            off=lambda: unlearn.SFRon(coefficient=0.0),
            bad=((lambda: unlearn.SFRon(every=0), "every"),),
        ),
        EditRow(
            name="ShockAndHeal",
            make=lambda: unlearn.ShockAndHeal(recipe=FRESH, fraction=0.5),
            make_normed=lambda: unlearn.ShockAndHeal(recipe=replace(NORMED, init_seed=None), fraction=0.5),
            off=lambda: unlearn.Continue(recipe=FRESH, epochs=3),
            zeros="refused",
            frozen="refused",
            bad=(
                (
                    lambda: unlearn.ShockAndHeal(recipe=FRESH, dose=1.0),
                    "blend=0.3 alone fades the weights by 1.2",
                ),
                (
                    lambda: unlearn.ShockAndHeal(recipe=FRESH, optimizer="recipe", newton_schulz=2),
                    "do nothing",
                ),
            ),
        ),
        EditRow(
            name="ShortRetrain",
            make=lambda: unlearn.ShortRetrain(recipe=RECIPE, epochs=2),
            make_normed=lambda: unlearn.ShortRetrain(recipe=NORMED, epochs=2),
            off=lambda: unlearn.FixedMask(unlearn=unlearn.Continue(recipe=RECIPE)),
            zeros="counted",
            dense=False,
            bad=((lambda: unlearn.ShortRetrain(recipe=RECIPE, lr=0.0), "lr must be above 0"),),
        ),
        EditRow(
            name="SoftFilter",
            make=lambda: prune.SoftFilter(epochs=2),
            off=lambda: prune.SoftFilter(epochs=2, rate=0.0),
            zeroed=0.1,  # three in ten filters, the last layer's none
            on="data",
            bad=((lambda: prune.SoftFilter(rate=1.0), "rate must be"),),
        ),
        EditRow(
            name="SSD",
            make=lambda: unlearn.SSD(alpha=1.5),
            bad=((lambda: unlearn.SSD(alpha=0.0), "alpha must be above 0"),),
        ),
        EditRow(
            name="SparseGPT",
            make=lambda: prune.SparseGPT(sparsity=0.75),
            off=lambda: prune.SparseGPT(sparsity=0.0),
            on="data",
            bad=((lambda: prune.SparseGPT(sparsity=1.0), "sparsity must be"),),
        ),
        EditRow(
            name="SparseModelSoup",
            make=lambda: prune.SparseModelSoup(recipe=RECIPE, sparsity=0.6, cycles=2, epochs=2, lr=0.02),
            off=lambda: prune.SparseModelSoup(
                recipe=RECIPE, sparsity=0.6, cycles=2, epochs=2, lr=0.02, copies=1
            ),
            on="data",
            bad=(
                (lambda: prune.SparseModelSoup(recipe=RECIPE, sparsity=1.0), "sparsity must be"),
                (lambda: prune.SparseModelSoup(recipe=RECIPE, copies=0), "copies must be"),
            ),
        ),
        EditRow(
            name="WandaPrune",
            make=lambda: prune.WandaPrune(sparsity=0.75),
            on="data",
            bad=((lambda: prune.WandaPrune(sparsity=1.0), "sparsity must be"),),
        ),
        EditRow(
            name="SynFlowPrune",
            make=lambda: prune.SynFlowPrune(sparsity=0.75, iterations=20),
            on="data",
            bad=((lambda: prune.SynFlowPrune(iterations=0), "iterations must be"),),
        ),
        EditRow(
            name="Unprune",
            make=lambda: unlearn.Unprune(
                unlearn=unlearn.Continue(recipe=RECIPE), recipe=RECIPE, scout_epochs=3
            ),
            make_normed=lambda: unlearn.Unprune(
                unlearn=unlearn.Continue(recipe=NORMED), recipe=NORMED, scout_epochs=3
            ),
            off=lambda: unlearn.FixedMask(unlearn=unlearn.Continue(recipe=RECIPE)),
            zeros="counted",
            dense=False,
            bad=(
                (
                    lambda: unlearn.Unprune(unlearn=unlearn.FineTune(), recipe=RECIPE, rewind=1.5),
                    "rewind must",
                ),
                (
                    lambda: unlearn.Unprune(unlearn=unlearn.FineTune(), recipe=RECIPE, growth=0.0),
                    "growth must",
                ),
                (lambda: unlearn.Unprune(unlearn=None, recipe=RECIPE), "unlearn must be an Edit"),
            ),
        ),
    ]


EDITS = _rows()
