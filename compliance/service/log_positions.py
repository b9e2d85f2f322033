"""Which entries of the log a question finds, at the cost of a page whatever the log's length.

* Every question is a walk along an index that ends in the position, in the order of the answer: no
  sorting, and no counting of what is on later pages.
* A prefix of an action is the few actions that begin so (`_actions`), each walked by itself.
* A span of time is a span of positions (`LogTimes`): entries are in the order of their times, but
  for the moments at which the log's clock was set back. The entries' own times are looked at
  nevertheless.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, union_all
from sqlalchemy.orm import Session

from compliance.log_views import LogFilter, Order
from compliance.rules import EVERYWHERE, Scope
from compliance.service.tables import LogIndexRow, PlanSiteRow

MAX_RUNS: Final = 10_000
"""A clock that was set back more often than this is not one to find entries by."""


@dataclass(frozen=True)
class _Run:
    """Entries in the order of their times; the next run began when the clock was set back.

    Attributes:
        first: Its first position.
        begins: The time of that.
        latest_before: The latest time of all runs before it; empty before the first.
    """

    first: int
    begins: str
    latest_before: str


class LogTimes:
    """Where in the log a time lies. An index is only ever appended to, so what is known stays so.

    The first question with a time, after a start, reads the times of the whole index once: one
    to two seconds for a million entries.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[_Run] = []
        self._known = 0
        self._latest = ""

    def span(
        self, session: Session, size: int, since: str | None, until: str | None
    ) -> tuple[int, int]:
        """Positions from the first up to before the second, outside which no entry is in the span.

        Args:
            session: Sees the index of `size` entries at least.
            size: Of the log that is asked about.
            since: Not before this time.
            until: Before this time.
        """
        if since is None and until is None:
            return 0, size
        runs = self._runs_of(session, size)
        if not runs:
            return 0, size
        ends = [run.first for run in runs[1:]] + [size]
        low, high = 0, size
        if since is not None:
            # The first run that ends with so late a time holds the first entry of the span.
            number = next(
                (number - 1 for number, run in enumerate(runs) if run.latest_before >= since),
                len(runs) - 1,
            )
            low = _first_from(session, since, runs[number].first, ends[number])
        if until is not None:
            # The last run that begins with so early a time holds its last entry.
            early = [number for number, run in enumerate(runs) if run.begins < until]
            high = 0
            if early:
                number = early[-1]
                high = _first_from(session, until, runs[number].first, ends[number])
        return low, high

    def _runs_of(self, session: Session, size: int) -> list[_Run] | None:
        """The runs of the first `size` entries; None when there are too many."""
        with self._lock:
            if self._known < size and len(self._runs) <= MAX_RUNS:
                self._read(session, size)
            if len(self._runs) > MAX_RUNS:
                return None
            return self._runs[: bisect_left(self._runs, size, key=lambda run: run.first)]

    def _read(self, session: Session, size: int) -> None:
        row = LogIndexRow
        before = func.lag(row.time).over(order_by=row.position).label("before")
        among = row.position >= max(self._known - 1, 0), row.position < size
        times = select(row.position, row.time, before).where(*among).subquery()
        back = (
            select(times.c.position, times.c.time, times.c.before)
            .where(times.c.time < times.c.before)
            .order_by(times.c.position)
            .limit(MAX_RUNS + 1)
        )
        runs = list(self._runs)
        latest = self._latest
        if not runs:
            first = session.execute(select(row.time).where(row.position == 0)).scalar_one_or_none()
            runs.append(_Run(0, first or "", ""))
        for position, time, ended in session.execute(back):
            latest = max(latest, ended)
            runs.append(_Run(position, time, latest))
        self._runs, self._known, self._latest = runs, size, latest


def _first_from(session: Session, time: str, low: int, high: int) -> int:
    """The first position from `low` whose time is not before `time`, at most `high`.

    The entries between are in the order of their times.
    """
    while low < high:
        middle = (low + high) // 2
        query = select(LogIndexRow.time).where(LogIndexRow.position == middle)
        if session.execute(query).scalar_one() < time:
            low = middle + 1
        else:
            high = middle
    return low


