"""Many independent trainings at once: oracles, shadow models, seeds. Finished models are cached.

joblib runs them, one thread each, so that the bits do not depend on how many run at once. Its Ray and Dask backends
(`with joblib.parallel_config(backend=...)`) are the way past one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, TypeVar

import joblib
import torch
from joblib.parallel import LokyBackend, get_active_backend
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator
from torch.nn import Module

from .errors import NonFiniteError, StorageError, require
from .fit import resumable
from .io.content import PROJECT_PREFIX, UnstableError, describe, fingerprint
from .io.files import sha256, sweep_dead_partials, write_tensors, write_text
from .io.model_cache import Lineage, entry_in_use, note_entry
from .io.sealed import cache_home
from .io.weights import nonfinite
from .progress import progress
from .random import seeded
from .types import Data, Recipe

A = TypeVar("A")
B = TypeVar("B")


def parallel_map(
    work: Callable[[A], B], items: Sequence[A], *, jobs: int | None = None, label: str = ""
) -> list[B]:
    """Apply `work` to every item, in processes of one thread each; results keep the items' order.

    Args:
        work: must be picklable by cloudpickle.
        items: what to work on.
        jobs: processes; all cores unless given. 1 runs in this process, with the same bits.
        label: shown beside the progress bar.
    """
    jobs = min(jobs or default_jobs(), max(1, len(items)))
    with progress(label, len(items)) as bar:
        if jobs == 1:
            results = []
            for item in items:
                results.append(single_threaded(work, item))
                bar.advance()
            return results
        calls = (joblib.delayed(_in_worker)(work, item) for item in items)
        if not get_active_backend()[0].supports_return_generator:  # Ray's
            gathered: list[B] = joblib.Parallel(n_jobs=jobs, batch_size=1)(calls)
            bar.advance(len(items))
            return gathered
        results = []
        with _ending_with_this_process():
            for result in joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=1)(calls):
                results.append(result)
                bar.advance()
        return results


@contextmanager
def _ending_with_this_process() -> Iterator[None]:
    """Workers of this machine end with this process, however it ends, from before their first task on.

    Workers elsewhere than below this process (Ray, Dask) have a parent of their own.
    """
    active = get_active_backend()[0]
    if not isinstance(active, LokyBackend):
        yield
        return
    given = {**getattr(active, "backend_kwargs", {}), "initializer": _tie(), "initargs": (os.getpid(),)}
    with joblib.parallel_config(backend="loky", **given):
        yield


@cache
def _tie() -> Callable[[int], None]:
    """What a worker does first: the same object each time, so that workers are used again.

    It is sent by value, so that it runs before anything of this package, and torch with it, is imported.
    """

    def tie(parent: int) -> None:
        import ctypes
        import os
        import signal
        import sys
        from threading import Thread
        from time import sleep

        def watch() -> None:
            while os.getppid() == parent:
                sleep(0.5)
            os._exit(1)

        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(
                1, signal.SIGKILL
            )  # at once; but not on other systems, nor if it is dead by now
        Thread(target=watch, daemon=True).start()

    return tie


@contextmanager
def engine(name: Literal["joblib", "ray"]) -> Iterator[None]:
    """Run every `parallel_map` in the block on this: processes of this machine, or a Ray cluster.

    Raises:
        MissingExtraError: if Ray is named and not installed.
    """
    if name == "joblib":
        yield
        return
    require("ray", extra="ray", purpose="--engine ray")
    require("ray.util.joblib", extra="ray", purpose="--engine ray").register_ray()
    pickler = require("ray.cloudpickle", extra="ray", purpose="--engine ray")
    for module in [m for name, m in sys.modules.items() if name.startswith(PROJECT_PREFIX)]:
        pickler.register_pickle_by_value(module)
    # a core a worker: without a claim on one, Ray puts all of them on the first node
    with joblib.parallel_config(backend="ray", ray_remote_args={"num_cpus": 1}):
        yield


def default_jobs() -> int:
    """Cores this process may use."""
    return joblib.cpu_count()  # type: ignore[no-any-return]


def build_models(
    recipe: Recipe,
    data: Data[Any],
    seeds: Sequence[int],
    *,
    jobs: int | None = None,
    cache: Path | None = None,
    label: str = "train",
    network: Callable[[], Module] | None = None,
    lineage: Lineage | None = None,
) -> list[Module]:
    """Train one model a seed by `recipe` on `data`.

    Args:
        recipe: how; cached only if it has `initial(rng)`, which gives the network to load weights into, or `network` is
            given.
        data: what on.
        seeds: each gives `rng=seeded(seed)` to one training.
        jobs: processes; all cores unless given.
        cache: folder of finished models, found again by the content of the data, the recipe and the seed. A killed
            run goes on inside the training it was killed in.
        label: shown beside the progress bar.
        network: makes a network to load cached weights into; the recipe's `initial` unless given.
        lineage: which examples of which data set `data` are, noted with what is kept, so that models of data that
            are deleted later can be found.

    Returns:
        One model a seed, in eval mode, in order.
    """
    if cache is None:
        return parallel_map(partial(_build, recipe, data), seeds, jobs=jobs, label=label)
    try:
        folder = cache_folder(recipe, data, cache)
    except UnstableError as error:
        warnings.warn(f"models are not cached, but trained each time: {error}", stacklevel=2)
        return build_models(recipe, data, seeds, jobs=jobs, label=label)
    models = parallel_map(
        partial(_build_cached, recipe, data, folder, network), seeds, jobs=jobs, label=label
    )
    if seeds and (network is not None or hasattr(recipe, "initial")):
        note_entry(folder, _in_words(recipe), len(data), lineage)
    return models


def default_cache() -> Path:
    """Where finished models are kept: UNWEAVE_CACHE, or ~/.cache/unweave."""
    return cache_home() / "models"


def cache_folder(recipe: Recipe, data: Data[Any], cache: Path) -> Path:
    """Where in `cache` the models of this recipe on this data lie: seed.safetensors, with seed.json beside it.

    Raises:
        UnstableError: if the recipe has no description that another process would find again.
    """
    return cache / f"{fingerprint(data)[:16]}-{describe(recipe)[:16]}"


def training_cost(
    recipe: Recipe, data: Data[Any], seeds: Sequence[int], cache: Path
) -> dict[str, float] | None:
    """Mean "seconds" and "cpu_seconds" of one training, over those of these cached models that ran undisturbed."""
    try:
        folder = cache_folder(recipe, data, cache)
    except UnstableError:
        return None
    records = [_recorded(f) for seed in seeds if (f := folder / f"{seed}.json").exists()]
    timed = [
        r for r in records if all(isinstance(r.get(k), (int, float)) for k in ("seconds", "cpu_seconds"))
    ]
    return {k: sum(r[k] for r in timed) / len(timed) for k in ("seconds", "cpu_seconds")} if timed else None


def _build(recipe: Recipe, data: Data[Any], seed: int) -> Module:
    try:
        model = recipe.build(data, rng=seeded(seed)).eval()
    except NonFiniteError as error:
        raise NonFiniteError(f"the model that the recipe trains with seed {seed}: {error}") from error
    if bad := nonfinite(dict(model.named_parameters())):
        raise NonFiniteError(f"the model that the recipe trained with seed {seed} holds {bad}.")
    return model


def _build_cached(
    recipe: Recipe, data: Data[Any], folder: Path, network: Callable[[], Module] | None, seed: int
) -> Module:
    initial = getattr(recipe, "initial", None) if network is None else lambda _: network()
    if initial is None:
        return _build(recipe, data, seed)
    with entry_in_use(folder, seed):
        found = _kept(folder, seed, initial)
        return found if found is not None else _trained(recipe, data, folder, seed)


def _kept(folder: Path, seed: int, initial: Callable[[Generator], Module]) -> Module | None:
    """A finished model, if it is there, whole, and of this recipe's network."""
    kept, record = folder / f"{seed}.safetensors", folder / f"{seed}.json"
    sweep_dead_partials(folder, f"{seed}.")
    if not (kept.exists() and record.exists()):
        return None
    if sha256(kept) != _recorded(record).get("sha256"):
        warnings.warn(f"{kept} does not match its SHA-256 and is trained anew.", stacklevel=2)
        return None
    model: Module = initial(seeded(seed))
    try:
        model.load_state_dict(load_file(kept))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"{kept} is not of this recipe's network ({reason}) and is trained anew.", stacklevel=2)
        return None
    shutil.rmtree(
        folder / f"{seed}.unfinished", ignore_errors=True
    )  # a kill may have come just before its removal
    return model.eval()


