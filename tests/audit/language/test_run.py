"""The verdict on language models: what it says of retrained ones, of models that hold the texts, and of cheats."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from tests.embedded.test_authors import SMALL
from unweave import seeded
from unweave.audit.language.cheats import FILTER, REFUSES, REMADE
from unweave.audit.language.figures import Choices
from unweave.audit.language.run import Auditor
from unweave.embedded.authors import decode, encode, known_models
from unweave.errors import EmptyDataError
from unweave.report.markdown import render_markdown
from unweave.report.stored import from_json, to_json
from unweave.tasks.language import texts

GONE, N = (0, 1), 4


@lru_cache
def world() -> tuple[Any, list[Any], list[Any]]:
    pytest.importorskip("transformers")
    holders, oracles = known_models(SMALL, range(N + 1)), known_models(SMALL, range(100, 101 + N), GONE)
    known = SMALL.questions()[0][: 5 * len(GONE)]
    return (
        Auditor.of(
            SMALL.request(GONE), original=holders[0], holders=holders[1:N], oracles=oracles[:N], rng=seeded(1),
            paraphrases=texts([encode(q.asked[0], q.answer) for q in known]),
            choices=Choices(
                texts([encode(q.prompt, q.answered[0]) for q in known]),
                texts([encode(q.prompt, w) for q in known for w in q.wrong]),
            ),
            decode=decode,
        ),
        holders,
        oracles,
    )  # fmt: skip


@pytest.mark.slow
def test_retrained_models_pass_models_that_hold_the_texts_do_not_and_cheats_are_seen_through() -> None:
    auditor, holders, oracles = world()
    clean, held = auditor.audit(oracles[N], method="retrain"), auditor.decide(holders[N]).verdict
    assert (clean.verdict.outcome, held.outcome) == ("forgotten", "not forgotten"), (
        clean.verdict.why,
        held.why,
    )
    named = {c.name.split(" (")[0].removeprefix("cheat: "): c for c in clean.controls}
    assert all(c.passed for c in clean.controls), clean.tested
    assert {FILTER, REMADE, REFUSES} <= set(named)
    assert named[FILTER].got == "answers only"
    assert {"quantised copy", "in other words", "relearn time"} <= {c.name for c in clean.verdict.checks}
    figures = {m.name: m for m in clean.measurements}
    assert (
        figures["probability, deleted texts"].original > 0.8 > 2 * figures["probability, deleted texts"].value
    )
    assert figures["ROUGE-L recall"].original > figures["ROUGE-L recall"].value
    assert figures["membership by loss"].original > 0.9
    assert figures["PrivLeak"].original < figures["PrivLeak"].value
    assert figures["forget quality"].n == 10
    assert "geometric mean" in figures["truth ratio"].note
    rows = clean.passages("answers")
    assert len(rows) == 5
    assert all(row["original"] == row["truth"] for row in list(rows.values())[:1])
    page = render_markdown([clean], {}, [])
    assert "What the models say" in page
    assert next(iter(rows.values()))["oracle"] in page
    again = from_json(to_json([clean]))[0]
    assert (again.kind, again.panels[1], again.verdict.outcome) == ("language", clean.panels[1], "forgotten")


@pytest.mark.slow
def test_without_references_it_says_that_nothing_is_decided() -> None:
    auditor, holders, _ = world()
    request = auditor.references.request
    alone = Auditor.of(request, original=holders[0], rng=seeded(0)).audit(holders[1])
    assert alone.verdict.outcome == "inconclusive"
    assert "Give oracles" in alone.verdict.next_step
    assert not [m for m in alone.measurements if m.oracle_mean is not None]
    with pytest.raises(EmptyDataError, match="audit of a language model"):
        Auditor.of(replace(request, heldout=request.heldout.subset([])), original=holders[0], rng=seeded(0))
