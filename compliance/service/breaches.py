"""The register of breaches: rows, what is sealed in them, and the alarm when the clock runs out.

* What people write is sealed with a data key of its own for each breach. The log holds a salted
  commitment to it, so that a later look at the register can be checked against the log, and nobody
  who has the log alone can guess what was written.
* The alarm is a log entry, once for each breach, made by the service itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes, digest, parse_canonical_object
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import NotFound
from audit.keyring import Keyring
from compliance.breach_views import BreachClockView, BreachContent, BreachView
from compliance.rules.access import Scope
from compliance.rules.breaches import (
    Breach,
    BreachClock,
    BreachRisk,
    BreachRole,
    BreachState,
    breach_clock,
)
from compliance.rules.registers import LawBook, default_law
from compliance.service.background import Recurring
from compliance.service.filing import site_row
from compliance.service.identities import parse_time
from compliance.service.process_log import event, logger
from compliance.service.register_tables import BreachRow, BreachSiteRow
from compliance.service.registry import Registry, Transaction
from compliance.service.tables import LogIndexRow
from compliance.statements import format_time

RECORDED: Final = "breach.recorded"
UPDATED: Final = "breach.updated"
NOTIFIED: Final = "breach.notified"
OVERDUE: Final = "breach.overdue"
CLOSED: Final = "breach.closed"

WATCH_ACTOR: Final = "compliance"

WATCH_SECONDS: Final = 60.0
"""A clock of days is read every minute: late by a minute is no news, late by an hour would be."""

STOP_SECONDS: Final = 10.0

_SALT_BYTES: Final = 16


@dataclass(frozen=True)
class Written:
    """What is sealed of a breach.

    Attributes:
        content: What people stated.
        salt: Hexadecimal.
    """

    content: BreachContent
    salt: str

    @classmethod
    def new(cls, content: BreachContent) -> Written:
        """Content with a salt of its own."""
        return cls(content, secrets.token_hex(_SALT_BYTES))

    def encoded(self) -> bytes:
        """As it is sealed, and as the commitment covers it."""
        return canonical_bytes({"content": self.content.model_dump(), "salt": self.salt})

    @property
    def commitment(self) -> str:
        """What the log holds of it."""
        return digest(self.encoded())

    def seal(self, keyring: Keyring, name: str) -> bytes:
        """The sealed column."""
        key = keyring.generate_data_key(key_name(name))
        envelope = seal(key, self.encoded(), key_name(name).encode("ascii"))
        return envelope.nonce + envelope.ciphertext

    @classmethod
    def open(cls, keyring: Keyring, row: BreachRow) -> Written:
        """Read the sealed column.

        Raises:
            VerificationFailed: When it is not what was sealed for this breach.
        """
        envelope = Envelope(row.sealed[:NONCE_BYTES], row.sealed[NONCE_BYTES:])
        name = key_name(row.name)
        data = unseal(keyring.data_key(name), envelope, name.encode("ascii"))
        document = parse_canonical_object(data)
        return cls(BreachContent.model_validate(document["content"]), str(document["salt"]))


def key_name(breach: str) -> str:
    """Name of a breach's data key, and of the breach in the log."""
    return f"breach:{breach}"


def find_breach(session: Session, name: str) -> BreachRow:
    """A breach by name.

    Raises:
        NotFound: When there is none.
    """
    row = session.get(BreachRow, name)
    if row is None:
        raise _no_breach()
    return row


def visible_breach(session: Session, name: str, scope: Scope) -> BreachRow:
    """A breach that concerns a site of somebody's.

    Raises:
        NotFound: When there is none, or it concerns other sites, or the whole service.
    """
    row = find_breach(session, name)
    if not scope.meets(sites_of_breach(session, name)):
        raise _no_breach()
    return row


def sites_of_breach(session: Session, name: str) -> tuple[str, ...]:
    """The sites that a breach concerns; none where it concerns the whole service."""
    query = select(BreachSiteRow.site).where(BreachSiteRow.breach == name)
    return tuple(session.scalars(query.order_by(BreachSiteRow.site)))


def set_sites(session: Session, name: str, sites: Iterable[str]) -> None:
    """Let a breach concern these sites.

    Raises:
        NotFound: When one of them is no site.
    """
    session.flush()
    session.execute(delete(BreachSiteRow).where(BreachSiteRow.breach == name))
    session.add_all(
        BreachSiteRow(breach=name, site=site_row(session, site).name) for site in sorted(set(sites))
    )
    session.flush()


def breaches_in(scope: Scope) -> Select[BreachRow]:
    """The breaches that concern sites in scope, oldest first."""
    query = select(BreachRow).order_by(BreachRow.filed_at, BreachRow.name)
    if scope.sites is None:
        return query
    theirs = select(BreachSiteRow.breach).where(BreachSiteRow.site.in_(sorted(scope.sites)))
    return query.where(BreachRow.name.in_(theirs))


def _no_breach() -> NotFound:
    return NotFound("there is no such breach", fix="list them: `compliance breaches list`")


