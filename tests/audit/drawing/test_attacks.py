"""Attacks beside their controls, and what the verdict reads of them."""

from __future__ import annotations

from unweave.audit.drawing.attacks import Attacks, with_controls
from unweave.audit.drawing.compared import Tried
from unweave.erase import RandomVector, SoftVector, TokenSearch, UnlearnDiffAtk
from unweave.types import Measurement


def test_controls_have_as_many_candidates() -> None:
    attacks, controls = with_controls({
        "soft-vector": SoftVector(tokens=2, at_once=5),
        "unlearn-diff-atk": UnlearnDiffAtk(tokens=4, levels=7, banned=("cat",)),
    })  # fmt: skip
    assert list(attacks.values()) == [
        SoftVector(tokens=2, at_once=5), RandomVector(tokens=2, at_once=5),
        UnlearnDiffAtk(tokens=4, levels=7, banned=("cat",)), TokenSearch(tokens=4, tries=7, banned=("cat",)),
    ]  # fmt: skip
    assert [attacks[controls[n]] for n in controls] == [list(attacks.values())[1], list(attacks.values())[3]]
    assert with_controls({"token-search": TokenSearch()})[1] == {}


def attempts(*rows: tuple[str, bool]) -> dict[str, list[dict[str, object]]]:
    return {"attempts": [{"concept": c, "success": s} for c, s in rows]}


def test_counts_concept_by_concept_and_all_retrained_together() -> None:
    rows = {
        "uce": attempts(("cat", True), ("dog", False), ("cat", True)),
        "original": attempts(("cat", True), ("dog", True), ("cat", True)),
        "retrained 0": attempts(("cat", True), ("dog", False), ("cat", False)),
        "retrained 1": attempts(("cat", False), ("dog", False), ("cat", False)),
    }
    figure = Measurement(name="x", value=1.0, unit="%", direction="", n=3, interval=(0.0, 2.0))
    control = {name: attempts(("cat", False), ("dog", True), ("cat", False)) for name in rows}
    found = Attacks(
        figures={"uce": [figure]}, record={"x": rows, "r": control}, controls={"x": "r"}, seconds=2.5
    )  # fmt: skip
    assert found.tried("uce") == [
        Tried(
            name="x", edited={"cat": (2, 2), "dog": (0, 1)}, control={"cat": (0, 2), "dog": (1, 1)},
            never={"cat": (1, 4), "dog": (0, 2)},
        )
    ]  # fmt: skip
    assert Attacks.from_json(found.json()) == found
    assert [(m.name, m.value) for m in found.measurements("uce")] == [
        ("x", 1.0),
        ("time of the attacks", 2.5),
    ]
    assert Attacks(skipped="why").measurements("uce") == []
    assert Attacks(skipped="why").tried("uce") == []
