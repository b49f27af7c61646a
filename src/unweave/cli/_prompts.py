"""Prompts from the command line: themselves, or a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def prompts_of(given: Sequence[str]) -> tuple[str, ...]:
    """The prompts that `--prompts` means: one that names a file stands for its lines.

    Raises:
        InputError: if there is none, or a file is no text.
    """
    found: list[str] = []
    for said in given:
        path = Path(said)
        if path.suffix != ".txt" and not path.is_file():
            found.append(said)
            continue
        try:
            found += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--prompts {said} cannot be read as text ({error.__class__.__name__}); give prompts, or a "
                "file with one a "
                "line."
            ) from error
    if not found:
        raise InputError(
            '--prompts is needed: what to draw, as in --prompts "a photo of a cat", or a file with one a line.'
        )
    return tuple(found)
