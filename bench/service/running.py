"""Servers and callers as processes, each on a core of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.service.load import Load
from compliance.service.folder import Folder
from compliance.trust import Trust

_SERVERS_CORE: Final = min(os.sched_getaffinity(0))
_OTHER_CORES: Final = os.sched_getaffinity(0) - {_SERVERS_CORE} or {_SERVERS_CORE}


def first_core_is_the_servers() -> None:
    """Move this process, and what it starts (PostgreSQL, callers), to the other cores."""
    os.sched_setaffinity(0, _OTHER_CORES)


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        which: `ours` or `bare`.
        port: Where, on 127.0.0.1.
        certificate: Its certificate, PEM.
        process_id: Of the server.
    """

    which: str
    port: int
    certificate: str
    process_id: int

    def load(
        self, calls: list[list[str]], seconds: float = 0, shown: Sequence[str] = ()
    ) -> dict[str, float]:
        """Call it from a new process (`bench.service.load`), and see what it spent."""
        spent = self._cpu_seconds()
        load = Load(self.port, self.certificate, calls, seconds, list(shown))
        done = subprocess.run(
            [sys.executable, "-m", "bench.service.load"],
            input=json.dumps(asdict(load)),
            capture_output=True,
            text=True,
            check=True,
        )
        measured: dict[str, float] = json.loads(done.stdout)
        measured["cpu_ms"] = (self._cpu_seconds() - spent) / measured["answers"] * 1000
        return measured

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process_id}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(which: str, folder: Folder) -> Iterator[Served]:
    """A server over a folder, on the first core."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.service.server", which, str(folder.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, {_SERVERS_CORE})
    try:
        if process.stdout is None:
            raise TypeError("the server has no output")
        port = int(process.stdout.readline())
        yield Served(which, port, Trust.load(folder.trust).certificate, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
