"""An exactly deletable model on disk: one safetensors file a stage, the base, and a record of what saw what.

exact.json names the ids in each slice, the orders, the seed and the sha256 of every file; of examples that were deleted
it has keyed fingerprints alone. It is the last to be written and the first to be read. Files are found by their stage
and their hash alone: no name in the record is ever followed. A stage's file holds what it learned of its data, so a
deletion removes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import Module

from ...errors import InputError, IntegrityError, NonFiniteError
from ...fit import resumable
from ...io.checkpoint import load_into, save_model
from ...io.content import described
from ...io.files import folder_written_beside, sha256, sha256_of, sweep_partials, write_text, written_beside
from ...io.weights import nonfinite
from .adapters import Adapters
from .ensemble import Aggregate, Ensemble
from .service import Key, Run, Service, Stages, State
from .slices import Slices

RECORD, BASE = "exact.json", "base"
_FORMAT = 2
"""Format 1, which named deleted examples by their ids, is still read."""
_GONE = {1: "deleted", 2: "gone"}
"""Format -> the field of `Slices` that holds what was deleted."""
_STAGE = re.compile(r"stage(-\d+){2,}\.[0-9a-f]{16}\.safetensors")
Log = tuple[Mapping[str, Any], ...]


class StoredState(Mapping[str, Tensor]):
    """A stage's tensors in a file, each read when it is asked for.

    Args:
        path: of the file.
        digest: its sha256; another is refused.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, once the file has been checked.

        Raises:
            IntegrityError: if it is gone, damaged or another.
        """
        if self.path.is_symlink() or not self.path.is_file():
            raise IntegrityError(
                f"{self.path} is gone or a link. Put the file back, or train the model again."
            )
        try:
            if sha256(self.path) != self.digest:
                raise ValueError("its sha256 is not the recorded one")
            with safe_open(self.path, framework="pt") as file:
                return tuple(file.keys())
        except (SafetensorError, ValueError, OSError) as error:
            raise IntegrityError(f"{self.path} is damaged ({error}). Copy it again.") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def kept_in(folder: Path) -> Run:
    """Trains each stage resumably and keeps it in `folder`, where it is found again after a kill, and not in memory."""

    def run(key: Key, train: Callable[[], State]) -> State:
        path, unfinished = folder / f"{_stem(key)}.safetensors", folder / f"{_stem(key)}.unfinished"
        if not path.is_file():
            with resumable(unfinished):
                content = save({name: tensor.contiguous() for name, tensor in train().items()})
            with written_beside(path) as beside:
                beside.write_bytes(content)
        shutil.rmtree(unfinished, ignore_errors=True)
        return StoredState(path, sha256(path))

    return run


def is_exact(folder: Path) -> bool:
    """Whether a path is a folder that holds an exactly deletable model."""
    try:
        return (Path(folder) / RECORD).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def save_exact(
    service: Service,
    folder: Path,
    *,
    log: Log = (),
    source: str = "",
    write: Callable[[Module, Path], None] | None = None,
) -> None:
    """Write a service as a new folder, whole or not at all; what is stored already is copied.

    Args:
        service: of `S3T` or `SISA`.
        folder: replaced if it is there.
        log: what was done to it before.
        source: where its data come from, in a word.
        write: writes the base of an S3T (model, folder); `save_model` unless given.

    Raises:
        NonFiniteError: if a weight is NaN or infinite.
        StorageError: if it cannot be written.
    """
    with folder_written_beside(Path(folder)) as beside:
        base = None
        if isinstance(service.stages, Adapters):
            (write or _write_base)(service.stages.base, beside / BASE)
            base = sha256_of(beside / BASE)
        stages = {key: _write(state, key, beside) for key, state in sorted(service.states.items())}
        write_text(beside / RECORD, _record(service, stages, base, log, source))


def update_exact_(service: Service, folder: Path, *, log: Log) -> list[str]:
    """Bring a folder to what `service` is now: write what is new, then the record, then remove what it lacks.

    A kill leaves the old state or the new one; files of stages that were dropped go with the next update then.

    Returns:
        Names of the files removed, sorted.
    """
    folder = Path(folder)
    told = read_record(folder)
    sweep_partials(folder)
    stages = {key: _write(state, key, folder) for key, state in sorted(service.states.items())}
    write_text(folder / RECORD, _record(service, stages, told["base"], log, told["source"]))
    kept = {_name(key, digest) for key, digest in stages.items()}
    gone = sorted(p.name for p in folder.iterdir() if _STAGE.fullmatch(p.name) and p.name not in kept)
    for name in gone:
        (folder / name).unlink()
    return gone


def open_service(
    folder: Path, start: Any, read: Callable[[Path], Module] | None = None, *, key: Path | None = None
) -> Service:
    """Open a folder, with everything checked but the stages, which are when they are read.

    Args:
        folder: as `save_exact` wrote it.
        start: of a SISA its recipe; of an S3T a model of the base's architecture (its weights are not used), or None
            where `read` knows it.
        read: reads the base of an S3T from its folder; `load_into(start, ...)` unless given.
        key: file of the key by which deleted examples are known; the user's own unless given.

    Raises:
        InputError: if there is none, or the recipe is another than it was trained by.
        IntegrityError: if the record or the base is damaged.
    """
    folder = Path(folder)
    told = read_record(folder)
    stages = _stages(folder, told, start, read)
    try:
        places = {
            name: (shard, slice_)
            for shard, row in enumerate(told["places"])
            for slice_, names in enumerate(row)
            for name in names
        }
        slices = Slices(
            shards=told["shards"], slices=told["slices"], places=places,
            key=key, named=told.get("key", ""),
            **{_GONE[told["format"]]: {name: (k, s) for name, (k, s) in told["deleted"].items()}},
        )  # fmt: skip
        orders = tuple(tuple(tuple(order) for order in orders) for orders in told["orders"])
        keys = {(entry["shard"], tuple(entry["prefix"])): entry["sha256"] for entry in told["stages"]}
        states = {key: StoredState(folder / _name(key, digest), digest) for key, digest in keys.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{folder / RECORD} is incomplete ({error}). Copy it again.") from error
    return Service(stages=stages, slices=slices, orders=orders, states=states, seed=told["seed"])


def open_exact(folder: Path, start: Any, read: Callable[[Path], Module] | None = None) -> Ensemble:
    """What a folder serves, in eval mode; arguments as in `open_service`.

    Raises:
        RetrainingDue: if every shard is dead.
    """
    aggregate: Aggregate = read_record(Path(folder))["settings"]["aggregate"]
    return Ensemble.of(open_service(folder, start, read), aggregate)


def read_record(folder: Path) -> dict[str, Any]:
    """What exact.json says.

    Raises:
        InputError: if there is none.
        IntegrityError: if it is damaged or was changed.
    """
    file = Path(folder) / RECORD
    if not file.is_file():
        raise InputError(f"{folder} holds no exactly deletable model: it has no {RECORD}.")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["sha256"] != _checksum({k: v for k, v in told.items() if k != "sha256"}):
            raise ValueError("its checksum does not match")
        if told["format"] not in _GONE:
            raise ValueError(
                f"it has format {told['format']!r}; this version reads {' and '.join(map(str, _GONE))}"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{file} is damaged ({error}). Copy it again.") from error
    return dict(told)


def holding(folder: Path, keys: Iterable[Key]) -> list[str]:
    """Names of the files in a folder that hold these stages, sorted."""
    stored = {(e["shard"], tuple(e["prefix"])): e["sha256"] for e in read_record(Path(folder))["stages"]}
    names = [_name(key, stored[key]) for key in keys if key in stored]
    return sorted(name for name in names if (Path(folder) / name).exists())


def _stages(
    folder: Path, told: Mapping[str, Any], start: Any, read: Callable[[Path], Module] | None
) -> Stages:
    from ..s3t import S3T
    from ..sisa import SISA

    kind, given = told["method"], _tupled(told["settings"])
    if kind == "SISA":
        method = SISA(recipe=start, **given)
        if _plain(described(start)) != told["recipe"]:
            raise InputError(
                f"{folder} was trained by another recipe than the one given, or its code has changed since; stages "
                "trained now would not be those of a run that never had the data. Give the recipe of then."
            )
        return method.stages()
    if kind != "S3T":
        raise IntegrityError(f"{folder / RECORD} names a method {kind!r}; there are S3T and SISA.")
    base = folder / BASE
    if base.is_symlink() or not base.is_dir() or sha256_of(base) != told["base"]:
        raise IntegrityError(
            f"{base} is gone, a link, or not the base it was trained on. Copy the whole folder again."
        )
    model = read(base) if read is not None else load_into(start, base)
    return Adapters.named(model, S3T(**given), told["layers"], told["heads"])


def _record(service: Service, stages: Mapping[Key, str], base: str | None, log: Log, source: str) -> str:
    settings: Any = getattr(service.stages, "settings", None)
    if settings is None or not is_dataclass(settings):
        raise InputError("only what S3T or SISA trained can be written.")
    own = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "recipe"}
    recipe = getattr(settings, "recipe", None)
    places: list[list[list[str]]] = [
        [[] for _ in range(service.slices.slices)] for _ in range(service.slices.shards)
    ]
    for name, (shard, slice_) in service.slices.places.items():
        places[shard][slice_].append(name)
    key, gone = service.slices.sealed()
    body = _plain({
        "format": _FORMAT, "method": type(settings).__name__, "settings": own,
        "recipe": None if recipe is None else described(recipe), "source": source, "seed": service.seed,
        "shards": service.slices.shards, "slices": service.slices.slices, "orders": service.orders,
        "layers": getattr(service.stages, "groups", ()), "heads": getattr(service.stages, "heads", ()),
        "base": base, "places": places, "deleted": gone, "key": key,
        "stages": [{"shard": k, "prefix": prefix, "sha256": digest} for (k, prefix), digest in stages.items()],
        "log": log,
    })  # fmt: skip
    return json.dumps({**body, "sha256": _checksum(body)}, indent=1, ensure_ascii=False) + "\n"


def _write(state: State, key: Key, folder: Path) -> str:
    """Put a stage's file into a folder, unless it is there; returns its sha256."""
    if isinstance(state, StoredState):
        path = folder / _name(key, state.digest)
        if not path.exists():
            _ = state.names  # checks it
            with written_beside(path) as beside:
                shutil.copyfile(state.path, beside)
        return state.digest
    bad = nonfinite(state)
    if bad:
        raise NonFiniteError(f"stage {key[1]} of shard {key[0]} holds {bad}; it was not written.")
    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    digest = hashlib.sha256(content).hexdigest()
    with written_beside(folder / _name(key, digest)) as beside:
        beside.write_bytes(content)
    return digest


def _name(key: Key, digest: str) -> str:
    return f"{_stem(key)}.{digest[:16]}.safetensors"


def _stem(key: Key) -> str:
    return f"stage-{'-'.join(map(str, (key[0], *key[1])))}"


def _write_base(model: Module, folder: Path) -> None:
    save_model(model, folder)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _tupled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
