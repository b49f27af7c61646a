"""Which examples lie in which slice of which shard.

An example's place is a hash of its own id (or of its group's name) and the seed: it does not depend on which other
examples there are, so that a run that never had some of them puts all the others where they are now.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ...errors import InputError
from ...io.identities import fingerprints, named, require_key
from ...io.sealed import key as read_key
from ...types import Data

Place = tuple[int, int]
"""(shard, slice)."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The places of all examples.

    Attributes:
        shards: m.
        slices: L, of each shard.
        places: id -> place, of the examples that are there.
        deleted: id -> place, of those that were taken out in this process.
        gone: keyed fingerprint -> place, of those that were taken out before: no file names them.
        key: file of the key of the fingerprints; the user's own unless given.
        named: what the key was called that made `gone`; "" while that is empty.
    """

    shards: int
    slices: int
    places: Mapping[str, Place] = field(repr=False)
    deleted: Mapping[str, Place] = field(default_factory=dict, repr=False)
    gone: Mapping[str, Place] = field(default_factory=dict, repr=False)
    key: Path | None = None
    named: str = ""

    @classmethod
    def drawn(
        cls, ids: Iterable[Any], *, shards: int, slices: int, seed: int, groups: Sequence[Any] | None = None
    ) -> Slices:
        """Place every id.

        Args:
            ids: of the examples; compared as text.
            shards: m.
            slices: L, of each shard.
            seed: of the hash.
            groups: one value an example; examples of one group share a slice, so that the deletion of a person hits
                one. Ids themselves unless given.

        Raises:
            InputError: if ids repeat, or there is not one group for each.
        """
        names = [str(i) for i in ids]
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise InputError(
                f"{len(twice)} ids belong to several examples: {_few(twice)}. Give each example an id of its own."
            )
        keys = names if groups is None else [f"group {g}" for g in groups]
        if len(keys) != len(names):
            raise InputError(f"there are {len(keys)} groups for {len(names)} examples; give one for each.")
        places = {
            name: divmod(_hash(f"{seed}/{key}") % (shards * slices), slices)
            for name, key in zip(names, keys, strict=True)
        }
        return cls(shards=shards, slices=slices, places=places)

    def sizes(self) -> list[list[int]]:
        """Examples in each slice of each shard."""
        count = Counter(self.places.values())
        return [[count[k, s] for s in range(self.slices)] for k in range(self.shards)]

    def without(self, ids: Iterable[Any]) -> tuple[Slices, list[str], list[str]]:
        """Take examples out.

        Returns:
            The rest; the ids taken out now; those that had been taken out before.

        Raises:
            InputError: naming ids that were never here; nothing is taken out then.
        """
        names = list(dict.fromkeys(str(i) for i in ids))
        strange = self._strange(names)
        if strange:
            raise InputError(
                f"{len(strange)} of the {len(names)} ids to delete were never in this model's data: {_few(strange)}. "
                "Nothing was changed."
            )
        new = [n for n in names if n in self.places]
        gone = dict.fromkeys(new)
        rest = {n: place for n, place in self.places.items() if n not in gone}
        deleted = {**self.deleted, **{n: self.places[n] for n in new}}
        return replace(self, places=rest, deleted=deleted), new, [n for n in names if n not in gone]

    def positions(self, data: Data[Any], ids: Sequence[Any] | None = None) -> Mapping[str, int]:
        """Id -> position in `data`, of the examples that are there; those deleted may still be in `data`.

        Raises:
            InputError: if one of them is not in `data`, ids repeat, or an example was never placed.
        """
        names = [str(i) for i in (ids_of(data) if ids is None else ids)]
        if len(names) != len(data):
            raise InputError(f"there are {len(names)} ids for {len(data)} examples; give one for each.")
        twice = [name for name, n in Counter(names).items() if n > 1]
        strange = self._strange(names)
        if twice or strange:
            what, which = (
                ("belong to several examples", twice) if twice else ("are new to the model", strange)
            )
            raise InputError(
                f"{len(which)} ids of the data {what}: {_few(which)}. Give the data that it was trained on."
            )
        found = {name: at for at, name in enumerate(names) if name in self.places}
        absent = [name for name in self.places if name not in found]
        if absent:
            raise InputError(
                f"{len(absent)} examples that the model was trained on are not in the data: {_few(absent)}. Give the "
                "data that it was trained on; what was taken out of them must be deleted by its id."
            )
        return found

    def sealed(self) -> tuple[str, dict[str, Place]]:
        """All that was ever taken out, as it may be written down: name of the key, keyed fingerprint -> place."""
        if not self.deleted:
            return self.named, dict(self.gone)
        key = read_key(self.key)
        if self.gone:
            require_key(self.named, key, "the exactly deletable model")
        prints = fingerprints((name.encode() for name in self.deleted), key)
        new = {one.hex(): place for one, place in zip(prints, self.deleted.values(), strict=True)}
        return named(key), {**self.gone, **new}

    def _strange(self, names: Sequence[str]) -> list[str]:
        """Those that were never here."""
        absent = [n for n in names if n not in self.places and n not in self.deleted]
        if not absent or not self.gone:
            return absent
        key = read_key(self.key)
        require_key(self.named, key, "the exactly deletable model")
        prints = fingerprints((name.encode() for name in absent), key)
        return [name for name, one in zip(absent, prints, strict=True) if one.hex() not in self.gone]

    def members(self, where: Mapping[str, int], shard: int, slices: Iterable[int]) -> Tensor:
        """Positions of the examples of these slices of a shard, ascending, int64 [n]."""
        wanted = {(shard, s) for s in slices}
        return torch.tensor(
            sorted(at for name, at in where.items() if self.places[name] in wanted), dtype=torch.long
        )


def ids_of(data: Data[Any]) -> Sequence[Any]:
    """Ids of a data set: its attribute `ids`, else positions; of a subset, those in the set that it is of.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from unweave.tasks import Classify
        >>> data = Data(TensorDataset(torch.zeros(4, 1), torch.zeros(4)), Classify(2))
        >>> list(ids_of(data.subset([3, 1])))
        [3, 1]
    """
    return _ids(data.examples)


def _ids(examples: Any) -> Sequence[Any]:
    own = getattr(examples, "ids", None)
    if own is not None:
        return own.tolist() if isinstance(own, Tensor) else list(own)
    if isinstance(examples, Subset):
        inner = _ids(examples.dataset)
        return [inner[i] for i in torch.as_tensor(examples.indices).tolist()]
    return range(len(examples))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
