"""Write tests/slow.txt anew: the tests that `make test-fast` passes over because they took long.

.venv/bin/python -m pytest -n auto --junitxml report.xml && .venv/bin/python -m tests.durations report.xml
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

LEAST = 0.2
"""Seconds, with fixtures."""
SLOW = Path(__file__).with_name("slow.txt")


def slow_in(report: Path) -> list[str]:
    """Node ids of tests that took longer than LEAST, sorted."""
    cases = ElementTree.parse(report).iter("testcase")
    return sorted(
        _node(case.attrib["classname"], case.attrib["name"])
        for case in cases
        if float(case.attrib["time"]) > LEAST
    )


def _node(where: str, name: str) -> str:
    """The node id: a class's name begins with a capital, a module's does not."""
    module = [part for part in where.split(".") if part[:1].islower()]
    return "::".join(["/".join(module) + ".py", *where.split(".")[len(module) :], name])


if __name__ == "__main__":
    SLOW.write_text("".join(f"{name}\n" for name in slow_in(Path(sys.argv[1]))), encoding="utf-8")
