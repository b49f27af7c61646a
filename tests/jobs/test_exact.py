"""Training a model that can forget exactly, and forgetting from it, as jobs: from Python, in folders, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import contents
from tests.jobs.subjects import RECIPE, killed_at, subject
from unweave.errors import InputError, IntegrityError
from unweave.jobs import ExactJob, ExactlyTrained, ForgetExactJob, ForgottenExactly, Subject
from unweave.jobs.exact import as_recorded, dense
from unweave.prune import Global, Prune
from unweave.unlearn import S3T, SISA
from unweave.unlearn.exact import RetrainingDue, open_exact, open_service, prove
from unweave.unlearn.exact.folder import read_record
from unweave.unlearn.exact.service import same_bits

FAST = replace(RECIPE, epochs=3)


def world(**changes: Any) -> Subject:
    return replace(subject(), recipe=FAST, **changes)


def method(**changes: Any) -> SISA:
    return SISA(**{"recipe": FAST, "shards": 2, "slices": 2, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("exact") / "run"
    ExactJob(subject=world(), method=method()).run(at)
    return at


def service(folder: Path) -> Any:
    return open_service(folder / "model", FAST)


def first_of(folder: Path, shard: int, slice_: int) -> str:
    return next(i for i, place in service(folder).slices.places.items() if place == (shard, slice_))


def test_six_lines_from_nothing_to_a_proof(tmp_path: Path) -> None:
    owner = world()
    done = ExactJob(subject=owner, method=method()).run(tmp_path / "trained")
    left = ForgetExactJob(subject=owner, folder=done.folder, ids=[3, 17]).run(tmp_path / "left")
    assert left.identical is True
    assert ForgottenExactly.read(tmp_path / "left") == left
    assert ExactlyTrained.read(tmp_path / "trained") == done
    assert done.figures["examples"] == (150, "examples")
    assert left.figures["examples"] == (148, "examples")
    assert "all 18 tensors" not in str(done)
    assert "have the same bits" in str(left)
    assert "requests of one example can be served without any training" in str(left)
    for name in ("run.json", "report.html", "report.md", "model/exact.json"):
        assert (tmp_path / "left" / name).is_file()
    card = (tmp_path / "left" / "model" / "README.md").read_text()
    assert "**Forgotten exactly.** 2 examples were deleted" in card
    assert "| examples | 148 examples |" in card
    assert "The model before still holds" in card
    assert str(tmp_path) not in card


def test_the_new_folder_is_that_of_a_run_that_never_had_them(trained: Path, tmp_path: Path) -> None:
    gone = [5, 50, 77]
    left = ForgetExactJob(subject=world(), folder=trained, ids=gone).run(tmp_path / "left")
    rest = [i for i in range(150) if i not in gone]
    fresh = world(train=subject().train.subset(rest), ids=[str(i) for i in rest], columns={})
    ExactJob(subject=fresh, method=method()).run(tmp_path / "fresh")
    a, b = service(tmp_path / "left"), service(tmp_path / "fresh")
    assert a.states.keys() == b.states.keys()
    assert not any(same_bits(a.states[key], b.states[key]) for key in a.states)
    stages = {n for n in contents(tmp_path / "left" / "model") if "stage" in str(n)}
    assert stages == {n for n in contents(tmp_path / "fresh" / "model") if "stage" in str(n)}
    assert left.figures["held-out accuracy"][0] > 50


def test_what_saw_the_data_is_not_in_the_new_folder_and_is_purged_from_the_old_on_request(
    trained: Path, tmp_path: Path
) -> None:
    import shutil

    source = Path(shutil.copytree(trained, tmp_path / "source"))
    victim = first_of(source, 0, 0)
    whole = {p.name for p in (source / "model").iterdir()}
    job = ForgetExactJob(subject=world(), folder=source, ids=[victim])
    left = job.run(tmp_path / "kept")
    assert len(left.removed) == 2
    assert {Path(f).name for f in left.elsewhere} == set(left.removed) <= whole
    assert not any((tmp_path / "kept" / "model" / name).exists() for name in left.removed)
    assert "2 files in" in str(left)
    assert all(name in (tmp_path / "kept" / "report.md").read_text() for name in left.removed)
    purged = replace(job, purge=True).run(tmp_path / "purged")
    assert purged.elsewhere == ()
    assert not any((source / "model" / name).exists() for name in purged.removed)
    assert contents(source / "model") == contents(tmp_path / "purged" / "model", but=("README.md",))
    assert prove(service(source), world().train).identical
    again = replace(job, purge=True).run(tmp_path / "purged")  # finished: nothing is done again
    assert again == purged
    once_more = ForgetExactJob(subject=world(), folder=source, ids=[victim]).run(tmp_path / "more")
    assert once_more.figures["ids deleted"][0] == 0
    assert once_more.figures["ids deleted before"][0] == 1
    assert once_more.identical is None
    assert "had been deleted before: nothing was left to do" in str(once_more)


def test_without_retraining_the_stage_before_serves_and_dead_shards_are_counted(
    trained: Path, tmp_path: Path
) -> None:
    job = ForgetExactJob(subject=world(), folder=trained, ids=[first_of(trained, 1, 0)], retrain="none")
    left = job.run(tmp_path / "left")
    assert left.figures["shards that live"] == (1, "of 2")
    assert left.identical is None
    assert "no stage of the shards that were hit serves any more" in str(left)
    assert replace(job, proof="all").run(tmp_path / "all").identical is True
    told = read_record(tmp_path / "left" / "model")["log"]
    assert told == [{"ids": 1, "before": 0, "removed": 2, "trained": 0}]
    last = ForgetExactJob(
        subject=world(), folder=tmp_path / "left", ids=[first_of(trained, 0, 0)], retrain="none"
    )
    with pytest.raises(RetrainingDue, match="Retraining is due"):
        last.run(tmp_path / "dead")
    assert not (tmp_path / "dead").exists()
    revived = replace(last, retrain="dead").run(tmp_path / "revived")
    assert revived.figures["shards that live"] == (2, "of 2")
    assert revived.identical is True


def test_the_deleted_rows_may_be_gone_from_the_data_but_no_others(trained: Path, tmp_path: Path) -> None:
    rest = [i for i in range(150) if i != 9]
    lean = world(train=subject().train.subset(rest), ids=[str(i) for i in rest], columns={})
    assert ForgetExactJob(subject=lean, folder=trained, ids=["9"]).run(tmp_path / "a").identical is True
    with pytest.raises(InputError, match="1 examples that the model was trained on are not in the data: 9"):
        ForgetExactJob(subject=lean, folder=trained, ids=["10"]).run(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_requests_are_named_as_everywhere(trained: Path, tmp_path: Path) -> None:
    made = {how: ForgetExactJob(subject=world(), folder=trained, **given).wanted for how, given in {  # type: ignore[arg-type]
        "where": {"where": "owner=3"}, "classes": {"classes": ("birch",)}, "random": {"random": 4},
    }.items()}  # fmt: skip
    assert made["where"] == [str(i) for i in range(30, 40)]
    assert made["classes"] == [str(i) for i in range(150) if i % 3 == 1]
    assert len(set(made["random"])) == 4
    (tmp_path / "ids.txt").write_text("7\n8\n")
    assert ForgetExactJob(subject=world(), folder=trained, ids=tmp_path / "ids.txt").wanted == ["7", "8"]
    with pytest.raises(InputError, match="nothing to forget was named"):
        _ = ForgetExactJob(subject=world(), folder=trained).wanted
    with pytest.raises(InputError, match=r"were never in this model's data: 150, x\."):
        ForgetExactJob(subject=world(), folder=trained, ids=["150", "x"]).run(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_group_is_hit_once(tmp_path: Path) -> None:
    done = ExactJob(subject=world(), method=method(shards=1, slices=3), by="owner").run(tmp_path / "run")
    left = ForgetExactJob(subject=world(), folder=done.folder, where="owner=3", retrain="all", proof="none")
    found = left.run(tmp_path / "left")
    assert found.figures["ids deleted"][0] == 10
    assert found.figures["slices hit"][0] == 1
    assert "were not compared" in str(found)
    with pytest.raises(InputError, match="ExactJob.by='age' is no column of the data. There are: owner"):
        ExactJob(subject=world(), method=method(), by="age")


def test_a_false_bit_is_told_and_not_called_exact(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unweave.unlearn.sisa import FullModels

    real = FullModels.trained
    calls = [0]

    def drifting(self: Any, *args: Any, **how: Any) -> Any:
        calls[0] += 1
        state = dict(real(self, *args, **how))
        if calls[0] > 2:  # the deletion trains two stages; the comparison then draws otherwise
            name = next(iter(state))
            state[name] = state[name] + 1e-3
        return state

    monkeypatch.setattr(FullModels, "trained", drifting)
    left = ForgetExactJob(subject=world(), folder=trained, ids=[first_of(trained, 0, 0)]).run(
        tmp_path / "left"
    )
    assert left.identical is False
    assert "NOT EXACT" in str(left)
    assert (tmp_path / "left" / "report.md").read_text().startswith("# Not the same bits")


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_it_was_not(tmp_path: Path) -> None:
    def train(at: Path) -> None:
        ExactJob(subject=world(), method=method()).run(at)

    def forget(at: Path) -> None:
        ForgetExactJob(subject=world(), folder=tmp_path / "whole", ids=[3, 17, 90]).run(at)

    train(tmp_path / "whole")
    forget(tmp_path / "left")
    kills = 0
    for renaming in (3, 27):
        for work, whole in ((train, "whole"), (forget, "left")):
            at = tmp_path / f"{whole}{renaming}"
            kills += killed_at(renaming, lambda work=work, at=at: work(at))  # type: ignore[misc]
            work(at)
            assert contents(at / "model") == contents(tmp_path / whole / "model")
    assert kills >= 3


def test_s3t_needs_a_pretrained_model(tmp_path: Path) -> None:
    how = S3T(pretrained_on="noise", slices=2)
    with pytest.raises(InputError, match="S3T adapts a pretrained model, and a model at hand brings none"):
        ExactJob(subject=world(), method=how).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_s3t_of_a_model_at_hand(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the language extra is not installed")
    from tests.unlearn.test_s3t import FAST as QUICK
    from tests.unlearn.test_s3t import base, images

    data = images()
    owner = Subject(train=data, heldout=images(24), model=base())
    done = ExactJob(subject=owner, method=QUICK(shards=2, slices=2)).run(tmp_path / "run")
    left = ForgetExactJob(subject=owner, folder=done.folder, ids=[3]).run(tmp_path / "left")
    assert left.identical is True
    assert left.figures["stages trained anew"][0] == 0
    assert "noise drawn for this test" in (tmp_path / "left" / "report.md").read_text()
    weights = tmp_path / "left" / "model" / "base" / "model.safetensors"
    assert weights.read_bytes() == (tmp_path / "run" / "model" / "base" / "model.safetensors").read_bytes()
    x = next(data.batches())[0]
    model = open_exact(tmp_path / "left" / "model", base())
    assert bool(torch.isfinite(model(x)).all())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "auto"), [("bert", "SequenceClassification"), ("llama", "CausalLM")])
def test_s3t_of_texts_in_transformers_folders(name: str, auto: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the language extra is not installed")
    import transformers

    from tests import zoo
    from tests.unlearn.test_s3t import FAST as QUICK
    from unweave.io.loading import quiet

    member = next(m for m in zoo.ZOO if m.name == name)

    def load(folder: Path) -> Any:
        with quiet():
            return getattr(transformers, f"AutoModelFor{auto}").from_pretrained(folder)

    def save(model: Any, folder: Path, mask: Any) -> None:
        with quiet():
            model.save_pretrained(folder)

    save(member.model(), tmp_path / name, None)
    data = member.data(60)
    owner = Subject(
        train=data.subset(range(48)),
        heldout=data.subset(range(48, 60)),
        model=tmp_path / name,
        load=load,
        save=save,
    )
    done = ExactJob(subject=owner, method=QUICK(shards=2, slices=2, epochs=1)).run(tmp_path / "run")
    left = ForgetExactJob(subject=owner, folder=done.folder, ids=[3]).run(tmp_path / "left")
    assert left.identical is True
    assert left.figures["tensors compared"][0] > 4
    assert load(tmp_path / "left" / "model" / "base") is not None
    kind = "accuracy" if name == "bert" else "loss"
    assert f"held-out {kind}" in left.figures


def test_a_folder_is_read_with_its_own_recipe(trained: Path, tmp_path: Path) -> None:
    other = world()
    other = replace(other, recipe=replace(FAST, epochs=9))
    with pytest.raises(InputError, match="another recipe"):
        ForgetExactJob(subject=other, folder=trained, ids=[1]).run(tmp_path / "no")
    same = as_recorded(other, read_record(trained / "model"))
    assert ForgetExactJob(subject=same, folder=trained, ids=[1]).run(tmp_path / "left").identical
    told = json.loads((tmp_path / "left" / "run.json").read_text())
    assert told["settings"]["proof"] == "hit"
    pruning = replace(FAST, prune=Prune(budget=Global(0.5)), recover_epochs=2)
    lean = dense(world(name="x"))
    assert lean.name == "x"
    lean = dense(replace(world(name="x"), recipe=pruning))
    assert (lean.name, lean.recipe) == ("x, trained dense", FAST)


def test_a_damaged_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    source = Path(shutil.copytree(trained, tmp_path / "source"))
    record = source / "model" / "exact.json"
    record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(IntegrityError, match="checksum does not match"):
        ForgetExactJob(subject=world(), folder=source, ids=[1]).run(tmp_path / "left")
    with pytest.raises(InputError, match="holds no exactly deletable model"):
        ForgetExactJob(subject=world(), folder=tmp_path, ids=[1]).run(tmp_path / "left")
