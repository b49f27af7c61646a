"""The verdict on one model: controls first, then the decision table, next what cannot be concluded and what would help.

Positive controls: the original, left out, must be not forgotten, and retrained models, each judged by the others,
must be accepted. Negative controls: cheats made on the spot from models that hold the data (see `cheats`) must be
seen through. Where any of them fails the verdict is inconclusive, whatever the model's own figures say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Protocol

import numpy as np

from ...errors import InputError
from ...statistics import Floats, wilson
from ..result import Check, ClassifierOutcome, Control, Outcome, Rates, Verdict
from .power import ADVISED, LEAST, WITH_EDITS, Need, needed
from .readings import Readings
from .standard import FEW, LEAKS, Finding, Standard

PASS = 0.75
"""Share of the retrained models, each judged by the others, that must be accepted to trust the verdict."""
_SEEN_THROUGH: tuple[ClassifierOutcome, ...] = (
    "not forgotten", "partly forgotten", "answers only", "collapsed",
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """A verdict with the controls it passed through and its leave-one-out error rates."""

    verdict: Verdict
    controls: tuple[Control, ...]
    rates: Rates | None


NO_ORACLE = (
    "Without a retrained model it cannot be said how a model that never saw the examples would answer them, "
    "so neither forgetting nor its absence can be shown."
)
GIVE_ORACLES = "Give oracles, or a recipe to train them with."


class Bench(Protocol):
    """Reference models of one request, read for the verdict; see `References`."""

    @property
    def request(self) -> Any: ...  # noqa: D102
    @property
    def holders(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def oracles(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def readings(self) -> tuple[Readings, Readings]:
        """Holders and oracles, each measured by the others."""
        ...

    def cheated(self) -> dict[str, Readings]:
        """Name of each built-in cheat -> the models made so."""
        ...

    def standard(
        self, holders: Floats | None = None, oracles: Floats | None = None, several: int = 1
    ) -> Standard:
        """The limits that these of the references set."""
        ...


@dataclass(frozen=True)
class Court:
    """What judges edited models of one request; the controls are judged once.

    Attributes:
        references: to judge by.
        several: how many edited models are judged by their mean.
        controls: judged before any edited model; empty where there are too few references to judge anything.
        rates: leave-one-out error rates; None where there are too few references.
        uncheated: why no cheat could be made; "" where they were.
    """

    references: Bench
    several: int
    controls: tuple[Control, ...]
    rates: Rates | None
    uncheated: str = ""

    @classmethod
    def of(cls, references: Bench, several: int = 1) -> Court:
        """Judge the controls."""
        h, m = len(references.holders), len(references.oracles)
        if min(h, m) < LEAST + several - 1:
            return cls(references, several, (), None)
        holders, oracles = _left_out(references, several)
        accepted = oracles.count("forgotten")
        others = Counter(o for o in oracles if o != "forgotten")
        got: Outcome = "forgotten" if accepted / m >= PASS else others.most_common(1)[0][0]
        group = "" if several == 1 else f" in groups of {several}"
        controls = [
            Control(
                name="original model" if several == 1 else f"original model with {several - 1} that hold the data",
                expected="not forgotten", got=holders[0], passed=holders[0] == "not forgotten",
            ),
            Control(
                name=f"{m} retrained models{group}, each judged by the others ({accepted} accepted)",
                expected="forgotten", got=got, passed=got == "forgotten",
            ),
        ]  # fmt: skip
        uncheated = ""
        try:
            controls += _cheats(references, several)
        except InputError as error:
            uncheated = str(error)
        rates = rates_of(holders, oracles, "leave-one-out, this run")
        return cls(references, several, tuple(controls), rates, uncheated)

    def judge(self, edited: Readings | None, untouched: str = "") -> Decision:
        """The verdict.

        Args:
            edited: what was read of the edited models; None where there are too few references for a ruler.
            untouched: that the layers under the last are the original's, in words; "" where they are not.
        """
        r = self.references
        h, m = len(r.holders), len(r.oracles)
        if edited is None:
            step = f"{GIVE_ORACLES} Advised: {Need(ADVISED).words}."
            verdict = Verdict(outcome="inconclusive", reason=self._too_few(), next_step=step)
            return Decision(replace(verdict, caveats=(NO_ORACLE,) if m == 0 else ()), (), None)
        standard, model = r.standard(several=self.several), edited.mean()
        found = standard.find(model)
        if untouched and found.outcome not in ("collapsed", "inconclusive", "not forgotten"):
            found = Finding(
                "answers only", f"Its answers pass or go too far, but {untouched}.", found.position
            )
        next_step = ""
        failed = [c for c in self.controls if not c.passed]
        if min(h, m) < LEAST + self.several - 1:
            found = replace(found, outcome="inconclusive", reason=self._too_few())
            next_step = f"Give at least {LEAST} of each. Advised: {Need(ADVISED).words}."
        elif found.outcome != "collapsed" and (failed or not standard.resolved):
            if standard.resolved and failed:
                found = replace(found, outcome="inconclusive", reason=_failed(failed, found))
            next_step = _more(standard, h, m, failed)
        elif found.outcome == "inconclusive":
            next_step = _double(h, m)
        verdict = Verdict(
            outcome=found.outcome,
            reason=found.reason,
            position=found.position,
            accepted=(standard.low, standard.high) if standard.resolved else None,
            rejected=_range(standard),
            checks=tuple(self._checks(standard, model)),
            caveats=tuple(self._caveats(standard, model, found)),
            next_step=next_step,
        )
        return Decision(verdict, self.controls, self.rates)

    def _too_few(self) -> str:
        h, m = len(self.references.holders), len(self.references.oracles)
        least = LEAST + self.several - 1
        return (
            f"{m} retrained {_models(m)} and {h} that {'holds' if h == 1 else 'hold'} the data do not show how far "
            f"such models differ: nothing is decided with fewer than {least} of each."
        )

    def _checks(self, standard: Standard, model: Readings) -> list[Check]:
        values, random = standard.values(model), not standard.whole
        share = float(model.answers.share[0])
        checks = []
        if random:
            checks.append(
                _check("examples kept whole", "answers", standard.sees_leaks, not share > standard.leak)
            )
        checks.append(
            _check(
                "no further than retrained models", "answers", standard.resolved, not standard.excess(model)
            )
        )
        for h in standard.hidden:
            known = np.isfinite(values[h.name])
            checks.append(
                Check(
                    name=h.name, half="memory", power=bool(h.power and known),
                    passed=not h.flags(values[h.name]) if h.power and known else None,
                    position=h.place(values[h.name]) if h.power and known else None,
                    accepted=(h.place(h.limit), float("inf")) if h.power and known else None,
                )
            )  # fmt: skip
        return checks

    def _caveats(self, standard: Standard, model: Readings, found: Finding) -> list[str]:
        said = []
        n, never = len(self.references.request.forget), self.references.readings[1]
        if found.outcome == "forgotten":
            if standard.whole:
                said.append(
                    f"Tolerance: a model that stopped up to {100 * (1 - standard.low):.0f} % short of a retrained one "
                    "would have passed too."
                )
            else:
                said.append(_may_remain(standard, float(model.answers.kept[0]), n))
        if self.uncheated:
            said.append(f"No built-in cheat could be made, so none was seen through: {self.uncheated}")
        if not standard.whole and standard.resolved and not standard.sees_leaks:
            said.append(
                "Single examples that are still known cannot be seen with these references: the request tells too "
                f"little (information {standard.information:.0f}, {LEAKS:.0f} needed)."
            )
        fit, usual = float(model.retain[0]), float(never.retain.mean())
        if fit < usual - 2 and found.outcome != "collapsed":
            said.append(
                f"It answers {fit:.1f} % of the retained training examples rightly, retrained models {usual:.1f} %: it "
                "memorised less of them. Abilities are judged on held-out examples only."
            )
        if self.several > 1:
            said.append(
                f"Judged is the mean of {self.several} edited models of the same method; a single one may lie further "
                "off."
            )
        return said


def decide(references: Bench, edited: Readings | None, untouched: str = "") -> Decision:
    """Judge the controls, then one model or the mean of several; see `Court`."""
    return Court.of(references, 1 if edited is None else len(edited)).judge(edited, untouched)


def rates_of(unedited: list[Outcome], oracles: list[Outcome], source: str) -> Rates:
    """Count how often the verdict was right; see `Rates`.

    Args:
        unedited: outcomes of models that hold the data.
        oracles: outcomes of retrained models.
        source: which models, in words.
    """
    accepted = oracles.count("forgotten")
    rejected = sum(o in _SEEN_THROUGH for o in unedited)
    n = max(1, len(unedited) + len(oracles))
    wrong = sum(o in ("forgotten", "over-forgotten") for o in unedited)
    wrong += sum(o not in ("forgotten", "inconclusive") for o in oracles)
    return Rates(
        oracles=len(oracles),
        oracles_accepted=accepted / max(1, len(oracles)),
        oracles_interval=wilson(accepted, len(oracles)),
        unedited=len(unedited),
        unedited_rejected=rejected / max(1, len(unedited)),
        unedited_interval=wilson(rejected, len(unedited)),
        inconclusive=(unedited.count("inconclusive") + oracles.count("inconclusive")) / n,
        wrong=wrong / n,
        source=source,
    )


def _left_out(references: Bench, several: int) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of holders and oracles, in groups that go round, each by limits that the others alone set."""
    holders, oracles = references.readings
    h, m = len(holders), len(oracles)

    def groups(n: int) -> list[tuple[list[int], list[int]]]:
        taken = [[(i + j) % n for j in range(several)] for i in range(n)]
        return [(group, [i for i in range(n) if i not in group]) for group in taken]

    held: list[Outcome] = [
        references.standard(holders=np.array(rest), several=several)
        .find(holders.at(group).mean(), control=True)
        .outcome
        for group, rest in groups(h)
    ]
    never: list[Outcome] = [
        references.standard(oracles=np.array(rest), several=several)
        .find(oracles.at(group).mean(), control=True)
        .outcome
        for group, rest in groups(m)
    ]
    return held, never


