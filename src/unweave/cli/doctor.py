"""`unweave doctor`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from ._packages import checked
from ._parse import parse


@dataclass(frozen=True)
class Doctor:
    """Check Python, the packages unweave uses, and the machine; say how to mend what is broken.

    Attributes:
        json: print JSON instead of text.
    """

    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Check this machine. Exit code 2 if something needed is absent or broken."""
    asked: Doctor = parse(Doctor, argv, command="doctor", example="  unweave doctor")
    checks = checked()
    broken = [c for c in checks if c["state"] in ("broken", "absent, needed")]
    if asked.json:
        report = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "checks": checks,
            "healthy": not broken,
        }
        Console(highlight=False, soft_wrap=True).print(json.dumps(report, indent=1), markup=False)
        return 2 if broken else 0
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {_accelerator()}", markup=False)
    for check in checks:
        out.print(f"  {check['name']:14} {check['state']:16} {check['detail']}", markup=False)
    out.print(
        "All that unweave needs is here." if not broken else "Mend what is marked broken or needed.",
        markup=False,
    )
    return 2 if broken else 0


def _accelerator() -> str:
    try:
        import torch
    except Exception:
        return "torch does not import"
    return f"{torch.cuda.device_count()} GPU" if torch.cuda.is_available() else "no GPU"
