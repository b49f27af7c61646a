# ruff: noqa: E501
"""Made-up audits, one for each thing a report must be able to say."""

from __future__ import annotations

import math
import random
from typing import Any

from unweave.audit.result import Audit, Check, ClassifierOutcome, Control, Rates, Rows, Samples, Verdict
from unweave.types import Measurement

LEAVE_ONE_OUT = Rates(
    oracles=8, oracles_accepted=1.0, oracles_interval=(0.63, 1.0), unedited=8, unedited_rejected=0.875,
    unedited_interval=(0.47, 0.997), inconclusive=0.0625, wrong=0.0, source="Leave-one-out over the models of this run",
)  # fmt: skip
PUBLISHED = Rates(
    oracles=40, oracles_accepted=0.975, oracles_interval=(0.868, 0.999), unedited=40, unedited_rejected=0.95,
    unedited_interval=(0.831, 0.994), inconclusive=0.025, wrong=0.0125, source="40 + 40 models on handwritten digits",
)  # fmt: skip
CONTROLS = (
    Control(name="original model", expected="not forgotten", got="not forgotten", passed=True),
    Control(name="fresh retrained model", expected="forgotten", got="forgotten", passed=True),
)
CHECKS = (
    Check(
        name="relearn time", half="memory", power=True, passed=True, position=0.91, accepted=(0.5, math.inf)
    ),
    Check(
        name="representation probe",
        half="memory",
        power=True,
        passed=False,
        position=0.2,
        accepted=(0.5, math.inf),
    ),
    Check(name="mask overlap", half="memory", power=False, passed=None),
)
RUN: dict[str, Any] = {
    "model": "ResNet-20, 95 % pruned, trained on CIFAR-10 (subset)",
    "request": "500 of 16,000 training examples, ids from delete.txt",
    "command": "unweave forget project.py --model model.safetensors --ids delete.txt --method unprune+salun --out runs/req-17",
    "seed": 0,
    "settings": {"density": 0.05, "unlearn": {"method": "SalUn", "lr": 0.0005, "epochs": 3}},
    "cost": {"retrain": 412.0, "edit": {"unprune + salun": 38.2, "fine-tune": 29.0, "no edit": 0.0}},
    "versions": {"unweave": "0.1.0", "torch": "2.13.0"},
    "hardware": "2 cores, no accelerator",
    "hashes": {"model.safetensors": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
    "stages": {"read": 0.8, "edit": 38.2, "oracles": 3296.4, "audit": 12.1},
}
REASON: dict[ClassifierOutcome, str] = {
    "forgotten": "Its position is 0.97, inside the range in which 95 % of retrained models lie (0.71 to 1.28).",
    "exact": "The recipe was run again on the retained examples.",
    "not forgotten": "Its position is 0.08, inside the range of models that hold the data (-0.22 to 0.25).",
    "partly forgotten": "Its position is 0.62, under where retrained models pass (0.71): about 38 % of it is left.",
    "answers only": "Its answers pass, but the layers under them still hold the data (last layer made anew: 0.11).",
    "over-forgotten": "Its position is 2.45, far beyond the range in which retrained models lie (0.71 to 1.28).",
    "collapsed": "Its held-out accuracy is 41.3 %, against 88.1 % (± 0.4) for retrained models.",
    "inconclusive": "No retrained model was given or made, so there is nothing to compare it with.",
}
POSITION: dict[ClassifierOutcome, float | None] = {
    "forgotten": 0.97, "exact": None, "not forgotten": 0.08, "partly forgotten": 0.62, "answers only": 0.98, "over-forgotten": 2.45,
    "collapsed": 1.9, "inconclusive": None,
}  # fmt: skip


def audit(
    outcome: ClassifierOutcome = "forgotten", *, method: str = "unprune + salun", sparse: bool = False
) -> Audit:
    """An audit with this outcome; `sparse` adds a mask layer by layer."""
    place, compared = POSITION[outcome], outcome != "inconclusive"
    draw = random.Random(outcome)
    p = place if place is not None else 0.5
    scores = {
        "original": [draw.gauss(6.0, 1.5) for _ in range(500)],
        "edited": [draw.gauss(6.0 - 3.2 * p, 1.5 + 0.9 * p) for _ in range(500)],
    }
    if compared:
        scores["oracle"] = [draw.gauss(2.8, 2.4) for _ in range(500)]
    classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
    drop = 45.0 if outcome == "collapsed" else 0.0
    per_class = {
        c: {"original": draw.uniform(78, 95), "edited": draw.uniform(77, 94) - drop}
        | ({"oracle": draw.uniform(78, 94)} if compared else {})
        for c in classes
    }
    layers = {}
    if sparse:
        names = [
            "conv1.weight",
            *(f"layer{s}.{b}.conv{c}.weight" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)),
        ]
        for depth, name in enumerate([*names, "fc.weight"]):
            dense = 0.6 / (1 + 0.55 * depth)
            layers[name] = {
                "edited": dense * draw.uniform(0.9, 1.1), "original": dense,
                "iou_original": draw.uniform(0.6, 0.8), "iou_oracle": draw.uniform(0.3, 0.5),
            }  # fmt: skip
    panels: list[Rows | Samples] = [
        Samples(name="scores", unit="nats", samples=scores),
        Rows(name="classes", unit="%", rows=per_class),
    ]
    if layers:
        panels.append(Rows(name="layers", unit="share", rows=layers))
    return Audit(
        kind="classifier",
        method=method,
        verdict=Verdict(
            outcome=outcome,
            reason=REASON[outcome],
            position=place,
            accepted=(0.71, 1.28) if compared else None,
            rejected=(-0.22, 0.25) if compared else None,
            checks=CHECKS if compared else (),
            caveats=()
            if compared
            else ("Without retrained models, forgetting cannot be told from a change of any kind.",),
        ),  # fmt: skip
        controls=CONTROLS if compared else (),
        rates=LEAVE_ONE_OUT if compared else None,
        measurements=_measurements(p, compared, drop),
        panels=tuple(panels),
    )


