"""What time does to data subjects' requests: reminders, expiry, mail, and forgetting addresses.

* A site that has a part and has not answered is reminded every few days, for as long as it takes;
  each reminder is an entry, and the site sees the count when it comes back.
* A request of nobody in particular expires.
* Messages leave after the change that they tell of. One that cannot be sent waits, encrypted.
* An address is forgotten, key and all, when the request has ended and the last message has left.
* It runs inside `compliance start`, as the principal `compliance`; it may run twice, and be killed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from audit.errors import Unreachable
from compliance.rules import subject_requests as machine
from compliance.rules.subject_requests import WAITING, WITHOUT_IDENTITY
from compliance.service.background import Recurring
from compliance.service.mailer import Mailer, make_mailer
from compliance.service.process_log import event, logger
from compliance.service.registry import Registry
from compliance.service.retention import STOP_SECONDS, TIMER_ACTOR
from compliance.service.subject_cases import (
    Case,
    advance,
    load_case,
    object_name,
    parts_of,
    write_mail,
)
from compliance.service.subject_codes import CODE_LIFE
from compliance.service.subject_messages import message
from compliance.service.subject_settings import SubjectSettings, subject_settings
from compliance.service.subject_tables import CaseMailRow, CasePartRow, CaseRow, key_name
from compliance.statements import format_time

CHECK_SECONDS: Final = 60.0
"""How often time is looked at. Mail waits for it no longer than that."""

_BATCH: Final = 200
"""Changes in one transaction: other writers wait milliseconds."""


@dataclass
class Chased:
    """What one run did, in numbers."""

    reminded: int = 0
    expired: int = 0
    sent: int = 0
    waiting: int = 0
    forgotten: int = 0


def chase(registry: Registry, mailer: Mailer | None = None) -> Chased:
    """Do what is due.

    Args:
        registry: The service.
        mailer: Sends messages; by default the one of the settings.

    Raises:
        ServiceUnavailable: When settings, database or log cannot be used.
    """
    settings = subject_settings(registry.folder)
    done = Chased()
    _remind(registry, settings, done)
    _expire(registry, settings, done)
    if mailer is None and settings.mail is not None:
        mailer = make_mailer(settings.mail, registry.folder)
    if mailer is not None:
        _send(registry, settings, mailer, done)
    _forget(registry, done)
    return done


def _remind(registry: Registry, settings: SubjectSettings, done: Chased) -> None:
    before = format_time(registry.clock() - settings.remind_after)
    due = (
        select(CasePartRow.request_id, CasePartRow.site)
        .where(
            CasePartRow.state.in_(WAITING),
            CasePartRow.sent_at <= before,
            CasePartRow.reminded_at.is_(None) | (CasePartRow.reminded_at <= before),
        )
        .limit(_BATCH)
    )
    with registry.reading() as session:
        if session.execute(due).first() is None:
            return
    with registry.writing(None) as transaction:
        transaction.actor = TIMER_ACTOR
        for request_id, site in transaction.session.execute(due).all():
            row = transaction.session.get_one(CasePartRow, (request_id, site))
            row.reminders += 1
            row.reminded_at = transaction.time
            transaction.record(
                "subject-request.reminded",
                object_name(request_id),
                {"site": site, "reminders": row.reminders, "state": row.state},
                site=site,
            )
            done.reminded += 1


def _expire(registry: Registry, settings: SubjectSettings, done: Chased) -> None:
    before = format_time(registry.clock() - timedelta(days=settings.identity_days))
    due = (
        select(CaseRow.request_id)
        .where(CaseRow.stage.in_(WITHOUT_IDENTITY), CaseRow.received_at <= before)
        .limit(_BATCH)
    )
    with registry.reading() as session:
        if session.execute(due).first() is None:
            return
    with registry.writing(None) as transaction:
        transaction.actor = TIMER_ACTOR
        for request_id in transaction.session.scalars(due).all():
            case = load_case(transaction.session, request_id)
            payload = {"identity_days": settings.identity_days}
            advance(transaction, case, machine.Expired(), "subject-request.expired", payload)
            write_mail(transaction, case, "expired")
            done.expired += 1


def _send(registry: Registry, settings: SubjectSettings, mailer: Mailer, done: Chased) -> None:
    with registry.reading() as session:
        waiting = session.scalars(select(CaseMailRow.id).order_by(CaseMailRow.id)).all()
    for number in waiting:
        with registry.reading() as session:
            row = session.get(CaseMailRow, number)
            if row is None:
                continue
            case = Case(session.get_one(CaseRow, row.request_id), parts_of(session, row.request_id))
            recipient, text = case.row.contact, row.sealed
            session.expunge_all()
        if recipient is None or text is None or _is_stale(row, registry.clock()):
            _drop(registry, row, "not-sent")
            continue
        try:
            title, body = message(row.purpose, case, settings, code=text)
            mailer.send(recipient, title, body)
        except Unreachable as error:
            done.waiting += 1
            failed = event("mail-failed", code=error.code)
            logger.error("a message to a subject waits: %s. %s", error, error.fix, extra=failed)
            return
        _drop(registry, row, "sent")
        done.sent += 1


def _is_stale(row: CaseMailRow, now: datetime) -> bool:
    """A code that has ended helps nobody."""
    return row.purpose == "code" and now - datetime.fromisoformat(row.written_at) > CODE_LIFE


def _drop(registry: Registry, row: CaseMailRow, outcome: str) -> None:
    with registry.writing(None) as transaction:
        transaction.actor = TIMER_ACTOR
        present = transaction.session.get(CaseMailRow, row.id)
        transaction.record(
            "subject-request.notified",
            object_name(row.request_id),
            {"purpose": row.purpose, "outcome": outcome},
        )
        if present is not None:
            transaction.session.delete(present)


def _forget(registry: Registry, done: Chased) -> None:
    """Forget addresses that nothing will be sent to any more."""
    due = (
        select(CaseRow.request_id)
        .where(
            CaseRow.finished_at.is_not(None),
            CaseRow.contact.is_not(None),
            CaseRow.request_id.not_in(select(CaseMailRow.request_id)),
        )
        .limit(_BATCH)
    )
    with registry.reading() as session:
        ended = session.scalars(due).all()
    for request_id in ended:
        # The key first: a copy of the database must not keep an address that was forgotten here.
        registry.keyring.destroy(key_name(request_id))
        with registry.writing(None) as transaction:
            transaction.actor = TIMER_ACTOR
            row = transaction.session.get_one(CaseRow, request_id)
            row.contact = None
            transaction.record(
                "subject-request.contact-forgotten", object_name(request_id), {"key": "destroyed"}
            )
            done.forgotten += 1


def chase_timer(registry: Registry, seconds: float = CHECK_SECONDS) -> AbstractContextManager[None]:
    """Requests are chased by themselves inside the block, at once and then every minute."""

    def work() -> None:
        chase(registry)

    timer = Recurring(
        work, failed="requests-failed", undone="subject requests were not chased", seconds=seconds
    )
    return timer.beside("subject-requests", STOP_SECONDS)
