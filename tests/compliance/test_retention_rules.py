"""What may be shredded when: properties of the rules, and the data that they are."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.errors import MalformedInput
from audit.log import action_key_name, subject_key_name
from compliance.rules.months import Month
from compliance.rules.retention import (
    ANY,
    ActionKey,
    Hold,
    Judgement,
    Policy,
    RetentionSettings,
    Rule,
    RuleBook,
    default_rules,
    matches,
    may_apply,
    parse_retention_settings,
    parse_rules,
)
from compliance.rules.ruling import Refused

BOOK = default_rules()
ROOT = Path(__file__).parents[2]

months = st.builds(Month, st.integers(2020, 2040), st.integers(1, 12))
actions = st.sampled_from(
    [
        "plan.approved",
        "round.reported",
        "release.granted",
        "release.downloaded",
        "request.filed",
        "request.refused",
        "refusal.reported",
        "round-train",
        "task-refused",
        "log.queried",
    ]
)
jurisdictions = st.sets(st.sampled_from(BOOK.jurisdictions))
settings = jurisdictions.map(lambda names: RetentionSettings(jurisdictions=tuple(sorted(names))))
moments = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
    datetime(2080, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def judge(
    key: ActionKey,
    settings: RetentionSettings,
    now: datetime,
    *holds: Hold,
    book: RuleBook = BOOK,
    ended: Month | None = None,
) -> Judgement:
    """With everything that entries are about ended in the entries' own month, unless given."""
    return Policy(book, settings).judge(key, holds, now, lambda key: ended or key.month)


def months_later(moment: datetime, count: int) -> datetime:
    """The same day so many months later, or the last of that month (Regulation 1182/71 Art. 3)."""
    year, number = divmod(moment.year * 12 + moment.month - 1 + count, 12)
    last = calendar.monthrange(year, number + 1)[1]
    return moment.replace(year=year, month=number + 1, day=min(moment.day, last))


def rule(**changes: object) -> Rule:
    return Rule.model_validate(
        {
            "id": "test",
            "jurisdiction": "gdpr",
            "actions": ["plan."],
            "minimum_months": 6,
            "minimum_is": "law",
            "shred_after_months": 12,
            "counts_from": "entry",
            "source": "nowhere",
            "why": "a test",
            **changes,
        }
    )


def book(*rules: Rule) -> RuleBook:
    return RuleBook(format="fiduciary.retention-rules/1", version="2026-01-01", rule=rules)


# --- months ---------------------------------------------------------------------------------------


@given(st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)), st.integers(0, 240))  # noqa: DTZ001
def test_a_month_is_past_only_when_its_last_instant_is(moment: datetime, count: int) -> None:
    """By an independent count of days, for every moment of a month."""
    due = Month.of(moment.replace(tzinfo=UTC)).first_after(count)
    assert datetime(due.year, due.number, 1) > months_later(moment, count)  # noqa: DTZ001


@given(months, st.integers(0, 240))
def test_a_month_is_past_as_soon_as_its_last_instant_is(month: Month, count: int) -> None:
    last_day = calendar.monthrange(month.year, month.number)[1]
    last = datetime(month.year, month.number, last_day, 23, 59, 59, tzinfo=UTC)
    due = month.first_after(count)
    assert Month.of(months_later(last, count)).plus(1) == due


def test_months_are_of_utc_and_need_a_zone() -> None:
    east = timezone(timedelta(hours=9))
    assert str(Month.of(datetime(2026, 2, 1, 1, tzinfo=east))) == "2026-01"
    with pytest.raises(ValueError, match="zone"):
        Month.of(datetime(2026, 2, 1))  # noqa: DTZ001


@pytest.mark.parametrize("text", ["2026-00", "2026-1", "26-01", "2026-01 ", "\uff1226-01"])
def test_what_is_no_month(text: str) -> None:
    assert Month.parse(text) is None
    assert ActionKey.parse(f"action:plan.approved:{text}") is None


