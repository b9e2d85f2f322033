"""Personal data breaches: the clock, and what may be written into the register.

* The clock runs from awareness and is the law's (`registers.toml`). It stands for whoever is the
  controller; a processor must tell the controller, for which the law gives no number.
* A risk that nobody has assessed counts as one: the clock runs. Only a stated reason why a risk is
  unlikely stops it.
* Awareness may be corrected to an earlier moment only. Otherwise the clock could be turned back.
* A late notification needs reasons for the delay; they are refused where there is none.
* A breach is closed when everything was stated and everybody told who must be; then nothing of it
  changes any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from compliance.rules.registers import LawBook
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction

BreachState = Literal["open", "closed"]
BreachRole = Literal["controller", "processor"]
BreachRisk = Literal["unknown", "unlikely", "likely", "high"]
BreachRecipient = Literal["authority", "controller", "subjects"]
ClockStatus = Literal["running", "due-soon", "overdue", "in-time", "late", "not-required"]

ENDED: Final[frozenset[ClockStatus]] = frozenset({"in-time", "late", "not-required"})
"""The clock stands."""

_COMPUTERS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A breach of before is a slip of the pen."""


@dataclass(frozen=True)
class Breach:
    """What the rules need to know of a breach.

    Attributes:
        state: Whether it may still change.
        role: What whoever runs the register is, as to these data.
        risk: To the people concerned.
        aware_at: When the breach became known.
        authority_at: When the supervisory authority was notified.
        controller_at: When the controller was told, by a processor.
        subjects_at: When the people concerned were told.
        stated: Names of the texts that are not empty.
    """

    state: BreachState
    role: BreachRole
    risk: BreachRisk
    aware_at: datetime
    authority_at: datetime | None = None
    controller_at: datetime | None = None
    subjects_at: datetime | None = None
    stated: frozenset[str] = frozenset()

    def told_at(self, to: BreachRecipient) -> datetime | None:
        """When somebody was told, if they were."""
        match to:
            case "authority":
                return self.authority_at
            case "controller":
                return self.controller_at
            case "subjects":
                return self.subjects_at


@dataclass(frozen=True)
class BreachClock:
    """How a breach stands against the law's clock.

    Attributes:
        status: `not-required` where no notification with a deadline is owed.
        due_at: The last moment in time; None where there is no clock.
        article: By which article.
    """

    status: ClockStatus
    due_at: datetime | None
    article: str


def breach_clock(breach: Breach, law: LawBook, now: datetime) -> BreachClock:
    """How long is left.

    Args:
        breach: The breach.
        law: The law.
        now: The present time.
    """
    if breach.role == "processor":
        return BreachClock("not-required", None, law.duty_of("notify-controller").article)
    duty = law.duty_of("notify-authority")
    if breach.risk == "unlikely" and breach.authority_at is None:
        return BreachClock("not-required", None, duty.article)
    if duty.hours is None:
        return BreachClock("not-required", None, duty.article)
    due_at = breach.aware_at + timedelta(hours=duty.hours)
    if breach.authority_at is not None:
        status: ClockStatus = "in-time" if breach.authority_at <= due_at else "late"
    elif now > due_at:
        status = "overdue"
    elif now >= due_at - timedelta(hours=duty.warn_hours or 0):
        status = "due-soon"
    else:
        status = "running"
    return BreachClock(status, due_at, duty.article)


def may_record_breach(breach: Breach, now: datetime) -> Ruling:
    """Whether a breach may be written into the register as it is described."""
    if breach.aware_at > now:
        return _in_future("aware_at")
    if breach.aware_at < _COMPUTERS:
        return _TOO_EARLY
    return _assessed(breach)


def may_update_breach(before: Breach, after: Breach) -> Ruling:
    """Whether the description of a breach may change so."""
    if before.state == "closed":
        return _CLOSED
    if after.aware_at > before.aware_at:
        return Refused(
            "awareness-later",
            "awareness can be corrected to an earlier moment only: the clock is not turned back",
            "state in the facts what became clear later",
        )
    if after.aware_at < _COMPUTERS:
        return _TOO_EARLY
    return _assessed(after)


