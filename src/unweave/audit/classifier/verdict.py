"""The verdict on one model: what the ruler says, once its controls have passed. See `ruler`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...statistics import wilson
from ..result import Control, Outcome, Rates, Verdict
from .ruler import Ruler, Sample

PASS = 0.75
"""Share of the retrained models, each judged by the others, that must be accepted to trust the verdict."""


@dataclass(frozen=True)
class Decision:
    """A verdict with the controls it passed through and its leave-one-out error rates."""

    verdict: Verdict
    controls: tuple[Control, ...]
    rates: Rates | None


NO_ORACLE = (
    "Without a retrained model it cannot be said how a model that never saw the examples would answer them, "
    "so neither forgetting nor its absence can be shown. Give oracles, or a recipe to train them with."
)


def decide(ruler: Ruler, edited: Sample) -> Decision:
    """Judge one model, after the controls.

    Args:
        ruler: its first holder is the original.
        edited: the model in question, which is not among the ruler's.
    """
    k, m = len(ruler.holders), len(ruler.oracles)
    if m == 0:
        return Decision(Verdict(outcome="inconclusive", reason=NO_ORACLE, caveats=(NO_ORACLE,)), (), None)
    holders, oracles = ruler.left_out_outcomes
    got = holders[0] if holders else ruler.judge(ruler.holders.only(0)).outcome
    controls = [
        Control(name="original model", expected="not forgotten", got=got, passed=got == "not forgotten")
    ]
    if oracles:
        accepted, others = oracles.count("forgotten"), Counter(o for o in oracles if o != "forgotten")
        got = "forgotten" if accepted / m >= PASS else others.most_common(1)[0][0]
        name = f"{m} retrained models, each judged by the others ({accepted} accepted)"
        controls.append(Control(name=name, expected="forgotten", got=got, passed=got == "forgotten"))
    found = ruler.judge(edited)
    outcome, reason = found.outcome, found.reason
    failed = [c for c in controls if not c.passed]
    # too few oracles to judge one of their own may still be enough to see that the data are there
    weak = len(failed) == 1 and failed[0].expected == "forgotten" and failed[0].got == "inconclusive"
    if failed and not (outcome == "collapsed" or (weak and outcome == "not forgotten")):
        outcome = "inconclusive"
        bad = failed[0]
        reason = (
            f"Control failed: {bad.name} should be {bad.expected}, but came out as {bad.got}. {found.reason}"
        )
    verdict = Verdict(
        outcome=outcome,
        reason=reason,
        position=found.position,
        accepted=ruler.accepted if m > 1 else None,
        rejected=ruler.rejected if k > 1 else None,
        caveats=tuple(_few(k, m)),
    )
    rates = rates_of(holders, oracles, "leave-one-out, this run") if holders and oracles else None
    return Decision(verdict, tuple(controls), rates)


def _few(holders: int, oracles: int) -> list[str]:
    said = []
    if oracles < 3:
        several = "one retrained model does" if oracles == 1 else "two retrained models do"
        said.append(
            f"With fewer than three retrained models nothing can be called forgotten: {several} not show how "
            "far such models differ."
        )
    if holders == 1:
        said.append(
            "Only the original holds the data here, so how far such models differ is not known. Train more "
            "of them with other seeds."
        )
    return said


def rates_of(unedited: list[Outcome], oracles: list[Outcome], source: str) -> Rates:
    """Count how often the verdict was right; see `Rates`.

    Args:
        unedited: outcomes of models that hold the data.
        oracles: outcomes of retrained models.
        source: which models, in words.
    """
    accepted, rejected = oracles.count("forgotten"), unedited.count("not forgotten")
    n = max(1, len(unedited) + len(oracles))
    wrong = unedited.count("forgotten") + sum(o not in ("forgotten", "inconclusive") for o in oracles)
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