def _measurements(p: float, compared: bool, drop: float) -> tuple[Measurement, ...]:
    rows = [
        ("accuracy on forgotten examples", "%", 99.2, 86.4, 1.4, 500, "near the retrained models"),
        ("accuracy on retained examples", "%", 98.9, 98.7, 0.2, 15500, "near the retrained models"),
        ("accuracy on held-out examples", "%", 88.4 , 88.1, 0.4, 2000, "near the retrained models; higher is better"),
        ("membership attack, balanced accuracy", "%", 61.0, 50.4, 1.1, 1000, "50 % is a coin toss; near the retrained models"),
        ("KLOM, mean over forget set", "nats", 4.21, 0.31, 0.05, 500, "lower is better; retrained models give the floor"),
        ("relearn time", "steps", 1.0, 14.2, 2.2, 5, "near the retrained models"),
    ]  # fmt: skip
    made = []
    for name, unit, original, oracle, spread, n, direction in rows:
        value = original + p * (oracle - original) - (drop if "accuracy on" in name else 0.0)
        made.append(
            Measurement(
                name=name,
                value=value,
                unit=unit,
                direction=direction,
                n=n,
                original=original,
                interval=(value - 1.5 * spread, value + 1.5 * spread),
                oracle_mean=oracle if compared else None,
                oracle_spread=spread if compared else None,
            )  # fmt: skip
        )
    made.append(
        Measurement(
            name="U-LiRA",
            value=None,
            unit="%",
            direction="near 50 %",
            n=0,
            note="Needs at least 16 shadow models.",
        )
    )
    return tuple(made)


ODD = "<script>alert('x')</script> & \"q\" | `a` *b* [c](http://evil.example)"
"""Text that must come out as it went in, whatever the format."""


def hostile() -> Audit:
    """User text that would be markup, and figures that are not finite."""
    return Audit(
        kind="classifier",
        method=ODD,
        verdict=Verdict(
            outcome="inconclusive",
            reason=ODD,
            position=math.inf,
            accepted=(-math.inf, 1.5),
            rejected=(0.2, math.inf),
            checks=(Check(name=ODD, half="answers", power=True, passed=True, position=math.nan),),
            caveats=(ODD,),
            next_step=ODD,
        ),  # fmt: skip
        controls=(Control(name=ODD, expected="forgotten", got="inconclusive", passed=False),),
        rates=None,
        measurements=(
            Measurement(
                name=ODD,
                value=math.nan,
                unit=ODD,
                direction=ODD,
                n=3,
                interval=(1.0, math.inf),
                original=math.inf,
                note=ODD,
            ),
        ),
        panels=(
            Samples(
                name="scores",
                unit=ODD,
                samples={"edited": [math.inf, -math.inf, math.nan, 1.0], "original": []},
            ),
            Rows(
                name="classes",
                unit=ODD,
                rows={ODD: {"edited": math.nan}, "x" * 200: {"edited": 50.0, "original": 50.0}},
            ),
            Rows(name="layers", unit=ODD, rows={ODD: {"edited": 0.0, "original": 0.0}}),
        ),
    )


def of_every_outcome() -> dict[str, list[Audit]]:
    """Name -> audits of one report."""
    compared = [audit("not forgotten", method="fine-tune"), audit("over-forgotten", method="gradient ascent")]
    return {
        "forgotten": [audit("forgotten", sparse=True), *compared],
        "not-forgotten": [audit("not forgotten")],
        "partly-forgotten": [audit("partly forgotten")],
        "answers-only": [audit("answers only")],
        "over-forgotten": [audit("over-forgotten")],
        "collapsed": [audit("collapsed")],
        "inconclusive": [audit("inconclusive")],
        "hostile": [hostile()],
    }
