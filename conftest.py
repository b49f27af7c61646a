"""Settings of every test: a key of its own for the records of deletions, not the user's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("UNWEAVE_KEY", str(Path(tempfile.mkdtemp(prefix="unweave-tests-")) / "deletions.key"))
