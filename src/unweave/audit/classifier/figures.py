"""Figures of the answers: accuracy, membership, the papers' summaries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ...fit import each
from ...random import seeded
from ...statistics import Floats, bootstrap, wilson
from ...types import Measurement
from ..measured import measurement, missing
from .compared import NEAR, Compared
from .lira import taken_for_members
from .membership import Attack, auc, confidence_attack, svc_attack, threshold_attack
from .references import Read, phi_of
from .scores import Answers
from .utility import against_each_other, average_gap, tug_of_war
from .verdict import GIVE_ORACLES, NO_ORACLE

_LEAST = 4  # known members and non-members that an attack needs
_LEAST_MODELS = 3  # of either kind for LiRA: with the original, or an oracle, left out two have a spread


def accuracies(c: Compared) -> list[Measurement]:
    """Accuracy on every part; held-out classes that were deleted apart from the rest."""
    whole = " of the remaining classes" if c.parts.deleted else ""
    rows: list[tuple[str, Callable[[Read], Answers], str]] = [
        ("forgotten examples", lambda r: r.forget, NEAR),
        ("retained examples", lambda r: r.retain, NEAR + "; higher is better"),
        (f"held-out examples{whole}", lambda r: r.control, NEAR + "; higher is better"),
    ]
    if c.parts.gone is not None:
        rows.append(("held-out examples of the deleted classes", lambda r: r.other, NEAR))
    return [_accuracy(c, *row) for row in rows]


def _accuracy(c: Compared, where: str, part: Callable[[Read], Answers], direction: str) -> Measurement:
    here = part(c.edited_read)
    n = len(here.phi)
    low, high = wilson(float(here.correct.sum()), n)
    return c.measure(
        f"{c.accuracy_word} on {where}",
        lambda r: part(r).accuracy(),
        unit="%",
        direction=direction,
        n=n,
        interval=(100 * low, 100 * high),
    )


def summaries(c: Compared) -> list[Measurement]:
    """Average gap and tug of war."""
    rows = (
        (average_gap, "average gap", "points", "lower is better; retrained models differ by the retrained figure"),
        (tug_of_war, "tug of war", "", "higher is better; 1 is a retrained model"),
    )  # fmt: skip
    if not c.oracles:
        note = f"{NO_ORACLE} {GIVE_ORACLES}"
        return [
            missing(name, unit=unit, direction=direction.partition(";")[0], note=note)
            for _, name, unit, direction in rows
        ]

    def row(r: Read) -> list[float]:
        three = [r.forget.accuracy(), r.retain.accuracy(), r.control.accuracy()]
        if min(len(r.retain.phi), len(r.control.phi)) < _LEAST:
            return three
        attack = threshold_attack(r.retain.phi, r.control.phi, r.forget.phi, rng=seeded(c.seed))
        return [*three, 100 * attack.member]

    oracles = np.array([row(r) for r in c.oracles_read])
    edited, original = row(c.edited_read), row(c.holders_read[0])
    out = []
    for figure, name, unit, direction in rows:
        width = oracles.shape[1] if figure is average_gap else 3
        others = oracles[:, :width]
        attacked = ", and the threshold attack's share" if width == 4 else ""
        out.append(
            measurement(
                name,
                figure(edited[:width], others),
                figure(original[:width], others),
                against_each_other(others, figure).tolist(),
                unit=unit,
                direction=direction,
                n=len(oracles),
                note=f"accuracy on all three parts{attacked}",
            )
        )
    return out


def memberships(c: Compared) -> list[Measurement]:
    """Shares of the forget set taken for members, by attacks that know some members and by LiRA."""
    edited = c.edited_read
    if min(len(edited.retain.phi), len(edited.control.phi)) < _LEAST:
        note = f"needs at least {_LEAST} retained and {_LEAST} held-out examples"
        found = [
            missing(f"membership, {name}", unit="%", direction=NEAR, note=note) for name, _, _ in _ATTACKS
        ]
    else:
        found = [_population(c, *attack) for attack in _ATTACKS]
    return [*found, _lira(c)]


def _population(
    c: Compared, name: str, attack: Callable[..., Attack], feature: Callable[[Answers], Floats]
) -> Measurement:
    def run(r: Read) -> Attack:
        return attack(feature(r.retain), feature(r.control), feature(r.forget), rng=seeded(c.seed))

    edited = run(c.edited_read)
    low, high = wilson(edited.member * edited.n, edited.n)
    note = "share of the forget set taken for members (trained on); right in "
    note += f"{100 * edited.balanced_accuracy:.0f} % of known cases"
    if edited.powerless:
        note += ": this attack has no power on this model, do not interpret it"
    if "papers" in name:
        note += "; papers report the share not taken for members"
    return measurement(
        f"membership, {name}",
        100 * edited.member,
        100 * run(c.holders_read[0]).member,
        each(lambda r: 100 * run(r).member, c.oracles_read),
        unit="%",
        direction=NEAR + "; not 0",
        n=edited.n,
        interval=(100 * low, 100 * high),
        note=note,
    )


def _lira(c: Compared) -> Measurement:
    name, direction = "membership, LiRA example by example", NEAR + "; not 0"
    if min(len(c.holders), len(c.oracles)) < _LEAST_MODELS:
        note = f"needs at least {_LEAST_MODELS} models that hold the data and {_LEAST_MODELS} retrained ones"
        return missing(name, unit="%", direction=direction, note=note)
    target, original, *others = phi_of([c.edited_read, *c.holders_read])
    # the original takes no part: edits come from it
    holders, oracles = np.stack(others), phi_of(c.oracles_read)
    share, n = taken_for_members(target, holders, oracles), len(target)
    low, high = wilson(share * n, n)
    return measurement(
        name,
        100 * share,
        100 * taken_for_members(original, holders, oracles),
        [100 * taken_for_members(oracles[i], holders, np.delete(oracles, i, 0)) for i in range(len(oracles))],
        unit="%",
        direction=direction,
        n=n,
        interval=(100 * low, 100 * high),
        note="share of the forget set likelier under models that hold it than under retrained ones, each retrained "
        "one judged by the others",
    )


def separations(c: Compared) -> list[Measurement]:
    """How apart the forget set lies from held-out examples: by confidence, by a deleted class's score, by the gauge."""
    here = c.edited_read

    unlike = c.parts.deleted and c.parts.gone is None
    out = [
        c.measure(
            "forgotten against held-out examples, AUC",
            lambda r: auc(r.forget.phi, r.other.phi),
            unit="",
            n=len(here.forget.phi) + len(here.other.phi),
            direction="near the retrained models; 0.5 if confidence does not tell them apart",
            interval=bootstrap(
                auc, here.forget.phi, here.other.phi, rng=seeded(c.seed), repeats=100 if c.quick else 300
            ),
            note="no held-out example of the deleted classes: compared with the remaining ones"
            if unlike
            else "",
        )
    ]
    if c.parts.deleted:
        out.append(
            c.measure(
                "score of the deleted class, AUC",
                lambda r: r.trace,
                unit="",
                n=len(here.forget.phi) + len(here.control.phi),
                direction=NEAR + "; 1 if the class is still known",
                note="how well the score of the deleted class, however low, picks out its examples",
            )
        )
    return out


def _confidence_features(answers: Answers) -> Floats:
    if np.isnan(answers.entropy).any():
        return answers.phi[:, None]
    return np.stack([answers.phi, answers.entropy], 1)


_ATTACKS: tuple[tuple[str, Callable[..., Attack], Callable[[Answers], Floats]], ...] = (
    ("threshold attack", threshold_attack, lambda answers: answers.phi),
    ("confidence attack", confidence_attack, _confidence_features),
    ("SVC attack, unweighted as in papers", svc_attack, lambda answers: answers.probability[:, None]),
    (
        "SVC attack, balanced",
        partial(svc_attack, balanced=True),
        lambda answers: answers.probability[:, None],
    ),
)
