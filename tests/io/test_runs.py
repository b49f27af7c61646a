from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import contents, damages, each_full_disk, one_line, partials
from tests.processes import run_and_kill, run_python
from unweave.errors import InputError, IntegrityError, StorageError, UnweaveError
from unweave.io.files import write_text
from unweave.io.runs import RunFolder, locked, read_record


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 4)
    return path


def _run(
    out: Path,
    source: Path,
    *,
    lr: float = 0.1,
    seed: int = 0,
    stop_in: str = "",
    log: list[str] | None = None,
) -> None:
    done = [] if log is None else log
    with RunFolder.open(
        out,
        settings={"lr": lr, "method": {"name": "salun"}},
        inputs={"model": source, "data": "ab" * 32},
        seed=seed,
    ) as run:
        for name in ("edit", "audit"):
            with run.stage(name, f"{name}/numbers.txt") as stage:
                if not stage.todo:
                    continue
                done.append(name)
                (stage.work / "half-way").write_text("x")
                write_text(stage.paths[0], str(torch.rand(3, generator=stage.rng).tolist()))
                (out / name / ".extra.partial").write_text("orphan")
                if stop_in == name:
                    raise RuntimeError("stopped")
                (out / name / ".extra.partial").unlink()


def _same_but_times(a: Path, b: Path) -> None:
    times = ("run.json",)
    assert contents(a, times) == contents(b, times)
    left, right = read_record(a), read_record(b)
    for record in (left, right):
        del record["times"], record["sha256"]
    assert left == right


def test_record_of_a_finished_run(tmp_path: Path, source: Path) -> None:
    _run(tmp_path / "out", source)
    assert sorted(contents(tmp_path / "out")) == ["audit/numbers.txt", "edit/numbers.txt", "run.json"]
    record = read_record(tmp_path / "out")
    import hashlib

    assert record["inputs"] == {"model": hashlib.sha256(source.read_bytes()).hexdigest(), "data": "ab" * 32}
    digest = hashlib.sha256((tmp_path / "out" / "edit" / "numbers.txt").read_bytes()).hexdigest()
    assert record["stages"]["edit"] == {
        "state": "finished",
        "makes": ["edit/numbers.txt"],
        "artefacts": {"edit/numbers.txt": digest},
    }
    assert record["settings"] == {"lr": 0.1, "method": {"name": "salun"}}
    assert {"torch", "numpy", "python", "unweave"} <= set(record["versions"])
    assert record["hardware"]["cores"] == os.cpu_count()
    assert record["times"]["stages"]["edit"]["starts"] == 1


@pytest.mark.parametrize("stop_in", ["edit", "audit"])
def test_resuming_skips_what_is_finished_and_ends_the_same(
    tmp_path: Path, source: Path, stop_in: str
) -> None:
    _run(tmp_path / "whole", source)
    with pytest.raises(RuntimeError, match="stopped"):
        _run(tmp_path / "out", source, stop_in=stop_in)
    assert partials(tmp_path / "out")
    assert (tmp_path / "out" / ".work" / stop_in / "half-way").exists()
    log: list[str] = []
    _run(tmp_path / "out", source, log=log)
    assert log == (["edit", "audit"] if stop_in == "edit" else ["audit"])
    _same_but_times(tmp_path / "out", tmp_path / "whole")
    log.clear()
    _run(tmp_path / "out", source, log=log)
    assert log == []


def test_another_seed_gives_other_numbers(tmp_path: Path, source: Path) -> None:
    _run(tmp_path / "a", source)
    _run(tmp_path / "b", source, seed=1)
    assert (tmp_path / "a/edit/numbers.txt").read_bytes() != (tmp_path / "b/edit/numbers.txt").read_bytes()
    assert (tmp_path / "a/edit/numbers.txt").read_bytes() != (tmp_path / "a/audit/numbers.txt").read_bytes()


def test_leftovers_of_an_unfinished_stage_go(tmp_path: Path) -> None:
    def attempt(names: list[str]) -> None:
        with (
            RunFolder.open(tmp_path / "out", settings={}, inputs={}, seed=0) as run,
            run.stage("s", "model") as stage,
        ):
            stage.paths[0].mkdir()
            for name in names:
                (stage.paths[0] / name).write_text(name)
            if "bad" in names:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        attempt(["a", "bad"])
    attempt(["a"])
    assert sorted(contents(tmp_path / "out")) == ["model/a", "run.json"]


def test_a_stage_done_anew_undoes_the_later_ones(tmp_path: Path) -> None:
    def attempt(made: str) -> list[str]:
        log = []
        with RunFolder.open(tmp_path / "out", settings={}, inputs={}, seed=0) as run:
            for name, makes in (("first", made), ("second", "b")):
                with run.stage(name, makes) as stage:
                    if stage.todo:
                        log.append(name)
                        write_text(stage.paths[0], name)
        return log

    assert attempt("a") == ["first", "second"]
    assert attempt("a") == []
    assert attempt("a2") == ["first", "second"]


