"""Sites as they are shown to callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from compliance.resources import SiteView
from compliance.service.access_tables import SiteRenewalRow
from compliance.service.certificates import ends_at
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.tables import SiteRow
from compliance.statements import format_time
from compliance.wire import SiteState


def state_of_site(site: SiteRow) -> SiteState:
    """Where a site stands."""
    return cast(SiteState, site.state)


def site_views(session: Session, rows: Sequence[SiteRow]) -> list[SiteView]:
    """What is shown of sites, each with its request for the next certificate."""
    query = select(SiteRenewalRow).where(SiteRenewalRow.answer.is_(None))
    waiting = {row.site: row.request for row in session.scalars(query)}
    requests = load_rows(session, waiting.values())
    enrolments = load_rows(session, (row.enrolment for row in rows))
    return [
        SiteView(
            name=row.name,
            state=state_of_site(row),
            identity_key=row.identity_key,
            node_key=row.node_key,
            certificate_request=row.certificate_request,
            certificate=row.certificate,
            enrolment=row.enrolment,
            statement=parse_envelope(enrolments[row.enrolment]),
            enrolled_at=enrolments[row.enrolment].filed_at,
            enrolled_position=enrolments[row.enrolment].position,
            certificate_ends_at=None
            if row.certificate is None
            else format_time(ends_at(row.certificate)),
            renewal=parse_envelope(requests[waiting[row.name]]) if row.name in waiting else None,
        )
        for row in rows
    ]
