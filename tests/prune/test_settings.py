"""No setting of the family takes what it is not."""

from __future__ import annotations

import dataclasses
import inspect
import math
from functools import partial
from typing import Any, Literal, get_args, get_origin

import pytest

from unweave import Supervised, prune
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.settings import hints

RECIPE = Supervised(network=partial(mlp, 6, 4, 3), epochs=2)
NEEDED = {
    "IMP": {"recipe": RECIPE},
    "SparseModelSoup": {"recipe": RECIPE},
    "Block": {"rows": 2, "columns": 2},
} | {name: {"sparsity": 0.5} for name in ("ERK", "Global", "PerOutput", "Uniform")}
RESULTS = ("Explored", "Selected", "Shrunk")


def within(annotation: Any) -> list[Any]:
    """An annotation and all in it; of a Literal, itself alone."""
    parts = () if get_origin(annotation) is Literal else get_args(annotation)
    return [annotation, *(inner for part in parts for inner in within(part))]


def fields() -> list[Any]:
    found = []
    for name in prune.__all__:
        cls = getattr(prune, name)
        if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)) or name in RESULTS:
            continue
        for field in dataclasses.fields(cls):
            kinds = within(hints(cls)[field.name])
            bad = ["none such"] if any(get_origin(k) is Literal for k in kinds) else []
            bad += [math.nan, -1] if float in kinds or int in kinds else []
            found += [pytest.param(cls, field.name, b, id=f"{name}.{field.name}={b}") for b in bad]
    return found


@pytest.mark.parametrize(("cls", "field", "bad"), fields())
def test_refuses(cls: type[Any], field: str, bad: Any) -> None:
    with pytest.raises(InputError, match=rf"^{cls.__name__}\.{field} must be"):
        cls(**{**NEEDED.get(cls.__name__, {}), field: bad})


def test_all_fields_of_choices_and_numbers_were_tried() -> None:
    assert len(fields()) > 200
