"""Retention: what may be shredded when, shredding it, and legal holds."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from compliance.retention import parse_month
from compliance.retention_views import (
    HoldBody,
    HoldReleaseBody,
    HoldView,
    RetentionRunBody,
    RetentionRunView,
    RetentionView,
)
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.gate import GatedRoute
from compliance.service.retention import service_retention, settings_of_the_service

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/retention", tags=["retention"])


@router.get("")
@requires("officer", "auditor")
def show_retention(office: Office) -> RetentionView:
    """Each action and month of the log, and what the rules say of it."""
    with settings_of_the_service():
        return RetentionView.of(service_retention(office, None).show())


@router.post("/runs")
@requires("officer", own_transactions=True)
def run_retention(body: RetentionRunBody, office: Office, caller: Caller) -> RetentionRunView:
    """Shred what is due. Each shred is ordered in the log before, and confirmed after."""
    with settings_of_the_service():
        outcome = service_retention(office, caller).run(dry_run=body.dry_run)
    return RetentionRunView.of(outcome, dry_run=body.dry_run)


@router.post("/holds", status_code=201)
@requires("officer")
def place_hold(body: HoldBody, office: Office, caller: Caller) -> HoldView:
    """Forbid that something is shredded."""
    hold = service_retention(office, caller).hold(
        body.name,
        reason=body.reason,
        action=body.action,
        first=parse_month(body.first),
        last=parse_month(body.last),
    )
    return HoldView.of(hold)


@router.post("/holds/{hold}/release")
@requires("officer")
def release_hold(hold: str, body: HoldReleaseBody, office: Office, caller: Caller) -> HoldView:
    """End a hold. What it kept is shredded by the next run, if it is due."""
    ended = service_retention(office, caller).release(hold, reason=body.reason)
    return HoldView.of(ended)
