"""One seed governs a run: generators are made from it and handed down, never taken from global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator

from .errors import InputError


def seeded(seed: int) -> Generator:
    """A CPU generator started from `seed`."""
    return Generator().manual_seed(seed)


def require_generator(rng: object) -> None:
    """Refuse what is no generator: torch takes None for its global one, and a run would not be governed by its seed.

    Raises:
        InputError: unless `rng` is a `torch.Generator`.
    """
    if not isinstance(rng, Generator):
        raise InputError(f"rng must be a torch.Generator; got {rng!r}. Give unweave.seeded(0), say.")


def draw_seed(rng: Generator) -> int:
    """Draw a fresh 62-bit seed from `rng`, advancing it."""
    require_generator(rng)
    return int(torch.randint(2**62, (), generator=rng))


def child(rng: Generator) -> Generator:
    """A new generator, independent of later draws from `rng`; advances `rng` once."""
    return seeded(draw_seed(rng))


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block (layer initialisation, dropout), restore them after."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
