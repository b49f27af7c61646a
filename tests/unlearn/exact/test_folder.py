"""Exactly deletable models on disk: what comes back, what is removed, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract import world
from tests.unlearn.test_s3t import FAST, base, images
from unweave import seeded
from unweave.errors import InputError, IntegrityError, NonFiniteError
from unweave.unlearn import SISA
from unweave.unlearn.exact import (
    RetrainingDue,
    is_exact,
    kept_in,
    open_exact,
    open_service,
    prove,
    save_exact,
    update_exact_,
)
from unweave.unlearn.exact.folder import holding, read_record
from unweave.unlearn.exact.service import same_bits

RECIPE = replace(world.RECIPE, epochs=2)


def sisa() -> Any:
    return SISA(recipe=RECIPE, shards=2, slices=2).build(world.points()[0], rng=seeded(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_exact(sisa().service, tmp_path / "model")
    return tmp_path / "model"


def s3t() -> Any:
    pytest.importorskip("peft", reason="the language extra is not installed")
    return FAST(shards=1, slices=2, prior=(0.5, 0.2), selector="matching").adapt(
        base(), images(), rng=seeded(0)
    )


def test_a_sisa_comes_back_and_goes_on(saved: Path) -> None:
    model, data = sisa(), world.points()[0]
    again = open_exact(saved, RECIPE)
    x = next(data.batches())[0]
    assert torch.equal(again(x), model(x))
    assert again.service.slices == model.service.slices
    assert again.service.orders == model.service.orders
    left, done = again.forget(["7", "8"], data, retrain="all")
    other, same = model.forget(["7", "8"], data, retrain="all")
    assert done == same
    assert not any(same_bits(left.service.states[k], other.service.states[k]) for k in other.service.states)
    assert prove(left.service, data).identical


def test_an_s3t_comes_back_with_its_base(tmp_path: Path) -> None:
    model = s3t()
    save_exact(model.service, tmp_path / "model", source="here")
    x = next(images().batches())[0]
    assert torch.equal(open_exact(tmp_path / "model", base())(x), model(x))
    read: list[Path] = []

    def reading(path: Path) -> Any:
        read.append(path)
        return model.service.stages.base

    assert torch.equal(open_exact(tmp_path / "model", None, reading)(x), model(x))
    assert read == [tmp_path / "model" / "base"]
    told = read_record(tmp_path / "model")
    assert told["settings"]["pretrained_on"] == "noise drawn for this test"
    assert told["source"] == "here"
    left, _ = open_exact(tmp_path / "model", base()).forget([0])
    assert prove(left.service, images()).identical


def test_the_same_service_is_written_in_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    from tests.faults import contents

    save_exact(sisa().service, tmp_path / "again")
    assert contents(saved) == contents(tmp_path / "again")
    save_exact(open_service(saved, RECIPE), tmp_path / "copied")
    assert contents(saved) == contents(tmp_path / "copied")


def test_an_update_removes_the_files_that_saw_the_deleted(saved: Path) -> None:
    service = open_service(saved, RECIPE)
    left, done = service.without(["7"])
    wanted = holding(saved, done.removed)
    assert wanted
    gone = update_exact_(left, saved, log=({"ids": 1},))
    assert gone == wanted
    assert not any((saved / name).exists() for name in gone)
    now = open_service(saved, RECIPE)
    assert now.states.keys() == left.states.keys()
    assert now.slices.deleted == {}
    assert list(now.slices.gone.values()) == [service.slices.places["7"]]
    told = read_record(saved)
    assert "7" not in told["deleted"]
    assert not any("7" in names for row in told["places"] for names in row)
    assert read_record(saved)["log"] == [{"ids": 1}]
    same, again = now.without(["7"])
    assert again.before == ("7",)
    assert update_exact_(same, saved, log=()) == []


def test_what_was_deleted_is_known_under_its_key_alone_and_old_records_are_read(
    saved: Path, tmp_path: Path
) -> None:
    place = open_service(saved, RECIPE).slices.places
    left, _ = open_service(saved, RECIPE).without(["7"])
    update_exact_(left, saved, log=())
    other = open_service(saved, RECIPE, key=tmp_path / "another.key")
    with pytest.raises(InputError, match="names what was deleted under the key"):
        other.without(["7"])
    with pytest.raises(InputError, match="never in this model's data"):
        open_service(saved, RECIPE).without(["999"])

    body = {k: v for k, v in read_record(saved).items() if k not in ("sha256", "key")}
    old = {**body, "format": 1, "deleted": {"7": list(place["7"])}}  # as it was written before
    checksum = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    (saved / "exact.json").write_text(json.dumps({**old, "sha256": checksum}))
    service = open_service(saved, RECIPE)
    again, done = service.without(["7", "8"])
    assert (done.before, done.ids) == (("7",), ("8",))
    update_exact_(again, saved, log=())
    told = read_record(saved)
    assert (told["format"], len(told["deleted"])) == (2, 2)
    assert not {"7", "8"} & set(told["deleted"])
    assert open_service(saved, RECIPE).without(["8", "7"])[1].before == ("8", "7")


def test_an_update_replaces_what_was_retrained_and_sweeps_what_a_kill_left(saved: Path) -> None:
    data = world.points()[0]
    left, _ = open_exact(saved, RECIPE).forget(["7"], data, retrain="all")
    before = {p.name for p in saved.iterdir()}
    stray = saved / f"stage-0-0.{'0' * 16}.safetensors"
    stray.write_bytes(b"left by a kill")
    gone = update_exact_(left.service, saved, log=())
    assert stray.name in gone
    assert set(gone) - {stray.name} <= before
    names = {p.name for p in saved.iterdir()}
    assert len(names) == len(before)
    assert names != before
    assert prove(open_service(saved, RECIPE), data).identical


def test_all_dead_is_kept_on_disk_and_served_by_nobody(saved: Path) -> None:
    service = open_service(saved, RECIPE)
    left, _ = service.without([i for i, (_, s) in service.slices.places.items() if s == 0])
    update_exact_(left, saved, log=())
    assert [p.name for p in saved.iterdir()] == ["exact.json"]
    with pytest.raises(RetrainingDue):
        open_exact(saved, RECIPE)


def test_another_recipe_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="was trained by another recipe"):
        open_service(saved, replace(RECIPE, lr=0.2))


def test_damage_is_found(saved: Path, tmp_path: Path) -> None:
    file = next(saved.glob("stage-0-0.*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="its sha256 is not the recorded one"):
        dict(open_service(saved, RECIPE).states[0, (0,)])
    file.unlink()
    with pytest.raises(IntegrityError, match="is gone or a link"):
        dict(open_service(saved, RECIPE).states[0, (0,)])
    (tmp_path / "elsewhere").write_bytes(whole)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is gone or a link"):
        dict(open_service(saved, RECIPE).states[0, (0,)])
    record = saved / "exact.json"
    told = json.loads(record.read_text())
    told["seed"] += 1
    record.write_text(json.dumps(told))
    with pytest.raises(IntegrityError, match="checksum does not match"):
        open_service(saved, RECIPE)
    record.write_text("{")
    with pytest.raises(IntegrityError, match=r"exact.json is damaged"):
        open_service(saved, RECIPE)
    record.unlink()
    assert not is_exact(saved)
    with pytest.raises(InputError, match="holds no exactly deletable model"):
        open_service(saved, RECIPE)


def test_another_base_is_refused(tmp_path: Path) -> None:
    save_exact(s3t().service, tmp_path / "model")
    weights = tmp_path / "model" / "base" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not the base it was trained on"):
        open_exact(tmp_path / "model", base())


def test_nothing_infinite_is_written(tmp_path: Path) -> None:
    service = sisa().service
    key = next(iter(service.states))
    state = {n: t / 0 for n, t in service.states[key].items()}
    with pytest.raises(NonFiniteError, match="was not written"):
        save_exact(replace(service, states={**service.states, key: state}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_stage_kept_in_a_folder_is_trained_once_and_read_from_disk(tmp_path: Path) -> None:
    calls = [0]

    def train() -> dict[str, torch.Tensor]:
        calls[0] += 1
        return {"a": torch.arange(3.0), "b": torch.ones(2, 2).T}

    run = kept_in(tmp_path)
    first, second = run((0, (1, 2)), train), kept_in(tmp_path)((0, (1, 2)), train)
    assert calls == [1]
    assert not same_bits(first, second)
    assert second["a"].tolist() == [0.0, 1.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["stage-0-1-2.safetensors"]
    with pytest.raises(KeyError):
        _ = first["c"]
    run((0, (1,)), train)
    assert calls == [2]
