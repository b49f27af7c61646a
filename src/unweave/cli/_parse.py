"""From an argument list to a dataclass of options, and from a finished job to the terminal."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from ..jobs.done import Done
from ..jobs.tracking import tracked
from ._plain import write_json


def parse(options: type[Any], argv: Sequence[str], *, command: str, example: str) -> Any:
    """Parse `argv` into the dataclass `options`; the docstring and an example make the help.

    Exits (SystemExit) with 0 on --help and 2 on wrong use, as tyro does.
    """
    about = f"{inspect.getdoc(options) or ''}".split("\n\nAttributes:")[0]
    return tyro.cli(
        options,
        args=list(argv),
        prog=f"unweave {command}",
        description=f"{about}\n\nExample:\n{example}",
        config=(tyro.conf.AvoidSubcommands,),
    )


def named_methods(argv: Sequence[str], flags: Sequence[str], default: str) -> list[str]:
    """Names given to `--method` and the like, before the rest is parsed: they decide which options there are."""
    found: list[str] = []
    for i, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in flags:
            values = [value] if value else list(_until_flag(argv[i + 1 :]))
            found += [v for given in values for v in given.split(",") if v]
    return found or [default]


def named_run(command: str, plan: Any, *more: Any) -> Path:
    """The run folder of this plan, for users who give none."""
    digest = hashlib.sha256(json.dumps([plan, *map(str, more)], sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{command}-{digest[:8]}"


PRIVATE = {"--ids": "FILE", "--where": "COLUMN=VALUE"}
"""Flags whose value tells who asked -> what stands for it in a run's record and reports."""


def typed(command: str, argv: Sequence[str]) -> list[str]:
    """The command as it was typed, without what tells whose data were deleted.

    Example:
        >>> typed("forget", ["project.py", "--where", "owner=ann", "--ids=ann.txt", "--seed", "1"])
        ['unweave', 'forget', 'project.py', '--where', 'owner=VALUE', '--ids=FILE', '--seed', '1']
    """
    told, flag = ["unweave", command], ""
    for argument in argv:
        name, equals, value = argument.partition("=")
        if flag:
            told.append(_instead(flag, argument))
        elif equals and name in PRIVATE:
            told.append(f"{name}={_instead(name, value)}")
        else:
            told.append(argument)
        flag = argument if argument in PRIVATE else ""
    return told


def _instead(flag: str, value: str) -> str:
    column, equals, _ = value.partition("=")
    return f"{column}=VALUE" if flag == "--where" and equals else PRIVATE[flag]


def carried_out(job: Any, asked: Any, command: str, argv: Sequence[str], *more: Any) -> Any:
    """Run a job in the folder that was named, or that its plan and `more` name; tell the tracker, and print."""
    at = asked.out or named_run(command, job.plan(), *more)
    with tracked(asked.tracker, at, job.plan()) as tracking:
        done = job.run(at, command=typed(command, argv))
        if tracking is not None:
            tracking.tell(done)
    show(done, asked.json)
    return done


def show(done: Done, as_json: bool) -> None:
    """Print what came out of a job."""
    if as_json:
        write_json(done.json())
    else:
        done.show()


def say(text: str) -> None:
    """Print to the standard output."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def _until_flag(argv: Sequence[str]) -> Iterator[str]:
    for argument in argv:
        if argument.startswith("-"):
            return
        yield argument