def facts_of(row: BreachRow, stated: frozenset[str] = frozenset()) -> Breach:
    """A row as the rules see it."""
    return Breach(
        state=cast("BreachState", row.state),
        role=cast("BreachRole", row.role),
        risk=cast("BreachRisk", row.risk),
        aware_at=datetime.fromisoformat(row.aware_at),
        authority_at=parse_time(row.authority_at),
        controller_at=parse_time(row.controller_at),
        subjects_at=parse_time(row.subjects_at),
        stated=stated,
    )


def breach_views(office: Registry, session: Session, rows: Iterable[BreachRow]) -> list[BreachView]:
    """Rows, opened, with their clocks and their entries."""
    rows = list(rows)
    positions = _positions(session, rows)
    now, law = office.clock(), default_law()
    sites = {row.name: sites_of_breach(session, row.name) for row in rows}
    return [_view(office, row, sites[row.name], positions[row.name], now, law) for row in rows]


def record(
    transaction: Transaction, row: BreachRow, action: str, written: Written, **more: Any
) -> int:
    """Write a breach's step down, with the commitment to all that is stated after it."""
    return transaction.record(
        action,
        key_name(row.name),
        {
            "commitment": written.commitment,
            "law_version": default_law().version,
            **more,
        },
    )


def clock_view(clock: BreachClock) -> BreachClockView:
    """A clock as callers see it."""
    due_at = None if clock.due_at is None else format_time(clock.due_at)
    return BreachClockView(status=clock.status, due_at=due_at, article=clock.article)


def open_clocks(
    session: Session, law: LawBook, now: datetime
) -> list[tuple[BreachRow, BreachClock]]:
    """Open breaches and how they stand."""
    rows = session.scalars(select(BreachRow).where(BreachRow.state == "open"))
    return [(row, breach_clock(facts_of(row), law, now)) for row in rows]


def raise_alarms(office: Registry) -> int:
    """Record each breach whose clock has run out since the last look.

    Returns:
        How many clocks have run out and are not answered, whether they were recorded now or before.
    """
    law, now = default_law(), office.clock()
    with office.reading() as session:
        overdue = [(row, clock) for row, clock in open_clocks(session, law, now) if _out(clock)]
        new = [row.name for row, _ in overdue if row.overdue_at is None]
    for name in new:
        with office.writing(None) as transaction:
            transaction.actor = WATCH_ACTOR
            row = find_breach(transaction.session, name)
            clock = breach_clock(facts_of(row), law, transaction.now)
            if row.overdue_at is not None or row.state != "open" or not _out(clock):
                continue  # somebody was faster
            row.overdue_at = transaction.time
            transaction.record(
                OVERDUE,
                key_name(name),
                {
                    "due_at": clock_view(clock).due_at,
                    "article": clock.article,
                    "law_version": law.version,
                },
            )
    return len(overdue)


def watching(look: Callable[[], int], wait: Callable[[float], bool] | None = None) -> Recurring:
    """Looks at the clocks now, then every minute; says so when more have run out than before.

    Args:
        look: One look: how many clocks have run out.
        wait: As in `Recurring`.
    """
    told = 0

    def work() -> None:
        nonlocal told
        overdue = look()
        if overdue > told:
            extra = event("breach-overdue", breaches=overdue)
            logger.error("%s breaches are past their deadline", overdue, extra=extra)
        told = overdue

    return Recurring(
        work,
        failed="breach-watch-failed",
        undone="breaches were not looked at",
        seconds=WATCH_SECONDS,
        wait=wait,
    )


def breach_watch(office: Registry) -> AbstractContextManager[None]:
    """The clocks are looked at inside the block."""
    return watching(lambda: raise_alarms(office)).beside("breaches", STOP_SECONDS)


def _out(clock: BreachClock) -> bool:
    return clock.status == "overdue"


def _positions(session: Session, rows: list[BreachRow]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {row.name: [] for row in rows}
    for name, positions in found.items():
        query = select(LogIndexRow.position).where(LogIndexRow.object == key_name(name))
        positions.extend(session.scalars(query.order_by(LogIndexRow.position)))
    return found


def _view(
    office: Registry,
    row: BreachRow,
    sites: tuple[str, ...],
    positions: list[int],
    now: datetime,
    law: LawBook,
) -> BreachView:
    written = Written.open(office.keyring, row)
    return BreachView(
        name=row.name,
        state=cast("BreachState", row.state),
        role=cast("BreachRole", row.role),
        risk=cast("BreachRisk", row.risk),
        sites=sites,
        aware_at=row.aware_at,
        authority_at=row.authority_at,
        controller_at=row.controller_at,
        subjects_at=row.subjects_at,
        overdue_at=row.overdue_at,
        closed_at=row.closed_at,
        filed_by=row.filed_by,
        filed_at=row.filed_at,
        clock=clock_view(breach_clock(facts_of(row), law, now)),
        content=written.content,
        salt=written.salt,
        commitment=written.commitment,
        positions=tuple(positions),
    )
