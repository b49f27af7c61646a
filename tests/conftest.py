"""No test leaves anything in the home of who runs it: the key that seals what was deleted lies apart."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

if "UNWEAVE_KEY" not in os.environ:
    _room = Path(tempfile.mkdtemp(prefix="unweave-tests-"))
    atexit.register(shutil.rmtree, _room, ignore_errors=True)
    (_room / "key").write_bytes(os.urandom(32))
    os.environ["UNWEAVE_KEY"] = str(_room / "key")

# A test that needs workers asks for them: tests run one a core already, and a worker costs an import of torch.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")
