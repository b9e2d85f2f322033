"""The log's witnesses: sites that vouch for its heads, and what they vouched for last."""

from __future__ import annotations

from typing import Final, cast

from fastapi import APIRouter
from sqlalchemy import select

from audit.checkpoint import verify_checkpoint
from audit.cosignature import only_lines_of, verify_cosignature
from audit.errors import NotFound
from audit.merkle import root
from audit.storage import LogStorage, with_hashes
from compliance import rules
from compliance.log_views import CosignatureBody, WitnessView
from compliance.service.access import ANY_ROLE, requires
from compliance.service.call import Caller, Office
from compliance.service.errors import enforce
from compliance.service.filing import site_row
from compliance.service.gate import GatedRoute
from compliance.service.tables import SiteRow
from compliance.service.witnessing import (
    keep_cosignature,
    witness_key,
    witness_views,
    witnessing,
)
from compliance.wire import SiteState

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/log", tags=["log"])

MAX_BODY_BYTES: Final = 32 * 1024
"""Twice what a note of `CosignatureBody` may have."""


@router.post("/cosignatures", status_code=201)
@requires("site", max_body_bytes=MAX_BODY_BYTES)
def cosign(body: CosignatureBody, office: Office, caller: Caller) -> WitnessView:
    """Keep a site's cosignature of a head of this log. The answer is its newest one."""
    log = office.log
    with witnessing(office, caller) as session:
        site = site_row(session, caller.site or "")
        key = witness_key(site)
        enforce(
            rules.may_witness(
                cast(SiteState, site.state),
                federation=site.federation,
                site=site.name,
                key_name=key.name,
            )
        )
        note = only_lines_of(body.note, log.key, key)
        head = verify_checkpoint(note, log.key, log.origin)
        _, unix_seconds = verify_cosignature(note, key)
        storage = office.storage(session)
        enforce(
            rules.is_witnessed(
                head,
                issued_root=_root_of(storage, head.size),
                unix_seconds=unix_seconds,
                now=office.clock(),
            )
        )
        keep_cosignature(session, storage, key, note)
        views = witness_views(session, [site])
    if not views:
        raise NotFound("this site has not cosigned anything")
    return views[0]


@router.get("/witnesses")
@requires(*ANY_ROLE, by_site=True)
def list_witnesses(office: Office) -> dict[str, list[WitnessView]]:
    """Every site that ever cosigned, by name, with its newest cosignature."""
    with office.reading() as session:
        sites = session.scalars(select(SiteRow).order_by(SiteRow.name)).all()
        return {"witnesses": witness_views(session, sites)}


def _root_of(storage: LogStorage, size: int) -> bytes | None:
    """Root of the first `size` entries as they are stored now, None when there are fewer."""
    if size > storage.size():
        return None
    return with_hashes(storage, lambda read_hash: root(read_hash, size))
