"""`--watch` on a real terminal and in a pipe: it refreshes, ends cleanly, and leaves nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 30.0

PROGRAM = """
import sys
from rich.text import Text
from audit.watching import watch
looks = iter(range(10**6))
ended = watch(
    lambda: next(looks),
    render=lambda look: Text(f"look {look}"),
    line=lambda look: f"look {look} [bold]",
    document=(lambda look: {"look": look}) if "--json" in sys.argv else None,
    interval_seconds=0.05,
)
print(f"ended: {ended.value}")
"""


class Terminal:
    """A pseudo-terminal with a program on it."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, slave: int) -> None:
        self.process = process
        self.slave = slave
        self._master = master
        self.shown = b""

    def read_until(self, wanted: bytes) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while wanted not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.shown += os.read(self._master, 65_536)

    def press(self, key: bytes) -> None:
        os.write(self._master, key)


@contextmanager
def on_a_terminal(*command: str, columns: int = 80) -> Iterator[Terminal]:
    """A program on a terminal of its own, by default the one above."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    # The terminal tells its size; variables of whoever runs the tests would overrule it.
    environment = {key: said for key, said in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command or (sys.executable, "-c", PROGRAM),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
    )
    try:
        yield Terminal(process, master, slave)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        os.close(slave)
        os.close(master)


def settings_of(terminal: Terminal) -> list[int]:
    return [int(flags) for flags in termios.tcgetattr(terminal.slave)[:4]]


@pytest.mark.parametrize(
    ("end", "said"), [(b"q", "quit"), (b"xQ", "quit"), (signal.SIGINT, "interrupted")]
)
def test_a_terminal_is_refreshed_and_left_as_it_was(end: bytes | int, said: str) -> None:
    with on_a_terminal() as terminal:
        before = settings_of(terminal)
        terminal.read_until(b"look 2")
        assert settings_of(terminal) != before  # keys come one by one
        if isinstance(end, bytes):
            terminal.press(end)
        else:
            terminal.process.send_signal(end)
        terminal.read_until(f"ended: {said}".encode())
        assert terminal.process.wait(WAIT_SECONDS) == 0
        assert settings_of(terminal) == before
        assert terminal.shown.count(b"\x1b[?25l") == terminal.shown.count(b"\x1b[?25h") == 1
        assert b"Traceback" not in terminal.shown


def test_sigterm_leaves_the_terminal_as_it_was() -> None:
    with on_a_terminal() as terminal:
        before = settings_of(terminal)
        terminal.read_until(b"look 1")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.read_until(b"ended: terminated")
        assert settings_of(terminal) == before


def piped(*arguments: str) -> list[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert rest.rstrip().endswith("ended: interrupted")
    return lines


def test_a_pipe_gets_plain_lines() -> None:
    lines = piped()
    assert [line.split(" ", 1)[1] for line in lines] == [f"look {n} [bold]\n" for n in range(3)]


def test_json_is_one_object_a_line() -> None:
    assert [json.loads(line) for line in piped("--json")] == [{"look": n} for n in range(3)]
