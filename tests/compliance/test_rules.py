"""Decisions alone: what they answer at their edges, whatever the order of facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance import rules
from compliance.rules import ALLOWED, Bearer, Grant, Invitation, Refused
from compliance.service.throttle import MAX_ADDRESSES, Throttle, Verdict
from compliance.statements import SiteEnrolment, TrainingPlan
from compliance.wire import ASSIGNABLE_ROLES, PlanState, ReleaseState, Role
from tests.compliance.federation import DIGEST, plan_body, triage_manifest

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
times = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
roles = st.frozensets(st.sampled_from(ASSIGNABLE_ROLES), min_size=1)
names = st.sampled_from(["ada", "bob", "cyd"])


def code(ruling: rules.Ruling) -> str | None:
    return ruling.code if isinstance(ruling, Refused) else None


@given(names, names, names, roles, st.sampled_from(["submitted", "approved", "failed"]))
def test_no_role_decides_about_its_own_work(
    officer: str, submitter: str, author: str, held: frozenset[Role], state: PlanState
) -> None:
    ruling = rules.may_decide(
        Bearer(officer, held),
        submitted_by=submitter,
        author=author,
        state=state,
        undecided="submitted",
    )
    if officer in (submitter, author):
        assert code(ruling) == "own-work"
    else:
        assert (ruling == ALLOWED) == (state == "submitted")


@given(
    names,
    names,
    st.sampled_from(["announced", "candidate", "approved", "rejected"]),
    st.sampled_from(["triage", "research"]),
    st.booleans(),
    times,
)
def test_nobody_grants_to_themselves(
    officer: str,
    grantee: str,
    state: ReleaseState,
    purpose: str,
    evidence_ended: bool,
    expires_at: datetime,
) -> None:
    ruling = rules.may_grant(
        Bearer(officer, frozenset({"officer"})),
        grantee=Bearer(grantee, frozenset({"consumer"})),
        purpose=purpose,
        purpose_of_plan="triage",
        release=state,
        evidence_ended=evidence_ended,
        expires_at=expires_at,
        now=NOW,
    )
    if ruling == ALLOWED:
        assert officer != grantee
        assert state == "approved"
        assert purpose == "triage"
        assert not evidence_ended
        assert NOW < expires_at <= NOW + rules.MAX_GRANT


@given(times, st.none() | times, st.none() | times)
def test_a_token_works_until_it_ends(
    now: datetime, expires_at: datetime | None, revoked_at: datetime | None
) -> None:
    ruling = rules.may_use_token(Bearer("ada", frozenset({"auditor"}), expires_at, revoked_at), now)
    alive = revoked_at is None and (expires_at is None or now < expires_at)
    assert (ruling == ALLOWED) == alive


@given(times, times, st.none() | times, st.sampled_from(["approved", "rejected", "candidate"]))
def test_a_download_needs_a_live_grant_of_an_approved_release(
    now: datetime, expires_at: datetime, revoked_at: datetime | None, state: ReleaseState
) -> None:
    ruling = rules.may_download(Grant(expires_at, revoked_at), state, now)
    live = revoked_at is None and now < expires_at and state == "approved"
    assert (ruling == ALLOWED) == live
    assert code(rules.may_download(None, state, now)) == "grant-missing"


def enrolment(site: str = "north") -> SiteEnrolment:
    return SiteEnrolment(
        federation="hospitals",
        site=site,
        identity_key="key",
        certificate_request="request",
        requested_at="2026-11-02T09:00:00Z",
    )


@given(times, times, st.none() | times, st.booleans(), st.booleans(), st.booleans())
def test_a_one_time_token_is_spent_by_one_statement(
    now: datetime,
    expires_at: datetime,
    spent_at: datetime | None,
    same_statement: bool,
    same_kit: bool,
    site_known: bool,
) -> None:
    spent_by = None if spent_at is None else (DIGEST if same_statement else "sha256:other")
    ruling = rules.may_enrol(
        Invitation("north", "kit", expires_at, spent_at, spent_by),
        kit_sha256="kit" if same_kit else "other",
        enrolment=enrolment(),
        enrolment_id=DIGEST,
        site_known=site_known,
        now=now,
    )
    if ruling == ALLOWED and spent_at is not None:
        assert same_statement
        assert now - spent_at <= rules.REPLAY_WINDOW
    elif ruling == ALLOWED:
        assert now < expires_at
        assert not site_known
    if ruling == ALLOWED:
        assert same_kit


def plan() -> TrainingPlan:
    return TrainingPlan.from_body(plan_body(("north", "south")))


epsilons = st.decimals("0", "12", places=3)


@given(st.dictionaries(st.sampled_from(["north", "south"]), epsilons), epsilons, epsilons)
def test_a_release_states_at_least_what_was_reported_and_at_most_what_was_promised(
    reported: dict[str, Decimal], north: Decimal, south: Decimal
) -> None:
    stated = {"north": north, "south": south}
    release = triage_manifest(epsilon_by_site={site: str(value) for site, value in stated.items()})
    ruling = rules.may_release(release, plan(), "completed", reported)
    honest = all(stated[site] >= spent for site, spent in reported.items())
    within = all(value <= 8 for value in stated.values())
    assert (ruling == ALLOWED) == (honest and within)


@pytest.mark.parametrize("suffix", rules.UNSAFE_SUFFIXES)
def test_formats_that_run_code_are_never_released(suffix: str) -> None:
    release = triage_manifest(files={f"weights{suffix.upper()}": DIGEST})
    assert code(rules.may_release(release, plan(), "completed", {})) == "unsafe-format"


def test_every_refusal_says_something() -> None:
    ruling = rules.may_invite(NOW - timedelta(1), NOW)
    assert isinstance(ruling, Refused)
    assert ruling.reason
    assert ruling.code == "expiry-past"


@given(st.integers(1, 50), st.integers(1, 10))
def test_the_throttle_answers_so_many_and_logs_the_limit_once(attempts: int, limit: int) -> None:
    throttle = Throttle(limit, timedelta(minutes=1))
    verdicts = [throttle.failed("192.0.2.1", NOW) for _ in range(attempts)]
    assert verdicts.count(Verdict.ANSWER) == min(attempts, limit)
    assert verdicts.count(Verdict.LIMIT_AND_LOG) == (1 if attempts > limit else 0)
    assert throttle.failed("192.0.2.2", NOW) is Verdict.ANSWER
    assert throttle.failed("192.0.2.1", NOW + timedelta(minutes=1)) is Verdict.ANSWER


def test_the_throttle_forgets_who_failed_longest_ago() -> None:
    throttle = Throttle(1, timedelta(minutes=1))
    for number in range(MAX_ADDRESSES + 1):
        throttle.failed(f"address-{number}", NOW)
    assert throttle.failed("address-1", NOW) is Verdict.LIMIT_AND_LOG
    assert throttle.failed("address-0", NOW) is Verdict.ANSWER
