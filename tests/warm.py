"""The product's commands as processes of their own that need not import everything anew.

One process imports what every command needs, once, and forks for each command (`multiprocessing`'s
fork server). What is forked has its own folder, environment, session and output, and runs the same
`main` as the console command: a test of fifty commands pays for one import, not for fifty.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from demo.processes import Processes, Running

_IMPORTED = (
    "client.ingest",  # first: it does without torch, which the next ones load
    "audit.cli",
    "client.cli",
    "client.flower",
    "client.worker",
    "compliance.cli",
    "compliance.service.listener",
    "server.cli",
    "server.service",
    "server.submission",
)


class Forked:
    """What `demo.processes` uses of `subprocess.Popen`, for a forked command."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


class WarmProcesses(Processes):
    """Processes that are forked. It has no hosts: `_prefix` is not asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_IMPORTED))
        before = dict(os.environ)
        os.environ.update(self._environment())  # some of it is read at import
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _spawn(self, name: str, arguments: tuple[str, ...], log: Path) -> Running:
        return self._fork(arguments, log, log)

    def _complete(self, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            code = self._fork(arguments, output, errors).wait()
            return subprocess.CompletedProcess(
                arguments, code, output.read_text("utf-8"), errors.read_text("utf-8")
            )

    def _fork(self, arguments: tuple[str, ...], output: Path, errors: Path) -> Forked:
        folder, environment = str(self._folder), dict(self._environment())
        process = self._context.Process(
            target=_become, args=(arguments, folder, environment, str(output), str(errors))
        )
        process.start()
        return Forked(process)


def _become(
    arguments: tuple[str, ...], folder: str, environment: dict[str, str], output: str, errors: str
) -> None:
    """Be the command, in this process."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, output), (2, errors)):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = list(arguments)
    import_module(f"{arguments[0]}.cli").main()
