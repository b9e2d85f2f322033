"""The audit log as every caller sees it: checkpoint and proofs."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from audit.checkpoint import read_checkpoint
from audit.errors import NotFound
from compliance.log_views import LogConsistency, LogHead, LogProof
from compliance.service.access import ANY_ROLE, requires
from compliance.service.call import Office
from compliance.service.gate import GatedRoute
from compliance.service.registry import Registry
from compliance.service.witnessing import cosigned

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/log", tags=["log"])


Size = Annotated[int, Query(ge=0, le=2**53 - 1)]


@router.get("/checkpoint")
@requires(*ANY_ROLE, by_site=True)
def checkpoint(office: Office, since: Size = 0) -> LogHead:
    """The newest signed checkpoint, with the lines of the witnesses that cosigned it.

    With `since`, a number of entries, also the proof that the log of so many is its prefix.
    """
    with office.reading() as session:
        storage = office.storage(session)
        note = cosigned(session, office.log.checkpoint(storage))
        size = read_checkpoint(note).size
        growth = None
        if 0 < since <= size:
            hashes = office.log.consistency(storage, since, size)
            growth = LogConsistency(first=since, second=size, hashes=hashes)
    return LogHead(checkpoint=note, growth=growth)


@router.get("/proofs/{position}")
@requires(*ANY_ROLE, by_site=True)
def prove(position: int, office: Office) -> LogProof:
    """A leaf, with its inclusion proof against the newest checkpoint. The payload stays sealed."""
    with office.reading() as session:
        storage = office.storage(session)
        return LogProof(
            leaf=_leaf(session, office, position), proof=office.log.prove(storage, position)
        )


@router.get("/consistency")
@requires(*ANY_ROLE, by_site=True)
def consistency(
    office: Office,
    first: Size,
    second: Size,
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
