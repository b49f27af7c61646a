"""Error rates that reports print: those of each kind of model, as measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unweave.audit.rates import published
from unweave.report import words

ROOT = Path(__file__).parents[2]


def test_those_of_pipelines_are_what_the_benchmark_stored() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "erasure_error_rates.json").read_text())
    (rates,) = published("drawing")
    kinds = {k: [d[k]["word"] for d in stored["draws"]] for k in stored["draws"][0]}
    good = kinds.pop("retrained")
    bad = [word for found in kinds.values() for word in found]
    assert (rates.oracles, rates.unedited) == (len(good), len(bad))
    assert rates.oracles_accepted == pytest.approx(good.count("erased") / len(good))
    rejected = sum(word in ("not erased", "damaged") for word in bad)
    assert rates.unedited_rejected == pytest.approx(rejected / len(bad))
    assert "erased" not in bad
    assert rates.oracles_accepted >= 0.95
    page = (ROOT / "docs" / "guide" / "error-rates.md").read_text()
    assert f"0 of {len(bad)} faulty pipelines were called erased" in page


def test_each_kind_has_its_own_words() -> None:
    (rates,) = published("drawing")
    assert [r["what"] for r in words.error_rates(rates, fresh=True, kind="drawing")] == [
        "retrained pipelines were called erased", "pipelines that were not, or damaged, were rejected",
    ]  # fmt: skip
    assert published() != published("drawing")
