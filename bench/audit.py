"""What evidence costs: appends, proofs and verification, on SQLite, PostgreSQL and plain files.

    python -m bench.audit [--quick] [--no-postgresql]

Everything is durable (`synchronous=FULL`, `fsync=on`), payloads have 400 bytes and are encrypted.
Everything that is compared runs side by side in one run, in turns, and the medians are reported:

* `append_per_second`: 32 threads, each waiting until its entry is durable before it writes the
  next, beside the same threads inserting the same entries into a plain table through the same
  group commit (`audit.group_commit`), without encryption, tree, signature or anything else.
* One log of a million entries (`--quick`: fifty thousand): proofs of random entries and between
  random sizes, opening, verifying (memory of a fresh process at a tenth of the log and at all of
  it).

Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from audit.checkpoint import read_checkpoint
from audit.file_log import FileStore
from audit.group_commit import GroupCommit
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog, Entry
from audit.merkle import (
    hash_leaf,
    verify_consistency,
    verify_inclusion,
)
from audit.proof import Proof
from audit.sqlite_log import SqliteStore
from audit.storage import LogStore, stored_root

ORIGIN: Final = "bench/audit"
WRITERS: Final = 32
PAYLOAD: Final = {"detail": "x" * 387}  # 400 bytes as canonical JSON
PAGE: Final = 2000
SAMPLES: Final = 2000


def entry(number: int) -> Entry:
    return Entry("site:north", "round.trained", f"plan:sha256:{number:064x}", None, PAYLOAD)


# --- appends --------------------------------------------------------------------------------------


Row = tuple[int, str, str, str, str, str | None, str]


class PlainTable:
    """The same entries in a plain table: the same group commit, and no evidence."""

    def __init__(self, insert: Callable[[list[Row]], None]) -> None:
        self._insert = insert
        self._size = 0
        self._commits: GroupCommit[Entry, int] = GroupCommit(self._commit)

    def record(self, entry: Entry) -> int:
        """Insert a row; it is durable when this returns."""
        return self._commits.submit(entry)

    def _commit(self, turn: list[Entry]) -> list[int]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ")
        positions = list(range(self._size, self._size + len(turn)))
        self._insert(
            [
                (
                    position,
                    now,
                    entry.actor,
                    entry.action,
                    entry.object,
                    entry.subject,
                    json.dumps(entry.payload),
                )
                for position, entry in zip(positions, turn, strict=True)
            ]
        )
        self._size += len(turn)
        return positions


_PLAIN_TABLE: Final = (
    "CREATE TABLE plain (position BIGINT PRIMARY KEY, time TEXT, actor TEXT, action TEXT,"
    " object TEXT, subject TEXT, payload TEXT)"
)


@contextmanager
def plain_sqlite(folder: Path) -> Iterator[PlainTable]:
    connection = sqlite3.connect(
        folder / "plain.sqlite", isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_PLAIN_TABLE.replace("BIGINT", "INTEGER"))

    def insert(rows: list[Row]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO plain VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    yield PlainTable(insert)
    connection.close()


@contextmanager
def plain_postgresql(address: str) -> Iterator[PlainTable]:
    import psycopg

    # A statement is a transaction of its own: the fewest round trips that there are.
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(_PLAIN_TABLE)

        def insert(rows: list[Row]) -> None:
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(
                "INSERT INTO plain SELECT * FROM"
                " unnest(%s::int8[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
                " %s::text[])",
                columns,
            )

        yield PlainTable(insert)


def appends_per_second(record: Callable[[int], object], count: int) -> float:
    """As many appends as `count`, by threads that each wait until theirs is durable."""
    each = count // WRITERS
    ready = threading.Barrier(WRITERS + 1)

    def write(writer: int) -> None:
        ready.wait()
        for number in range(each):
            record(writer * each + number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return each * WRITERS / (time.perf_counter() - started)


def measure_appends(
    journal: Journal, plain: PlainTable, count: int, turns: int
) -> dict[str, float]:
    ours, theirs = [], []
    for _ in range(turns):
        theirs.append(appends_per_second(lambda number: plain.record(entry(number)), count))
        ours.append(appends_per_second(lambda number: journal.record(entry(number)), count))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "append_per_second": round(statistics.median(ours)),
        "plain_insert_per_second": round(statistics.median(theirs)),
        "append_over_plain_insert": round(statistics.median(ratios), 3),
    }


# --- one large log --------------------------------------------------------------------------------


def fill(journal: Journal, count: int, what: str) -> float:
    started = time.perf_counter()
    for first in range(0, count, PAGE):
        journal.record_many(entry(number) for number in range(first, min(first + PAGE, count)))
        done = min(first + PAGE, count)
        sys.stderr.write(f"\r{what}: {done:,} of {count:,} entries")
    sys.stderr.write("\n")
    return count / (time.perf_counter() - started)


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def measure_proofs(journal: Journal, size: int) -> dict[str, float]:
    """Each proof in a transaction of its own, as a request would make it, and then checked."""
    head = read_checkpoint(journal.checkpoint())
    randomly = random.Random(1)  # noqa: S311  the same positions in every run
    inclusion, consistency = [], []
    for _ in range(SAMPLES):
        position, first = randomly.randrange(size), randomly.randrange(1, size)
        started = time.perf_counter()
        text = journal.prove(position, with_leaf=True)
        inclusion.append((time.perf_counter() - started) * 1000)
        proof = Proof.parse(text)
        verify_inclusion(hash_leaf(proof.extra or b""), position, head.size, proof.path, head.root)
        started = time.perf_counter()
        path = journal.consistency(first, size)
        consistency.append((time.perf_counter() - started) * 1000)
        with journal._store.reading() as storage:
            old = stored_root(storage, first)
        verify_consistency(first, head.size, old, head.root, path)
    return {
        "inclusion_proof_ms": round(statistics.median(inclusion), 3),
        "consistency_proof_ms": round(statistics.median(consistency), 3),
    }


_CHILD: Final = """
import resource, sys, time
from audit.verifier import verify_log
before, cpu = time.perf_counter(), time.process_time()
report = verify_log(sys.argv[1])
wall, cpu = time.perf_counter() - before, time.process_time() - cpu
assert report.ok, report.problems
print(report.entries, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def verify_in_new_process(log: str) -> tuple[float, float, float]:
    """Entries a second, entries a second of CPU time, and the largest memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, log], check=True, capture_output=True, text=True
    )
    entries, wall, cpu, kibibytes = map(float, done.stdout.split())
    return entries / wall, entries / cpu, kibibytes / 1024


def measure_log(name: str, kind: Kind, size: int) -> dict[str, float]:
    where = kind.create()
    with kind.journal(where) as journal:
        fill(journal, size // 10, f"{name}, a tenth")
        _, _, small_memory = verify_in_new_process(where)
        small_open = opening_ms(kind, where)
        filled = fill(journal, size - size // 10, f"{name}, the rest")
        kind.settle(where)
        figures = measure_proofs(journal, size)
        rate, rate_per_core, memory = verify_in_new_process(where)
        opening = opening_ms(kind, where)
    return {
        "entries": size,
        "append_many_per_second": round(filled),
        **figures,
        "verify_per_second": round(rate),
        "verify_per_core_second": round(rate_per_core),
        "verify_memory_mib": round(memory, 1),
        "verify_memory_over_a_tenth": round(memory / small_memory, 3),
        "open_ms": round(opening, 2),
        "open_over_a_tenth": round(opening / small_open, 2),
    }


def opening_ms(kind: Kind, where: str) -> float:
    """Opening a log as a process does at its start, with the check that its head is signed."""
    return statistics.median(milliseconds(lambda: kind.journal(where).close()) for _ in range(9))


# --- where the logs are ---------------------------------------------------------------------------


class Kind:
    """One kind of storage, with a key and a keyring of its own.

    Args:
        folder: Of everything that is written.
        create: Makes a new store and says where it is.
        open: Opens it.
    """

    def __init__(
        self,
        folder: Path,
        create: Callable[[], tuple[str, AbstractContextManager[LogStore]]],
        open_: Callable[[str], LogStore],
    ) -> None:
        self._create = create
        self._open = open_
        self._signer = SigningKey.generate(ORIGIN)
        self._keyring = Keyring.create(folder / "keyring")

    def create(self) -> str:
        """A new, empty log."""
        where, creating = self._create()
        with creating as store, store.writing() as storage:
            AuditLog(ORIGIN, self._signer, self._keyring).create(storage)
        return where

    def settle(self, where: str) -> None:
        """Let a database end the maintenance that so many insertions set off."""
        if where.startswith("postgresql"):
            import psycopg

            with psycopg.connect(where, autocommit=True) as connection:
                connection.execute("VACUUM (ANALYZE)")
                connection.execute("CHECKPOINT")

    def journal(self, where: str) -> Journal:
        """The log, opened, and its head checked."""
        return Journal.over(self._open(where), self._signer, self._keyring)


def run_local(
    name: str,
    store: type[SqliteStore] | type[FileStore],
    folder: Path,
    options: argparse.Namespace,
) -> dict[str, float]:
    """On this machine's disk, beside a plain table in SQLite."""
    paths = (folder / f"log-{number}" for number in count())

    def create() -> tuple[str, AbstractContextManager[LogStore]]:
        path = next(paths)
        return str(path), store.create(path)

    kind = Kind(folder, create, lambda where: store.open(Path(where)))
    with plain_sqlite(folder) as plain:
        return measure(name, kind, plain, options)


def run_postgresql(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    from audit.postgresql_log import PostgresStore
    from tests.postgresql import running_server

    with running_server(durable=True) as server:

        def create() -> tuple[str, AbstractContextManager[LogStore]]:
            address = server.new_database()
            return address, PostgresStore.create(address)

        kind = Kind(folder, create, PostgresStore.open)
        address = server.new_database()
        with plain_postgresql(address) as plain:
            figures = measure("PostgreSQL", kind, plain, options)
        return {**figures, "round_trip_ms": round_trip_ms(address)}


def round_trip_ms(address: str) -> float:
    """A question to the database that needs no work: what each step of a proof costs at least."""
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:

        def ask() -> None:
            connection.execute("SELECT 1").fetchone()

        return round(statistics.median(milliseconds(ask) for _ in range(SAMPLES)), 3)


def measure(
    name: str, kind: Kind, plain: PlainTable, options: argparse.Namespace
) -> dict[str, float]:
    with kind.journal(kind.create()) as journal:
        figures = measure_appends(journal, plain, options.appends, options.turns)
    return figures | measure_log(name, kind, options.size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fifty thousand entries, short turns")
    parser.add_argument("--no-postgresql", action="store_true", help="leave PostgreSQL out")
    options = parser.parse_args(arguments)
    options.size = 50_000 if options.quick else 1_000_000
    options.appends = 6_400 if options.quick else 32_000
    options.turns = 3 if options.quick else 5
    out = Path(__file__).parent / "out"  # on the disk of the checkout; /tmp may be memory
    out.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="audit-", dir=out))
    figures: dict[str, Any] = {}
    try:
        runs: dict[str, Callable[[Path, argparse.Namespace], dict[str, float]]] = {
            "sqlite": partial(run_local, "SQLite", SqliteStore),
            "files": partial(run_local, "files", FileStore),
            "postgresql": run_postgresql,
        }
        if options.no_postgresql:
            del runs["postgresql"]
        for kind, run in runs.items():
            (folder / kind).mkdir()
            figures[kind] = run(folder / kind, options)
    finally:
        shutil.rmtree(folder)
    names = list(dict.fromkeys(name for kind in figures.values() for name in kind))
    width = max(map(len, names))
    print(" " * width, *(f"{kind:>12}" for kind in figures))
    for name in names:
        cells = (f"{kind[name]:,}" if name in kind else "" for kind in figures.values())
        print(f"{name:<{width}}", *(f"{cell:>12}" for cell in cells))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
