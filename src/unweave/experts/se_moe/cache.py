"""Experts in files, and a cache of a few of them that loses no update.

SE-MoE's cache, as in the method card se-moe, item 2: a hit adds one to an entry's hits; every so many requests all hits
are multiplied by a decay; without room the entry with the fewest hits makes place, of those at or above a threshold
where there are any (the direction of that test is as published). What was changed is written back when it makes place
and at `flush`. Decay, interval and threshold are our choices: the paper gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import InputError
from ...io.files import written_beside
from ...settings import Count, Inner, Whole, settings

Entry = dict[str, Tensor]
Policy = Literal["lfu decay", "lru"]


@dataclass(frozen=True)
class ExpertStore:
    """One safetensors file an expert, in a folder.

    Attributes:
        folder: made if it is absent.
    """

    folder: Path

    def load(self, expert: str) -> Entry:
        """The tensors of an expert.

        Raises:
            InputError: if none is stored under that name.
        """
        if not self._file(expert).is_file():
            raise InputError(f"{self.folder} stores no expert {expert!r}.")
        return load_file(self._file(expert))

    def save(self, expert: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an expert; a write that is cut off leaves the former one whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_beside(self._file(expert)) as beside:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, beside)

    def _file(self, expert: str) -> Path:
        if not expert or set(expert) & set("/\\\0") or expert.startswith("."):
            raise InputError(f"an expert's name must be a plain one, without slashes; got {expert!r}.")
        return Path(self.folder) / f"{expert}.safetensors"


@settings
class CacheRule:
    """Which entry makes place.

    Attributes:
        policy: the fewest decayed hits ("lfu decay"), or the longest unused ("lru").
        decay: factor on all hits, every so many requests.
        every: requests between decays.
        threshold: hits from which an entry is asked first.
    """

    policy: Policy = "lfu decay"
    decay: Inner = 0.5
    every: Count = 100
    threshold: Whole = 0


@dataclass
class ExpertCache:
    """A few experts of a store, held where they are used.

    Attributes:
        store: where all of them lie; anything with `load` and `save`.
        room: how many are held at most.
        rule: which makes place.
        move: what is done to an entry that is loaded, such as a copy to a device.
        hits: of each held entry, decayed.
        counts: requests found here ("hits"), loaded ("misses"), and written back ("writes").
    """

    store: Any
    room: int
    rule: CacheRule = field(default_factory=CacheRule)
    move: Callable[[Entry], Entry] = lambda entry: entry  # noqa: E731
    hits: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"hits": 0, "misses": 0, "writes": 0})

    def __post_init__(self) -> None:
        if self.room < 1:
            raise InputError(f"ExpertCache.room must be at least 1; got {self.room}.")
        self._held: dict[str, Entry] = {}  # the longest unused first
        self._dirty: set[str] = set()
        self._requests = 0

    @property
    def held(self) -> list[str]:
        """What is here, the longest unused first."""
        return list(self._held)

    def fetch(self, expert: str, *, write: bool = False) -> Entry:
        """The tensors of an expert, to be read, or to be changed in place (`write`).

        They are the cache's own until the expert makes place; a change after that is lost.
        """
        self._requests += 1
        if expert in self._held:
            self.counts["hits"] += 1
            self.hits[expert] += 1
            self._held[expert] = self._held.pop(expert)
        else:
            self.counts["misses"] += 1
            loaded = self.move(self.store.load(expert))
            if len(self._held) >= self.room:
                self._evict(self._least())
            self._held[expert], self.hits[expert] = loaded, 1.0
        if write:
            self._dirty.add(expert)
        if self._requests % self.rule.every == 0:
            self.hits = {name: h * self.rule.decay for name, h in self.hits.items()}
        return self._held[expert]

    def flush(self) -> None:
        """Write back all that was changed."""
        for expert in sorted(self._dirty):
            self._write(expert)

    def _least(self) -> str:
        if self.rule.policy == "lru":
            return next(iter(self._held))
        warm = [name for name in self._held if self.hits[name] >= self.rule.threshold]
        return min(warm or self._held, key=lambda name: self.hits[name])

    def _evict(self, expert: str) -> None:
        if expert in self._dirty:
            self._write(expert)
        del self._held[expert], self.hits[expert]

    def _write(self, expert: str) -> None:
        self.store.save(expert, self._held[expert])
        self._dirty.discard(expert)
        self.counts["writes"] += 1
