"""`--watch`: show something again and again, until the operator has seen enough.

* On a terminal one view is kept up to date; q and Ctrl-C end it, and the terminal is as before.
* Elsewhere each look is one plain line, or with `--json` one JSON object on a line of its own, so
  that a pipe can read it as it comes.
* The next look begins an interval after the last one ended: a slow look is not run into.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from types import FrameType
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.live import Live

from audit.terminal import out

QUIT_KEYS = frozenset({b"q", b"Q"})

T = TypeVar("T")


class WatchEnd(Enum):
    """What ended a watch."""

    QUIT = "quit"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


class _Terminated(BaseException):
    """SIGTERM came."""


def watch(
    read: Callable[[], T],
    *,
    render: Callable[[T], RenderableType],
    line: Callable[[T], str],
    document: Callable[[T], Any] | None,
    interval_seconds: float,
) -> WatchEnd:
    """Look until somebody ends it.

    Args:
        read: One look.
        render: A look as a terminal shows it.
        line: A look as one line, for pipes.
        document: A look as JSON, when `--json` was asked for; else None.
        interval_seconds: Pause between two looks.

    Raises:
        FiduciaryError: What `read` raises.
    """
    console = out()
    try:
        with _ending_on_sigterm():
            if document is not None:
                while True:
                    text = json.dumps(document(read()), sort_keys=True, ensure_ascii=False)
                    sys.stdout.write(text + "\n")
                    sys.stdout.flush()
                    time.sleep(interval_seconds)
            if not console.is_terminal:
                while True:
                    stamp = datetime.now().astimezone().strftime("%H:%M:%S")
                    console.print(f"{stamp} {line(read())}", markup=False, highlight=False)
                    sys.stdout.flush()
                    time.sleep(interval_seconds)
            with _keys() as pressed, Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(render(read()), refresh=True)
                    if pressed(interval_seconds):
                        return WatchEnd.QUIT
    except KeyboardInterrupt:
        return WatchEnd.INTERRUPTED
    except _Terminated:
        return WatchEnd.TERMINATED


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Waits so many seconds; True as soon as a quit key is pressed."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([descriptor], [], [], left)[0]:
                return False
            key = os.read(descriptor, 1)
            if not key:  # the terminal's other end is gone
                return _sleep(left)
            if key in QUIT_KEYS:
                return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
