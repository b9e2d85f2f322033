"""What reports are made of, read from the database in one snapshot.

Statements are read as they were filed, events from the log; a payload that retention has ended is
said to be forgotten, and what depends on it says so in the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit.errors import MalformedInput, Refused
from audit.key_manager import KeyDestroyed
from audit.storage import read_leaf
from compliance.report_api import MADE
from compliance.report_views import MAX_EVIDENCE_OF_A_FIGURE
from compliance.reports.facts import (
    ActionFacts,
    CaseFacts,
    Facts,
    Filed,
    Logged,
    PartFacts,
    PlanFacts,
    ReleaseFacts,
    RequestFacts,
    RetentionFacts,
    SiteFacts,
)
from compliance.rules.retention import default_rules
from compliance.service.breaches import breach_views, key_name
from compliance.service.erasure_cases import case_views
from compliance.service.erasure_tables import ErasureCaseRow
from compliance.service.filing import parse_envelope
from compliance.service.register_tables import BreachRow
from compliance.service.registry import Registry
from compliance.service.retention import service_retention
from compliance.service.subject_cases import object_name
from compliance.service.subject_tables import CasePartRow, CaseRow
from compliance.service.tables import (
    LogIndexRow,
    PlanRow,
    ReleaseRow,
    SiteRow,
    StatementRow,
)
from compliance.service.witnessing import witness_views
from compliance.statements import (
    Decision,
    ErasureDecision,
    Refusal,
    ReleaseManifest,
    RequestDecision,
    RoundReport,
    RunOutcome,
    SiteReport,
    Statement,
    SubjectAnswer,
    TrainingPlan,
)

_Kind = TypeVar("_Kind", bound=Statement)

_SITE_ACTIONS: Final = ("site.enrolled", "site.admitted", "site.renewed", "site.revoked")

_REPORTS_SHOWN: Final = 200

_FILED_ABOUT_RELEASES: Final = ("release.announced", "release.approved", "release.rejected")


def read_retention(office: Registry) -> RetentionFacts:
    """What retention says of the log. It reads in transactions of its own."""
    try:
        report = service_retention(office, None).show()
    except (MalformedInput, Refused) as error:
        return RetentionFacts(default_rules(), (), (), f"{error}")
    return RetentionFacts(default_rules(), report.jurisdictions, report.judgements)


def read_facts(office: Registry, session: Session, retention: RetentionFacts) -> Facts:
    """Everything that reports are made of, at the moment of the session."""
    statements = _Statements(session)
    breaches = session.scalars(select(BreachRow).order_by(BreachRow.filed_at, BreachRow.name))
    views = breach_views(office, session, breaches)
    return Facts(
        now=office.clock(),
        origin=office.trust.origin,
        log_size=office.storage(session).size(),
        plans=tuple(_plans(session, statements)),
        releases=tuple(_releases(office, session, statements)),
        sites=tuple(_sites(session)),
        refusals=statements.of(Refusal),
        requests=tuple(_requests(session, statements)),
        cases=tuple(_cases(session, statements)),
        breaches=tuple(views),
        commitments=dict(_commitments(office, session, [view.name for view in views])),
        reports=tuple(_newest(office, session, MADE, _REPORTS_SHOWN)),
        actions={action.action: action for action in _actions(session)},
        retention=retention,
    )


class _Statements:
    """Filed statements, by digest and by what they are about."""

    def __init__(self, session: Session) -> None:
        self._rows: dict[str, list[StatementRow]] = defaultdict(list)
        self._by_digest: dict[str, StatementRow] = {}
        for row in session.scalars(select(StatementRow).order_by(StatementRow.position)):
            self._rows[row.kind].append(row)
            self._by_digest[row.digest] = row

    def of(self, kind: type[_Kind], plan_id: str | None = None) -> tuple[Filed[_Kind], ...]:
        """All of a kind, of one plan if it is given, oldest first."""
        return tuple(
            _filed(kind, row)
            for row in self._rows[kind.kind]
            if plan_id is None or row.plan_id == plan_id
        )

    def by_plan(self, kind: type[_Kind]) -> dict[str, tuple[Filed[_Kind], ...]]:
        """All of a kind, by plan, oldest first."""
        found: dict[str, list[Filed[_Kind]]] = defaultdict(list)
        for row in self._rows[kind.kind]:
            if row.plan_id is not None:
                found[row.plan_id].append(_filed(kind, row))
        return {plan_id: tuple(filed) for plan_id, filed in found.items()}

    def one(self, kind: type[_Kind], digest: str) -> Filed[_Kind]:
        """The statement of a digest that a row refers to."""
        return _filed(kind, self._by_digest[digest])

    def maybe(self, kind: type[_Kind], digest: str | None) -> Filed[_Kind] | None:
        """The same, where there may be none."""
        return None if digest is None else self.one(kind, digest)


def _filed(kind: type[_Kind], row: StatementRow) -> Filed[_Kind]:
    statement = kind.from_body(parse_envelope(row).body)
    return Filed(statement, row.digest, row.position, row.filed_at, row.filed_by)


def _plans(session: Session, statements: _Statements) -> Iterator[PlanFacts]:
    rounds, reports = statements.by_plan(RoundReport), statements.by_plan(SiteReport)
    for row in session.scalars(select(PlanRow).order_by(PlanRow.position)):
        yield PlanFacts(
            plan_id=row.plan_id,
            state=row.state,
            submitted=statements.one(TrainingPlan, row.plan_id),
            decision=statements.maybe(Decision, row.decision),
            outcome=statements.maybe(RunOutcome, row.outcome),
            rounds=rounds.get(row.plan_id, ()),
            reports=reports.get(row.plan_id, ()),
        )


def _releases(
    office: Registry, session: Session, statements: _Statements
) -> Iterator[ReleaseFacts]:
    events: dict[str, list[Logged]] = defaultdict(list)
    query = (
        select(LogIndexRow.position)
        .where(
            LogIndexRow.object.startswith("release:", autoescape=True),
            LogIndexRow.action.not_in(_FILED_ABOUT_RELEASES),
        )
        .order_by(LogIndexRow.position)
    )
    for event in _logged(office, session, session.scalars(query).all()):
        events[event.object.removeprefix("release:")].append(event)
    for row in session.scalars(select(ReleaseRow).order_by(ReleaseRow.position)):
        yield ReleaseFacts(
            release_id=row.release_id,
            state=row.state,
            announced=statements.one(ReleaseManifest, row.release_id),
            decision=statements.maybe(Decision, row.decision),
            events=tuple(events[row.release_id]),
        )


def _requests(session: Session, statements: _Statements) -> Iterator[RequestFacts]:
    parts: dict[str, list[CasePartRow]] = defaultdict(list)
    for part in session.scalars(select(CasePartRow).order_by(CasePartRow.site)):
        parts[part.request_id].append(part)
    # By request and by the site that an entry is about, if it is about one.
    found: dict[str, dict[str | None, list[int]]] = defaultdict(lambda: defaultdict(list))
    for decision in statements.of(RequestDecision):
        found[decision.statement.request][None].append(decision.position)
    for answer in statements.of(SubjectAnswer):
        found[answer.statement.request][answer.statement.site].append(answer.position)
    query = select(LogIndexRow.object, LogIndexRow.site, LogIndexRow.position).where(
        LogIndexRow.object.startswith(object_name(""), autoescape=True),
        LogIndexRow.action != "request.refused",
    )
    for name, site, position in session.execute(query):
        found[name.removeprefix(object_name(""))][site].append(position)
    for row in session.scalars(select(CaseRow).order_by(CaseRow.position)):
        positions = found[row.request_id]
        yield RequestFacts(
            request_id=row.request_id,
            right=row.right,
            jurisdiction=row.jurisdiction,
            stage=row.stage,
            received_at=row.received_at,
            due_at=row.due_at,
            confirm_by=row.confirm_by,
            confirmed_at=row.confirmed_at,
            extended_at=row.extended_at,
            finished_at=row.finished_at,
            ground=row.ground,
            outcomes=tuple(filter(None, map(_outcome, parts[row.request_id]))),
            positions=tuple(sorted(chain.from_iterable(positions.values()))),
            parts={
                part.site: PartFacts(_outcome(part), tuple(sorted(positions[part.site])))
                for part in parts[row.request_id]
            },
        )


def _outcome(part: CasePartRow) -> str | None:
    return "waived" if part.state == "waived" else part.outcome


def _cases(session: Session, statements: _Statements) -> Iterator[CaseFacts]:
    rows = session.scalars(select(ErasureCaseRow).order_by(ErasureCaseRow.position)).all()
    for row, view in zip(rows, case_views(session, rows), strict=True):
        decision = statements.maybe(ErasureDecision, row.decision)
        decided = () if decision is None else (decision.position,)
        yield CaseFacts(view, (row.position, *decided))


def _sites(session: Session) -> Iterator[SiteFacts]:
    rows = session.scalars(select(SiteRow).order_by(SiteRow.name)).all()
    vouching = {view.witness.rpartition("/")[2]: view for view in witness_views(session, rows)}
    positions: dict[str, list[int]] = defaultdict(list)
    query = (
        select(LogIndexRow.site, LogIndexRow.position)
        .where(LogIndexRow.action.in_(_SITE_ACTIONS), LogIndexRow.site.is_not(None))
        .order_by(LogIndexRow.position)
    )
    for site, position in session.execute(query):
        positions[f"{site}"].append(position)
    for row in rows:
        view = vouching.get(row.name)
        yield SiteFacts(
            name=row.name,
            state=row.state,
            positions=tuple(positions[row.name]),
            size=None if view is None else view.size,
            cosigned_at=None if view is None else view.cosigned_at,
        )


def _actions(session: Session) -> Iterator[ActionFacts]:
    row = LogIndexRow
    query = select(row.action, func.count(), func.min(row.time), func.max(row.time))
    for action, count, first, last in session.execute(query.group_by(row.action)).all():
        yield ActionFacts(action, count, first, last, _newest_positions(session, action))


def _newest_positions(
    session: Session, action: str, limit: int = MAX_EVIDENCE_OF_A_FIGURE
) -> tuple[int, ...]:
    query = (
        select(LogIndexRow.position)
        .where(LogIndexRow.action == action)
        .order_by(LogIndexRow.position.desc())
        .limit(limit)
    )
    return tuple(sorted(session.scalars(query)))


def _newest(office: Registry, session: Session, action: str, limit: int) -> Iterator[Logged]:
    yield from _logged(office, session, _newest_positions(session, action, limit))


def _commitments(
    office: Registry, session: Session, names: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """What the newest entry that commits to the words of each breach says."""
    for name in names:
        query = select(LogIndexRow.position).where(LogIndexRow.object == key_name(name))
        positions = session.scalars(query.order_by(LogIndexRow.position)).all()
        for event in _logged(office, session, positions):
            if event.payload is not None and "commitment" in event.payload:
                yield name, str(event.payload["commitment"])


def _logged(office: Registry, session: Session, positions: Sequence[int]) -> Iterator[Logged]:
    storage = office.storage(session)
    for position in positions:
        leaf = read_leaf(storage, position)
        try:
            payload = office.log.open(leaf)
        except KeyDestroyed:
            payload = None
        yield Logged(position, leaf.time, leaf.actor, leaf.action, leaf.object, payload)