def _trained(recipe: Recipe, data: Data[Any], folder: Path, seed: int) -> Module:
    unfinished = folder / f"{seed}.unfinished"
    resumed = any(unfinished.glob("*"))
    began, began_cpu = perf_counter(), process_time()
    try:
        with resumable(unfinished):
            model = _build(recipe, data, seed)
        seconds, cpu_seconds = perf_counter() - began, process_time() - began_cpu
        kept = folder / f"{seed}.safetensors"
        write_tensors(kept, {name: t.contiguous().clone() for name, t in model.state_dict().items()})
        times = {} if resumed else {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
        write_text(folder / f"{seed}.json", json.dumps({"sha256": sha256(kept), **times}) + "\n")
    except StorageError:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a full disk, every byte counts
        raise
    shutil.rmtree(unfinished, ignore_errors=True)
    return model


def _in_words(recipe: Recipe) -> str:
    fields = getattr(recipe, "__dataclass_fields__", {})
    plain = {n: v for n in fields if isinstance(v := getattr(recipe, n), (int, float, str)) and v != ""}
    return f"{type(recipe).__name__}({', '.join(f'{n}={v}' for n, v in plain.items())})"


def _recorded(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def single_threaded(work: Callable[[A], B], item: A) -> B:
    """`work(item)` with one torch thread: the same bits in this process as in a worker, and times that compare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(item)
    finally:
        torch.set_num_threads(threads)


def _in_worker(work: Callable[[A], B], item: A) -> B:
    os.environ["UNWEAVE_PROGRESS"] = "0"
    torch.set_num_threads(1)
    return work(item)
