"""The register of personal data breaches.

Nobody is told of a breach by these calls: they record what people did. A repeat of the very same
call answers as the first did and records nothing.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy import select

from audit.errors import Conflict
from compliance import rules
from compliance.breach_views import (
    BreachBody,
    BreachContent,
    BreachUpdateBody,
    BreachView,
    ClosureBody,
    NotificationBody,
)
from compliance.rules.breaches import (
    BreachState,
    may_close_breach,
    may_notify,
    may_record_breach,
    may_update_breach,
)
from compliance.rules.registers import default_law
from compliance.service.breaches import (
    CLOSED,
    NOTIFIED,
    RECORDED,
    UPDATED,
    Written,
    breach_views,
    facts_of,
    find_breach,
    record,
)
from compliance.service.errors import enforce
from compliance.service.gate import Caller, GatedRoute, Office, requires
from compliance.service.register_tables import BreachRow
from compliance.service.registry import Transaction, parse_time

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/breaches", tags=["breaches"])


@router.get("")
@requires("officer", "auditor")
def list_breaches(office: Office, state: BreachState | None = None) -> dict[str, list[BreachView]]:
    """Breaches, oldest first."""
    with office.reading() as session:
        query = select(BreachRow).order_by(BreachRow.filed_at, BreachRow.name)
        if state is not None:
            query = query.where(BreachRow.state == state)
        return {"breaches": breach_views(office, session, session.scalars(query))}


@router.get("/{breach}")
@requires("officer", "auditor")
def show_breach(breach: str, office: Office) -> BreachView:
    """One breach."""
    with office.reading() as session:
        return breach_views(office, session, [find_breach(session, breach)])[0]


@router.post("", status_code=201)
@requires("officer")
def add_breach(body: BreachBody, office: Office, caller: Caller) -> BreachView:
    """Record a breach. Its clock runs from awareness."""
    content = BreachContent.model_validate(body.model_dump(exclude_none=True))
    with office.writing(caller) as transaction:
        before = transaction.session.get(BreachRow, body.name)
        if before is not None:
            _check_same(office, before, body, content, caller)
            return _view(office, transaction, before)
        row = BreachRow(
            name=body.name,
            state="open",
            role=body.role,
            risk=body.risk or "unknown",
            aware_at=body.aware_at,
            filed_by=transaction.actor,
            filed_at=transaction.time,
        )
        enforce(may_record_breach(facts_of(row, content.stated), transaction.now))
        written = Written.new(content)
        row.sealed = written.seal(office.keyring, row.name)
        transaction.session.add(row)
        facts = {"aware_at": row.aware_at, "role": row.role, "risk": row.risk}
        record(transaction, row, RECORDED, written, **facts)
        return _view(office, transaction, row)


@router.post("/{breach}/updates")
@requires("officer")
def update_breach(
    breach: str, body: BreachUpdateBody, office: Office, caller: Caller
) -> BreachView:
    """State something anew. What is not given stays; what is the same already is no change."""
    with office.writing(caller) as transaction:
        row = find_breach(transaction.session, breach)
        old = Written.open(office.keyring, row)
        given = body.model_dump(exclude_none=True)
        facts = {name: given.pop(name) for name in ("aware_at", "risk") if name in given}
        content = old.content.model_copy(update=given)
        changed = sorted(name for name in given if given[name] != getattr(old.content, name))
        changed += sorted(name for name, value in facts.items() if getattr(row, name) != value)
        if not changed:
            return _view(office, transaction, row)
        before = facts_of(row, old.content.stated)
        for name, value in facts.items():
            setattr(row, name, value)
        enforce(may_update_breach(before, facts_of(row, content.stated)))
        _rewrite(office, transaction, row, content, UPDATED, changed=changed, **facts)
        return _view(office, transaction, row)


@router.post("/{breach}/notifications")
@requires("officer")
def notify(breach: str, body: NotificationBody, office: Office, caller: Caller) -> BreachView:
    """Record who was told of a breach, and when."""
    with office.writing(caller) as transaction:
        row = find_breach(transaction.session, breach)
        old = Written.open(office.keyring, row).content
        column = f"{body.to}_at"
        texts = _texts(body)
        if getattr(row, column) == body.at and texts == {
            name: getattr(old, name) for name in texts
        }:
            return _view(office, transaction, row)
        at = parse_time(body.at)
        if at is None:
            raise TypeError("a notification has a time")
        facts = facts_of(row, old.stated)
        delay = body.reasons_for_delay
        enforce(may_notify(facts, body.to, at, delay, default_law(), transaction.now))
        setattr(row, column, body.at)
        content = old.model_copy(update=texts)
        _rewrite(
            office, transaction, row, content, NOTIFIED, to=body.to, at=body.at, late=bool(delay)
        )
        return _view(office, transaction, row)


@router.post("/{breach}/closure")
@requires("officer")
def close_breach(breach: str, body: ClosureBody, office: Office, caller: Caller) -> BreachView:
    """Close a breach that is completely dealt with."""
    with office.writing(caller) as transaction:
        row = find_breach(transaction.session, breach)
        old = Written.open(office.keyring, row).content
        if row.state == "closed" and old.closing_reason == body.reason:
            return _view(office, transaction, row)
        enforce(may_close_breach(facts_of(row, old.stated), default_law()))
        row.state, row.closed_at = "closed", transaction.time
        content = old.model_copy(update={"closing_reason": body.reason})
        _rewrite(office, transaction, row, content, CLOSED)
        return _view(office, transaction, row)


def _rewrite(
    office: Office,
    transaction: Transaction,
    row: BreachRow,
    content: BreachContent,
    action: str,
    **more: Any,
) -> None:
    written = Written.new(content)
    row.sealed = written.seal(office.keyring, row.name)
    record(transaction, row, action, written, **more)


def _view(office: Office, transaction: Transaction, row: BreachRow) -> BreachView:
    transaction.session.flush()
    return breach_views(office, transaction.session, [row])[0]


def _texts(body: NotificationBody) -> dict[str, str]:
    """What a notification to the authority states besides its time; others state nothing more."""
    if body.to != "authority":
        return {}
    return {
        "reasons_for_delay": body.reasons_for_delay,
        "authority_reference": body.reference,
    }


def _check_same(
    office: Office, row: BreachRow, body: BreachBody, content: BreachContent, caller: rules.Bearer
) -> None:
    """Take the very same call again.

    Raises:
        Conflict: When it is another breach of that name.
    """
    stored = (row.role, row.risk, row.aware_at, row.filed_by)
    asked = (body.role, body.risk or "unknown", body.aware_at, caller.name)
    if stored != asked or Written.open(office.keyring, row).content != content:
        raise Conflict(
            f"there is a breach {body.name} already",
            fix="choose another name, or change it with `compliance breaches update`",
        )
