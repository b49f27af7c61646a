"""Figures of the answers on models whose answers are written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unweave.audit.classifier.compared import Compared
from unweave.audit.classifier.figures import accuracies, memberships, separations, summaries
from unweave.audit.classifier.membership import auc
from unweave.audit.classifier.panels import panels
from unweave.audit.classifier.references import Read, References, phi_of
from unweave.audit.classifier.scores import Parts
from unweave.embedded.digits import of_tensors
from unweave.random import seeded
from unweave.types import Request


class Table(nn.Module):
    """Logits of each example, looked up by its number; parts are numbered apart."""

    def __init__(self, seed: int, surer: float) -> None:
        super().__init__()
        draw = torch.randn(60, 3, generator=seeded(seed))
        draw[torch.arange(60), torch.arange(60) % 3] += 1.0
        draw[torch.arange(12), torch.arange(12) % 3] += surer  # the forget set
        self.register_buffer("logits", draw)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x[:, 0].long()]


def numbered(of: range):
    return of_tensors(
        torch.tensor(list(of))[:, None].float(), torch.tensor(list(of)) % 3, classes=3, batch_size=8
    )


def compared(
    holders: int = 4, oracles: int = 4, *, forget: list[int] | None = None, quick: bool = True
) -> Compared:
    request = Request.of(numbered(range(40)), numbered(range(40, 60)), forget or list(range(12)))
    known = [Table(10 + i, 3.0) for i in range(holders)], [Table(20 + i, 0.0) for i in range(oracles)]
    references, model = References(request, Parts.of(request), *known, 1), Table(0, 1.0)
    return Compared(references, model, references.look(model), quick)


def found(measured, name):
    return next(m for m in measured if m.name == name)


def test_parts_are_read_apart() -> None:
    read = Read.of(Table(0, 1.0), compared().request, compared().parts)
    right = (Table(0, 1.0).logits.argmax(1) == torch.arange(60) % 3).float()
    assert read.forget.accuracy() == pytest.approx(100 * right[:12].mean().item())
    assert read.retain.accuracy() == pytest.approx(100 * right[12:40].mean().item())
    assert read.heldout.accuracy() == read.control.accuracy() == pytest.approx(100 * right[40:].mean().item())
    assert read.other is read.control
    whole = compared(forget=list(range(0, 40, 3)))
    read = Read.of(Table(0, 1.0), whole.request, whole.parts)
    assert read.gone is not None
    assert read.other is read.gone
    at = torch.arange(40, 60)
    assert read.gone.accuracy() == pytest.approx(100 * right[at[at % 3 == 0]].mean().item())
    assert read.control.accuracy() == pytest.approx(100 * right[at[at % 3 != 0]].mean().item())


def test_figures_stand_beside_the_original_and_the_oracles() -> None:
    c = compared()
    m = found(accuracies(c), "accuracy on forgotten examples")
    assert m.value == c.edited_read.forget.accuracy()
    assert m.original == c.holders_read[0].forget.accuracy()
    others = [r.forget.accuracy() for r in c.oracles_read]
    assert (m.oracle_mean, m.oracle_spread) == pytest.approx((np.mean(others), np.std(others, ddof=1)))
    assert c.original is c.holders[0]
    assert found(accuracies(compared(oracles=1)), m.name).oracle_spread is None
    two = compared(oracles=2)
    assert found(accuracies(two), m.name).oracle_spread == pytest.approx(np.std(others[:2], ddof=1))


def test_the_gap_counts_the_attack_and_the_tug_does_not() -> None:
    c = compared()
    threshold = found(memberships(c), "membership, threshold attack")
    three = [m for m in accuracies(c)]
    gaps = [abs(m.value - m.oracle_mean) for m in (*three, threshold)]
    assert found(summaries(c), "average gap").value == pytest.approx(np.mean(gaps))
    assert found(summaries(c), "tug of war").value == pytest.approx(np.prod([1 - g / 100 for g in gaps[:3]]))


def test_lira_leaves_the_original_and_the_oracle_in_question_out() -> None:
    c = compared()
    phi, holders, oracles = (phi_of(read) for read in ([c.edited_read], c.holders_read, c.oracles_read))

    def share(x, inside, outside):  # by the formula, with variances pooled over examples
        sides = []
        for group in (inside, outside):
            residual = group - group.mean(0)
            sides.append((group.mean(0), np.sqrt((residual**2).sum() / (residual.size - residual.shape[1]))))
        (a, s), (b, t) = sides
        return 100 * np.mean(
            -((x - a) ** 2) / (2 * s**2) - np.log(s) > -((x - b) ** 2) / (2 * t**2) - np.log(t)
        )

    m = found(memberships(c), "membership, LiRA example by example")
    assert m.value == pytest.approx(share(phi[0], holders[1:], oracles))
    assert m.original == pytest.approx(share(holders[0], holders[1:], oracles))
    left = [share(oracles[i], holders[1:], np.delete(oracles, i, 0)) for i in range(4)]
    assert (m.oracle_mean, m.oracle_spread) == pytest.approx((np.mean(left), np.std(left, ddof=1)))
    for few in ({"holders": 2}, {"oracles": 2}):
        assert found(memberships(compared(**few)), m.name).value is None
    assert found(memberships(compared(3, 3)), m.name).value is not None


def test_a_whole_class_is_set_against_its_own_held_out_examples() -> None:
    whole = compared(forget=list(range(0, 40, 3)))
    read = whole.edited_read
    m = found(separations(whole), "forgotten against held-out examples, AUC")
    assert m.value == pytest.approx(auc(read.forget.phi, read.gone.phi))
    assert m.n == 14 + 6
    trace = found(separations(whole), "score of the deleted class, AUC")
    assert trace.value == pytest.approx(auc(read.forget.deleted, read.control.deleted))
    some = compared()
    names = [m.name for m in separations(some)]
    assert names == ["forgotten against held-out examples, AUC"]
    m = separations(some)[0]
    assert m.value == pytest.approx(auc(some.edited_read.forget.phi, some.edited_read.control.phi))


def test_attacks_tell_their_power_and_whose_share_it_is() -> None:
    notes = {m.name: m.note for m in memberships(compared())}
    assert (
        "papers report the share not taken for members"
        in notes["membership, SVC attack, unweighted as in papers"]
    )
    assert "papers report" not in notes["membership, SVC attack, balanced"]
    assert all("% of known cases" in note for name, note in notes.items() if "LiRA" not in name)
    few = compared(forget=list(range(37)))
    assert {m.value for m in memberships(few) if "LiRA" not in m.name} == {None}


def test_pictures_show_means_over_the_reference_models() -> None:
    c = compared()
    scores, classes = panels(c, None)
    assert scores.samples["holders"] == pytest.approx(phi_of(c.holders_read).mean(0))
    assert scores.samples["original"] == pytest.approx(c.holders_read[0].forget.phi)
    assert scores.samples["oracle"] == pytest.approx(phi_of(c.oracles_read).mean(0))
    ones = np.arange(40, 60) % 3 == 1
    assert classes.rows["1"]["oracle"] == pytest.approx(
        np.mean([100 * r.heldout.correct[ones].mean() for r in c.oracles_read])
    )
