"""Many trainings at once: the same bits however many, found again in the cache, trained anew when damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.contract import world
from tests.faults import disk_full_at
from tests.processes import run_at_once
from unweave import Supervised
from unweave.embedded.nets import mlp
from unweave.errors import StorageError
from unweave.io.content import described, fingerprint
from unweave.io.files import sha256
from unweave.parallel import build_models, cache_folder, parallel_map, training_cost

RECIPE = Supervised(network=partial(mlp, 8, 12, 3), epochs=2, lr=0.1)


def assert_same(a: list[torch.nn.Module], b: list[torch.nn.Module]) -> None:
    for one, other in zip(a, b, strict=True):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_bits_do_not_depend_on_the_number_of_processes_or_the_cache(tmp_path: Path) -> None:
    train, _ = world.points()
    alone = build_models(RECIPE, train, range(3), jobs=1)
    assert_same(alone, build_models(RECIPE, train, range(3), jobs=2, cache=tmp_path))
    assert_same(alone, build_models(RECIPE, train, range(3), jobs=1, cache=tmp_path))
    cost = training_cost(RECIPE, train, range(3), tmp_path)
    assert cost is not None
    assert cost["cpu_seconds"] > 0
    assert training_cost(RECIPE, train, [7], tmp_path) is None


def test_a_flipped_bit_in_the_cache_is_noticed(tmp_path: Path) -> None:
    train, _ = world.points()
    whole = build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    file = cache_folder(RECIPE, train, tmp_path) / "0.safetensors"
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1
    file.write_bytes(bytes(broken))
    with pytest.warns(UserWarning, match="trained anew"):
        again = build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    assert_same(whole, again)


def test_partials_of_dead_processes_are_swept_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    train, _ = world.points()
    folder = cache_folder(RECIPE, train, tmp_path)
    folder.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = (folder / f".0.safetensors.{pid}.partial" for pid in (gone.pid, os.getppid()))
    dead.touch(), alive.touch()
    build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_checkpoints_left_by_a_kill_after_the_end_are_removed(tmp_path: Path) -> None:
    train, _ = world.points()
    whole = build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    left = cache_folder(RECIPE, train, tmp_path) / "0.unfinished"
    left.mkdir()
    (left / "fit-0001.safetensors").touch()
    assert_same(whole, build_models(RECIPE, train, [0], jobs=1, cache=tmp_path))
    assert not left.exists()


def test_a_training_gone_on_with_after_a_kill_counts_in_no_time(tmp_path: Path) -> None:
    train, _ = world.points()
    folder = cache_folder(RECIPE, train, tmp_path)
    (folder / "0.unfinished").mkdir(parents=True)
    (folder / "0.unfinished" / "left by a kill").touch()
    build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    assert list(json.loads((folder / "0.json").read_text())) == ["sha256"]
    assert not (folder / "0.unfinished").exists()
    assert training_cost(RECIPE, train, [0], tmp_path) is None
    build_models(RECIPE, train, [1], jobs=1, cache=tmp_path)
    told = json.loads((folder / "1.json").read_text())
    expected = {name: told[name] for name in ("seconds", "cpu_seconds")}
    assert training_cost(RECIPE, train, [0, 1, 2], tmp_path) == expected


def test_the_cache_tells_data_recipes_and_their_code_apart(tmp_path: Path) -> None:
    train, heldout = world.points()
    assert fingerprint(train) != fingerprint(heldout)
    moved = world.points()[0]
    moved.examples.tensors[0][3, 2] += 1e-6
    assert fingerprint(train) != fingerprint(moved)
    folders = {
        cache_folder(recipe, train, tmp_path)
        for recipe in (RECIPE, Supervised(network=partial(mlp, 8, 13, 3), epochs=2, lr=0.1), world.RECIPE)
    }
    assert len(folders) == 3


def test_a_description_is_plain_and_the_same_in_every_process() -> None:
    here = described(RECIPE)
    there = parallel_map(described, [RECIPE, RECIPE], jobs=2)
    assert there == [here, here]
    assert here["network"]["args"] == [8, 12, 3]


class Restless:
    """A recipe of a user's own that holds something without a stable description."""

    def __init__(self) -> None:
        self.rng = torch.Generator()

    def initial(self, rng: torch.Generator) -> torch.nn.Module:
        return mlp(8, 12, 3)

    def build(self, data: object, *, rng: torch.Generator) -> torch.nn.Module:
        return mlp(8, 12, 3)


