"""The audit log as callers see it: checkpoint, entries, proofs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from audit.keyring import KeyDestroyed
from audit.log import LogStorage, read_leaf
from compliance.resources import LogConsistency, LogEntryView, LogProof
from compliance.service.gate import ANY_ROLE, GatedRoute, Office, requires
from compliance.service.registry import Registry
from compliance.service.tables import LogIndexRow

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/log", tags=["log"])

MAX_ENTRIES: Final = 1000
"""In one answer; the next one begins after the last position."""

_Position = Annotated[int, Query(ge=-1, le=2**53 - 1)]
_Filter = Annotated[str | None, Query(min_length=1, max_length=200)]


@router.get("/checkpoint")
@requires(*ANY_ROLE)
def checkpoint(office: Office) -> dict[str, str]:
    """The newest signed checkpoint."""
    with office.reading() as session:
        return {"checkpoint": office.log.checkpoint(office.storage(session))}


@router.get("/entries")
@requires("officer", "auditor")
def list_entries(
    office: Office,
    after: _Position = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 100,
    actor: _Filter = None,
    action: _Filter = None,
    object: _Filter = None,  # noqa: A002  the log's own word
) -> dict[str, list[LogEntryView]]:
    """Entries after a position, decrypted, oldest first."""
    query = select(LogIndexRow.position).where(LogIndexRow.position > after)
    for column, wanted in (
        (LogIndexRow.actor, actor),
        (LogIndexRow.action, action),
        (LogIndexRow.object, object),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    with office.reading() as session:
        positions = session.scalars(query.order_by(LogIndexRow.position).limit(limit)).all()
        storage = office.storage(session)
        return {"entries": [_entry(office, storage, position) for position in positions]}


@router.get("/proofs/{position}")
@requires(*ANY_ROLE)
def prove(position: int, office: Office) -> LogProof:
    """A leaf, with its inclusion proof against the newest checkpoint. The payload stays sealed."""
    with office.reading() as session:
        storage = office.storage(session)
        return LogProof(
            leaf=_leaf(session, office, position), proof=office.log.prove(storage, position)
        )


@router.get("/consistency")
@requires(*ANY_ROLE)
def consistency(
    office: Office,
    first: Annotated[int, Query(ge=0, le=2**53 - 1)],
    second: Annotated[int, Query(ge=0, le=2**53 - 1)],
) -> LogConsistency:
    """Proof that the log of `first` entries is a prefix of the log of `second`."""
    with office.reading() as session:
        hashes = office.log.consistency(office.storage(session), first, second)
    return LogConsistency(first=first, second=second, hashes=hashes)


def _leaf(session: Session, office: Registry, position: int) -> bytes:
    # A position beyond what the database's integers hold is a position that no entry has.
    leaf = office.storage(session).read_leaf(position) if 0 <= position < 2**53 else None
    if leaf is None:
        raise NotFound("the log has no entry at this position")
    return leaf


def _entry(office: Registry, storage: LogStorage, position: int) -> LogEntryView:
    leaf = read_leaf(storage, position)
    payload: dict[str, Any] | None
    try:
        payload = office.log.open(leaf)
    except KeyDestroyed:
        payload = None
    return LogEntryView(
        position=leaf.position,
        time=leaf.time,
        actor=leaf.actor,
        action=leaf.action,
        object=leaf.object,
        subject=leaf.subject,
        payload=payload,
    )
