"""Runs the product's own commands, and stops what it started.

* Long-running commands write to a log file each and are ended by pid: SIGINT first, as a person
  would, SIGKILL only when that does not help within `STOP_SECONDS`.
* A command that fails ends the demo with what it printed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

STOP_SECONDS = 15
"""How long a process may take to end after Ctrl-C before the demo calls that a failure."""


class CommandFailed(Exception):
    """A command of the demo did not do what the demo needs."""


def command_path(name: str) -> str:
    """The console command of this environment, so that the demo runs what is installed."""
    return str(Path(sys.executable).with_name(name))


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


class Running(Protocol):
    """A process that was started, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `subprocess.TimeoutExpired` when that takes longer."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal, unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Processes:
    """The demo's processes: short ones are waited for, long ones are ended on exit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs = folder / "logs"
        self._running: dict[str, Running] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run one command to its end and return its standard output.

        Raises:
            CommandFailed: When it exits with anything but `expect`.
        """
        done = self._complete(arguments)
        if done.returncode != expect:
            raise CommandFailed(
                f"`{' '.join(arguments)}` exited {done.returncode}, expected {expect}:\n"
                f"{done.stdout}{done.stderr}"
            )
        return done.stdout

    def exit_code(self, *arguments: str) -> int:
        """Run one command to its end and return its exit code."""
        return self._complete(arguments).returncode

    def json(self, *arguments: str, expect: int = 0) -> Any:
        """Run one command with `--json` and parse what it prints."""
        return json.loads(self.run(*arguments, "--json", expect=expect))

    def start(self, name: str, *arguments: str) -> None:
        """Start a long-running command; its output goes to `logs/NAME.log`."""
        self._running[name] = self._spawn(name, arguments, self._logs / f"{name}.log")

    def _spawn(self, name: str, arguments: tuple[str, ...], log: Path) -> Running:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self._prefix(name), *self._arguments(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment(),
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Raise when a long-running command has ended by itself with an error."""
        for name, process in self._running.items():
            code = process.poll()
            if code not in (None, 0):
                raise CommandFailed(f"{name} ended with {code}:\n{self.tail(name)}")

    def wait(self, name: str, seconds: float) -> int:
        """Wait for a long-running command to end by itself and return its exit code."""
        process = self._running[name]
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise CommandFailed(
                f"{name} is still running after {seconds:.0f} s:\n{self.tail(name)}"
            ) from None
        del self._running[name]
        return code

    def stop(self, name: str) -> float:
        """Press Ctrl-C on a long-running command and return the seconds it took to end."""
        process = self._running.pop(name)
        started = time.monotonic()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return time.monotonic() - started

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each long-running command has used so far (Linux)."""
        ticks = os.sysconf("SC_CLK_TCK")
        used = {}
        for name, process in self._running.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / ticks
        return used

    def tail(self, name: str, lines: int = 20) -> str:
        """The last lines that a long-running command printed."""
        log = self._logs / f"{name}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _complete(self, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._arguments(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self._environment(),
            check=False,
        )

    def _prefix(self, name: str) -> tuple[str, ...]:  # noqa: ARG002  for those that override it
        """What runs a long-running command elsewhere than here."""
        return ()

    @staticmethod
    def _arguments(arguments: tuple[str, ...]) -> list[str]:
        return [command_path(arguments[0]), *arguments[1:]]

    @staticmethod
    def _environment() -> Mapping[str, str]:
        # One thread each: three sites share two cores.
        return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
