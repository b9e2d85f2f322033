"""How long there is to answer a data subject, and on which grounds not to. Pure; law is data.

* Periods are counted as Regulation (EEC, Euratom) 1182/71 Art. 3 has it: the day of receipt is not
  counted, and a period ends with the last hour of its last day. One of months ends on the day with
  the same number, or with the month where it has no such day.
* Days are those of the operator's time zone.
* A holiday is one only where the operator says so. One that is not named makes a deadline earlier,
  never later.
* Only a notice to the subject before the first period ends extends it, and only once.

The rules are in `deadlines.toml`. Decision record: docs/adr/0034-subject-requests.md.
"""

from __future__ import annotations

import calendar
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from compliance.rules.months import Month
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import Document, Name, SubjectRight
from compliance.toml_file import parse_toml

Clock = Literal["confirm", "answer"]
Urgency = Literal["in-time", "due-soon", "overdue", "ended"]

DUE_SOON: Final = timedelta(days=7)
"""How long before its deadline a request is due soon: a week for a site that is slow."""

_SATURDAY: Final = 5


class Deadline(Document):
    """One deadline of `deadlines.toml`, which explains the fields."""

    id: Name
    jurisdiction: Name
    kinds: Annotated[tuple[SubjectRight, ...], Field(min_length=1)]
    clock: Clock
    count: Literal["days", "business-days", "months"]
    length: Annotated[int, Field(ge=1, le=366)]
    rolls: bool
    extension: Annotated[int, Field(ge=0, le=366)]
    source: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(min_length=1, max_length=300)]


class Ground(Document):
    """One ground on which a request may be refused."""

    id: Name
    jurisdiction: Name
    kinds: Annotated[tuple[SubjectRight, ...], Field(min_length=1)]
    source: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(min_length=1, max_length=300)]


class WithoutProof(Document):
    """Requests for which the law lets nobody ask who makes them."""

    jurisdiction: Name
    kinds: Annotated[tuple[SubjectRight, ...], Field(min_length=1)]
    source: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(min_length=1, max_length=300)]


class DeadlineBook(Document):
    """All deadlines and grounds of one version."""

    format: Literal["fiduciary.deadlines/2"]
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    deadline: tuple[Deadline, ...]
    ground: tuple[Ground, ...]
    without_proof: tuple[WithoutProof, ...] = ()

    @model_validator(mode="after")
    def _unambiguous(self) -> DeadlineBook:
        seen: set[tuple[str, str, str]] = set()
        for one in self.deadline:
            for kind in one.kinds:
                key = (one.jurisdiction, one.clock, kind)
                if key in seen:
                    raise ValueError(f"{one.id}: a second {one.clock} deadline for {kind}")
                seen.add(key)
        names = [(ground.jurisdiction, ground.id) for ground in self.ground]
        if len(set(names)) != len(names):
            raise ValueError("each ground may appear once in a jurisdiction")
        return self

    @property
    def jurisdictions(self) -> tuple[str, ...]:
        """Under which law a request can be made."""
        return tuple(sorted({one.jurisdiction for one in self.deadline}))

    def find(self, jurisdiction: str, kind: SubjectRight, clock: Clock) -> Deadline | None:
        """The deadline that applies, if there is one."""
        for one in self.deadline:
            if (one.jurisdiction, one.clock) == (jurisdiction, clock) and kind in one.kinds:
                return one
        return None

    def needs_no_proof(self, jurisdiction: str, kind: SubjectRight) -> WithoutProof | None:
        """The rule by which such a request goes on without proof of who asks, if there is one."""
        for one in self.without_proof:
            if one.jurisdiction == jurisdiction and kind in one.kinds:
                return one
        return None

    def grounds(self, jurisdiction: str, kind: SubjectRight) -> tuple[Ground, ...]:
        """On which grounds such a request may be refused."""
        return tuple(
            one for one in self.ground if one.jurisdiction == jurisdiction and kind in one.kinds
        )


@cache
def deadline_book() -> DeadlineBook:
    """The deadlines that come with this version.

    Raises:
        MalformedInput: When the file is not what it should be.
    """
    data = (files("compliance.rules") / "deadlines.toml").read_bytes()
    return parse_toml(data, DeadlineBook, "deadlines.toml")