def test_keys_are_named_as_the_log_names_them() -> None:
    name = action_key_name("a.b:c/d-e", "2026-01")
    key = ActionKey.parse(name)
    assert key == ActionKey("a.b:c/d-e", Month(2026, 1))
    assert key is not None
    assert key.name == name
    for other in (
        subject_key_name("ab"),
        subject_key_name("ab", 2),
        "action::2026-01",
        "dataset:x",
    ):
        assert ActionKey.parse(other) is None


# --- periods --------------------------------------------------------------------------------------


@given(actions, months, settings, moments)
def test_nothing_is_due_before_the_minimum_of_any_rule_that_applies(
    action: str, month: Month, settings: RetentionSettings, now: datetime
) -> None:
    if judge(ActionKey(action, month), settings, now).status != "due":
        return
    applying = [
        rule
        for rule in BOOK.rule
        if rule.jurisdiction in (ANY, *settings.jurisdictions) and rule.covers(action)
    ]
    assert applying
    last_day = calendar.monthrange(month.year, month.number)[1]
    newest = datetime(month.year, month.number, last_day, 23, 59, 59, 999_999, tzinfo=UTC)
    for rule in applying:
        assert months_later(newest, rule.minimum_months) < now, rule.id


@given(actions, months, settings, settings, moments)
def test_another_jurisdiction_never_shortens(
    action: str, month: Month, some: RetentionSettings, more: RetentionSettings, now: datetime
) -> None:
    key = ActionKey(action, month)
    both = RetentionSettings(jurisdictions=tuple({*some.jurisdictions, *more.jurisdictions}))
    alone = judge(key, some, now)
    if alone.due is None:
        return  # no rule ends it: another may
    together = judge(key, both, now)
    assert together.due is None or together.due >= alone.due


@given(actions, months, settings, moments, st.timedeltas(timedelta(0), timedelta(days=9000)))
def test_what_is_due_stays_due(
    action: str, month: Month, settings: RetentionSettings, now: datetime, later: timedelta
) -> None:
    key = ActionKey(action, month)
    if judge(key, settings, now).status == "due":
        assert judge(key, settings, now + later).status == "due"


@given(months, st.integers(0, 60), st.integers(0, 60))
def test_the_longest_wins(month: Month, one: int, other: int) -> None:
    rules = book(
        rule(id="one", minimum_months=0, shred_after_months=one),
        rule(id="other", jurisdiction="hipaa", minimum_months=0, shred_after_months=other),
    )
    named = RetentionSettings(jurisdictions=("gdpr", "hipaa"))
    now = datetime(2020, 1, 1, tzinfo=UTC)
    judgement = judge(ActionKey("plan.approved", month), named, now, book=rules)
    assert judgement.due == month.first_after(max(one, other))


@given(months, moments)
@example(Month(2026, 10), datetime(2026, 11, 1, tzinfo=UTC))
def test_the_present_month_is_never_due(month: Month, now: datetime) -> None:
    rules = book(rule(minimum_months=0, shred_after_months=0))
    key = ActionKey("plan.approved", month)
    due = judge(key, RetentionSettings(jurisdictions=("gdpr",)), now, book=rules)
    assert (due.status == "due") == (month < Month.of(now))


@given(actions, months)
def test_without_a_jurisdiction_nothing_is_ever_due(action: str, month: Month) -> None:
    judgement = judge(
        ActionKey(action, month), RetentionSettings(), datetime(9999, 1, 1, tzinfo=UTC)
    )
    assert judgement.status == "kept"
    assert judgement.due is None


@pytest.mark.parametrize(
    "action",
    [
        "subject.erased",
        "subject-erased",
        "subject-readmitted",
        "subjects.recorded",
        "retention.ordered",
        "retention.held",
        "budget-reserved",
        "budget-round-started",
        "principal.added",
        "site.admitted",
        "site-created",
        "dataset-added",
        "log-alarm",
        "something.nobody.thought.of",
    ],
)
def test_what_others_depend_on_is_never_due(action: str) -> None:
    everywhere = RetentionSettings(jurisdictions=BOOK.jurisdictions)
    key = ActionKey(action, Month(2000, 1))
    assert judge(key, everywhere, datetime(9999, 1, 1, tzinfo=UTC)).status == "kept"


