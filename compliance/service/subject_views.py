"""What is shown of data subjects' requests: to officers, to sites, and to subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, func, inspect, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from compliance.rules.access import EVERYWHERE, Scope
from compliance.rules.deadlines import DUE_SOON, deadline_book, urgency
from compliance.rules.subject_requests import (
    WAITING,
    WITHOUT_IDENTITY,
    PartState,
    RequestStage,
    earlier_key_in_use,
)
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.subject_cases import Case, present_key
from compliance.service.subject_tables import CasePartRow, CaseRow, SiteSealingKeyRow
from compliance.service.tables import Base, GrantRow, PlanSiteRow, ReleaseRow, SiteRow, StatementRow
from compliance.statements import (
    AnswerOutcome,
    ReleaseManifest,
    SubjectRight,
    format_time,
)
from compliance.subject_requests_views import (
    CasePage,
    CaseView,
    FiledRequest,
    IdentityMethod,
    PartView,
    PublicPart,
    PublicStatus,
    Recipient,
    SealingKeyState,
    SiteKeyView,
    SitePart,
    TrainedRelease,
)

_SEPARATOR: Final = ","
_BATCH: Final = 500


def _but(mapped: type[Base], *names: str) -> list[InstrumentedAttribute[Any]]:
    """All columns but some. Rows of columns read like mapped ones, at a third of their cost."""
    return [
        getattr(mapped, attribute.key)
        for attribute in inspect(mapped).column_attrs
        if attribute.key not in names
    ]


# What a list shows nothing of: it is sealed, or may be large.
_OF_CASES: Final = _but(CaseRow, "contact")
_OF_PARTS: Final = _but(CasePartRow, "sealed", "package")


def filed_view(case: Case, code: str) -> FiledRequest:
    """What whoever files a request is told."""
    return FiledRequest.model_validate(
        {
            "request_id": case.row.request_id,
            "receipt_code": code,
            "stage": case.row.stage,
            "due_at": case.row.due_at,
        }
    )


def case_view(case: Case, now: datetime, scope: Scope = EVERYWHERE) -> CaseView:
    """A request, as officers see it; of its parts those of the sites in scope."""
    row = case.row
    ended = row.finished_at is not None
    return CaseView(
        request_id=row.request_id,
        right=cast(SubjectRight, row.right),
        jurisdiction=row.jurisdiction,
        stage=cast(RequestStage, row.stage),
        identity=cast(IdentityMethod, row.identity),
        filed_by=row.filed_by,
        received_at=row.received_at,
        confirm_by=row.confirm_by,
        confirmed_at=row.confirmed_at,
        verified_at=row.verified_at,
        due_at=row.due_at,
        extended_at=row.extended_at,
        finished_at=row.finished_at,
        urgency=urgency(datetime.fromisoformat(next_deadline(row)), now, open_still=not ended),
        ground=row.ground,
        notice=row.notice,
        rules_version=row.rules_version,
        position=row.position,
        parts=tuple(_part_view(part) for part in case.parts if scope.includes(part.site)),
    )


def next_deadline(row: CaseRow) -> str:
    """The nearer of a request's deadlines that is not met."""
    if row.confirm_by is not None and row.confirmed_at is None:
        return min(row.confirm_by, row.due_at)
    return row.due_at


def _part_view(part: CasePartRow) -> PartView:
    return PartView(
        site=part.site,
        state=cast(PartState, part.state),
        outcome=cast("AnswerOutcome | None", part.outcome),
        ground=part.ground,
        sent_at=part.sent_at,
        taken_at=part.taken_at,
        answered_at=part.answered_at,
        reminders=part.reminders,
        reminded_at=part.reminded_at,
        answer=part.answer,
    )


