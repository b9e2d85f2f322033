"""Following a page of the documentation: its commands, run in its order, and what it shows of them.

What the page shows of an output must be in the output, in that order (`first_missing`).
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
_VARYING = re.compile(
    r"(?P<any>…)|(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)|(?P<hex>\b[0-9a-f]{8,}\b)"
    r"|(?P<number>\d+)|(?P<space>\s+)"
)
_PATTERNS = {
    "any": ".*",
    "time": r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    "hex": "[0-9a-f]{8,}",
    "number": r"\d+",
    "space": r"\s+",
}


class Step(NamedTuple):
    """A command of the page, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def steps_of(page: Path) -> list[Step]:
    """A page's commands, in order."""
    found: list[Step] = []
    for block in _CONSOLE.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            found.append(Step(command, tuple(line for line in shown if line.strip())))
    return found


def first_missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line of a page that a command did not print, in that order.

    Times, digests and numbers are others in each run; `…` stands for anything.
    """
    lines = iter(output.splitlines())
    for expected in shown:
        pattern = _pattern(expected)
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return expected
    return None


def _pattern(line: str) -> re.Pattern[str]:
    parts, end = [], 0
    for token in _VARYING.finditer(line):
        parts += [re.escape(line[end : token.start()]), _PATTERNS[token.lastgroup or "any"]]
        end = token.end()
    return re.compile("".join([*parts, re.escape(line[end:])]))


class Answer(NamedTuple):
    """What a command did."""

    code: int
    output: str


def run_command(line: str, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run a line of the page in this process, in the current folder."""
    name, *arguments = shlex.split(line)
    if name == "export":
        for setting, _, value in (pair.partition("=") for pair in arguments):
            os.environ[setting] = value
        return Answer(0, "")
    if name == "sqlite3":
        copy_database(Path(arguments[0]), Path(arguments[1].removeprefix(".backup ")))
        return Answer(0, "")
    module = importlib.import_module(f"{name}.cli")
    capsys.readouterr()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        pytest.raises(SystemExit) as ended,
    ):
        module.main()
    captured = capsys.readouterr()
    return Answer(int(str(ended.value.code or 0)), captured.out + captured.err)


def copy_database(source: Path, target: Path) -> None:
    """What `sqlite3 SOURCE ".backup TARGET"` does: a consistent copy of a database in use."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
