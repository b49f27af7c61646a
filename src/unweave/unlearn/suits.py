"""What kinds of deletion requests there are, and where a method says which of them it does not suit.

A method of family unlearn says so itself, as a class attribute, from what was measured at its defaults (`python -m
benchmarks.suits`: two small worlds, a class and a random fifth). *Position* is that of the audit: 0 holds the data, 1
is a retrained model. 0.95 or more, with less than 5 points of held-out accuracy lost, suits a request.

    unsuited: ClassVar[Unsuited] = {"random": "leaves the memory of single examples where it is"}

`unweave list` shows what it suits, and a deletion by a method that does not suit the request warns with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Kind = Literal["class", "random", "small"]
"""Whole classes; examples scattered over classes that stay; less than `SMALL` of these."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SMALL = 60
"""Scattered examples below which an audit cannot judge: at 60 it accepts four retrained models of five, at 20 half."""
Unsuited = Mapping[Kind, str]
"""Kind of request -> why a method does not suit it, as the end of a sentence that begins with its name.

Of a method that holds another as `unlearn`, "" says that it suits the kind whatever it holds.
"""

UNJUDGED = "is approximate, and no audit can judge it on so few examples: take an exact method"
"""Why an approximate method suits no small request."""


def suits(method: type[Any]) -> tuple[Kind, ...]:
    """Kinds of requests that a method suits at its defaults; none if it says nothing of them."""
    if not hasattr(method, "unsuited"):
        return ()
    return tuple(kind for kind in KINDS if not why_unsuited(method, kind))


def why_unsuited(edit: Any, kind: Kind) -> str:
    """Why an edit, or the one that it holds as `unlearn`, does not suit such a request; "" if it does."""
    own: str | None = getattr(edit, "unsuited", {}).get(kind)
    inner = getattr(edit, "unlearn", None)
    if own is not None or inner is None:
        return own or ""
    why = why_unsuited(inner, kind)
    return f"holds {type(inner).__name__}, which {why}" if why else ""
