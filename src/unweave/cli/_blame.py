"""Whose error it is: the user's own code (project file, model, data set, task) or ours."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from ..io.content import PROJECT_PREFIX

_OURS = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    Path(p).resolve() for p in {sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")}
)
_BY_VALUE = "<dynamic-code>"
"""What workers show in the place of a project file's name: its code came to them pickled."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def in_users_code(error: BaseException) -> str:
    """The error as one sentence with its file and line, if the user's own code raised it; "" if ours did.

    The last frame that is the user's or ours decides: what other libraries raise is laid to who called them. Errors of
    worker processes bring their frames as text.
    """
    last = None
    for file, line in (*_frames(error), *_told(error)):
        path = Path(file)
        if file == _BY_VALUE:
            last = f"the project file, line {line}"
        elif _under(path, _projects()) and not _under(path, (*_INSTALLED, _OURS)):
            last = f"{path.name}, line {line}"
        elif _under(path, (_OURS,)):
            last = None
    reason = " ".join(str(error).split())[:300]
    return f"{last}: {type(error).__name__}: {reason}. Mend it and run again." if last else ""


def _projects() -> tuple[Path, ...]:
    """Folders of the project files that were opened: what stands beside them is the user's, too."""
    named = [module for name, module in sys.modules.items() if name.startswith(PROJECT_PREFIX)]
    return tuple(
        Path(file).resolve().parent for module in named if (file := getattr(module, "__file__", None))
    )


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, frame.lineno or 0


def _told(error: BaseException) -> Iterator[tuple[str, int]]:
    """Frames of a worker, innermost last; they come after those of this process."""
    if error.__cause__ is not None:
        yield from ((found["file"], int(found["line"])) for found in _FRAME.finditer(str(error.__cause__)))


def _under(path: Path, roots: tuple[Path, ...]) -> bool:
    resolved = path.resolve()
    return any(root in resolved.parents for root in roots)
