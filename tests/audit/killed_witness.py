"""A program that is killed at its Nth system call about a file, for `test_witness`.

It forks a child for each N, in which the calls that open, write, sync, rename and sign count, and
the child kills itself (SIGKILL) right before the Nth. What was handed out goes through a pipe.
Prints one JSON line for each N: what was told, what is held, and what becomes of a fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from audit.witness import Held, Refused
from tests.audit.test_witness import FORK, take, witness_at

_EVENTS = frozenset({"open", "os.rename", "os.chmod", "os.remove", "fcntl.flock", "os.listdir"})


def kill_at(step: int) -> None:
    """Kill this process right before its `step`-th audited call, or its `step`-th sync."""
    seen = 0

    def count(event: str = "", _arguments: Any = None) -> None:
        nonlocal seen
        if event in _EVENTS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sync = os.fsync

    def counted_sync(fd: Any) -> None:
        count("open")
        sync(fd)
        count("open")

    os.fsync = counted_sync  # fsync raises no audit event
    sys.addaudithook(count)


def run(folder: Path, step: int) -> bool:
    """One killed step and what is left of it; whether it was killed."""
    path = folder / f"{step}" / "log-checkpoint"
    path.parent.mkdir()
    take(witness_at(path), 9)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        witness = witness_at(path)
        kill_at(step)
        handed_out = take(witness, 12)
        os.write(write_end, b"told" if isinstance(handed_out, Held) else b"")
        os._exit(0)
    os.close(write_end)
    told = os.read(read_end, 10) == b"told"
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    after = witness_at(path)
    held = after.held()
    fork = take(after, 12, FORK)
    onward = take(after, 15)
    found = {
        "killed": killed,
        "told": told,
        "held": None if held is None else held.checkpoint.size,
        "fork": fork.reason if isinstance(fork, Refused) else "accepted",
        "next": onward.checkpoint.size if isinstance(onward, Held) else onward.reason,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    return killed


def main() -> None:
    folder = Path(sys.argv[1])
    step = 1
    while run(folder, step):
        step += 1


if __name__ == "__main__":
    main()
