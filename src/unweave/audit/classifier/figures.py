"""Every figure of an audit: all models' answers are read once, then compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ...errors import InputError
from ...random import seeded
from ...statistics import Floats, bootstrap, prediction, wilson
from ...tasks import read_labels
from ...types import Measurement, Request
from .membership import Attack, auc, confidence_attack, svc_attack, threshold_attack
from .probe import class_mean_probe, linear_probe
from .relearn import mean_loss_of, relearn_steps
from .ruler import Ruler, Sample
from .scores import Answers, Parts
from .utility import against_each_other, average_gap, tug_of_war
from .verdict import NO_ORACLE, Decision, decide

NEAR = "near the retrained models"
Three = tuple[Answers, Answers, Answers]
"""A model's answers on the forget, retain and held-out part."""


class Figures:
    """All models' answers to one request, read once; each method compares them.

    Args:
        request: small enough to be read by every model.
        parts: of it.
        edited: the model in question.
        holders: the original first, then further models that hold the forget set.
        oracles: models retrained without it; may be empty.
        quick: fewer examples, orders and oracles in the figures that train something.
        seed: of splits, bootstraps and relearning, the same for every model.
    """

    def __init__(
        self,
        request: Request[Any],
        parts: Parts,
        edited: Module,
        holders: list[Module],
        oracles: list[Module],
        *,
        quick: bool,
        seed: int,
    ) -> None:
        self.request, self.parts, self.quick, self.seed = request, parts, quick, seed
        self.models = {"edited": [edited], "holders": holders, "oracle": oracles}
        self.answers = {
            k: [read_answers(m, request, parts) for m in models] for k, models in self.models.items()
        }
        self.dear = 2 if quick else 4  # oracles in the figures that train something

    def decide(self) -> Decision:
        """Controls and verdict."""
        classes = getattr(self.request.forget.task, "classes", 2)
        sample = {
            k: sample_of(answers, self.parts, classes) for k, answers in self.answers.items() if answers
        }
        empty = Sample(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((0, 2)))
        return decide(Ruler(sample["holders"], sample.get("oracle", empty)), sample["edited"])

    def compare(
        self,
        name: str,
        figure: Callable[[Three], float],
        *,
        unit: str,
        direction: str,
        n: int,
        interval: tuple[float, float] | None = None,
        note: str = "",
    ) -> Measurement:
        """One figure of the edited model, the original and all oracles."""
        oracle = [figure(a) for a in self.answers["oracle"]]
        return measurement(
            name,
            figure(self.answers["edited"][0]),
            figure(self.answers["holders"][0]),
            oracle,
            unit=unit,
            direction=direction,
            n=n,
            interval=interval,
            note=note,
        )

    def accuracies(self) -> list[Measurement]:
        """Accuracy on every part; held-out classes that were deleted apart from the rest."""
        stays, out = self.parts.stays, []
        whole = bool(self.parts.deleted)
        rows: list[tuple[str, Callable[[Three], Answers], str]] = [
            ("forgotten examples", lambda a: a[0], NEAR),
            ("retained examples", lambda a: a[1], NEAR + "; higher is better"),
            (
                "held-out examples" + (" of the remaining classes" if whole else ""),
                lambda a: a[2].at(stays),
                NEAR + "; higher is better",
            ),
        ]
        if self.parts.gone is not None:
            rows.append(("held-out examples of the deleted classes", lambda a: a[2].at(~stays), NEAR))
        for where, part, direction in rows:
            value = part(self.answers["edited"][0])
            n = len(value.phi)
            low, high = wilson(float(value.correct.sum()), n)
            found = measurement(
                f"accuracy on {where}",
                value.accuracy(),
                part(self.answers["holders"][0]).accuracy(),
                [part(a).accuracy() for a in self.answers["oracle"]],
                unit="%",
                direction=direction,
                n=n,
                interval=(100 * low, 100 * high),
            )
            out.append(found)
        return out

    def membership(self) -> list[Measurement]:
        """Shares of the forget set taken for members, and how apart it lies from held-out examples."""
        stays, rng = self.parts.stays, seeded(self.seed)
        out = []
        for name, attack, feature in _ATTACKS:

            def run(a: Three, attack: Any = attack, feature: Any = feature) -> Attack:
                known = feature(a[1]), feature(a[2].at(stays))
                found: Attack = attack(*known, feature(a[0]), rng=seeded(self.seed))
                return found

            if min(len(self.answers["edited"][0][1].phi), int(stays.sum())) < 4:
                note = "needs at least 4 retained and 4 held-out examples"
                out.append(
                    Measurement(
                        name=f"membership, {name}", value=None, unit="%", direction=NEAR, n=0, note=note
                    )
                )
                continue
            edited, original = run(self.answers["edited"][0]), run(self.answers["holders"][0])
            low, high = wilson(edited.member * edited.n, edited.n)
            note = "share of the forget set taken for members (trained on); right in "
            note += f"{100 * edited.accuracy:.0f} % of known cases"
            if edited.powerless:
                note += ": this attack has no power on this model, do not interpret it"
            if "papers" in name:
                note += "; papers report the share not taken for members"
            out.append(
                measurement(
                    f"membership, {name}",
                    100 * edited.member,
                    100 * original.member,
                    [100 * run(a).member for a in self.answers["oracle"]],
                    unit="%",
                    direction=NEAR + "; not 0",
                    n=edited.n,
                    interval=(100 * low, 100 * high),
                    note=note,
                )
            )

        def overlap(a: Three) -> float:
            # a whole class is compared with held-out examples of that class, not of the others
            other = a[2].at(~stays) if self.parts.gone is not None else a[2].at(stays)
            return auc(a[0].phi, other.phi)

        here = self.answers["edited"][0]
        other = here[2].at(~stays) if self.parts.gone is not None else here[2].at(stays)
        out.append(
            self.compare(
                "forgotten against held-out examples, AUC",
                overlap,
                unit="",
                n=len(here[0].phi) + len(other.phi),
                direction="near the retrained models; 0.5 if confidence does not tell them apart",
                interval=bootstrap(auc, here[0].phi, other.phi, rng=rng, repeats=100 if self.quick else 300),
                note=""
                if not self.parts.deleted or self.parts.gone is not None
                else "no held-out example of the deleted classes: compared with the remaining ones",
            )
        )
        if self.parts.deleted:
            found = self.compare(
                "score of the deleted class, AUC",
                lambda a: trace_of(a, self.parts),
                unit="",
                n=len(here[0].phi) + int(stays.sum()),
                direction=NEAR + "; 1 if the class is still known",
                note="how well the score of the deleted class, however low, picks out its examples",
            )
            out.append(found)
        return out

    def summaries(self) -> list[Measurement]:
        """Average gap and tug of war."""
        if not self.answers["oracle"]:
            return [
                Measurement(name=name, value=None, unit=unit, direction=direction, n=0, note=NO_ORACLE)
                for name, unit, direction in (
                    ("average gap", "points", "lower is better"),
                    ("tug of war", "", "higher is better"),
                )
            ]
        stays = self.parts.stays

        def row(a: Three) -> list[float]:
            three = [a[0].accuracy(), a[1].accuracy(), a[2].at(stays).accuracy()]
            if min(len(a[1].phi), int(stays.sum())) < 4:
                return three
            return [
                *three,
                100 * threshold_attack(a[1].phi, a[2].at(stays).phi, a[0].phi, rng=seeded(self.seed)).member,
            ]

        oracles = np.array([row(a) for a in self.answers["oracle"]])
        edited, original = row(self.answers["edited"][0]), row(self.answers["holders"][0])
        out = []
        for name, figure, unit, direction, width in (
            (
                "average gap",
                average_gap,
                "points",
                "lower is better; retrained models differ by the retrained figure",
                oracles.shape[1],
            ),
            ("tug of war", tug_of_war, "", "higher is better; 1 is a retrained model", 3),
        ):
            others = oracles[:, :width]
            out.append(
                measurement(
                    name,
                    figure(edited[:width], others),
                    figure(original[:width], others),
                    against_each_other(others, figure).tolist(),
                    unit=unit,
                    direction=direction,
                    n=len(oracles),
                    note="accuracy on all three parts"
                    + (", and the threshold attack's share" if width == 4 else ""),
                )
            )
        return out

    def probes(self) -> list[Measurement]:
        """What the representation still knows; empty for tasks that show none."""
        task = self.request.forget.task
        out: list[Measurement] = []
        if not hasattr(task, "features") or not hasattr(task, "labels"):
            return out
        oracles = self.models["oracle"][: 2 * self.dear]
        gone = self.parts.gone
        try:
            (value, n), original = (
                self._class_means(self.models["edited"][0]),
                self._class_means(self.models["holders"][0]),
            )
            rest = [100 * self._class_means(m)[0] for m in oracles]
            whose = "held-out examples of the deleted classes" if gone is not None else "the forget set"
            low, high = wilson(round(value * n), n)
            out.append(
                measurement(
                    "representation probe, class means",
                    100 * value,
                    100 * original[0],
                    rest,
                    unit="%",
                    n=n,
                    direction=NEAR + "; higher is more memory under the last layer",
                    interval=(100 * low, 100 * high),
                    note=f"share of {whose} nearest to their own class's mean, in the layer under the last",
                )
            )
            ours = gone if gone is not None else self.request.forget

            def probe(model: Module) -> float:
                return linear_probe(model, ours, self.parts.control, rng=seeded(self.seed))

            if min(len(ours), len(self.parts.control)) >= 8:
                out.append(
                    measurement(
                        "representation probe, linear AUC",
                        probe(self.models["edited"][0]),
                        probe(self.models["holders"][0]),
                        [probe(m) for m in oracles[: self.dear]],
                        unit="",
                        n=len(ours) + len(self.parts.control),
                        direction=NEAR,
                        note="deleted against remaining classes"
                        if gone is not None
                        else "forgotten against held-out examples",
                    )
                )
        except InputError as error:  # a network without a linear layer shows no representation
            out.append(
                Measurement(
                    name="representation probe, class means",
                    value=None,
                    unit="%",
                    direction=NEAR,
                    n=0,
                    note=str(error),
                )
            )
        return out

    def _class_means(self, model: Module) -> tuple[float, int]:
        return class_mean_probe(model, self.request, self.parts)

    def relearning(self, slack: float = 0.1) -> Measurement:
        """Steps until the loss on the forget set is back at the original's, times 1 + `slack`."""
        most, orders, cap = (200, 1, 100) if self.quick else (500, 3, 300)
        forget = self.request.forget
        if len(forget) > most:
            forget = forget.subset(torch.randperm(len(forget), generator=seeded(self.seed))[:most])
        target = mean_loss_of(self.models["holders"][0], forget) * (1 + slack)

        def steps(model: Module) -> list[int]:
            return [
                relearn_steps(model, forget, target, rng=seeded(self.seed + i), cap=cap)
                for i in range(orders)
            ]

        runs = steps(self.models["edited"][0])
        oracle = [float(np.mean(steps(m))) for m in self.models["oracle"][: self.dear]]
        low, high = prediction(np.array(runs, dtype=float)) if orders > 1 else (0.0, 0.0)
        note = (
            f"Adam steps until the loss on the forget set is back at the original's + {100 * slack:.0f} %, "
            f"at most {cap}"
        )
        if min(runs) >= cap:
            note += "; not reached"
        return measurement(
            "relearn time",
            float(np.mean(runs)),
            0.0,
            oracle,
            unit="steps",
            n=orders,
            direction=NEAR + "; fewer steps are memory left behind",
            interval=(max(0.0, low), min(float(cap), high)) if orders > 1 else None,
            note=note,
        )

    def scores(self) -> dict[str, list[float]]:
        """Confidence on each forget example, by kind of model."""
        found = {"edited": self.answers["edited"][0][0].phi, "original": self.answers["holders"][0][0].phi}
        found["holders"] = np.mean([a[0].phi for a in self.answers["holders"]], 0)
        if self.answers["oracle"]:
            found["oracle"] = np.mean([a[0].phi for a in self.answers["oracle"]], 0)
        return {name: phi.tolist() for name, phi in found.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """Accuracy in % on held-out examples of each class, by kind of model."""
        if not hasattr(self.request.heldout.task, "labels"):
            return {}
        labels = read_labels(self.request.heldout).numpy()
        sets = {
            "edited": self.answers["edited"],
            "original": self.answers["holders"][:1],
            "oracle": self.answers["oracle"],
        }
        return {
            str(c): {
                name: float(np.mean([a[2].at(labels == c).accuracy() for a in answers]))
                for name, answers in sets.items()
                if answers
            }
            for c in np.unique(labels).tolist()
        }


def read_answers(model: Module, request: Request[Any], parts: Parts) -> Three:
    """A model's answers on the forget, retain and held-out part."""
    forget, retain, heldout = (
        Answers.of(model, data, parts.deleted) for data in (request.forget, request.retain, request.heldout)
    )
    return forget, retain, heldout


def sample_of(answers: Sequence[Three], parts: Parts, classes: int) -> Sample:
    """What the verdict reads of several models' answers."""
    control = [a[2].at(parts.stays) for a in answers]
    return Sample.of(
        np.stack([a[0].phi for a in answers]),
        np.stack([c.phi for c in control]),
        np.array([[a[1].accuracy(), c.accuracy()] for a, c in zip(answers, control, strict=True)]),
        classes,
        np.array([trace_of(a, parts) for a in answers]) if parts.deleted else None,
    )


def trace_of(answers: Three, parts: Parts) -> float:
    """AUC of the score of the deleted classes: forget set against held-out examples of the other classes."""
    ours, others = answers[0].deleted, answers[2].at(parts.stays).deleted
    return float("nan") if ours is None or others is None else auc(ours, others)


def measurement(
    name: str,
    value: float,
    original: float,
    oracles: Sequence[float],
    *,
    unit: str,
    direction: str,
    n: int,
    interval: tuple[float, float] | None = None,
    note: str = "",
) -> Measurement:
    """A measurement with the oracles summed up; their spread needs two."""
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        direction=direction,
        n=n,
        interval=interval,
        original=original,
        oracle_mean=float(np.mean(oracles)) if oracles else None,
        oracle_spread=float(np.std(oracles, ddof=1)) if len(oracles) > 1 else None,
        note=note,
    )


def _confidence_features(answers: Answers) -> Floats:
    if np.isnan(answers.entropy).any():
        return answers.phi[:, None]
    return np.stack([answers.phi, answers.entropy], 1)


def _probability(answers: Answers) -> Floats:
    return answers.probability[:, None]


_ATTACKS: tuple[tuple[str, Callable[..., Attack], Callable[[Answers], Floats]], ...] = (
    ("threshold attack", threshold_attack, lambda answers: answers.phi),
    ("confidence attack", confidence_attack, _confidence_features),
    ("SVC attack, unweighted as in papers", svc_attack, _probability),
    ("SVC attack, balanced", partial(svc_attack, balanced=True), _probability),
)
