from __future__ import annotations

import json
from pathlib import Path

import pytest

import claims
from claims import framework
from claims.__main__ import written
from claims.effects import Effect
from claims.framework import (
    Claim,
    claim_names,
    claim_status,
    findings,
    load,
    read_claim,
    read_result,
    run_claim,
)
from unweave.catalogue import claim_statuses, methods
from unweave.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CLAIM = {
    "statement": "a is above b",
    "data": "none",
    "figures": {"a": "points", "b": "points"},
    "baseline": "b",
    "criterion": "a is above b",
}
OVER = Effect("a over b", better="a", worse="b")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A family of claims that lie elsewhere: file name -> text."""

    def put(**files: str) -> None:
        (tmp_path / "fresh").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / "fresh" / f"{name}.py").write_text(text, encoding="utf-8")

    monkeypatch.setattr(framework, "HERE", tmp_path)
    monkeypatch.setattr(framework, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    return put


@pytest.mark.parametrize("name", claim_names())
def test_claim_is_whole_and_its_stored_rows_are_its_own(name) -> None:
    claim, result = read_claim(name), read_result(name)
    assert claim.from_memory == ("from memory" in claim.reported)
    if result is None:
        assert claim_status(name) == "not run"
        return
    assert [set(row) for row in result.rows] == [set(claim.figures)] * len(claim.seeds)
    assert tuple(result.claim["seeds"]) == claim.seeds
    assert [f.effect for f in findings(name)] == list(claim.effects)
    for found in findings(name):
        assert found.interval[0] <= found.mean <= found.interval[1]


def test_every_method_has_a_claim_and_statuses_are_those_that_the_package_tells() -> None:
    derived = {name: claim_status(name) for name in claim_names()}
    assert derived == claim_statuses()
    assert {m.claim for m in methods()} <= {"holds", "not shown", "contradicted", "not run"}
    for path in (ROOT / "claims" / "results").glob("*/*.json"):
        assert "status" not in json.loads(path.read_text(encoding="utf-8"))


def test_pages_cards_and_readme_say_what_is_stored() -> None:
    stale = [path.name for path, text in written().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run `python -m claims table`"


def test_empty_claim_file_is_refused(fresh) -> None:
    fresh(
        empty="",
        only_claim="from tests.claims.test_claims import CLAIM, OVER, Claim\nclaim = Claim(**CLAIM, effects=(OVER,))\n",
    )
    for name in ("fresh/empty", "fresh/only_claim"):
        with pytest.raises(
            InputError, match=rf"claims/{name}\.py must define `claim`, a Claim, and `measure`"
        ):
            load(name)
    with pytest.raises(
        InputError, match=r"there is no claim 'fresh/other'\. There are: fresh/empty, fresh/only_claim\."
    ):
        load("fresh/other")


def test_a_run_is_stored_without_a_status_and_judged_when_read(fresh) -> None:
    fresh(
        told="from tests.claims.test_claims import CLAIM, OVER, Claim\n"
        "claim = Claim(**CLAIM, effects=(OVER,), seeds=(1, 2, 3))\n"
        "def measure(seed): return {'a': 10 + seed, 'b': 0}\n"
    )
    assert claim_status("fresh/told") == "not run"
    result = run_claim("fresh/told")
    stored = json.loads((framework.RESULTS / "fresh" / "told.json").read_text(encoding="utf-8"))
    assert "status" not in stored
    assert stored["rows"] == [{"a": 11.0, "b": 0.0}, {"a": 12.0, "b": 0.0}, {"a": 13.0, "b": 0.0}]
    assert read_result("fresh/told").rows == result.rows
    assert claim_status("fresh/told") == "holds"
    stored["status"], stored["rows"] = (
        "holds",
        [{"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 0.0}, {"a": 3.0, "b": 0.0}],
    )
    (framework.RESULTS / "fresh" / "told.json").write_text(json.dumps(stored), encoding="utf-8")
    assert claim_status("fresh/told") == "not shown"  # whatever a file says of itself


def test_measuring_other_figures_is_refused(fresh) -> None:
    fresh(
        other="from tests.claims.test_claims import CLAIM, OVER, Claim\n"
        "claim = Claim(**CLAIM, effects=(OVER,))\n"
        "def measure(seed): return {'a': float(seed)}\n"
    )
    with pytest.raises(
        InputError, match=r"fresh/other, seed 0: measured \{'a': 0\.0\}; the claim names \['a', 'b'\]"
    ):
        run_claim("fresh/other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0, 1)}, r"at least 3 different seeds; got \(0, 1\)"),
        ({"seeds": (0, 1, 1)}, r"at least 3 different seeds"),
        ({"effects": ()}, r"at least one headline effect"),
        (
            {"effects": (Effect("a over b", better="a", worse="b", headline=False),)},
            r"at least one headline effect",
        ),
        ({"effects": (OVER, OVER)}, r"need different names; got \['a over b', 'a over b'\]"),
        (
            {"effects": (Effect("a over c", better="a", worse="c"),)},
            r"'a over c' names the figure 'c', which was not measured",
        ),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        Claim(**{**CLAIM, "effects": (OVER,), **change})
