from __future__ import annotations

from pathlib import Path

import pytest

from unweave.audit.result import Audit, Control, Verdict
from unweave.report.card import FILE, MADE, audit_card, library_of, pruned_card
from unweave.types import Measurement

AUDIT = Audit(
    kind="classifier", method="salun | odd", verdict=Verdict(outcome="answers only", reason="Its answers *pass*.", caveats=("A caveat.",)),
    controls=(Control(name="original model", expected="not forgotten", got="not forgotten", passed=True),),
    measurements=(Measurement(name="accuracy", value=1.5, unit="%", direction="near the oracle", n=7, original=90.0),),
)  # fmt: skip


def test_it_says_the_verdict_and_what_it_does_not_cover() -> None:
    card = audit_card(AUDIT, library="pytorch", made="a net", request="3 examples")
    assert card.startswith(
        "---\nlibrary_name: pytorch\ntags:\n- unweave\n- machine-unlearning\n---\n\n# A model that"
    )
    assert "**◒ Answers only.** This model answers the deleted examples like" in card
    assert "- ✓ original model: called not forgotten, as it must be" in card
    assert "| by | salun \\| odd |" in card
    assert "Its answers \\*pass\\*." in card
    assert "| accuracy | 1.50 % | 90.0 % | – |" in card
    assert "- A caveat." in card
    assert "The model before still holds what was taken out" in card
    assert card.count(MADE) == 1


def test_the_card_of_the_model_before_is_kept_and_ours_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("---\nlicense: mit\ntags: [pets]\n---\n\n# Pets\n\nMine.\n")
    first = audit_card(AUDIT, library="transformers", former=tmp_path)
    assert first.startswith("---\nlicense: mit\ntags: [pets]\n---\n\n# A model that was asked to forget")
    assert first.endswith("# The card of the model before\n\n# Pets\n\nMine.\n")
    (tmp_path / FILE).write_text(first)
    second = audit_card(AUDIT, library="transformers", former=tmp_path)
    assert second == first
    for text in ("", "---\nnever closed", "\xff"):
        (tmp_path / FILE).write_bytes(text.encode("latin-1"))
        assert audit_card(AUDIT, library="pytorch", former=tmp_path).startswith("---\nlibrary_name: pytorch")
    assert audit_card(AUDIT, library="pytorch", former=tmp_path / "model.safetensors").count("# ") >= 4


def test_pruned() -> None:
    card = pruned_card(
        {"accuracy": (90.0, 88.5, "%")}, library="pytorch", method="magnitude", notes=["Two layers stay."]
    )
    assert "- pruning" in card
    assert "| accuracy | 90.00 % | 88.50 % |" in card
    assert "- Two layers stay." in card


@pytest.mark.parametrize(
    ("file", "library"),
    [("config.json", "transformers"), ("model_index.json", "diffusers"), ("x", "pytorch")],
)
def test_library(tmp_path: Path, file: str, library: str) -> None:
    (tmp_path / file).write_text("{}")
    assert library_of(tmp_path) == library
