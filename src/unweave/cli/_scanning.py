"""The job that the flags of `unweave prune` name: a pruning, towards a target or not, or a scan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..jobs.prune import PruneJob
from ..jobs.scan import ScanJob
from ..jobs.target import Target
from ._opened import tell
from ._pruned import pruned_subject, recovery
from ._pruners import pruner


@dataclass(frozen=True, kw_only=True)
class Scanning:
    """Which layers are sensitive, measured instead of pruned.

    Attributes:
        scan: prune nothing: measure the held-out figure and loss with each layer alone pruned, by the method and the
            pattern, and write a report with a picture and a table.
        scan_at: sparsities of the scan.
        scan_examples: of the held-out ones that the scan measures, evenly spaced.
    """

    scan: bool = False
    scan_at: tuple[float, ...] = ScanJob.sparsities
    scan_examples: int = 512


_IDLE = (
    "sparsity", "budget", "recover_epochs", "recover_lr", "recover", "recalibrate", "shrink", "width", "onnx", "packed",
    "target",
)  # fmt: skip
"""Flags of `unweave prune` that a scan has no use for."""


def scan_job(asked: Any) -> ScanJob:
    """The scan that the flags name.

    Raises:
        InputError: if a flag would do nothing.
    """
    fields = {f.name: f.default for f in dataclasses.fields(asked)}
    idle = [name for name in _IDLE if getattr(asked, name) != fields[name]]
    if idle:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(
            f"{flags} would do nothing with --scan, which prunes each layer alone. Leave it out."
        )
    how: Scanning = asked.scanning
    return ScanJob(
        subject=pruned_subject(asked), method=pruner(asked), sparsities=how.scan_at, examples=how.scan_examples,
        seed=asked.seed,
    )  # fmt: skip


def prune_job(asked: Any) -> PruneJob:
    """The pruning that the flags name."""
    edit = pruner(asked)
    if asked.budget is None and asked.pattern == "channel":
        tell(("every layer loses the same share of its channels (--budget global ranks them all together).",))
    return PruneJob(
        subject=pruned_subject(asked), method=edit, **recovery(asked), shrink=asked.shrink, onnx=asked.onnx,
        recalibrate=None if asked.recalibrate else False, width=asked.width, seed=asked.seed, packed=asked.packed,
        target=None if asked.target is None else Target.read(asked.target),
    )  # fmt: skip


def as_targeted(asked: Any) -> Any:
    """The flags, and those that a target implies where they were left at their defaults, which is told.

    Raises:
        InputError: if the target cannot be read, or flags of a scan would do nothing.
    """
    if asked.scanning != Scanning():
        raise InputError("--scan-at and --scan-examples are for a scan: add --scan, or leave them out.")
    if asked.target is None:
        return asked
    target = Target.read(asked.target)
    if asked.sparsity is not None:
        raise InputError("--sparsity would do nothing beside --target, which searches for it. Leave one out.")
    implied: dict[str, Any] = {}
    if target.of in ("macs", "latency"):
        implied |= {"pattern": "channel"} if asked.pattern == "unstructured" else {}
        implied |= {} if asked.shrink else {"shrink": True}
    elif target.of == "bytes" and not (asked.shrink or asked.packed):
        implied |= {"packed": True}
    if implied:
        flags = " ".join(f"--{n}" if v is True else f"--{n} {v}" for n, v in implied.items())
        tell((f"--target {target} implies {flags}.",))
    return dataclasses.replace(asked, **implied)
