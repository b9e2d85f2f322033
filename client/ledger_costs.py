"""What a plan would cost beside everything in the ledger, in all and within a period.

Every function works inside its caller's transaction, so that what it finds stays true until the
caller has stored what follows from it.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal

from client import ledger_rows as rows
from client.budget import Composer, Cost, Limits, Reservation
from client.budget_period import Period, PeriodBudget


def cost_of_plan(
    connection: sqlite3.Connection,
    compose: Composer,
    now: str,
    reservation: Reservation,
    limits: Limits,
) -> Cost:
    """What a plan costs alone, in all, and within the period.

    Args:
        connection: The ledger.
        compose: The accountant.
        now: The clock's time; only the period depends on it.
        reservation: The plan's events. They are not counted twice when it is stored already.
        limits: δ of the total, and the period.
    """
    reserved = rows.settled_at(connection, reservation.plan_id) is not None
    added = () if reserved else reservation.subject_events
    present = (*rows.events(connection, reserved=True), *added)
    plan = subject = compose(reservation.events, reservation.delta)
    if reservation.unit != "subject":
        subject = compose(reservation.subject_events, reservation.delta)
    total = compose(present, limits.delta)
    within = None
    if limits.period is not None:
        after = limits.period.counts_after(now)
        counted = (*rows.events(connection, reserved=True, after=after), *added)
        within = total if counted == present else compose(counted, limits.delta)
    return Cost(plan=plan, subject=subject, total=total, reserved=reserved, period=within)


def period_budget(
    connection: sqlite3.Connection, compose: Composer, now: str, period: Period, delta: Decimal
) -> PeriodBudget:
    """What counts for a period's limit at present.

    Args:
        connection: The ledger.
        compose: The accountant.
        now: The clock's time.
        period: The limit.
        delta: The policy's.
    """
    after, newest = period.counts_after(now), rows.newest_time(connection)
    return PeriodBudget(
        period=period,
        since=after,
        spent=compose(rows.events(connection, reserved=False, after=after), delta),
        committed=compose(rows.events(connection, reserved=True, after=after), delta),
        ahead=newest if newest > now else None,
    )