@pytest.mark.parametrize("action", ["privacy-evaluated", "round-noted"])
def test_what_a_site_notes_of_its_training_ends_with_its_training(action: str) -> None:
    for law in ("gdpr", "hipaa", "ai-act"):
        settings = RetentionSettings(jurisdictions=(law,))
        found, trained = (
            judge(ActionKey(name, Month(2026, 1)), settings, datetime(2030, 1, 1, tzinfo=UTC))
            for name in (action, "round-train")
        )
        assert (found.status, found.due) == (trained.status, trained.due)
        assert found.due is not None


def test_the_period_counts_from_the_end_of_what_it_is_about() -> None:
    settings = RetentionSettings(jurisdictions=("hipaa",))
    key = ActionKey("plan.approved", Month(2020, 1))
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert judge(key, settings, now).status == "due"
    waiting = judge(key, settings, now, ended=Month(2022, 3))
    assert (waiting.status, waiting.due) == ("waiting", Month(2028, 4))
    open_still = Policy(BOOK, settings).judge(key, (), now, lambda _: None)
    assert (open_still.status, open_still.due) == ("in-effect", None)
    # What ended before the entry was made does not bring its end forward.
    assert judge(key, settings, now, ended=Month(2010, 1)).due == Month(2026, 2)


# --- an operator's choices ------------------------------------------------------------------------


def test_an_operator_may_lengthen_and_not_go_below_a_minimum() -> None:
    for chosen, months in ((24, 24), (48, 48)):
        settings = RetentionSettings(jurisdictions=("ccpa",), months={"request.filed": chosen})
        assert not isinstance(may_apply(BOOK, settings), Refused)
        key = ActionKey("request.filed", Month(2020, 1))
        due = judge(key, settings, datetime(2020, 1, 1, tzinfo=UTC)).due
        assert due == Month(2020, 1).first_after(months)
    short = RetentionSettings(jurisdictions=("ccpa",), months={"request.filed": 23})
    ruling = may_apply(BOOK, short)
    assert isinstance(ruling, Refused)
    assert ruling.code == "below-minimum"
    assert "ccpa-requests" in ruling.reason
    assert "7101(a)" in ruling.reason
    assert "24" in ruling.fix


@given(actions, st.integers(0, 200), jurisdictions, st.integers(1, 3))
def test_no_setting_that_is_accepted_ends_before_a_minimum(
    action: str, chosen: int, names: set[str], words: int
) -> None:
    pattern = action if words > 1 else re.split(r"(?<=[.-])", action)[0]
    settings = RetentionSettings(jurisdictions=tuple(sorted(names)), months={pattern: chosen})
    refused = isinstance(may_apply(BOOK, settings), Refused)
    key = ActionKey(action, Month(2020, 1))
    due = judge(key, settings, datetime(2020, 1, 1, tzinfo=UTC)).due
    minimum = max(
        (r.minimum_months for r in BOOK.rule if r.jurisdiction in names and r.covers(action)),
        default=None,
    )
    if due is None:
        return
    assert minimum is not None
    assert due >= Month(2020, 1).first_after(minimum)
    if not refused:
        assert due == Month(2020, 1).first_after(chosen)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (RetentionSettings(jurisdictions=("gpdr",)), "jurisdiction-unknown"),
        (RetentionSettings(jurisdictions=("any",)), "jurisdiction-unknown"),
        (RetentionSettings(months={"plan.": 100}), "no-rule"),
        (RetentionSettings(jurisdictions=("ccpa",), months={"plan.": 100}), "no-rule"),
        (RetentionSettings(jurisdictions=("gdpr",), months={"budget-": 100}), "kept-for-ever"),
        (
            RetentionSettings(jurisdictions=("gdpr",), months={"subject.erased": 99}),
            "kept-for-ever",
        ),
        (RetentionSettings(jurisdictions=("hipaa",), months={"release.": 71}), "below-minimum"),
        (
            RetentionSettings(jurisdictions=("hipaa",), months={"release.granted": 71}),
            "below-minimum",
        ),
    ],
)
def test_what_an_operator_cannot_choose(settings: RetentionSettings, code: str) -> None:
    ruling = may_apply(BOOK, settings)
    assert isinstance(ruling, Refused)
    assert ruling.code == code
    assert ruling.fix


