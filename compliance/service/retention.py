"""Retention of the service's own log: what `compliance.retention` needs of it, and the timer.

* Each order and each confirmation is a transaction of its own: an order must be durable before its
  key is destroyed, which no transaction can take back.
* A plan is in effect until it was rejected or its run ended, a release while it waits for a
  decision or somebody may download it, a request until it was answered. An entry whose period
  counts from that and that is about none of them is kept.
* The timer runs inside `compliance start`, as the principal `compliance`. When it fails it says so
  in the process's log and tries again a day later; the service goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from audit.errors import MalformedInput, Refused
from audit.log import action_key_name
from audit.storage import read_leaf
from compliance import rules
from compliance.retention import CHECK_SECONDS, Outcome, Retention
from compliance.retention_history import ACTION_PREFIX, ORDERED, Event
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey
from compliance.service.background import Recurring
from compliance.service.erasure_tables import PlanStartRow
from compliance.service.errors import ServiceUnavailable
from compliance.service.filing import parse_envelope
from compliance.service.process_log import event, logger
from compliance.service.registry import Registry
from compliance.service.release_tables import RecallRow
from compliance.service.subject_tables import CaseRow
from compliance.service.tables import (
    GrantRow,
    LogIndexRow,
    PlanRow,
    ReleaseRow,
    StatementRow,
    SubjectRequestRow,
)
from compliance.statements import (
    RequestDecision,
    SubjectAnswer,
    SubjectIdentity,
    format_time,
)

FIRST_CHECK_SECONDS: Final = 60.0
"""The first look comes soon after the start: a service that is restarted daily gets one, too."""

STOP_SECONDS: Final = 10.0
"""What a run that has begun gets when the service ends; the next start finishes what is left."""

TIMER_ACTOR: Final = "compliance"

_PREFIX_END: Final = ACTION_PREFIX[:-1] + chr(ord(ACTION_PREFIX[-1]) + 1)
_REQUEST: Final = "request:"
_CASE: Final = "subject-request:"
_CASE_STATEMENTS: Final = tuple(
    f"{kind.kind}:" for kind in (SubjectAnswer, SubjectIdentity, RequestDecision)
)


def service_retention(registry: Registry, actor: rules.Bearer | None) -> Retention:
    """Retention of the service's log.

    Args:
        registry: The service.
        actor: The officer who asks; None for the timer.
    """
    return Retention(ServiceLog(registry, actor), registry.keyring, registry.folder, registry.clock)


@contextmanager
def settings_of_the_service() -> Iterator[None]:
    """Answer what is wrong with the operator's file as the service's fault, not the caller's.

    Raises:
        ServiceUnavailable: Instead of what `read_policy` raises.
    """
    try:
        yield
    except (MalformedInput, Refused) as error:
        raise ServiceUnavailable(
            str(error), fix=f"in the compliance folder: {error.fix}"
        ) from error


class ServiceLog:
    """`compliance.retention.RetentionLog` over the registry."""

    def __init__(self, registry: Registry, actor: rules.Bearer | None) -> None:
        self._registry = registry
        self._actor = actor

    def record(self, action: str, object_name: str, payload: Mapping[str, Any]) -> int:
        """Append an entry, durable when this returns."""
        with self._registry.writing(self._actor) as transaction:
            if self._actor is None:
                transaction.actor = TIMER_ACTOR
            return transaction.record(action, object_name, payload)

    def events(self) -> Iterator[Event]:
        """What the log says of retention, in order."""
        query = (
            select(LogIndexRow.position)
            .where(LogIndexRow.action >= ACTION_PREFIX, LogIndexRow.action < _PREFIX_END)
            .order_by(LogIndexRow.position)
        )
        with self._registry.reading() as session:
            storage = self._registry.storage(session)
            for position in session.scalars(query).all():
                leaf = read_leaf(storage, position)
                payload = self._registry.log.open(leaf)
                yield Event(position, leaf.time, leaf.actor, leaf.action, leaf.object, payload)

    def last_in_effect(self, key: ActionKey) -> Month | None:
        """When that ended what a key's entries are about."""
        with self._registry.reading() as session:
            ends = _Ends(session, format_time(self._registry.clock())).of(key)
            latest = max(ends, default=str(key.month))
        return None if latest == _NOT_ENDED else Month.parse(latest[:7])

    def counts(self) -> Mapping[str, int]:
        """Number of entries sealed with each key."""
        month = func.substr(LogIndexRow.time, 1, 7)
        query = select(LogIndexRow.action, month, func.count()).group_by(LogIndexRow.action, month)
        with self._registry.reading() as session:
            return {
                f"action:{action}:{text}": count for action, text, count in session.execute(query)
            }


_MAKING: Final = ("plan.approved", "run.ended", "release.announced", "release.approved")
"""What an officer looks at before a grant."""


def evidence_ended(session: Session, release: ReleaseRow) -> bool:
    """Whether retention was ordered to end what the log says of how a release was made."""
    made = select(LogIndexRow.action, func.substr(LogIndexRow.time, 1, 7)).where(
        LogIndexRow.action.in_(_MAKING),
        or_(LogIndexRow.plan == release.plan_id, LogIndexRow.release == release.release_id),
    )
    keys = {action_key_name(action, month) for action, month in session.execute(made)}
    ordered = select(LogIndexRow.position).where(
        LogIndexRow.action == ORDERED, LogIndexRow.object.in_(keys)
    )
    return session.scalar(ordered.limit(1)) is not None