@pytest.mark.parametrize("damage", list(damages(b"0123456789")))
def test_a_changed_result_is_caught(tmp_path: Path, source: Path, damage: str) -> None:
    _run(tmp_path / "out", source)
    path = tmp_path / "out" / "edit" / "numbers.txt"
    path.write_bytes(damages(path.read_bytes())[damage])
    before = contents(tmp_path / "out")
    with pytest.raises(IntegrityError, match="has changed since stage 'edit' wrote it") as caught:
        _run(tmp_path / "out", source)
    assert str(path) in one_line(caught.value)
    assert contents(tmp_path / "out") == before
    path.unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        _run(tmp_path / "out", source)


def test_a_flipped_bit_in_an_input_is_caught(tmp_path: Path, source: Path) -> None:
    with pytest.raises(RuntimeError):
        _run(tmp_path / "out", source, stop_in="audit")
    content = bytearray(source.read_bytes())
    content[500] ^= 4
    source.write_bytes(content)
    with pytest.raises(
        IntegrityError, match=r"input model \(.*weights.bin\) is not what the run .* began with"
    ) as caught:
        _run(tmp_path / "out", source)
    one_line(caught.value)


def test_a_flipped_bit_in_a_folder_of_data_is_caught(tmp_path: Path) -> None:
    data = tmp_path / "pets"
    for name in ("cat/1.png", "dog/2.png"):
        write_text(data / name, name)

    def attempt() -> None:
        with RunFolder.open(tmp_path / "out", settings={}, inputs={"data": data}, seed=0):
            pass

    attempt()
    attempt()
    write_text(data / "dog/2.png", "dog/2.pnf")
    with pytest.raises(IntegrityError, match="input data"):
        attempt()
    write_text(data / "dog/2.png", "dog/2.png")
    (data / "dog/2.png").rename(data / "cat/2.png")
    with pytest.raises(IntegrityError, match="input data"):
        attempt()


def test_other_settings_are_refused_by_name(tmp_path: Path, source: Path) -> None:
    _run(tmp_path / "out", source)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"other settings: seed was 0, now 3; lr was 0\.1, now 0\.2\."):
        _run(tmp_path / "out", source, lr=0.2, seed=3)
    with pytest.raises(InputError, match=r"other inputs: it had data, model; now model\."):
        with RunFolder.open(
            tmp_path / "out",
            settings={"lr": 0.1, "method": {"name": "salun"}},
            inputs={"model": source},
            seed=0,
        ):
            pass
    with pytest.raises(
        InputError, match=r'lr was 0.1, now \(not given\); method.name was "salun", now \(not given\)'
    ):
        with RunFolder.open(tmp_path / "out", settings={}, inputs={}, seed=0):
            pass
    assert contents(tmp_path / "out") == before


def test_other_versions_are_refused_by_name(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unweave.io import run_record

    _run(tmp_path / "out", source)
    then = read_record(tmp_path / "out")["versions"]
    monkeypatch.setattr(run_record, "_versions", lambda: {**then, "numpy": "0.9"})
    with pytest.raises(
        InputError, match=f"begun with other versions: numpy {re.escape(then['numpy'])} then, 0.9 now"
    ):
        _run(tmp_path / "out", source)


def test_what_is_not_a_run_folder_is_left_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="neither empty nor a run folder"):
        _run(tmp_path / "out", source)
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine"}
    with pytest.raises(InputError, match="is a file"):
        _run(source, source)


def test_bad_inputs_leave_nothing_behind(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InputError, match="input model: there is no"):
        _run(tmp_path / "out", tmp_path / "absent")
    with pytest.raises(InputError, match="must be plain JSON"):
        with RunFolder.open(tmp_path / "out", settings={"a": object()}, inputs={}, seed=0):
            pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", ["../x", "/etc/x", "", "run.json", ".work/x", "a/../../x"])
def test_results_stay_inside(tmp_path: Path, made: str) -> None:
    with pytest.raises(InputError, match="inside the run folder"):
        with RunFolder.open(tmp_path / "out", settings={}, inputs={}, seed=0) as run, run.stage("s", made):
            pass


def test_a_promise_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without writing 'model'"):
        with RunFolder.open(tmp_path / "out", settings={}, inputs={}, seed=0) as run, run.stage("s", "model"):
            pass


