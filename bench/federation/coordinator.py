"""`server start`, with the times of what it says: one JSON line an event.

python -m bench.federation.coordinator FEDERATION TIMES
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console

from server.federation import Federation
from server.progress import LineReporter, RunView
from server.service import serve, stopping_on_signals


class TimedReporter(LineReporter):
    """Writes down when each line was said, and when each run showed which activity."""

    def __init__(self, times: TextIO) -> None:
        super().__init__(Console(stderr=True))
        self._times = times
        self._writing = threading.Lock()
        self._shown = ""

    def note(self, message: str) -> None:
        """Print and write down one line."""
        self._write(note=message)
        super().note(message)

    def show(self, view: RunView | None) -> None:
        """Write down an activity when it begins."""
        if view is None:
            return
        shown = f"{view.activity} {view.round}"
        if shown != self._shown:
            self._shown = shown
            self._write(show=shown)

    def _write(self, **event: str) -> None:
        with self._writing:
            self._times.write(json.dumps({"time": time.monotonic(), **event}) + "\n")
            self._times.flush()


def main(folder: str, times: str) -> None:
    stop = threading.Event()
    with Path(times).open("w", encoding="utf-8") as file, stopping_on_signals(stop):
        serve(Federation.open(Path(folder)), TimedReporter(file), stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
