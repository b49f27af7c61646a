"""Printing where a terminal or pipe takes less than all of Unicode (LC_ALL=C, cron, some containers)."""

from __future__ import annotations

import codecs
import json
import sys
import unicodedata

SIGNS = {
    "✓": "v", "✕": "x", "○": "o", "●": "*", "•": "*", "·": "-", "–": "-", "—": "-", "−": "-", "‑": "-", "±": "+/-",
    "×": "x", "→": "->", "←": "<-", "…": "...", "≤": "<=", "≥": ">=", "≈": "~", "‘": "'", "’": "'", "“": '"',
    "”": '"', "│": "|", "┃": "|", "─": "-", "━": "-", "═": "=", "║": "|", "█": "#", "◆": "=", "╸": "-", "╺": "-",
}  # fmt: skip
"""What stands for a sign that cannot be printed."""


def spelled(text: str) -> str:
    """Text in ASCII: known signs by others, letters without their accents, "?" for the rest.

    Example:
        >>> spelled("✕ Not forgotten: −0.5 ± 0.1 – naïve")
        'x Not forgotten: -0.5 +/- 0.1 - naive'
    """
    return "".join(SIGNS.get(c) or _letter(c) for c in text)


def _letter(sign: str) -> str:
    if "BOX DRAWINGS" in unicodedata.name(sign, ""):
        return "+"
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end


def make_printable() -> None:
    """From now on nothing that is printed can fail for its letters."""
    codecs.register_error("unweave", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if not _takes_all(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="unweave")


def write_json(text: str) -> None:
    """Write strict JSON to the standard output, with escapes where it takes less than all of Unicode."""
    plain = text if _takes_all(sys.stdout) else json.dumps(json.loads(text), indent=1) + "\n"
    sys.stdout.write(plain)


def _takes_all(stream: object) -> bool:
    try:
        "✓\U0001f600".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