def page_of_cases(
    session: Session,
    now: datetime,
    *,
    scope: Scope = EVERYWHERE,
    stage: RequestStage | None,
    right: SubjectRight | None,
    site: str | None,
    overdue: bool,
    open_only: bool,
    after: str | None,
    limit: int,
) -> CasePage:
    """Requests that meet all filters, by deadline, and what is open in all.

    Of all this, a scope that is limited sees what concerns its sites.
    """
    moment = format_time(now)
    late = _due_before(moment)
    wanted: list[ColumnElement[bool]] = [*_concerning(scope)]
    if stage is not None:
        wanted.append(CaseRow.stage == stage)
    if right is not None:
        wanted.append(CaseRow.right == right)
    if overdue:
        wanted.append(late)
    if open_only:
        wanted.append(CaseRow.finished_at.is_(None))
    if site is not None:
        wanted.append(
            CaseRow.request_id.in_(select(CasePartRow.request_id).where(CasePartRow.site == site))
        )
    if after is not None:
        wanted.append(tuple_(CaseRow.due_at, CaseRow.request_id) > tuple_(*_place(after)))
    query = (
        select(*_OF_CASES)
        .where(*wanted)
        .order_by(CaseRow.due_at, CaseRow.request_id)
        .limit(limit + 1)
    )
    rows = cast("Sequence[CaseRow]", session.execute(query).all())
    shown = rows[:limit]
    parts = _parts(session, shown)
    last = shown[-1] if len(rows) > limit else None
    open_still, due_soon, overdue_now = count_urgent(session, now, scope)
    return CasePage(
        requests=tuple(case_view(Case(row, parts[row.request_id]), now, scope) for row in shown),
        open=open_still,
        due_soon=due_soon,
        overdue=overdue_now,
        next=None if last is None else f"{last.due_at}{_SEPARATOR}{last.request_id}",
    )


def _due_before(moment: str) -> ColumnElement[bool]:
    """Open, and a deadline that is not met lies before that time."""
    unconfirmed = CaseRow.confirmed_at.is_(None) & (CaseRow.confirm_by < moment)
    return CaseRow.finished_at.is_(None) & ((CaseRow.due_at < moment) | unconfirmed)


def _concerning(scope: Scope) -> list[ColumnElement[bool]]:
    """The condition that a request concerns a site in scope; none where all are."""
    if scope.sites is None:
        return []
    theirs = select(CasePartRow.request_id).where(CasePartRow.site.in_(sorted(scope.sites)))
    return [CaseRow.request_id.in_(theirs)]


def count_urgent(
    session: Session, now: datetime, scope: Scope = EVERYWHERE
) -> tuple[int, int, int]:
    """How many requests are open, due soon and overdue, of those that concern sites in scope."""
    late = _due_before(format_time(now))
    soon = _due_before(format_time(now + DUE_SOON))
    query = select(func.count(), func.count().filter(soon), func.count().filter(late)).select_from(
        CaseRow
    )
    query = query.where(CaseRow.finished_at.is_(None), *_concerning(scope))
    still_open, due_soon, overdue = session.execute(query).one()
    return still_open, due_soon - overdue, overdue


def _place(after: str) -> tuple[str, str]:
    due_at, _, request_id = after.partition(_SEPARATOR)
    return due_at, request_id


def _parts(session: Session, rows: Sequence[CaseRow]) -> dict[str, list[CasePartRow]]:
    parts: dict[str, list[CasePartRow]] = defaultdict(list)
    for start in range(0, len(rows), _BATCH):
        ids = [row.request_id for row in rows[start : start + _BATCH]]
        query = select(*_OF_PARTS).where(CasePartRow.request_id.in_(ids))
        found = session.execute(query.order_by(CasePartRow.request_id, CasePartRow.site))
        for part in cast("Iterable[CasePartRow]", found):
            parts[part.request_id].append(part)
    return parts


def parts_for_site(session: Session, site: str) -> list[SitePart]:
    """What a site must do, the most urgent first, and whom it is asked to check."""
    query = (
        select(CasePartRow, CaseRow)
        .join(CaseRow, CaseRow.request_id == CasePartRow.request_id)
        .where(
            CasePartRow.site == site,
            CasePartRow.state.in_(WAITING)
            | (CaseRow.stage.in_(WITHOUT_IDENTITY) & (CaseRow.identity == "site-verified")),
        )
        .order_by(CaseRow.due_at, CaseRow.request_id)
    )
    return [
        SitePart(
            request_id=row.request_id,
            right=cast(SubjectRight, row.right),
            jurisdiction=row.jurisdiction,
            stage=cast(RequestStage, row.stage),
            state=cast(PartState, part.state),
            identity=cast(IdentityMethod, row.identity),
            received_at=row.received_at,
            due_at=row.due_at,
            reminders=part.reminders,
            sealed=part.sealed if part.state in WAITING else None,
        )
        for part, row in session.execute(query)
    ]