def may_refer(to: BreachRecipient, reference: str) -> Ruling:
    """Whether whoever was told can have given a reference; most often there is none."""
    if reference and to != "authority":
        return contradiction("no-reference", "only an authority gives a reference", "leave it out")
    return ALLOWED


def may_notify(
    breach: Breach,
    to: BreachRecipient,
    at: datetime,
    reasons_for_delay: str,
    law: LawBook,
    now: datetime,
) -> Ruling:
    """Whether it may be recorded that somebody was told of a breach.

    Args:
        breach: The breach before.
        to: Who was told.
        at: When.
        reasons_for_delay: Why not in time; empty where it was.
        law: The law.
        now: The present time.
    """
    if breach.state == "closed":
        return _CLOSED
    if at > now:
        return _in_future("at")
    if at < breach.aware_at:
        return Refused(
            "before-awareness", "nobody can be told before it was known", "", "malformed"
        )
    if breach.told_at(to) is not None:
        return Refused(
            "told-already", f"it is recorded already when the {to} was told", status="conflict"
        )
    if to == "controller" and breach.role == "controller":
        return Refused(
            "own-controller",
            "a controller does not notify itself",
            "record the breach with --role processor where another is the controller",
        )
    late = to == "authority" and _is_late(breach, at, law)
    article = law.duty_of("notify-authority").article
    if late and not reasons_for_delay:
        return Refused(
            "delay-unexplained",
            f"this notification is late, and {article} asks for the reasons",
            "give --reasons-for-delay",
        )
    if reasons_for_delay and not late:
        return Refused(
            "no-delay", "there is no delay to give reasons for", "leave them out", "malformed"
        )
    return ALLOWED


def may_close_breach(breach: Breach, law: LawBook) -> Ruling:
    """Whether a breach is completely dealt with."""
    if breach.state == "closed":
        return _CLOSED
    missing = [
        name for name in ("facts", "effects", "remedial_action") if name not in breach.stated
    ]
    if missing:
        words = ", ".join(name.replace("_", " ") for name in missing)
        article = law.duty_of("record-breach").article
        return Refused(
            "not-stated", f"{article} asks for what is not stated yet: {words}", "update it first"
        )
    if breach.role == "processor":
        if breach.controller_at is None:
            return _untold("controller", law.duty_of("notify-controller").article)
        return ALLOWED
    if breach.risk == "unknown":
        return Refused(
            "risk-unknown", "the risk to people is not assessed", "update it with --risk"
        )
    if breach.risk != "unlikely" and breach.authority_at is None:
        return _untold("authority", law.duty_of("notify-authority").article)
    if (
        breach.risk == "high"
        and breach.subjects_at is None
        and "reasons_not_to_tell_subjects" not in breach.stated
    ):
        return _untold("subjects", law.duty_of("tell-subjects").article)
    return ALLOWED


_TOO_EARLY: Final = contradiction(
    "before-computers", "aware_at: expected a time after 1970", "check the date"
)

_CLOSED: Final = Refused(
    "breach-closed",
    "the breach is closed, and nothing of it changes any more",
    "record a new one that refers to it",
    "conflict",
)


def _is_late(breach: Breach, at: datetime, law: LawBook) -> bool:
    if breach.role != "controller":
        return False
    hours = law.duty_of("notify-authority").hours
    return hours is not None and at > breach.aware_at + timedelta(hours=hours)


def _assessed(breach: Breach) -> Ruling:
    if breach.risk == "unlikely" and "risk_reason" not in breach.stated:
        return Refused(
            "risk-unexplained",
            "that a risk is unlikely stops the clock, so it needs a reason",
            "give --risk-reason",
        )
    return ALLOWED


def _in_future(field: str) -> Refused:
    return Refused("in-future", f"{field} lies in the future", "check the clock", "malformed")


def _untold(who: str, article: str) -> Refused:
    return Refused(
        f"{who}-untold",
        f"{article} is not met: nothing records that the {who} was told",
        "record it with `compliance breaches notify`, or update risk or reasons",
    )
