"""Ctrl-C ends every command without a traceback, also while it still imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode

ROOT = Path(__file__).parents[2]

WAITING = """
import sys

class Waiting:
    '''A finder that tells when a package is wanted, and never gives it.'''

    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("importing", flush=True)
            while True:
                pass

sys.meta_path.insert(0, Waiting())
"""


def interrupted(command: str, *, ignoring: bool = False) -> tuple[int, str]:
    """Exit code and errors of a command that got SIGINT while it imported."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{WAITING}from {command}.__main__ import main\nmain()"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignoring else None,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    if ignoring:
        process.terminate()
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("command", ["audit", "client", "compliance", "server"])
def test_ctrl_c_while_a_command_imports_ends_it_quietly(command: str) -> None:
    assert interrupted(command) == (ExitCode.INTERRUPTED, "")


def test_who_ignores_ctrl_c_goes_on_doing_so() -> None:
    assert interrupted("audit", ignoring=True) == (-signal.SIGTERM, "")


FINALISING = """
import signal, sys

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def main():
    Finalised()
    print("swallowed", flush=True)
    while True:
        pass

from audit.entry import run_command
sys.modules["a_command"] = sys.modules["__main__"]
run_command("a_command")
"""


def test_ctrl_c_that_a_finaliser_swallows_comes_again() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FINALISING], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    expected = (int(ExitCode.INTERRUPTED), "swallowed\n", "")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected


def test_a_command_that_runs_has_the_handler_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command begins it must be able to end properly."""
    entry, seen = import_module("audit.entry"), []
    before = signal.getsignal(signal.SIGINT)
    command: Any = type(sys)("a_command")
    command.main = lambda: seen.append(signal.getsignal(signal.SIGINT))
    monkeypatch.setitem(sys.modules, "a_command", command)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # is put back
    entry.run_command("a_command")
    assert seen == [before]
    assert signal.getsignal(signal.SIGINT) is before
