"""The ledger's tables, and how their rows become budgets and events.

Every function works inside its caller's transaction. Decimals are stored as text, as the plan
wrote them, so that what is composed later is exactly what was reserved.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from pathlib import Path

from audit.errors import VerificationFailed
from client.budget import (
    Composer,
    PlanBudget,
    Reading,
    Reservation,
    RoundEvent,
    readings_at,
)
from client.learning.accounting import Event, joined

FORMAT = "fiduciary.ledger/1"

BUSY_TIMEOUT_SECONDS = 60
"""Longer than composing the largest budget, during which the write lock is held."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id TEXT NOT NULL UNIQUE,
    plan_name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    datasets TEXT NOT NULL,
    unit TEXT NOT NULL,
    adjacency TEXT NOT NULL,
    max_records_per_subject INTEGER NOT NULL,
    epsilon TEXT NOT NULL,
    delta TEXT NOT NULL,
    reserved_at TEXT NOT NULL,
    settled_at TEXT
);
CREATE TABLE rounds (
    plan_id TEXT NOT NULL REFERENCES plans (plan_id),
    round INTEGER NOT NULL,
    noise_multiplier TEXT NOT NULL,
    sampling_rate TEXT NOT NULL,
    steps INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'started', 'released')),
    started_at TEXT,
    PRIMARY KEY (plan_id, round)
) WITHOUT ROWID;
CREATE TABLE evaluations (
    plan_id TEXT NOT NULL REFERENCES plans (plan_id),
    round INTEGER NOT NULL,
    state_digest TEXT NOT NULL,
    PRIMARY KEY (plan_id, round)
) WITHOUT ROWID;
CREATE TABLE journal_outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    payload TEXT NOT NULL
);
"""

_PLAN_COLUMNS = (
    "plan_id, plan_name, purpose, datasets, unit, adjacency, max_records_per_subject, "
    "epsilon, delta"
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; the caller begins and ends each transaction."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)


def configure(connection: sqlite3.Connection) -> None:
    """Make a commit mean that the change is on the disk."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty file, in one transaction."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
    connection.execute("COMMIT")


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raise unless the file is a ledger of this format.

    Raises:
        VerificationFailed: With what was expected and what was found.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if row is None or row[0] != FORMAT:
        found = None if row is None else row[0]
        raise VerificationFailed(
            f"{path.name} is not a ledger: expected {FORMAT}, got {found}",
            fix="restore the ledger from a backup",
        )


def insert_plan(connection: sqlite3.Connection, reservation: Reservation, time: str) -> None:
    """Store a reservation with all of its rounds."""
    connection.execute(
        f"INSERT INTO plans ({_PLAN_COLUMNS}, reserved_at) "  # noqa: S608  our own column names
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            reservation.plan_id,
            reservation.plan_name,
            reservation.purpose,
            json.dumps(reservation.datasets),
            reservation.unit,
            reservation.adjacency,
            reservation.max_records_per_subject,
            str(reservation.epsilon),
            str(reservation.delta),
            time,
        ),
    )
    connection.executemany(
        "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, 'reserved', NULL)",
        (
            (
                reservation.plan_id,
                index,
                str(event.noise_multiplier),
                str(event.sampling_rate),
                event.steps,
            )
            for index, event in enumerate(reservation.rounds)
        ),
    )


def add_datasets(connection: sqlite3.Connection, reservation: Reservation) -> None:
    """Note the datasets that a stored plan trains on in addition."""
    stored = read_plan(connection, reservation.plan_id)
    if stored is not None and not set(reservation.datasets) <= set(stored.datasets):
        names = sorted({*stored.datasets, *reservation.datasets})
        connection.execute(
            "UPDATE plans SET datasets = ? WHERE plan_id = ?",
            (json.dumps(names), reservation.plan_id),
        )


def read_plan(connection: sqlite3.Connection, plan_id: str) -> Reservation | None:
    """A reservation as it was stored."""
    row = connection.execute(
        f"SELECT {_PLAN_COLUMNS} FROM plans WHERE plan_id = ?",  # noqa: S608  our own column names
        (plan_id,),
    ).fetchone()
    if row is None:
        return None
    rounds = connection.execute(
        "SELECT noise_multiplier, sampling_rate, steps FROM rounds WHERE plan_id = ? "
        "ORDER BY round",
        (plan_id,),
    )
    return Reservation(
        plan_id=row[0],
        plan_name=row[1],
        purpose=row[2],
        datasets=tuple(json.loads(row[3])),
        unit=row[4],
        adjacency=row[5],
        max_records_per_subject=row[6],
        epsilon=Decimal(row[7]),
        delta=Decimal(row[8]),
        rounds=tuple(
            RoundEvent(Decimal(noise), Decimal(rate), steps) for noise, rate, steps in rounds
        ),
    )