_HOLDER = """
import signal, sys, time
from pathlib import Path
from unweave.io.runs import RunFolder
signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may ignore it
with RunFolder.open(Path(sys.argv[1]), settings={}, inputs={}, seed=0) as run:
    print("open", flush=True)
    time.sleep(60)
"""


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        before = contents(out)
        with pytest.raises(InputError, match="another run is using"):
            with RunFolder.open(out, settings={}, inputs={}, seed=0):
                pass
        assert contents(out) == before
        holder.kill()  # its lock goes with it
        holder.wait()
        with RunFolder.open(out, settings={}, inputs={}, seed=0) as run:
            assert run.resumed
        assert sorted(contents(out)) == ["run.json"]
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_one_lock_inside_one_process(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another run is using"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("damage", list(damages(b"0123456789")))
def test_a_damaged_record_is_refused(tmp_path: Path, source: Path, damage: str) -> None:
    _run(tmp_path / "out", source)
    path = tmp_path / "out" / "run.json"
    path.write_bytes(damages(path.read_bytes())[damage])
    with pytest.raises(IntegrityError, match=r"run\.json is damaged") as caught:
        _run(tmp_path / "out", source)
    one_line(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_record_gives_our_error(tmp_path: Path, data: st.DataObject) -> None:
    from unweave.io.runs import _checksum

    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    with (
        RunFolder.open(out, settings={"a": 1}, inputs={"d": "00"}, seed=0) as run,
        run.stage("s", "x") as stage,
    ):
        write_text(stage.paths[0], "x")
    record = json.loads((out / "run.json").read_text())
    del record["sha256"]
    key = data.draw(st.sampled_from([*record, "stages.s", "stages.s.artefacts", "everything"]))
    if key == "everything":
        record = data.draw(_JSON)
    else:
        *path, last = key.split(".")
        place = record
        for step in path:
            place = place[step]
        place[last] = data.draw(_JSON)
    if isinstance(record, dict):
        record["sha256"] = _checksum(record)  # as if someone had written it so
    (out / "run.json").write_text(json.dumps(record))
    try:
        with (
            RunFolder.open(out, settings={"a": 1}, inputs={"d": "00"}, seed=0) as run,
            run.stage("s", "x") as stage,
        ):
            if stage.todo:
                write_text(stage.paths[0], "x")
    except UnweaveError as error:
        one_line(error)
    else:
        assert (out / "x").read_text() == "x"


def test_a_record_cannot_point_outside(tmp_path: Path) -> None:
    from unweave.io.runs import _checksum

    out = tmp_path / "out"
    with RunFolder.open(out, settings={}, inputs={}, seed=0) as run, run.stage("s", "x") as stage:
        write_text(stage.paths[0], "x")
    record = json.loads((out / "run.json").read_text())
    del record["sha256"]
    record["stages"]["s"]["artefacts"] = {"../../etc/passwd": "0" * 64}
    record["sha256"] = _checksum(record)
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match="inside the run folder"):
        read_record(out)


def test_full_disk_at_each_write_then_resume(tmp_path: Path, source: Path) -> None:
    _run(tmp_path / "whole", source)
    out = tmp_path / "out"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        _run(out, source)

    tried = 0
    for failing in each_full_disk(fresh):
        with pytest.raises(StorageError, match="No space left on device") as caught:
            failing()
        one_line(caught.value)
        assert not [p for p in partials(out) if p.name != ".extra.partial"]
        _run(out, source)
        _same_but_times(out, tmp_path / "whole")
        tried += 1
    assert tried >= 14  # seven files, each synced and renamed at least


_PIPELINE = """
import sys, time
from pathlib import Path
import torch
from unweave.io.checkpoint import save_model
from unweave.io.files import write_text
from unweave.io.runs import RunFolder
from unweave.embedded.nets import mlp
out, source, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
with RunFolder.open(out, settings={"lr": 0.1}, inputs={"model": source}, seed=5) as run:
    for name in ("edit", "oracle"):
        with run.stage(name, name) as stage:
            if stage.todo:
                torch.manual_seed(stage.rng.initial_seed() % 2**31)
                for i in range(8):
                    save_model(mlp(8, 16, 4), stage.paths[0] / f"{i}.safetensors")
                    time.sleep(slow)
    with run.stage("report", "report.md") as stage:
        if stage.todo:
            write_text(stage.paths[0], "done")
"""


@pytest.mark.slow
def test_killed_at_random_moments_then_the_same_bits(tmp_path: Path, source: Path) -> None:
    def finish(out: Path) -> None:
        done = run_python(_PIPELINE, str(out), str(source), "0")
        assert done.returncode == 0, done.stderr

    finish(tmp_path / "whole")
    rng = random.Random(0)
    killed = 0
    out = tmp_path / "out"
    for _ in range(4):
        before = time.time()
        killed += run_and_kill(
            _PIPELINE,
            str(out),
            str(source),
            "0.02",
            ready=lambda before=before: (
                (out / "run.json").exists() and (out / "run.json").stat().st_mtime > before
            ),
            after=rng.uniform(0, 0.3),
        )
    assert killed >= 2
    finish(out)
    _same_but_times(out, tmp_path / "whole")
    assert not partials(tmp_path)


def test_an_interrupt_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGINT)
    holder.wait()
    holder.stdout.close()
    assert sorted(contents(out)) == ["run.json"]
    with RunFolder.open(out, settings={}, inputs={}, seed=0) as run:
        assert run.resumed
