"""Which training examples a job takes out: the request as every job that serves one is given it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..io.requests import by_classes, by_ids, by_value, read_ids
from ..io.sealed import token
from ..parallel import default_cache
from ..random import seeded
from ..settings import Count, settings
from ..tasks import Autoregressive, able
from ..types import Request
from .subject import Subject

WAYS = ("ids", "classes", "where", "random", "positions")
"""Fields that name examples, of which a request has one."""


@settings
class Deletion:
    """A request to delete training examples, named in one of five ways.

    Attributes:
        subject: model and data.
        ids: of the examples, or a file with them: one a line (.txt), or a column "id" (.csv, .parquet).
        classes: all examples of these classes, by name or number.
        where: all examples whose column has this value: "COLUMN=VALUE".
        random: this many examples drawn at random, to try things out.
        positions: of the examples in the training data.
        seed: governs the whole run.
        jobs: processes that train at once; all cores unless given.
        cache: folder of trained models, shared between runs; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        name: what the request is called in every file of the run, which has neither ids nor the value they were found
            by; "request-" and part of a hash under your key unless given.
    """

    subject: Subject
    ids: Path | str | Sequence[Any] | None = None
    classes: Sequence[str | int] = ()
    where: str = ""
    random: int | None = None
    positions: Sequence[int] | Tensor | None = None
    seed: int = 0
    jobs: Count | None = None
    cache: Path | str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.named) > 1:
            raise InputError(f"give one of {', '.join(WAYS)}; got several: {', '.join(self.named)}.")

    @property
    def named(self) -> list[str]:
        """Which of the ways is used; empty if none is."""
        given = {name: getattr(self, name) for name in WAYS}
        return [
            name for name, v in given.items() if not (v is None or (isinstance(v, (str, tuple)) and not v))
        ]

    @property
    def models(self) -> Path:
        """The folder of trained models."""
        return Path(self.cache or default_cache()).expanduser()

    @cached_property
    def request(self) -> Request[Any]:
        """The validated split.

        Raises:
            InputError: if no example is named, or one that is not there.
        """
        left, before = self.subject.left, torch.tensor(self.subject.before.positions, dtype=torch.int64)
        positions = self.selected[0]
        # positions in what is left: less by the deleted examples before them
        return Request.of(left.train, left.heldout, positions - torch.searchsorted(before, positions))

    @cached_property
    def selected(self) -> tuple[Tensor, str]:
        """Positions of the training examples to forget, ascending, and the request in words.

        Those that earlier requests deleted from the model, by the record in its folder, are not among them.

        Raises:
            InputError: if no example is named, one that is not there, or only such as were deleted before.
        """
        if not self.named:
            raise InputError(f"nothing to forget was named. Give one of {', '.join(WAYS)}.")
        positions, words = getattr(self, f"_by_{self.named[0]}")(len(self.subject.train))
        before = self.subject.before
        again = torch.isin(positions, torch.tensor(before.positions, dtype=torch.int64))
        if bool(again.all()) and len(positions):
            raise InputError(
                f"all {len(positions):,} examples that were named are deleted already: {before}. Nothing is left to do."
            )
        positions = positions[~again].sort().values
        told = f"{len(positions):,} of {len(self.subject.left.train):,} training examples, {words}"
        if self.named[0] in ("ids", "where", "positions") or self.name:
            told = f"{self.name or _called(positions)}: {told}"
        more = [f"{int(again.sum()):,} that were named are deleted already"] if again.any() else []
        return positions, "; ".join([told, *more, *([str(before)] if before.requests else [])])

    @property
    def called(self) -> str:
        """The request's name."""
        return self.name or _called(self.selected[0])

    @property
    def hashed(self) -> str:
        """Hash of the positions under the user's key: a plain one of few examples is found by trying them all."""
        return token(self.selected[0].numpy().tobytes())

    def _by_ids(self, n: int) -> tuple[Tensor, str]:
        known = self.subject.ids if len(self.subject.ids) else range(n)
        if isinstance(self.ids, (str, Path)):
            return by_ids(read_ids(Path(self.ids)), known), "by their ids"
        assert self.ids is not None
        return by_ids(self.ids, known), "by their ids"

    def _by_classes(self, n: int) -> tuple[Tensor, str]:
        if able(self.subject.train.task, Autoregressive):
            raise InputError(
                f"{type(self).__name__}.classes names classes, and texts have none. Name them by ids, or by where."
            )
        positions = by_classes(
            list(self.classes), self.subject.labels(), list(self.subject.class_names) or None
        )
        return positions, f"all of class {', '.join(map(str, self.classes))}"

    def _by_where(self, n: int) -> tuple[Tensor, str]:
        column, equals, value = self.where.partition("=")
        if not equals:
            columns = ", ".join(self.subject.columns) or "none"
            raise InputError(
                f"{type(self).__name__}.where must be COLUMN=VALUE; got {self.where!r}. Columns: {columns}."
            )
        return by_value(column, value, self.subject.columns), f"all with one value of {column}"

    def _by_random(self, n: int) -> tuple[Tensor, str]:
        count = self.random or 0
        if not 0 < count < n:
            raise InputError(
                f"{type(self).__name__}.random must be between 1 and {n - 1}, one less than the training examples; "
                f"got {count}."
            )
        left = torch.ones(n, dtype=torch.bool)
        left[list(self.subject.before.positions)] = False
        positions = left.nonzero().flatten()[
            torch.randperm(int(left.sum()), generator=seeded(self.seed))[:count]
        ]
        return positions, f"drawn at random with seed {self.seed}"

    def _by_positions(self, n: int) -> tuple[Tensor, str]:
        positions = torch.as_tensor(self.positions).flatten()
        if len(positions) and (positions.is_floating_point() or positions.dtype is torch.bool):
            raise InputError(
                f"{type(self).__name__}.positions must be whole numbers; got {positions.dtype}. Of a mask, give "
                "mask.nonzero()."
            )
        return positions.long(), "by their positions"


def _called(positions: Tensor) -> str:
    return f"request-{token(positions.numpy().tobytes())[:8]}"
