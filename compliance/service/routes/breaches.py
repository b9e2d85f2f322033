"""The register of personal data breaches.

Nobody is told of a breach by these calls: they record what people did. A repeat of the very same
call answers as the first did and records nothing.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy.orm import Session

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
    may_refer,
    may_update_breach,
)
from compliance.rules.registers import default_law
from compliance.service.access import requires
from compliance.service.breaches import (
    CLOSED,
    NOTIFIED,
    RECORDED,
    UPDATED,
    Written,
    breach_views,
    breaches_in,
    facts_of,
    record,
    set_sites,
    sites_of_breach,
    visible_breach,
)
from compliance.service.call import Caller, Office
from compliance.service.errors import enforce
from compliance.service.gate import GatedRoute
from compliance.service.identities import parse_time
from compliance.service.register_tables import BreachRow
from compliance.service.registry import Transaction

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/breaches", tags=["breaches"])


@router.get("")
@requires("officer", "auditor", by_site=True)
def list_breaches(
    office: Office, caller: Caller, state: BreachState | None = None
) -> dict[str, list[BreachView]]:
    """Breaches, oldest first. A limited role sees those of its sites."""
    query = breaches_in(caller.scope("officer", "auditor"))
    with office.reading() as session:
        if state is not None:
            query = query.where(BreachRow.state == state)
        return {"breaches": breach_views(office, session, session.scalars(query))}


@router.get("/{breach}")
@requires("officer", "auditor", by_site=True)
def show_breach(breach: str, office: Office, caller: Caller) -> BreachView:
    """One breach."""
    with office.reading() as session:
        row = visible_breach(session, breach, caller.scope("officer", "auditor"))
        return breach_views(office, session, [row])[0]


@router.post("", status_code=201)
@requires("officer", by_site=True)
def add_breach(body: BreachBody, office: Office, caller: Caller) -> BreachView:
    """Record a breach. Its clock runs from awareness."""
    content = BreachContent.model_validate(body.model_dump(exclude_none=True))
    sites = tuple(sorted(set(body.sites or ())))
    with office.writing(caller) as transaction:
        enforce(rules.may_commit(caller.scope("officer"), sites))
        before = transaction.session.get(BreachRow, body.name)
        if before is not None:
            _check_same(office, transaction.session, before, body, content, caller)
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
        set_sites(transaction.session, row.name, sites)
        facts: dict[str, Any] = {"aware_at": row.aware_at, "role": row.role, "risk": row.risk}
        if sites:
            facts["sites"] = list(sites)
        record(transaction, row, RECORDED, written, **facts)
        return _view(office, transaction, row)


@router.post("/{breach}/updates")
@requires("officer", by_site=True)
def update_breach(
    breach: str, body: BreachUpdateBody, office: Office, caller: Caller
) -> BreachView:
    """State something anew. What is not given stays; what is the same already is no change."""
    with office.writing(caller) as transaction:
        row = _breach_to_change(transaction, breach, caller)
        old = Written.open(office.keyring, row)
        given = body.model_dump(exclude_none=True)
        facts = {name: given.pop(name) for name in ("aware_at", "risk") if name in given}
        known = list(sites_of_breach(transaction.session, breach))
        sites = sorted(set(given.pop("sites", known)))
        content = old.content.model_copy(update=given)
        changed = sorted(name for name in given if given[name] != getattr(old.content, name))
        changed += sorted(name for name, value in facts.items() if getattr(row, name) != value)
        if sites != known:
            enforce(rules.may_commit(caller.scope("officer"), sites))
            set_sites(transaction.session, breach, sites)
            changed.append("sites")
        if not changed:
            return _view(office, transaction, row)
        more = {"sites": sites} if sites != known else {}
        before = facts_of(row, old.content.stated)
        for name, value in facts.items():
            setattr(row, name, value)
        enforce(may_update_breach(before, facts_of(row, content.stated)))
        _rewrite(office, transaction, row, content, UPDATED, changed=changed, **facts, **more)
        return _view(office, transaction, row)


@router.post("/{breach}/notifications")
@requires("officer", by_site=True)
def notify(breach: str, body: NotificationBody, office: Office, caller: Caller) -> BreachView:
    """Record who was told of a breach, and when."""
    with office.writing(caller) as transaction:
        row = _breach_to_change(transaction, breach, caller)
        enforce(may_refer(body.to, body.reference))
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
@requires("officer", by_site=True)
def close_breach(breach: str, body: ClosureBody, office: Office, caller: Caller) -> BreachView:
    """Close a breach that is completely dealt with."""
    with office.writing(caller) as transaction:
        row = _breach_to_change(transaction, breach, caller)
        old = Written.open(office.keyring, row).content
        if row.state == "closed" and old.closing_reason == body.reason:
            return _view(office, transaction, row)
        enforce(may_close_breach(facts_of(row, old.stated), default_law()))
        row.state, row.closed_at = "closed", transaction.time
        content = old.model_copy(update={"closing_reason": body.reason})
        _rewrite(office, transaction, row, content, CLOSED)
        return _view(office, transaction, row)


def _breach_to_change(transaction: Transaction, name: str, caller: rules.Bearer) -> BreachRow:
    """A breach whose every site is the officer's.

    Raises:
        NotFound: When it concerns none of them.
        Denied: When it concerns another one, too.
    """
    scope, session = caller.scope("officer"), transaction.session
    row = visible_breach(session, name, scope)
    enforce(rules.may_commit(scope, sites_of_breach(session, name)))
    return row


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
    office: Office,
    session: Session,
    row: BreachRow,
    body: BreachBody,
    content: BreachContent,
    caller: rules.Bearer,
) -> None:
    """Take the very same call again.

    Raises:
        Conflict: When it is another breach of that name.
    """
    sites = set(sites_of_breach(session, row.name))
    stored = (row.role, row.risk, row.aware_at, row.filed_by)
    asked = (body.role, body.risk or "unknown", body.aware_at, caller.name)
    if (
        sites != set(body.sites or ())
        or stored != asked
        or Written.open(office.keyring, row).content != content
    ):
        raise Conflict(
            f"there is a breach {body.name} already",
            fix="choose another name, or change it with `compliance breaches update`",
        )
