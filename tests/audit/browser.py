"""A headless Chromium, driven over the WebDriver protocol with the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


class Browser:
    """One open window; `address` is that of its session."""

    def __init__(self, address: str) -> None:
        self.address = address

    def open(self, page: Path) -> None:
        """Load a local file."""
        _call(f"{self.address}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a script in the page returns."""
        return _call(f"{self.address}/execute/sync", {"script": script, "args": []})

    def cdp(self, command: str, **params: Any) -> Any:
        """A command of Chromium's own protocol."""
        return _call(f"{self.address}/goog/cdp/execute", {"cmd": command, "params": params})

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Look like a screen of this many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.cdp("Emulation.setEmulatedMedia", features=scheme)

    def complaints(self) -> list[str]:
        """Console messages since the last call: script errors, refused or failed loads."""
        return [entry["message"] for entry in _call(f"{self.address}/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        """Save the whole page, also what lies below the fold."""
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a driver and a window with a new profile; both are gone afterwards."""
    assert DRIVER is not None
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    session = ""
    try:
        port = _port(process)
        options = {"binary": CHROMIUM, "args": [*_QUIET, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        root = f"http://127.0.0.1:{port}/session"
        session = f"{root}/{_call(root, {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
        yield Browser(session)
    finally:
        if session:
            _call(session, None, method="DELETE")
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    until = time.monotonic() + 60
    while time.monotonic() < until:
        line = process.stdout.readline()
        if "started successfully on port" in line:
            return int(line.rstrip(". \n").split()[-1])
    raise TimeoutError("chromedriver did not start")


def _call(address: str, body: Any, *, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=120) as answer:
        return json.load(answer)["value"]