def test_what_has_no_stable_description_is_trained_each_time_and_said(tmp_path: Path) -> None:
    train, _ = world.points()
    with pytest.warns(
        UserWarning, match="models are not cached, but trained each time: recipe.rng, a Generator"
    ):
        assert len(build_models(Restless(), train, [0], jobs=1, cache=tmp_path)) == 1
    assert not list(tmp_path.iterdir())
    assert training_cost(Restless(), train, [0], tmp_path) is None


_REQUEST = """
import sys
from pathlib import Path
from tests.contract import world
from tests.test_parallel import RECIPE
from unweave.parallel import build_models
build_models(RECIPE, world.points()[0], range(2), jobs=1, cache=Path(sys.argv[1]))
"""


def test_requests_at_once_share_a_cache(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    run_at_once(["-c", _REQUEST, str(tmp_path)], [{}, {}, {}], cwd=root)
    train, _ = world.points()
    assert_same(
        build_models(RECIPE, train, range(2), jobs=1),
        build_models(RECIPE, train, range(2), jobs=1, cache=tmp_path),
    )


_LARGE = """
import torch
from functools import partial
from unweave.parallel import parallel_map
def work(big, item):
    import time
    time.sleep(60)
parallel_map(partial(work, torch.zeros(4_000_000)), range(4), jobs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("after", [0.0, 0.4, 1.5])
def test_workers_end_with_a_parent_that_is_killed_before_their_first_task(
    tmp_path: Path, after: float
) -> None:
    (tmp_path / "run.py").write_text(_LARGE)
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], start_new_session=True)
    end = time.monotonic() + 60
    while len(_session(run.pid)) < 3:
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(after)
    run.kill()
    run.wait()
    end = time.monotonic() + 10
    while (left := _session(run.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (
                (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else ["Z"]
            )
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == leader:
            found.append(int(entry.name))
    return found


def test_workers_are_used_again(tmp_path: Path) -> None:
    first, second = ({*parallel_map(_process, range(4), jobs=2)} for _ in range(2))
    assert second <= first
    assert os.getpid() not in first


def _process(_: int) -> int:
    time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize(
    "record", ["", "[]", "[" * 100_000, '{"seconds": 1}', '{"cpu_seconds": 1, "seconds": "x"}', "null"]
)
def test_a_damaged_record_is_no_traceback_and_trains_anew(tmp_path: Path, record: str) -> None:
    train, _ = world.points()
    (model,) = build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    folder = cache_folder(RECIPE, train, tmp_path)
    (folder / "0.json").write_text(record)
    assert training_cost(RECIPE, train, [0], tmp_path) is None
    with pytest.warns(UserWarning, match="does not match its SHA-256"):
        assert_same(build_models(RECIPE, train, [0], jobs=1, cache=tmp_path), [model])


def test_a_model_of_another_network_is_trained_anew_and_said(tmp_path: Path) -> None:
    train, _ = world.points()
    (model,) = build_models(RECIPE, train, [0], jobs=1, cache=tmp_path)
    folder = cache_folder(RECIPE, train, tmp_path)
    for other in ({"0.weight": torch.zeros(3)}, {name: t[:1] for name, t in model.state_dict().items()}):
        save_file(other, folder / "0.safetensors")
        (folder / "0.json").write_text(json.dumps({"sha256": sha256(folder / "0.safetensors")}))
        with pytest.warns(UserWarning, match="is not of this recipe's network .* trained anew"):
            assert_same(build_models(RECIPE, train, [0], jobs=1, cache=tmp_path), [model])


def test_a_disk_that_is_full_leaves_no_part_in_the_cache_and_names_the_bytes(tmp_path: Path) -> None:
    train, _ = world.points()
    with disk_full_at(None) as counter:
        build_models(RECIPE, train, [0], jobs=1, cache=tmp_path / "whole")
    for call in range(1, counter.seen + 1):
        with disk_full_at(call), pytest.raises(StorageError) as caught:
            build_models(RECIPE, train, [0], jobs=1, cache=tmp_path / str(call))
        if "safetensors" in str(caught.value):
            assert re.search(r"[\d.,]+ (bytes|KiB) are needed, [\d.,]+ \wiB are free", str(caught.value))
        left = [p.name for p in (tmp_path / str(call)).rglob("*") if p.is_file()]
        assert not [name for name in left if name not in ("0.safetensors", "0.json", "about.json")], call
        assert not list((tmp_path / str(call)).rglob("*.unfinished")), call