def _cheats(references: Bench, several: int) -> list[Control]:
    controls = []
    for name, made in references.cheated().items():
        k = len(made) if several > 1 else 1
        standard = references.standard(several=k)
        judged = [made.mean()] if several > 1 else [made.at([i]) for i in range(len(made))]
        outcomes = [standard.find(one).outcome for one in judged]
        let_through = [o for o in outcomes if o not in _SEEN_THROUGH]
        controls.append(
            Control(
                name=f"cheat: {name} ({len(made)} made)",
                expected="seen through",
                got=let_through[0] if let_through else outcomes[0],
                passed=not let_through,
            )
        )
    return controls


def _failed(failed: list[Control], found: Finding) -> str:
    told = "; ".join(f"{c.name} should be {c.expected}, but came out as {c.got}" for c in failed)
    return f"Control failed: {told}. {found.reason}"


def _more(standard: Standard, holders: int, oracles: int, failed: list[Control]) -> str:
    """How many models would decide."""
    spread = [float(s.answers.kept.std(ddof=1)) for s in (standard.oracles, standard.holders)]
    if not np.isfinite(spread).all():
        return "These examples leave no trace that retraining removes: pool them with other requests."
    need = needed(*spread)
    if need is not None and not standard.broad:
        need = Need(max(need.references, WITH_EDITS), max(need.edits, ceil(FEW / standard.effective)))
    if need is None:
        return (
            "These examples leave too small a trace to be judged one request at a time: pool them with other requests, "
            "or take an exact path (unweave train --exact)."
        )
    now = Need(min(holders, oracles), standard.several)
    if failed and need.advised.references <= now.references and need.advised.edits <= now.edits:
        return _double(holders, oracles)
    return f"What would decide, by the spread of these: {need.advised.words}."


def _double(holders: int, oracles: int) -> str:
    more = 16 if min(holders, oracles) < 16 else 32
    return f"Double the references and look again: {Need(more).words}."


def _may_remain(standard: Standard, at: float, n: int) -> str:
    _, (_, most) = standard.share(at)
    most = max(most, 1 - standard.low, standard.smallest)
    count = f", {int(np.ceil(most * n))} of {n} examples," if n else ""
    return (
        f"Tolerance: up to {100 * most:.0f} % of the request{count} may still be known; less than that these "
        "references cannot tell from a retrained model."
    )


def _check(name: str, half: str, power: bool, passed: bool) -> Check:
    return Check(name=name, half=half, power=power, passed=passed if power else None)  # type: ignore[arg-type]


def _range(standard: Standard) -> tuple[float, float] | None:
    ends = standard.held
    return ends if np.isfinite(ends).all() else None


def _models(n: int) -> str:
    return "model" if n == 1 else "models"
