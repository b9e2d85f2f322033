"""A subject request's state machine and its clocks, without a service."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from audit.errors import MalformedInput
from compliance.rules.deadlines import (
    Deadline,
    WorkingCalendar,
    deadline_book,
    due,
    may_extend,
    may_refuse_on,
    months_later,
    urgency,
)
from compliance.rules.ruling import Refused
from compliance.rules.subject_requests import (
    ENDED,
    Answered,
    Completed,
    Event,
    Expired,
    IdentityAsked,
    IdentityProven,
    RefusedByOfficer,
    RequestStage,
    Sent,
    SubjectRequest,
    Taken,
    Waived,
    closes_itself,
    may_answer,
    open_request,
    step,
)
from compliance.statements import SubjectAnswer, SubjectRight

SITES = ("east", "north", "south")
DIGEST = "sha256:" + "1" * 64
RIGHTS: tuple[SubjectRight, ...] = (
    "access", "erasure", "rectification", "restriction", "objection", "portability",
)  # fmt: skip

LEGAL: dict[RequestStage, set[RequestStage]] = {
    "received": {"received", "identity-pending", "verified", "refused", "expired"},
    "identity-pending": {"identity-pending", "verified", "refused", "expired"},
    "verified": {"at-sites", "refused"},
    "at-sites": {"at-sites", "answered", "refused"},
    "answered": {"completed", "refused"},
    "completed": set(),
    "refused": set(),
    "expired": set(),
}
"""Written down beside the machine, so that a changed transition is noticed."""


def opened(*sites: str) -> SubjectRequest:
    request = open_request("erasure", sites or SITES)
    assert isinstance(request, SubjectRequest)
    return request


def done(request: SubjectRequest, *events: Event) -> SubjectRequest:
    for event in events:
        after = step(request, event)
        assert isinstance(after, SubjectRequest), after
        request = after
    return request


class AnyOrder(RuleBasedStateMachine):
    """Whatever is asked for, in whatever order."""

    request: SubjectRequest

    @initialize(sites=st.lists(st.sampled_from(SITES), min_size=1, max_size=3, unique=True))
    def begin(self, sites: list[str]) -> None:
        self.request = opened(*sites)
        self.stages: list[RequestStage] = ["received"]
        self.proven = self.sent = False
        self.answers: dict[str, str] = {}
        self.waived: set[str] = set()

    @rule(
        event=st.one_of(
            st.sampled_from(
                [
                    IdentityAsked(), IdentityProven(), Sent(), Completed(), RefusedByOfficer(),
                    Expired(),
                ]
            ),
            st.builds(Taken, st.sampled_from(SITES)),
            st.builds(
                Answered, st.sampled_from(SITES), st.sampled_from(["done", "not-found", "refused"])
            ),
            st.builds(Waived, st.sampled_from(SITES), st.booleans()),
        )
    )  # fmt: skip
    def ask(self, event: Event) -> None:
        after = step(self.request, event)
        if isinstance(after, Refused):
            return
        if isinstance(event, IdentityProven):
            self.proven = True
        if isinstance(event, Sent):
            assert self.proven, "sent to sites before identity was proven"
            self.sent = True
        if isinstance(event, Answered):
            assert self.sent
            assert event.site not in self.answers, "answered twice"
            assert event.site not in self.waived
            self.answers[event.site] = event.outcome
        if isinstance(event, Waived):
            assert self.sent
            assert event.is_revoked, "a site that can answer was waived"
            assert event.site not in self.answers, "an answer was waived"
            self.waived.add(event.site)
        if isinstance(event, RefusedByOfficer):
            assert "done" not in self.answers.values()
        self.request = after
        self.stages.append(after.stage)

    @invariant()
    def every_transition_is_legal(self) -> None:
        for before, after in pairwise(self.stages):
            assert after in LEGAL[before], f"{before} -> {after}"

    @invariant()
    def completed_means_that_every_site_answered_or_was_waived(self) -> None:
        if self.request.stage in ("answered", "completed"):
            over = set(self.answers) | self.waived
            assert over == {part.site for part in self.request.parts}
        if self.waived:
            assert not closes_itself(self.request)
        for part in self.request.parts:
            assert (part.outcome is not None) == (part.state == "answered")
            assert part.outcome == self.answers.get(part.site)
            if not self.sent:
                assert part.state in ("held", "cancelled")
            if self.request.stage in ENDED:
                assert part.state in ("answered", "cancelled", "waived")


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_one_sites_part_waits_for_no_other() -> None:
    request = done(
        opened(), IdentityAsked(), IdentityProven(), Sent(), Taken("north"),
        Answered("north", "done"), Answered("east", "not-found"),
    )  # fmt: skip
    assert request.stage == "at-sites"
    assert not closes_itself(request)
    request = done(request, Answered("south", "done"))
    assert closes_itself(request)
    assert done(request, Completed()).ended


def test_a_site_that_refused_is_looked_at_before_the_request_closes() -> None:
    request = done(opened("north"), IdentityProven(), Sent(), Answered("north", "refused"))
    assert request.stage == "answered"
    assert not closes_itself(request)
    assert done(request, RefusedByOfficer()).stage == "refused"
    assert done(request, Completed()).stage == "completed"


def test_what_was_done_cannot_be_refused_afterwards() -> None:
    request = done(opened(), IdentityProven(), Sent(), Answered("north", "done"))
    refusal = step(request, RefusedByOfficer())
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.status) == ("request-state", "conflict")


@pytest.mark.parametrize(("sites", "code"), [((), "no-sites"), (("a", "a"), "site-twice")])
def test_what_is_no_request(sites: tuple[str, ...], code: str) -> None:
    refusal = open_request("access", sites)
    assert isinstance(refusal, Refused)
    assert refusal.code == code


# --- answers -------------------------------------------------------------------------------------


def answer(right: SubjectRight = "erasure", **fields: object) -> SubjectAnswer:
    body = {
        "request": "a" * 32, "site": "north", "right": right, "outcome": "done",
        "answered_by": "policy", "answered_at": "2026-11-02T10:00:00.000Z", **fields,
    }  # fmt: skip
    return SubjectAnswer.from_body(body)


EVIDENCE: dict[SubjectRight, dict[str, object]] = {
    "erasure": {"erasures": [DIGEST]},
    "restriction": {"excluded": True},
    "objection": {"excluded": True},
    "rectification": {"corrected": True},
    "access": {"package": DIGEST, "delivery": "sealed"},
    "portability": {"package": DIGEST, "delivery": "by-operator"},
}


@pytest.mark.parametrize("right", RIGHTS)
def test_an_answer_is_done_with_its_own_evidence_alone(right: SubjectRight) -> None:
    assert answer(right, **EVIDENCE[right]).outcome == "done"
    with pytest.raises(MalformedInput, match="done by something else"):
        answer(right)
    for other, evidence in EVIDENCE.items():
        if evidence.keys() != EVIDENCE[right].keys():
            with pytest.raises(MalformedInput, match="done by something else"):
                answer(right, **{**EVIDENCE[right], **EVIDENCE[other]})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"outcome": "not-found", "erasures": [DIGEST]}, "and yet something was done"),
        ({"outcome": "refused"}, "a refusal has one"),
        ({"outcome": "not-found", "ground": "excessive"}, "nothing else does"),
        ({"erasures": [DIGEST], "ground": "excessive"}, "only a refusal"),
        ({"right": "access", "package": DIGEST}, "delivery"),
        ({"subject": "P-1"}, "unknown field"),
    ],
)
def test_an_answer_that_contradicts_itself(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        answer(**fields)  # type: ignore[arg-type]


def test_a_site_answers_for_itself_and_what_was_asked() -> None:
    request = opened()
    assert may_answer(answer(erasures=[DIGEST]), request, "north") is None
    for refusal in (
        may_answer(answer(erasures=[DIGEST]), request, "south"),
        may_answer(answer("objection", excluded=True), request, "north"),
    ):
        assert isinstance(refusal, Refused)


# --- clocks --------------------------------------------------------------------------------------


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def find(jurisdiction: str, right: SubjectRight, clock: str = "answer") -> Deadline:
    found = deadline_book().find(jurisdiction, right, clock)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("received", "months", "expected"),
    [
        # The examples of EDPB Guidelines 01/2022, paragraph 160, are doctests of months_later.
        ("2026-01-31", 1, "2026-02-28"),
        ("2024-01-31", 1, "2024-02-29"),  # a leap year
        ("2024-02-29", 1, "2024-03-29"),
        ("2024-02-29", 12, "2025-02-28"),
        ("2026-11-30", 3, "2027-02-28"),
        ("2026-12-31", 2, "2027-02-28"),
        ("2026-10-31", 13, "2027-11-30"),
    ],
)
def test_months_end_where_the_regulation_says(received: str, months: int, expected: str) -> None:
    day = months_later(date.fromisoformat(received), months)
    assert day.isoformat() == expected


@pytest.mark.parametrize(
    ("received", "extended", "expected"),
    [
        ("2026-11-02T09:00", False, "2026-12-02"),
        ("2026-11-02T23:59", False, "2026-12-02"),
        ("2026-11-02T09:00", True, "2027-02-02"),
        ("2026-10-14T09:00", False, "2026-11-16"),  # 14 November is a Saturday
        ("2026-11-25T09:00", False, "2026-12-28"),  # a holiday that the operator names, a Friday
        ("2026-01-31T09:00", False, "2026-03-02"),  # 28 February is a Saturday
    ],
)
def test_gdpr_counts_calendar_months(received: str, extended: bool, expected: str) -> None:
    holidays = frozenset({date(2026, 12, 25)})
    ends = due(
        find("gdpr", "erasure"), moment(received), WorkingCalendar(UTC, holidays), extended=extended
    )
    assert ends == moment(f"{expected}T23:59:59.999")


@pytest.mark.parametrize(
    ("right", "clock", "extended", "expected"),
    [
        ("erasure", "confirm", False, "2026-11-16"),  # ten business days after Monday the 2nd
        ("erasure", "answer", False, "2026-12-17"),
        ("erasure", "answer", True, "2027-01-31"),  # a Sunday, and it stays one
        ("objection", "answer", False, "2026-11-23"),
    ],
)
def test_ccpa_counts_days(right: SubjectRight, clock: str, extended: bool, expected: str) -> None:
    ends = due(
        find("ccpa", right, clock), moment("2026-11-02T09:00"), WorkingCalendar(), extended=extended
    )
    assert ends == moment(f"{expected}T23:59:59.999")


def test_a_business_day_is_no_holiday() -> None:
    working = WorkingCalendar(UTC, frozenset({date(2026, 11, 11)}))
    ends = due(find("ccpa", "erasure", "confirm"), moment("2026-11-02T09:00"), working)
    assert ends.date() == date(2026, 11, 17)


def test_days_are_the_operators() -> None:
    """Late in the evening of the 2nd in Los Angeles it is the 3rd in UTC."""
    local = WorkingCalendar(ZoneInfo("America/Los_Angeles"))
    ends = due(find("ccpa", "erasure"), moment("2026-11-03T05:00"), local)
    assert ends == moment("2026-12-18T07:59:59.999")
    assert due(find("ccpa", "erasure"), moment("2026-11-03T05:00"), WorkingCalendar()) == moment(
        "2026-12-18T23:59:59.999"
    )


@given(
    received=st.datetimes(datetime(2024, 1, 1), datetime(2032, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    right=st.sampled_from(RIGHTS),
    jurisdiction=st.sampled_from(deadline_book().jurisdictions),
)
def test_a_deadline_is_never_before_its_period_and_barely_after(
    received: datetime, right: SubjectRight, jurisdiction: str
) -> None:
    one = find(jurisdiction, right)
    first, longer = (due(one, received, WorkingCalendar(), extended=late) for late in (False, True))
    shortest, longest = {
        "months": (28 * one.length, 31 * one.length + 2),
        "days": (one.length, one.length),
        "business-days": (7 * one.length // 5 - 2, 7 * one.length // 5 + 2),
    }[one.count]
    days = (first.date() - received.date()).days
    assert shortest <= days <= longest
    assert longer > first if one.extension else longer == first


@pytest.mark.parametrize(
    ("now", "open_still", "expected"),
    [
        ("2026-11-25T23:59:59.999", True, "in-time"),
        ("2026-11-26T00:00", True, "due-soon"),
        ("2026-12-02T23:59:59.999", True, "due-soon"),
        ("2026-12-03T00:00", True, "overdue"),
        ("2027-12-03T00:00", False, "ended"),
    ],
)
def test_alarms(now: str, open_still: bool, expected: str) -> None:
    due_at = moment("2026-12-02T23:59:59.999")
    assert urgency(due_at, moment(now), open_still=open_still) == expected


def test_an_extension_is_taken_once_in_time_and_with_a_reason() -> None:
    one, due_at = find("gdpr", "access"), moment("2026-12-02T23:59:59.999")
    in_time = due_at - timedelta(days=1)

    def rule(**changes: object) -> str:
        facts = {"due_at": due_at, "extended": False, "reason": "many", "now": in_time, **changes}
        ruling = may_extend(one, **facts)  # type: ignore[arg-type]
        return ruling.code if isinstance(ruling, Refused) else "allowed"

    assert rule() == "allowed"
    assert rule(now=due_at) == "allowed"
    assert rule(now=due_at + timedelta(milliseconds=1)) == "extension-late"
    assert rule(extended=True) == "extended-already"
    assert rule(reason="  ") == "reason-missing"
    opt_out = may_extend(
        find("ccpa", "objection"), due_at=due_at, extended=False, reason="many", now=in_time
    )
    assert isinstance(opt_out, Refused)
    assert opt_out.code == "no-extension"


def test_a_refusal_needs_a_ground_that_the_law_has_for_it() -> None:
    book = deadline_book()
    ground = may_refuse_on(book, "gdpr", "erasure", "legal-claims")
    assert not isinstance(ground, Refused)
    assert "17(3)(e)" in ground.source
    for jurisdiction, right, name in (
        ("gdpr", "access", "legal-claims"),
        ("ccpa", "erasure", "excessive"),
        ("gdpr", "erasure", "no-time"),
    ):
        refusal = may_refuse_on(book, jurisdiction, right, name)  # type: ignore[arg-type]
        assert isinstance(refusal, Refused)
        assert "name one of" in refusal.fix


def test_every_law_has_a_deadline_and_a_ground_for_every_right() -> None:
    book = deadline_book()
    for jurisdiction in book.jurisdictions:
        for right in RIGHTS:
            assert book.find(jurisdiction, right, "answer") is not None
            assert book.grounds(jurisdiction, right)