_NOT_ENDED: Final = "~"
"""Later than any time: what has not ended, or is not known to have."""


class _Ends:
    """When that ended what entries are about, as the times that the database has."""

    def __init__(self, session: Session, now: str) -> None:
        self._session = session
        self._now = now

    def of(self, key: ActionKey) -> Iterator[str]:
        """One time for each thing that the key's entries are about."""
        session = self._session
        entries = and_(
            LogIndexRow.action == key.action,
            LogIndexRow.time >= str(key.month),
            LogIndexRow.time < str(key.month.plus(1)),
        )
        about_requests = LogIndexRow.object.startswith(_REQUEST, autoescape=True)
        about_cases = or_(
            *(
                LogIndexRow.object.startswith(prefix, autoescape=True)
                for prefix in (_CASE, *_CASE_STATEMENTS)
            )
        )
        nothing = and_(
            LogIndexRow.plan.is_(None), LogIndexRow.release.is_(None), ~about_requests, ~about_cases
        )
        if (
            session.scalar(select(LogIndexRow.position).where(entries, nothing).limit(1))
            is not None
        ):
            yield _NOT_ENDED
            return
        for column, end_of in (
            (LogIndexRow.plan, self._plan),
            (LogIndexRow.release, self._release),
        ):
            query = select(column).where(entries, column.is_not(None)).distinct()
            for identity in session.scalars(query).all():
                yield from end_of(str(identity))
        query = select(LogIndexRow.object).where(entries, about_requests).distinct()
        for name in session.scalars(query).all():
            row = session.get(SubjectRequestRow, name.removeprefix(_REQUEST))
            yield _NOT_ENDED if row is None or row.done_at is None else row.done_at
        query = select(LogIndexRow.object).where(entries, about_cases).distinct()
        for name in session.scalars(query).all():
            yield self._case(name)

    def _case(self, name: str) -> str:
        """When a subject's request ended, by its own name or that of a statement about it."""
        request_id = name.removeprefix(_CASE)
        if not name.startswith(_CASE):
            statement = self._session.get(StatementRow, name.partition(":")[2])
            if statement is None:
                return _NOT_ENDED
            request_id = str(parse_envelope(statement).body.get("request"))
        case = self._session.get(CaseRow, request_id)
        return _NOT_ENDED if case is None or case.finished_at is None else case.finished_at

    def _plan(self, plan_id: str) -> Iterator[str]:
        row = self._session.get(PlanRow, plan_id)
        if row is None:
            yield _NOT_ENDED
            return
        match row.state:
            case "rejected":
                yield self._filed_at(row.decision)
            case "completed" | "failed":
                yield self._filed_at(row.outcome)
            case _:
                yield _NOT_ENDED
        # A model that holds this plan's rounds rests on its evidence.
        later = select(PlanStartRow.plan_id).where(PlanStartRow.starts_from == plan_id)
        for other in self._session.scalars(later).all():
            yield from self._plan(other)
        releases = select(ReleaseRow.release_id).where(ReleaseRow.plan_id == plan_id)
        for release_id in self._session.scalars(releases).all():
            yield from self._release(release_id)

    def _release(self, release_id: str) -> Iterator[str]:
        row = self._session.get(ReleaseRow, release_id)
        if row is None or row.state not in ("approved", "rejected", "recalled"):
            yield _NOT_ENDED
            return
        yield self._filed_at(row.decision)
        recall = self._session.get(RecallRow, release_id)
        if recall is not None:
            yield recall.recalled_at
        grants = select(GrantRow).where(GrantRow.release_id == release_id)
        for grant in self._session.scalars(grants).all():
            end = min(grant.expires_at, grant.revoked_at or grant.expires_at)
            yield _NOT_ENDED if end > self._now else end

    def _filed_at(self, digest: str | None) -> str:
        row = None if digest is None else self._session.get(StatementRow, digest)
        return _NOT_ENDED if row is None else row.filed_at


def sweeping(
    run: Callable[[], object],
    wait: Callable[[float], bool] | None = None,
    told: Callable[[int | None], None] | None = None,
) -> Recurring:
    """Ends retention soon, and then daily.

    Args:
        run: One run.
        wait: As in `Recurring`.
        told: Told how many keys a run destroyed, or None when it failed.
    """
    tell = told or (lambda _: None)

    def work() -> None:
        keys = _keys_of(run())
        logger.info("retention ran", extra=event("retention-swept", keys=keys))
        tell(keys)

    return Recurring(
        work,
        failed="retention-failed",
        undone="retention did not run",
        seconds=CHECK_SECONDS,
        first_seconds=FIRST_CHECK_SECONDS,
        on_failure=lambda: tell(None),
        wait=wait,
    )


def retention_timer(
    registry: Registry, told: Callable[[int | None], None] | None = None
) -> AbstractContextManager[None]:
    """Retention runs by itself inside the block; `told` as in `sweeping`."""
    timer = sweeping(service_retention(registry, None).run, told=told)
    return timer.beside("retention", STOP_SECONDS)


def _keys_of(outcome: object) -> int:
    if not isinstance(outcome, Outcome):
        return 0
    return len(outcome.shredded) + len(outcome.finished)
