"""How the ledger's rows become budgets and events (the tables: `client.ledger_format`).

Every function works inside its caller's transaction. Decimals are stored as text, as the plan
wrote them, so that what is composed later is exactly what was reserved.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal

from audit.errors import Refused
from client.budget import (
    AlreadyEvaluated,
    Audit,
    Composer,
    NoReservation,
    PlanBudget,
    Reservation,
    RoundAlreadyStarted,
    RoundEvent,
)
from client.budget_history import Reading, readings_at
from client.learning.accounting import BatchCap, Event, event_of_subject, joined

_PLAN_COLUMNS = (
    "plan_id, plan_name, purpose, datasets, unit, adjacency, max_records_per_subject, "
    "epsilon, delta"
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
        "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, 'reserved', NULL, ?, ?)",
        (
            (
                reservation.plan_id,
                index,
                str(event.noise_multiplier),
                str(event.sampling_rate),
                event.steps,
                None if event.cap is None else event.cap.subjects,
                None if event.cap is None else event.cap.max_population,
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
        "SELECT noise_multiplier, sampling_rate, steps, batch_subjects, max_population "
        "FROM rounds WHERE plan_id = ? ORDER BY round",
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
            RoundEvent(Decimal(noise), Decimal(rate), steps, _cap(*cap))
            for noise, rate, steps, *cap in rounds
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
    connection: sqlite3.Connection, *, reserved: bool, after: str | None = None
) -> tuple[Event, ...]:
    """What the started rounds of all plans did to a data subject.

    Args:
        connection: The ledger.
        reserved: Include the rounds that are reserved and not started.
        after: Leave out rounds that started at this time or before. A round counts from when its
            plan was reserved if it says that it started earlier, and for ever if it does not say.
    """
    found = connection.execute(
        "SELECT noise_multiplier, sampling_rate, sum(steps), batch_subjects, max_population, "
        "unit, max_records_per_subject FROM rounds JOIN plans USING (plan_id) "
        "WHERE (state = 'started' AND (?2 IS NULL OR started_at IS NULL "
        "OR max(started_at, reserved_at) > ?2)) OR (state = 'reserved' AND ?1) "
        "GROUP BY noise_multiplier, "
        "sampling_rate, batch_subjects, max_population, unit, max_records_per_subject",
        (reserved, after),
    )
    return joined(
        event_of_subject(_event(noise, rate, steps, *cap), unit, records)
        for noise, rate, steps, *cap, unit, records in found
    )


def newest_time(connection: sqlite3.Connection) -> str:
    """The latest time that the ledger knows; empty when it knows none."""
    row = connection.execute(
        "SELECT max(coalesce((SELECT max(reserved_at) FROM plans), ''), "
        "coalesce((SELECT max(settled_at) FROM plans), ''), "
        "coalesce((SELECT max(started_at) FROM rounds), ''))"
    ).fetchone()
    return str(row[0])


def events_of_plan(
    connection: sqlite3.Connection, plan_id: str, *, reserved: bool
) -> tuple[Event, ...]:
    """What a plan's started rounds did to its own unit, which may be a record.

    Args:
        connection: The ledger.
        plan_id: Which plan.
        reserved: Include the rounds that are reserved and not started.
    """
    found = connection.execute(
        "SELECT noise_multiplier, sampling_rate, sum(steps), batch_subjects, max_population "
        "FROM rounds WHERE plan_id = ? AND (state = 'started' OR (state = 'reserved' AND ?)) "
        "GROUP BY noise_multiplier, sampling_rate, batch_subjects, max_population",
        (plan_id, reserved),
    )
    return joined(_event(*row) for row in found)


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
    delta, unit = reservation.delta, reservation.unit
    events_committed = events_of_plan(connection, plan_id, reserved=True)
    committed = of_subject = compose(events_committed, delta)
    if unit != "subject":
        records = reservation.max_records_per_subject
        of_subject = compose(
            [event_of_subject(event, unit, records) for event in events_committed], delta
        )
    return PlanBudget(
        plan_id=plan_id,
        plan_name=reservation.plan_name,
        purpose=reservation.purpose,
        datasets=reservation.datasets,
        settled=bool(settled_at(connection, plan_id)),
        rounds_reserved=counts.get("reserved", 0),
        rounds_started=counts.get("started", 0),
        rounds_released=counts.get("released", 0),
        epsilon_spent=compose(events_of_plan(connection, plan_id, reserved=False), delta),
        epsilon_committed=committed,
        epsilon_promised=reservation.epsilon,
        delta=delta,
        unit=unit,
        epsilon_of_subject=of_subject,
        caps=reservation.caps,
    )


def not_startable(connection: sqlite3.Connection, plan_id: str, round_index: int) -> Refused:
    """Why no round was started: it was before, or nothing that is open holds it."""
    row = connection.execute(
        "SELECT state FROM rounds WHERE plan_id = ? AND round = ?", (plan_id, round_index)
    ).fetchone()
    if row is not None and row[0] == "started":
        return RoundAlreadyStarted(
            f"round {round_index} of plan {plan_id} was started before; its budget is spent",
            fix="go on with the plan's next round",
        )
    return NoReservation(
        f"no open reservation holds round {round_index} of plan {plan_id}",
        fix="ask the coordinator for a new plan",
    )


def allow_evaluation(
    connection: sqlite3.Connection, plan_id: str, round_index: int, state_digest: str
) -> bool:
    """Let a state be evaluated for a round, unless another one was; whether that is new.

    Raises:
        AlreadyEvaluated: When another state was evaluated for this round.
        NoReservation: When the site takes no part in the plan.
    """
    if settled_at(connection, plan_id) is None:
        raise NoReservation(
            f"plan {plan_id} was never reserved here",
            fix="train in a plan before asking for its evaluation",
        )
    row = connection.execute(
        "SELECT state_digest FROM evaluations WHERE plan_id = ? AND round = ?",
        (plan_id, round_index),
    ).fetchone()
    if row is not None and row[0] != state_digest:
        raise AlreadyEvaluated(
            f"round {round_index} was evaluated already, for another state",
            fix="evaluate one state for each round",
        )
    if row is None:
        connection.execute(
            "INSERT INTO evaluations VALUES (?, ?, ?)", (plan_id, round_index, state_digest)
        )
    return row is None


def insert_audit(
    connection: sqlite3.Connection, plan_id: str, installation: str, audit: Audit, time: str
) -> None:
    """Store what an audit found; one is stored for each plan and installation."""
    connection.execute(
        "INSERT INTO audits VALUES (?, ?, ?, ?, ?)",
        (plan_id, installation, f"{audit.epsilon:f}", audit.passes, time),
    )


def read_audit(connection: sqlite3.Connection, plan_id: str, installation: str) -> Audit | None:
    """What an audit found, or None when there was none."""
    row = connection.execute(
        "SELECT epsilon, passes FROM audits WHERE plan_id = ? AND installation = ?",
        (plan_id, installation),
    ).fetchone()
    return None if row is None else Audit(Decimal(row[0]), bool(row[1]))


def started_plans(connection: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Plans with a started round and the datasets that they train on, oldest first."""
    found = connection.execute(
        "SELECT plan_id, datasets FROM plans WHERE EXISTS (SELECT 1 FROM rounds WHERE "
        "rounds.plan_id = plans.plan_id AND rounds.state = 'started') ORDER BY number"
    )
    return [(str(plan_id), tuple(json.loads(names))) for plan_id, names in found]


def started_rounds(connection: sqlite3.Connection) -> list[tuple[str, str, Event]]:
    """Every round that was started: when, of which plan, and what it did to a data subject.

    Oldest first.
    """
    found = connection.execute(
        "SELECT started_at, plan_id, unit, max_records_per_subject, noise_multiplier, "
        "sampling_rate, steps, batch_subjects, max_population FROM rounds "
        "JOIN plans USING (plan_id) WHERE state = 'started' ORDER BY started_at, plan_id, round"
    )
    return [
        (str(time), str(plan_id), event_of_subject(_event(*stored), unit, records))
        for time, plan_id, unit, records, *stored in found
    ]


def _event(noise: str, rate: str, steps: int, *cap: int | None) -> Event:
    return Event(float(noise), float(rate), int(steps), _cap(*cap))


def _cap(subjects: int | None, max_population: int | None) -> BatchCap | None:
    if subjects is None or max_population is None:
        return None
    return BatchCap(subjects, max_population)


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