def key_state(session: Session, site: str, now: datetime) -> SealingKeyState | None:
    """What is known of the key to which identifiers are sealed for a site."""
    row = session.get(SiteSealingKeyRow, site)
    if row is None:
        return None
    filed = session.get_one(StatementRow, row.statement)
    oldest = session.scalar(
        select(func.min(CaseRow.filed_at))
        .join(CasePartRow, CasePartRow.request_id == CaseRow.request_id)
        .where(CasePartRow.site == site, CasePartRow.state.in_(("held", *WAITING)))
    )
    return SealingKeyState(
        statement=row.statement,
        generation=present_key(session, row).generation,
        earlier_in_use=earlier_key_in_use(
            datetime.fromisoformat(filed.filed_at),
            None if oldest is None else datetime.fromisoformat(oldest),
            now,
        ),
    )


def public_status(case: Case) -> PublicStatus:
    """A request, as its subject is told."""
    row = case.row
    return PublicStatus(
        request_id=row.request_id,
        right=cast(SubjectRight, row.right),
        jurisdiction=row.jurisdiction,
        stage=cast(RequestStage, row.stage),
        identity=cast(IdentityMethod, row.identity),
        received_at=row.received_at,
        due_at=row.due_at,
        extended=row.extended_at is not None,
        finished_at=row.finished_at,
        ground=ground_text(row.jurisdiction, row.right, row.ground),
        notice=row.notice,
        parts=tuple(
            PublicPart(
                site=part.site,
                state=cast(PartState, part.state),
                outcome=cast("AnswerOutcome | None", part.outcome),
                ground=ground_text(row.jurisdiction, row.right, part.ground),
                package=part.package is not None,
            )
            for part in case.parts
        ),
    )


def ground_text(jurisdiction: str, right: str, name: str) -> str:
    """A ground as the subject is told it: in words, with its article."""
    for ground in deadline_book().grounds(jurisdiction, cast(SubjectRight, right)):
        if ground.id == name:
            return f"{ground.text} ({ground.source})"
    return ""


def site_keys(session: Session) -> list[SiteKeyView]:
    """The sites to which identifiers can be sealed, by name."""
    query = (
        select(SiteRow, SiteSealingKeyRow)
        .join(SiteSealingKeyRow, SiteSealingKeyRow.site == SiteRow.name)
        .where(SiteRow.state == "approved")
        .order_by(SiteRow.name)
    )
    found = session.execute(query).all()
    statements = load_rows(session, [key.statement for _, key in found])
    return [
        SiteKeyView(
            site=site.name,
            identity_key=site.identity_key,
            statement=parse_envelope(statements[key.statement]),
        )
        for site, key in found
    ]


def releases_of_site(session: Session, site: str) -> list[TrainedRelease]:
    """Releases of plans that name a site, and who may use them (GDPR Art. 15(1)(c))."""
    query = (
        select(ReleaseRow)
        .join(PlanSiteRow, PlanSiteRow.plan_id == ReleaseRow.plan_id)
        .where(PlanSiteRow.site == site)
        .order_by(ReleaseRow.position)
    )
    releases = session.scalars(query).all()
    manifests = load_rows(session, [row.release_id for row in releases])
    grants: dict[str, list[GrantRow]] = defaultdict(list)
    ids = [row.release_id for row in releases]
    for grant in session.scalars(
        select(GrantRow).where(GrantRow.release_id.in_(ids)).order_by(GrantRow.principal)
    ):
        grants[grant.release_id].append(grant)
    return [
        TrainedRelease(
            release_id=row.release_id,
            plan_id=row.plan_id,
            name=ReleaseManifest.from_body(parse_envelope(manifests[row.release_id]).body).name,
            state=row.state,
            recipients=tuple(
                Recipient(
                    principal=grant.principal,
                    purpose=grant.purpose,
                    granted_at=grant.granted_at,
                    expires_at=grant.expires_at,
                    revoked_at=grant.revoked_at,
                    downloads=grant.downloads,
                )
                for grant in grants[row.release_id]
            ),
        )
        for row in releases
    ]
