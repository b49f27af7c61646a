"""A user's own training function as a recipe: its optimiser, schedule, augmentation and loop are its own."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import getclosurevars, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.utils.data import Dataset, Subset

from ..errors import InputError, UnweaveError
from ..random import draw_seed, seeded
from ..settings import settings
from ..types import Data

LEAST_READ = 0.1
"""Share of the examples that a recipe must read; one that reads less has trained on something else."""
LOST = (
    "the recipe is a function that trains: no un-pruning and no shortened retraining, which need initial weights and a "
    "training that can be begun and stopped; a stopped training begins anew; costs are measured, not foreseen; "
    "whether it repeats its bits for a seed is looked at with --dry-run alone."
)
"""What is not possible with such a recipe."""


class Examples(Dataset[Any]):
    """The examples that a recipe is to train on, one by one in the user's own form; notes which of them were read.

    Attributes:
        positions: of these examples in the user's data, int64 [n].
    """

    def __init__(self, base: Any, positions: Tensor) -> None:
        self.positions = positions
        self._base = base
        # shared, so that workers of a DataLoader note there what they read
        self._seen = torch.zeros(len(positions), dtype=torch.bool)
        self._seen.share_memory_()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, data: Data[Any]) -> Examples:
        """Those of `data`."""
        base: Any = data.examples
        positions = torch.arange(len(data))
        while isinstance(base, Subset) and (
            getattr(base.dataset, "own", None) or isinstance(base.dataset, Subset)
        ):
            positions = torch.as_tensor(base.indices)[positions]
            base = base.dataset
        if isinstance(base, Subset) and not hasattr(base, "own"):
            positions, base = torch.as_tensor(base.indices)[positions], base.dataset
        return cls(getattr(base, "own", None) or base, positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} examples; got index {i}.")
        self._seen[i] = True
        at = int(self.positions[i])
        return self._base.item(at) if hasattr(self._base, "item") else self._base[at]

    @property
    def given(self) -> Any:
        """All of them in the form that the user's data have: tensors, arrays, a DataFrame, a Hugging Face dataset."""
        self._seen[:] = True
        positions = self.positions.tolist()
        return self._base.take(positions) if hasattr(self._base, "take") else Subset(self._base, positions)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them as tensors (inputs, labels), where the user gave tensors."""
        found = self.given
        parts = (
            found
            if isinstance(found, tuple)
            else getattr(getattr(self._base, "given", self._base), "tensors", None)
        )
        if parts is None or not all(isinstance(part, Tensor) for part in parts):
            raise AttributeError("these examples are no tensors; read them one by one, or see `given`.")
        return parts if isinstance(found, tuple) else tuple(part[self.positions] for part in parts)

    @property
    def read(self) -> int:
        """How many of them were read."""
        return int(self._seen.sum())


@settings
class OwnLoop:
    """A function `recipe(train, seed)` that returns a trained model, as a recipe.

    Before each call torch, numpy and Python's `random` are seeded with `seed`; afterwards they are as they were.

    Attributes:
        function: called with the examples to train on, a torch data set in the user's own form (see `Examples`), and a
            whole number from 0 to 2^32 - 1. It returns a torch.nn.Module.
        file: named in messages.
        parent: model that a function with a parameter `parent` is to begin at, a file or folder; its own default unless
            given.

    Raises:
        InputError: if the function does not take two arguments, or `parent` is given and it takes none.
    """

    function: Callable[..., Module]
    file: str = ""
    parent: Path | None = None

    def __post_init__(self) -> None:
        try:
            signature(self.function).bind(None, 0)
        except TypeError as error:
            cure = " Give parent a default: the file of the model that it is made of." * self.takes_parent
            raise InputError(
                f"{self.where} must take the examples and a seed, as def recipe(train, seed); it does not ({error})."
                f"{cure}"
            ) from error
        if self.parent is not None and not self.takes_parent:
            raise InputError(f"{self.where} takes no parent, so OwnLoop.parent would do nothing.")

    @property
    def takes_parent(self) -> bool:
        """Whether the function has a parameter `parent`: it makes its model of another."""
        try:
            return "parent" in signature(self.function).parameters
        except (TypeError, ValueError):  # no function
            return False

    @property
    def where(self) -> str:
        """The function in words, with its line."""
        code = getattr(self.function, "__code__", None)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        line = f", line {code.co_firstlineno}" if code is not None else ""
        return f"{name} in {self.file}{line}," if self.file else f"the recipe {name}{line}{',' * bool(line)}"

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Train on `data` by the function.

        Raises:
            InputError: if it fails, returns no module, or read so few of the examples that it has trained on others.
        """
        data.require_examples("OwnLoop.build")
        examples, seed = Examples.of(data), draw_seed(rng) % 2**32
        with _seeded_everywhere(seed):
            try:
                model = self.function(
                    examples, seed, **({} if self.parent is None else {"parent": self.parent})
                )
            except UnweaveError:
                raise
            except Exception as error:
                raise InputError(
                    f"{self.where} failed{_line_of(error, self.function)}: {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:300]}. Mend it and run again."
                ) from error
        if not isinstance(model, Module):
            raise InputError(
                f"{self.where} must return the trained model, a torch.nn.Module; it returned a {type(model).__name__}."
            )
        self._require_read(examples)
        return model

    def _require_read(self, examples: Examples) -> None:
        n, read = len(examples), examples.read
        if read >= max(1, LEAST_READ * n):
            return
        how = "without reading" if not read else f"after reading only {read} of {n} examples of"
        raise InputError(
            f"{self.where} trained {how} the data it was given, so a model retrained by it would still hold "
            "the deleted examples. Train on its first argument, and on no data set of the file's own."
        )

    def repeats(self, data: Data[Any], *, most: int = 64) -> bool:
        """Whether two trainings by the same seed on the first examples of `data` end in the same bits.

        Raises:
            InputError: as `build` does.
        """
        small = data.subset(range(min(most, len(data))))
        first, second = (self.build(small, rng=seeded(0)).state_dict() for _ in range(2))
        return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))

    def names_data(self, *given: Any) -> tuple[str, ...]:
        """Names under which the function reaches any of these objects past its arguments."""
        if not hasattr(self.function, "__code__"):
            return ()
        reached = getclosurevars(self.function)
        known = {id(part) for whole in given for part in _parts(whole)}
        return tuple(n for n, v in {**reached.globals, **reached.nonlocals}.items() if id(v) in known)


def _parts(whole: Any) -> list[Any]:
    inner = list(whole) if isinstance(whole, tuple) else []
    inner += list(getattr(whole, "tensors", ())) + [getattr(whole, "dataset", whole)]
    return [whole, *inner]


@contextmanager
def _seeded_everywhere(seed: int) -> Iterator[None]:
    """Seed torch, numpy and `random` inside the block, put them back after."""
    state, kept = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    grad = torch.is_grad_enabled()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            torch.set_grad_enabled(True)
            yield
    finally:
        torch.set_grad_enabled(grad)
        random.setstate(state)
        np.random.set_state(kept)


def _line_of(error: BaseException, function: Any) -> str:
    code = getattr(function, "__code__", None)
    own = [] if code is None else [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == code.co_filename
    ]  # fmt: skip
    return f" at line {own[-1]}" if own else ""