# --- holds ----------------------------------------------------------------------------------------


@given(actions, months, settings, moments, st.booleans())
def test_a_hold_keeps_what_it_covers(
    action: str, month: Month, settings: RetentionSettings, now: datetime, by_action: bool
) -> None:
    key = ActionKey(action, month)
    hold = Hold("case-17", action if by_action else None, month, month, "inquiry", "officer", "")
    judgement = judge(key, settings, now, hold)
    assert judgement.hold == "case-17"
    assert judgement.status != "due"
    assert judge(ActionKey(action, month.plus(1)), settings, now, hold).hold is None


def test_patterns_are_exact_or_prefixes() -> None:
    assert matches("round-", "round-train")
    assert not matches("round", "round-train")
    assert not matches("request.", "requests.filed")
    assert not matches("request.filed.", "request.filed")


# --- the data -------------------------------------------------------------------------------------


def test_every_rule_of_law_has_a_number_of_its_source() -> None:
    numbers = {rule.id: rule.minimum_months for rule in BOOK.rule if rule.minimum_is == "law"}
    assert numbers == {
        "ccpa-requests": 24,
        "hipaa-documentation": 72,
        "hipaa-activity": 72,
        "ai-act-documentation": 120,
        "ai-act-logs": 6,
    }


def test_rules_that_always_apply_can_only_keep() -> None:
    assert all(r.shred_after_months == "never" for r in BOOK.rule if r.jurisdiction == ANY)
    with pytest.raises(ValueError, match="can only keep"):
        rule(jurisdiction="any")
    with pytest.raises(ValueError, match="before its own minimum"):
        rule(shred_after_months=5)


def test_the_operators_page_shows_the_rules_as_they_are() -> None:
    page = (ROOT / "docs" / "retention.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    expected = []
    for rule in BOOK.rule:
        shred = rule.shred_after_months
        after = "never" if shred == "never" else f"{shred}"
        minimum = f"{rule.minimum_months} ({rule.minimum_is})" if rule.minimum_months else "-"
        covered = ", ".join(rule.actions)
        start = {"entry": "entry", "last-in-effect": "last in effect"}[rule.counts_from]
        expected.append(
            f"| `{rule.id}` | {rule.jurisdiction} | {covered} | {minimum} | {after} | {start} |"
            f" {rule.source} |"
        )
    assert rows == expected, "\n" + "\n".join(expected)
    assert f"version {BOOK.version}" in page


# --- malformed files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "not UTF-8"),
        (b"format = ", "Invalid value"),
        (b"", "has no format"),
        (b'format = "fiduciary.retention/2"', "format"),
        (b'format = "fiduciary.retention/1"\njurisdiction = ["gdpr"]', "jurisdiction"),
        (b'format = "fiduciary.retention/1"\njurisdictions = "gdpr"', "jurisdictions"),
        (b'format = "fiduciary.retention/1"\n[months]\n"plan." = -1', "months"),
        (b'format = "fiduciary.retention/1"\n[months]\n"plan." = 1.5', "months"),
        (b'format = "fiduciary.retention/1"\n[months]\n"plan." = "12"', "months"),
        (b'format = "fiduciary.retention/1"\n[months]\n"plan." = true', "months"),
        (b'format = "fiduciary.retention/1"\n[months]\n"Plan" = 12', "months"),
    ],
)
def test_a_malformed_file_is_refused_with_its_key(text: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message) as refused:
        parse_retention_settings(text)
    assert refused.value.fix


def test_malformed_rules_are_refused() -> None:
    text = b'format = "fiduciary.retention-rules/1"\nversion = "2026-01-01"\nrule = [{}]'
    with pytest.raises(MalformedInput, match="retention rules"):
        parse_rules(text)
