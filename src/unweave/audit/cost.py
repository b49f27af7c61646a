"""What the edit cost, beside training anew."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError
from ..types import Measurement


def cost(seconds: Mapping[str, float] | None) -> tuple[Measurement, ...]:
    """Measurements of time.

    Args:
        seconds: "edit" and "retrain" (one retraining), wall clock, on the same machine; either may be
            missing.

    Raises:
        InputError: if a time is negative.
    """
    seconds = seconds or {}
    edit, retrain = seconds.get("edit"), seconds.get("retrain")
    for name, value in (("edit", edit), ("retrain", retrain)):
        if value is not None and value < 0:
            raise InputError(f"seconds[{name!r}] must not be negative; got {value}.")
    if edit is None:
        return ()
    found = [
        Measurement(
            name="time of the edit",
            value=edit,
            unit="s",
            direction="lower is better",
            n=1,
            oracle_mean=retrain,
            note="the retrained column is one retraining",
        )
    ]
    if retrain:
        found.append(
            Measurement(
                name="time of the edit over one retraining",
                value=edit / retrain,
                unit="",
                n=1,
                oracle_mean=1.0,
                direction="lower is better; at 1 retraining would have been as quick",
            )
        )
    return tuple(found)