def settled_at(connection: sqlite3.Connection, plan_id: str) -> str | None:
    """When a plan was settled, an empty text while it is open, None when it is unknown."""
    row = connection.execute(
        "SELECT coalesce(settled_at, '') FROM plans WHERE plan_id = ?", (plan_id,)
    ).fetchone()
    return None if row is None else str(row[0])


def plan_ids(connection: sqlite3.Connection, *, only_open: bool = False) -> list[str]:
    """Plans in the order of their reservation."""
    where = "WHERE settled_at IS NULL" if only_open else ""
    rows = connection.execute(f"SELECT plan_id FROM plans {where} ORDER BY number")  # noqa: S608
    return [str(row[0]) for row in rows]


def events(
    connection: sqlite3.Connection, *, reserved: bool, plan_id: str | None = None
) -> tuple[Event, ...]:
    """Mechanisms of the started rounds, of one plan or of the whole site.

    Args:
        connection: The ledger.
        reserved: Include the rounds that are reserved and not started.
        plan_id: One plan, or None for everything.
    """
    found = connection.execute(
        "SELECT noise_multiplier, sampling_rate, sum(steps) FROM rounds "
        "WHERE (state = 'started' OR (state = 'reserved' AND ?)) AND (? IS NULL OR plan_id = ?) "
        "GROUP BY noise_multiplier, sampling_rate",
        (reserved, plan_id, plan_id),
    )
    return joined(Event(float(noise), float(rate), int(steps)) for noise, rate, steps in found)


def plan_budget(
    connection: sqlite3.Connection, plan_id: str, compose: Composer
) -> PlanBudget | None:
    """One plan's part of the budget, at its own delta."""
    reservation = read_plan(connection, plan_id)
    if reservation is None:
        return None
    counts = dict(
        connection.execute(
            "SELECT state, count(*) FROM rounds WHERE plan_id = ? GROUP BY state", (plan_id,)
        ).fetchall()
    )
    delta = reservation.delta
    return PlanBudget(
        plan_id=plan_id,
        plan_name=reservation.plan_name,
        purpose=reservation.purpose,
        datasets=reservation.datasets,
        settled=bool(settled_at(connection, plan_id)),
        rounds_reserved=counts.get("reserved", 0),
        rounds_started=counts.get("started", 0),
        rounds_released=counts.get("released", 0),
        epsilon_spent=compose(events(connection, reserved=False, plan_id=plan_id), delta),
        epsilon_committed=compose(events(connection, reserved=True, plan_id=plan_id), delta),
        epsilon_promised=reservation.epsilon,
        delta=delta,
    )


def started_plans(connection: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Plans with a started round and the datasets that they train on, oldest first."""
    found = connection.execute(
        "SELECT plan_id, datasets FROM plans WHERE EXISTS (SELECT 1 FROM rounds WHERE "
        "rounds.plan_id = plans.plan_id AND rounds.state = 'started') ORDER BY number"
    )
    return [(str(plan_id), tuple(json.loads(names))) for plan_id, names in found]


def started_rounds(connection: sqlite3.Connection) -> list[tuple[str, str, Event]]:
    """Every round that was started: when, of which plan, and its mechanism; oldest first."""
    found = connection.execute(
        "SELECT started_at, plan_id, noise_multiplier, sampling_rate, steps FROM rounds "
        "WHERE state = 'started' ORDER BY started_at, plan_id, round"
    )
    return [
        (str(time), str(plan_id), Event(float(noise), float(rate), int(steps)))
        for time, plan_id, noise, rate, steps in found
    ]


def history(
    connection: sqlite3.Connection, compose: Composer, delta: Decimal, points: int
) -> tuple[Reading, ...]:
    """The odometer at about `points` of the rounds that were started."""
    started = started_rounds(connection)
    return tuple(
        Reading(
            time=started[count - 1][0],
            plan_id=started[count - 1][1],
            rounds=count,
            epsilon=compose((event for _, _, event in started[:count]), delta),
        )
        for count in readings_at([plan_id for _, plan_id, _ in started], points)
    )
