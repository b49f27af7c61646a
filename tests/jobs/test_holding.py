"""What was deleted is neither told on nor left behind unseen: names, hashes, copies, and purging."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import RECIPE, subject
from unweave.io.checkpoint import save_model
from unweave.io.model_cache import entry_in_use
from unweave.jobs import ForgetJob
from unweave.parallel import build_models, cache_folder
from unweave.types import Request
from unweave.unlearn import FineTune, Retrain

pytestmark = pytest.mark.filterwarnings("ignore::unweave.jobs.UnsuitedWarning")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))


def job(where: str = "owner=3", **more: Any) -> ForgetJob:
    given = {
        "subject": subject(),
        "edits": {"mine": FineTune(epochs=1)},
        "oracles": 2,
        "holders": 2,
        "jobs": 1,
    }
    return ForgetJob(**{**given, "where": where, "quick": True, **more})


def held(run: Path) -> dict[str, dict[str, Any]]:
    return {h["what"]: h for h in json.loads((run / "holders.json").read_text())}


def test_neither_value_nor_positions_stand_in_any_file(tmp_path: Path) -> None:
    named = replace(subject(), columns={"owner": ["ann.lee" if i < 10 else "bo" for i in range(150)]})
    done = job("owner=ann.lee", subject=named, oracles=0, holders=0).run(tmp_path / "run")
    whole = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    plain = hashlib.sha256(torch.arange(10).numpy().tobytes()).hexdigest()
    assert b"ann.lee" not in whole
    assert plain.encode() not in whole
    assert "10 of 150 training examples, all with one value of owner" in str(done)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["request"].startswith(f"request-{record['settings']['positions'][:8]}: ")


def test_a_request_has_a_name_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(name="ticket 17").selected[1].startswith("ticket 17: 10 of 150")
    assert job().called == job().called != job("owner=4").called
    before = job().plan()
    assert before == job().plan()
    monkeypatch.setenv("UNWEAVE_KEY", str(tmp_path / "another"))
    assert job().hashed != before["positions"]


def test_what_still_holds_the_data_is_listed_and_purged(tmp_path: Path) -> None:
    other = Request.of(subject().train, subject().heldout, [99])
    done = job().run(tmp_path / "run")
    found = held(done.folder)
    holders = cache_folder(RECIPE, subject().train, tmp_path / "cache" / "models")
    oracles = cache_folder(RECIPE, job().request.retain, tmp_path / "cache" / "models")
    places = {h["place"]: h for h in found.values()}
    assert set(places) == {str(done.folder / "original"), str(done.folder / "model"), str(holders)}
    assert all(h["size"] > 1000 and not h["removed"] for h in places.values())
    assert not places[str(done.folder / "model")]["ours"]  # its verdict is open, so it is listed too
    for page in ("report.md", "report.html"):
        text = (done.folder / page).read_text()
        assert "What still holds the deleted data" in text
        assert "--purge removes those made by unweave" in text
        assert str(holders).rpartition("/")[2] in text
    # a later request's oracle still holds what this one deleted
    build_models(RECIPE, other.retain, [5], jobs=1, cache=tmp_path / "cache" / "models")

    again = job(purge=True).run(tmp_path / "run")
    assert again == done  # the same run, its verdict as it was
    assert not (done.folder / "original").exists()
    assert not holders.exists()
    assert oracles.exists()
    assert (done.folder / "model").exists()
    assert {h["removed"] for h in held(done.folder).values() if h["ours"]} == {True}
    assert "Removed: 2, with" in (done.folder / "report.md").read_text()
    written = (done.folder / "run.json").read_bytes()
    assert job(purge=True).run(tmp_path / "run") == done  # nothing is trained again for what is finished
    assert job().run(tmp_path / "run") == done
    assert not holders.exists()
    assert (done.folder / "run.json").read_bytes() == written


def test_a_model_that_another_process_uses_is_kept_and_said(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models"
    holders = cache_folder(RECIPE, subject().train, cache)
    with entry_in_use(holders, 77):
        (holders / "77.unfinished").mkdir()
        done = job(purge=True).run(tmp_path / "run")
    (entry,) = (h for h in held(done.folder).values() if h["place"] == str(holders))
    assert not entry["removed"]
    assert entry["kept"] == "kept: 1 in use by another process"
    assert sorted(p.name for p in holders.glob("77.*")) == ["77.unfinished"]
    assert not list(holders.glob("*.safetensors"))


def test_the_users_own_file_is_listed_and_never_removed(tmp_path: Path) -> None:
    model = subject(model=True).model
    assert isinstance(model, torch.nn.Module)
    save_model(model, tmp_path / "mine.safetensors")
    own = replace(subject(), model=tmp_path / "mine.safetensors")
    edits = {"mine": Retrain(recipe=RECIPE), "fine-tune": FineTune(epochs=1)}
    given = {"subject": own, "edits": edits, "classes": ["ash"], "where": "", "oracles": 4, "holders": 3}
    done = job(purge=True, **given).run(tmp_path / "run")
    assert done.audits[0].verdict.outcome == "forgotten"
    found = held(done.folder)
    assert (tmp_path / "mine.safetensors").exists()
    assert found["the model before the edit"]["ours"] is False
    assert str(done.folder / "model") not in {h["place"] for h in found.values()}
    assert done.audits[1].verdict.outcome != "forgotten"
    assert not (done.folder / "compared" / "fine-tune").exists()
    assert "yours to remove" in (done.folder / "report.md").read_text()


def test_a_cache_that_cannot_be_written_stops_no_run_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNWEAVE_CACHE", "/proc/nowhere")
    with pytest.warns(UserWarning, match="the cache will not know what was deleted: /proc/nowhere"):
        done = job(oracles=0, holders=0).run(tmp_path / "run")
    assert done.page.is_file()
