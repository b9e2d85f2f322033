"""Small logs for tests: real keys, real files, a clock that moves by itself."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import Entry
from audit.node_order import node_place

ORIGIN = "fiduciary.test/site/north"


class Clock:
    """Starts at a fixed time; every look is a second later."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


class Site:
    """A journal with its key and keyring in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.sqlite"
        self.signer = SigningKey.generate(ORIGIN)
        self.keyring = Keyring.create(folder / "keyring")
        self.journal = Journal.create(self.path, ORIGIN, self.signer, self.keyring, Clock())

    @property
    def key(self) -> str:
        return self.signer.public.encoded()

    def fill(self, count: int) -> None:
        self.journal.record_many(entries(count))

    def copy(self, name: str = "copy.sqlite") -> Path:
        """The log at rest in another file."""
        target = self.folder / name
        connection = sqlite3.connect(self.path)
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        finally:
            connection.close()
        return target

    def close(self) -> None:
        self.journal.close()
        self.keyring.close()


def entry(number: int = 0, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "actor": "site:north",
        "action": "round.trained",
        "object": f"plan:sha256:{number:064x}",
        "subject": None,
        "payload": {"number": number},
    }
    return Entry(**fields | changes)


def entries(count: int) -> Iterator[Entry]:
    """Entries of which every third is about one of two subjects."""
    for number in range(count):
        yield entry(number, subject=f"{number % 2:08x}" if number % 3 == 0 else None)


def hashes_of_first_format(stored: dict[int, bytes], size: int) -> list[tuple[int, int, bytes]]:
    """Level, index and hash of each node, as `fiduciary.log/1` stored them.

    Args:
        stored: Hashes by place, as they are stored today.
        size: Number of entries.
    """
    return [
        (level, index, stored[node_place(level, index)])
        for level in range(size.bit_length())
        for index in range(size >> level)
    ]


def tamper(path: Path, statement: str, *parameters: object) -> Path:
    """Change a copy of a log in place."""
    target = path.with_name(f"tampered-{path.name}")
    shutil.copyfile(path, target)
    connection = sqlite3.connect(target)
    try:
        changed = connection.execute(statement, parameters).rowcount
        connection.commit()
    finally:
        connection.close()
    if changed == 0:
        raise ValueError(f"nothing was tampered with: {statement}")
    return target