def find_positions(
    session: Session,
    times: LogTimes,
    wanted: LogFilter,
    size: int,
    order: Order,
    limit: int,
    *,
    last: int | None = None,
    scope: Scope = EVERYWHERE,
) -> Sequence[int]:
    """Positions of the entries that a question finds in the log of `size` entries, in order.

    Args:
        session: A moment at which the log has at least `size` entries.
        times: Where in the log a time lies.
        wanted: The conditions.
        size: Entries from here on are not looked at.
        order: Newest or oldest first.
        limit: At most so many.
        last: Behind this one, in that order.
        scope: Only what concerns these sites.
    """
    low, high = times.span(session, size, wanted.since, wanted.until)
    if last is not None:
        low, high = (low, min(high, last)) if order == "newest" else (max(low, last + 1), high)
    walks = _walks(session, wanted, (low, high), order, limit, scope)
    if not walks:
        return ()
    return session.scalars(_merged(walks, order, limit)).all()


def _walks(
    session: Session,
    wanted: LogFilter,
    span: tuple[int, int],
    order: Order,
    limit: int,
    scope: Scope,
) -> list[Select[int]]:
    position = LogIndexRow.position
    conditions = [*_conditions(wanted), *_within(scope)]
    conditions += [position >= span[0], position < span[1]]
    walk = (
        select(position)
        .where(*conditions)
        .order_by(position.desc() if order == "newest" else position)
        .limit(limit)
    )
    prefix = _prefix(wanted)
    if prefix is None:
        return [walk]
    return [walk.where(LogIndexRow.action == action) for action in _actions(session, prefix)]


def _merged(walks: Sequence[Select[int]], order: Order, limit: int) -> Select[int]:
    if len(walks) == 1:
        return walks[0]
    parts = [select(walk.subquery().c.position) for walk in walks]
    position = union_all(*parts).subquery().c.position
    return (
        select(position).order_by(position.desc() if order == "newest" else position).limit(limit)
    )


def count_entries(session: Session, wanted: LogFilter, size: int, scope: Scope = EVERYWHERE) -> int:
    """How many entries a question finds in the log of `size` entries."""
    query = select(func.count()).select_from(LogIndexRow)
    query = query.where(*_conditions(wanted), *_within(scope), LogIndexRow.position < size)
    prefix = _prefix(wanted)
    if prefix is not None:
        query = query.where(LogIndexRow.action >= prefix, LogIndexRow.action < _behind(prefix))
    return session.scalar(query) or 0


def _actions(session: Session, prefix: str) -> Iterator[str]:
    """The actions in the log that begin with a prefix: one step in the index each."""
    action = LogIndexRow.action
    found = session.scalar(
        select(func.min(action)).where(action >= prefix, action < _behind(prefix))
    )
    while found is not None:
        yield found
        following = action > found, action < _behind(prefix)
        found = session.scalar(select(func.min(action)).where(*following))


def _prefix(wanted: LogFilter) -> str | None:
    return wanted.action if wanted.action is not None and wanted.action.endswith(".") else None


def _behind(prefix: str) -> str:
    """The first word behind all that begin with a prefix: one up in its last octet, the dot."""
    return prefix[:-1] + "/"


def _conditions(wanted: LogFilter) -> Iterator[ColumnElement[bool]]:
    """All but a prefix."""
    row = LogIndexRow
    for column, value in (
        (row.actor, wanted.actor),
        (row.action, None if _prefix(wanted) else wanted.action),
        (row.object, wanted.object),
        (row.subject, wanted.subject),
        (row.site, wanted.site),
        (row.plan, wanted.plan),
        (row.release, wanted.release),
    ):
        if value is not None:
            yield column == value
    if wanted.since is not None:
        yield row.time >= wanted.since
    if wanted.until is not None:
        yield row.time < wanted.until
    if wanted.after is not None:
        yield row.position > wanted.after


def _within(scope: Scope) -> Iterator[ColumnElement[bool]]:
    """What concerns the sites of a scope: about one of them, or about a plan that names one.

    An entry about another site is not shown even when it is about such a plan, and one about no
    site and no plan concerns the whole service.
    """
    if scope.sites is not None:
        row, sites = LogIndexRow, sorted(scope.sites)
        named = select(PlanSiteRow.plan_id).where(PlanSiteRow.site.in_(sites))
        yield or_(row.site.in_(sites), and_(row.site.is_(None), row.plan.in_(named)))