@dataclass(frozen=True)
class WorkingCalendar:
    """The operator's days.

    Attributes:
        zone: Whose days they are.
        holidays: Days on which nobody works, besides Saturdays and Sundays.
    """

    zone: tzinfo = UTC
    holidays: frozenset[date] = frozenset()

    def day_of(self, moment: datetime) -> date:
        """The day of a moment."""
        return moment.astimezone(self.zone).date()

    def end_of(self, day: date) -> datetime:
        """The last instant of a day, a millisecond before the next, in UTC."""
        midnight = datetime.combine(day + timedelta(days=1), time(), self.zone)
        return midnight.astimezone(UTC) - timedelta(milliseconds=1)

    def works_on(self, day: date) -> bool:
        """Whether a day is a working day."""
        return day.weekday() < _SATURDAY and day not in self.holidays

    def next_working_day(self, day: date) -> date:
        """The day itself, or the first working day after it."""
        while not self.works_on(day):
            day += timedelta(days=1)
        return day

    def plus_working_days(self, day: date, length: int) -> date:
        """So many working days later; the day itself is not counted."""
        for _ in range(length):
            day = self.next_working_day(day + timedelta(days=1))
        return day


def months_later(day: date, months: int) -> date:
    """The same day of a later month, or that month's last where it has none.

    The European Data Protection Board's own examples (Guidelines 01/2022, paragraph 160):

    >>> months_later(date(2022, 3, 5), 1).isoformat()
    '2022-04-05'
    >>> months_later(date(2022, 8, 31), 1).isoformat()
    '2022-09-30'
    """
    month = Month(day.year, day.month).plus(months)
    last = calendar.monthrange(month.year, month.number)[1]
    return date(month.year, month.number, min(day.day, last))


def due(
    deadline: Deadline, received: datetime, working: WorkingCalendar, *, extended: bool = False
) -> datetime:
    """The last instant at which a deadline is kept.

    Args:
        deadline: The deadline.
        received: When the request came.
        working: Whose days.
        extended: Whether the subject was told in time that it takes longer.
    """
    day = working.day_of(received)
    length = deadline.length + (deadline.extension if extended else 0)
    match deadline.count:
        case "months":
            end = months_later(day, length)
        case "days":
            end = day + timedelta(days=length)
        case "business-days":
            end = working.plus_working_days(day, length)
    return working.end_of(working.next_working_day(end) if deadline.rolls else end)


def urgency(
    due_at: datetime, now: datetime, *, open_still: bool, soon: timedelta = DUE_SOON
) -> Urgency:
    """How a deadline stands."""
    if not open_still:
        return "ended"
    if now > due_at:
        return "overdue"
    return "due-soon" if now > due_at - soon else "in-time"


def may_extend(
    deadline: Deadline, *, due_at: datetime, extended: bool, reason: str, now: datetime
) -> Ruling:
    """Whether an officer may take the longer period (GDPR Art. 12(3), 11 CCR 7021(b))."""
    if not deadline.extension:
        return Refused(
            "no-extension", f"{deadline.source} knows no extension", "answer it, or refuse it"
        )
    if extended:
        return Refused("extended-already", "it was extended already", status="conflict")
    if now > due_at:
        return Refused(
            "extension-late",
            "a notice must be given before the first period ends, and that is over",
            "answer it, or refuse it",
        )
    if not reason.strip():
        return contradiction("reason-missing", "the subject must be told the reason for the delay")
    return ALLOWED


def may_skip_proof(
    book: DeadlineBook, jurisdiction: str, kind: SubjectRight
) -> WithoutProof | Refused:
    """The rule by which a request may go to sites before it is known who asks."""
    rule = book.needs_no_proof(jurisdiction, kind)
    if rule is not None:
        return rule
    return contradiction(
        "proof-needed",
        f"{jurisdiction} asks for proof of who makes a request for {kind}",
        "choose another way to show who asks",
    )


def may_refuse_on(
    book: DeadlineBook, jurisdiction: str, kind: SubjectRight, ground: str
) -> Ground | Refused:
    """The ground of that name, where the law has it for such a request."""
    known: Collection[Ground] = book.grounds(jurisdiction, kind)
    for one in known:
        if one.id == ground:
            return one
    names = ", ".join(sorted(one.id for one in known))
    return contradiction(
        "no-such-ground",
        f"{jurisdiction} knows no such ground to refuse {kind}",
        f"name one of: {names}",
    )
