"""Debian's chromium, driven over its DevTools pipe: no driver, no port, nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")

_SECONDS = 60.0


class Page:
    """One page of a browser."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading = writing, reading
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.console: list[str] = []
        """What the page complained of: errors, and what its policy forbade."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Security"):
            self._call(f"{domain}.enable")
        self._call("Security.setIgnoreCertificateErrors", ignore=True)

    def open(self, address: str) -> None:
        """Load a page."""
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        answer = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true; a page on its way may not have yet what it names."""
        deadline = time.monotonic() + _SECONDS
        tried = f"(() => {{ try {{ return Boolean({condition}) }} catch {{ return false }} }})()"
        while not self.run(tried):
            assert time.monotonic() < deadline, f"waited in vain for {condition}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What is shown at a place."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def save_to(self, folder: Path) -> None:
        """Where files go that the page offers."""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, path: Path, width: int = 800, *, dark: bool = False) -> None:
        """Take a picture of the whole page."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def roles(self) -> list[tuple[str, str]]:
        """What a screen reader is told: role and name of everything that can be used."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\x00")
        while True:
            told = self._read()
            if told.get("id") == self._number:
                assert "error" not in told, told["error"]
                return told["result"]
            match told.get("method"):
                case "Log.entryAdded":
                    self.console.append(told["params"]["entry"]["text"])
                case "Runtime.exceptionThrown":
                    self.console.append(str(told["params"]["exceptionDetails"]))

    def _read(self) -> Any:
        deadline = time.monotonic() + _SECONDS
        while b"\x00" not in self._buffer:
            ready, _, _ = select.select([self._reading], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            piece = os.read(self._reading, 1 << 16)
            assert piece, "the browser ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\x00")
        return json.loads(message)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser of its own, for one test."""
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    arguments = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--remote-debugging-pipe", f"--user-data-dir={profile}",
    ]  # fmt: skip
    # The browser reads from descriptor 3 and writes to 4.
    shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", shell, "bash", *arguments],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(writing, reading)
    finally:
        os.close(writing)
        os.close(reading)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
