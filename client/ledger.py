"""The privacy budget, durable: what plans may still do to this site's subjects, and what they did.

Guarantees:

* **Reserve, then start, then train.** `reserve` makes room for a whole plan or raises;
  `start_round` is durable before it returns, and the caller computes no gradient before that.
* **A round starts once.** A second `start_round`, also after a crash, is refused: a round that may
  have trained is spent.
* **Never more than the policy allows.** The check and the reservation are one transaction under
  SQLite's write lock, so two processes cannot both take the last of the budget.
* **A clock gives nothing back.** What is stored never has an earlier time than what was stored
  before it, so a round that started while the clock was behind does not look old afterwards.
* **Composition, never addition.** Mechanism events are stored; epsilon is the PLD composition of
  all of them, over every plan, dataset and version that this site ever trained on.
* **It belongs to the site.** Nothing that the coordinator sends reaches a method that gives budget
  back: only `settle` does, and only for rounds that never started.
* **Evidence.** Each change is an entry in the site's journal, and a ledger that was put back to an
  earlier copy is noticed by comparing it with the journal (`refuse_rollback`).

Order of the two writes (docs/adr/0008): the ledger commits the change together with the text of its
journal entry, then the entry goes to the journal, then the text is deleted. A crash in between
leaves a change that is spent and not yet journalled; the next call journals it. An entry may so
appear twice with the same `sequence`, is never missing, and the budget is never understated.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from audit.durable import create_private_file
from audit.errors import BudgetExhausted, Conflict, NotFound, Refused, VerificationFailed
from client import ledger_format, ledger_journal
from client import ledger_rows as rows
from client.budget import (
    Audit,
    Budget,
    Composer,
    Cost,
    Limits,
    NoReservation,
    Reservation,
    compose_epsilon,
    over_limit,
    over_period,
)
from client.budget_history import HISTORY_POINTS, Reading
from client.budget_period import Period, refuse_clock_behind
from client.learning.accounting import adaptive_epsilon
from client.ledger_costs import cost_of_plan, period_budget
from client.ledger_journal import JournalWriter
from compliance.statements import utc_now


class Ledger:
    """One site's budget. Several processes may share the file; one object belongs to one thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        journal: JournalWriter,
        actor: str,
        compose: Composer,
        clock: Callable[[], str],
    ) -> None:
        """Use `open`."""
        self._connection = connection
        self._journal = journal
        self._actor = actor
        self._compose = compose
        self._clock = clock

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty ledger, once in a site's life.

        Raises:
            Conflict: When there is one: a ledger is never replaced.
        """
        try:
            create_private_file(path)
        except FileExistsError as error:
            raise Conflict(
                f"{path} exists already", fix="keep it: a privacy budget is never reset"
            ) from error
        connection = ledger_format.connect(path)
        try:
            ledger_format.configure(connection)
            ledger_format.create_tables(connection)
        finally:
            connection.close()

    @classmethod
    def open(
        cls,
        path: Path,
        journal: JournalWriter,
        actor: str,
        *,
        compose: Composer = compose_epsilon,
        clock: Callable[[], str] = utc_now,
    ) -> Self:
        """Open the site's ledger, and journal what a crash left unjournalled.

        A file of an earlier format is brought up to date first (`client.ledger_format`).

        Args:
            path: The SQLite file.
            journal: The site's journal.
            actor: Who acts in journal entries: `site:<name>`.
            compose: The accountant; tests may give a cheaper one.
            clock: Gives the time as statements write it.

        Raises:
            NotFound: When there is none. It is not made anew: that would reset the budget.
            VerificationFailed: When the file is not a ledger of this format.
        """
        if not path.is_file():
            raise NotFound(
                f"the privacy ledger {path} is missing",
                fix="restore it from a backup: without it nobody knows what was spent, "
                "and this site does not train",
            )
        connection = ledger_format.connect(path)
        try:
            ledger_format.configure(connection)
            ledger_format.bring_up_to_date(connection, path)
            ledger = cls(connection, journal, actor, compose, clock)
            ledger.flush_journal()
        except sqlite3.DatabaseError as error:
            connection.close()
            raise VerificationFailed(
                f"the privacy ledger {path.name} cannot be read: {error}",
                fix="restore it from a backup: this site does not train without it",
            ) from error
        except BaseException:
            connection.close()
            raise
        return ledger

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- changing -----------------------------------------------------------------------------

    def reserve(self, reservation: Reservation, limits: Limits) -> Cost:
        """Make room for a whole plan, durably. Repeating it for an open reservation is harmless.

        A repetition may name further datasets, which are then noted: erasures need to know them.

        Raises:
            BudgetExhausted: When it does not fit; nothing was reserved.
            ClockBehind: When a period limits the budget, and the clock is behind the ledger.
            Refused: When the plan was settled already, or is reserved with other rounds.
        """
        problem = None
        with self._writing() as connection:
            if limits.period is not None:
                refuse_clock_behind(self._clock(), rows.newest_time(connection))
            cost = self._cost(reservation, limits)
            if cost.reserved:
                self._refuse_changed(reservation)
                rows.add_datasets(connection, reservation)
            else:
                problem = over_limit(reservation, cost, limits) or over_period(cost, limits)
                if problem is None:
                    rows.insert_plan(connection, reservation, self._time())
                action = "reserved" if problem is None else "refused"
                details = {
                    "rounds": len(reservation.rounds),
                    "unit": reservation.unit,
                    "batch_limits": [vars(cap) for cap in reservation.caps],
                    "epsilon_plan": str(cost.plan),
                    "epsilon_total": str(cost.total),
                    "delta": str(limits.delta),
                }
                if limits.period is not None:
                    details["epsilon_period"] = str(cost.period)
                    details["period_days"] = limits.period.days
                ledger_journal.note(connection, action, reservation.plan_id, details)
        self.flush_journal()
        if problem is not None:
            raise BudgetExhausted(
                problem, fix="`client budget` shows what was spent; policy.toml holds the limits"
            )
        return cost

    def start_round(self, plan_id: str, round_index: int) -> None:
        """Spend a round, durably, before its first gradient.

        Raises:
            RoundAlreadyStarted: When it was started before, also by a process that crashed.
            NoReservation: When no open reservation holds it.
        """
        with self._writing() as connection:
            changed = connection.execute(
                "UPDATE rounds SET state = 'started', started_at = ? WHERE plan_id = ? "
                "AND round = ? AND state = 'reserved'",
                (self._time(), plan_id, round_index),
            ).rowcount
            if changed != 1:
                raise rows.not_startable(connection, plan_id, round_index)
            ledger_journal.note(connection, "round-started", plan_id, {"round": round_index})
        self.flush_journal()

    def allow_evaluation(self, plan_id: str, round_index: int, state_digest: str) -> None:
        """Let one state a round be evaluated: counts without noise must not be asked for at will.

        Evaluating the same state again tells nothing new and is allowed.

        Raises:
            AlreadyEvaluated: When another state was evaluated for this round.
            NoReservation: When the site takes no part in the plan.
        """
        with self._writing() as connection:
            if rows.allow_evaluation(connection, plan_id, round_index, state_digest):
                details = {"round": round_index, "state_digest": state_digest}
                ledger_journal.note(connection, "evaluation-allowed", plan_id, details)
        self.flush_journal()

    def remember_audit(
        self, plan_id: str, installation: str, audit: Audit, evidence: Mapping[str, Any]
    ) -> None:
        """Keep what this installation's audit of a plan found, and journal the evidence.

        Args:
            plan_id: The plan; it need not be reserved.
            installation: Software and settings that were audited.
            audit: What was found.
            evidence: All of it, as canonical JSON holds it.

        Raises:
            Conflict: When it was audited already: a result is never replaced by a better one.
        """
        with self._writing() as connection:
            if rows.read_audit(connection, plan_id, installation) is not None:
                raise Conflict(f"plan {plan_id} was audited here already", fix="go on with that")
            rows.insert_audit(connection, plan_id, installation, audit, self._time())
            details = {**evidence, "installation": installation}
            ledger_journal.note(connection, "audited", plan_id, details)
        self.flush_journal()

    def settle(self, plan_id: str) -> int:
        """End a plan: give back its rounds that never started. Repeating it is harmless.

        Returns:
            How many rounds were given back.

        Raises:
            NoReservation: When the plan was never reserved.
        """
        released = 0
        with self._writing() as connection:
            settled = rows.settled_at(connection, plan_id)
            if settled is None:
                raise NoReservation(
                    f"plan {plan_id} was never reserved here", fix="`client budget` lists the plans"
                )
            if not settled:
                released = connection.execute(
                    "UPDATE rounds SET state = 'released' WHERE plan_id = ? AND state = 'reserved'",
                    (plan_id,),
                ).rowcount
                connection.execute(
                    "UPDATE plans SET settled_at = ? WHERE plan_id = ?", (self._time(), plan_id)
                )
                ledger_journal.note(connection, "settled", plan_id, {"rounds_released": released})
        self.flush_journal()
        return released

    def flush_journal(self) -> None:
        """Journal what is committed and not yet journalled, in order.

        Raises:
            FiduciaryError: When the journal cannot be written. What was to be journalled stays
                spent and stays queued, and nobody acts on it.
        """
        if ledger_journal.is_flushed(self._connection):
            return
        with self._writing() as connection:
            ledger_journal.flush(connection, self._journal, self._actor)

    # --- reading ------------------------------------------------------------------------------

    def cost_of(self, reservation: Reservation, limits: Limits) -> Cost:
        """What a plan would cost, beside everything that is spent or reserved.

        Args:
            reservation: The plan's events.
            limits: The policy's: δ of the total, and which period is looked at.
        """
        with self._reading():
            return self._cost(reservation, limits)

    def budget(
        self,
        delta: Decimal,
        limit: Decimal | None = None,
        *,
        period: Period | None = None,
        with_plans: bool = True,
    ) -> Budget:
        """The whole budget at `delta`.

        Args:
            delta: The policy's.
            limit: The policy's `max_epsilon_total`, or None where no policy can be read.
            period: The policy's limit within a period; None likewise.
            with_plans: Compose each plan's part, too.
        """
        with self._reading() as connection:
            committed = rows.events(connection, reserved=True)
            parts = (
                rows.plan_budget(connection, plan_id, self._compose)
                for plan_id in (rows.plan_ids(connection) if with_plans else ())
            )
            return Budget(
                spent=self._compose(rows.events(connection, reserved=False), delta),
                committed=self._compose(committed, delta),
                limit=limit,
                delta=delta,
                plans=tuple(part for part in parts if part is not None),
                adaptive=None if limit is None else adaptive_epsilon(committed, limit, delta),
                period=None
                if period is None
                else period_budget(connection, self._compose, self._clock(), period, delta),
            )

    def history(self, delta: Decimal, points: int = HISTORY_POINTS) -> tuple[Reading, ...]:
        """How epsilon grew with the rounds: at every plan's last one, and evenly in between.

        Args:
            delta: The policy's.
            points: About how many readings; each is a composition of its own.
        """
        with self._reading() as connection:
            return rows.history(connection, self._compose, delta, points)

    def epsilon_spent(self, plan_id: str) -> Decimal:
        """Epsilon of a plan's rounds started so far, for its own unit, at its own delta.

        Raises:
            NoReservation: When the plan was never reserved.
        """
        with self._reading() as connection:
            reservation = rows.read_plan(connection, plan_id)
            if reservation is None:
                raise NoReservation(f"plan {plan_id} was never reserved here")
            started = rows.events_of_plan(connection, plan_id, reserved=False)
            return self._compose(started, reservation.delta)

    def audit_of(self, plan_id: str, installation: str) -> Audit | None:
        """What this installation's audit of a plan found; None when there was none."""
        return rows.read_audit(self._connection, plan_id, installation)

    def open_plans(self) -> list[str]:
        """Plans that are reserved and not settled, oldest first."""
        return rows.plan_ids(self._connection, only_open=True)

    def started_plans(self) -> list[tuple[str, tuple[str, ...]]]:
        """Plans with a started round and the datasets that they train on, oldest first."""
        return rows.started_plans(self._connection)

    @property
    def last_sequence(self) -> int:
        """Number of changes ever made; their journal entries carry it as `sequence`."""
        return ledger_journal.last_sequence(self._connection)

    # --- inside -------------------------------------------------------------------------------

    def _cost(self, reservation: Reservation, limits: Limits) -> Cost:
        return cost_of_plan(self._connection, self._compose, self._clock(), reservation, limits)

    def _time(self) -> str:
        """The time to store: the clock's, but never before what is stored already."""
        return max(self._clock(), rows.newest_time(self._connection))

    def _refuse_changed(self, reservation: Reservation) -> None:
        plan_id = reservation.plan_id
        if rows.settled_at(self._connection, plan_id):
            raise NoReservation(
                f"plan {plan_id} was settled here", fix="ask the coordinator for a new plan"
            )
        stored = rows.read_plan(self._connection, plan_id)
        if stored is None or _mechanism(stored) != _mechanism(reservation):
            raise Refused(f"plan {plan_id} is reserved here with other rounds")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        yield from self._transaction("BEGIN")

    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        self._connection.execute(begin)
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _mechanism(reservation: Reservation) -> tuple[object, ...]:
    """What the accountant sees of a plan."""
    return reservation.rounds, reservation.unit, reservation.max_records_per_subject
