"""The register of breaches: the law's clock, two ends of the wire, the log, the alarm."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.canonical import canonical_bytes, digest
from audit.errors import (
    Conflict,
    ExitCode,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unreachable,
)
from audit.key_manager import KeyDestroyed
from compliance import cli
from compliance.api import ComplianceClient
from compliance.breach_views import BreachView
from compliance.rules import ALLOWED
from compliance.rules import Refused as No
from compliance.rules.breaches import Breach, breach_clock, may_close_breach, may_notify
from compliance.rules.registers import LawBook, default_law, parse_law
from compliance.service.breaches import Written, find_breach, raise_alarms, watching
from compliance.service.metrics import ServiceMetrics
from compliance.statements import format_time
from tests.compliance.running import RunningService

LAW = default_law()
AWARE = datetime(2026, 3, 27, 22, 0, tzinfo=UTC)
SECRET = "Erika Mustermann's letter of 3 March"


# --- the clock ------------------------------------------------------------------------------------


def test_the_law_says_72_hours_from_awareness() -> None:
    """Art. 33(1) of Regulation (EU) 2016/679, read again here and not from the file."""
    duty = LAW.duty_of("notify-authority")
    assert (duty.hours, duty.article) == (72, "GDPR Art. 33(1)")


@pytest.mark.parametrize(
    ("hours", "status"),
    [(0, "running"), (47.99, "running"), (48, "due-soon"), (72, "due-soon"), (72.01, "overdue")],
)
def test_the_clock_runs_until_somebody_is_told(hours: float, status: str) -> None:
    for risk in ("unknown", "likely", "high"):
        breach = Breach("open", "controller", risk, AWARE)
        clock = breach_clock(breach, LAW, AWARE + timedelta(hours=hours))
        assert (clock.status, clock.due_at) == (status, datetime(2026, 3, 30, 22, 0, tzinfo=UTC))


@given(
    told=st.timedeltas(timedelta(0), timedelta(days=30)),
    now=st.timedeltas(timedelta(0), timedelta(days=60)),
)
@example(told=timedelta(hours=72), now=timedelta(hours=73))
def test_a_notification_is_late_exactly_after_72_hours(told: timedelta, now: timedelta) -> None:
    breach = Breach("open", "controller", "likely", AWARE, authority_at=AWARE + told)
    expected = "in-time" if told <= timedelta(hours=72) else "late"
    assert breach_clock(breach, LAW, AWARE + now).status == expected
    untold = Breach("open", "controller", "likely", AWARE)
    for reasons in ("", "the lock of the archive"):
        ruling = may_notify(untold, "authority", AWARE + told, reasons, LAW, AWARE + told)
        assert (ruling is ALLOWED) == ((expected == "late") == bool(reasons))


def test_only_an_assessed_and_unlikely_risk_or_being_a_processor_stops_the_clock() -> None:
    late = AWARE + timedelta(days=30)
    unlikely = Breach("open", "controller", "unlikely", AWARE)
    assert breach_clock(unlikely, LAW, late).status == "not-required"
    processor = breach_clock(Breach("open", "processor", "high", AWARE), LAW, late)
    assert (processor.status, processor.article) == ("not-required", "GDPR Art. 33(2)")


ALL = frozenset({"facts", "effects", "remedial_action"})


@pytest.mark.parametrize(
    ("breach", "code"),
    [
        (Breach("open", "controller", "high", AWARE, AWARE, stated=ALL - {"facts"}), "not-stated"),
        (Breach("open", "controller", "unknown", AWARE, AWARE, stated=ALL), "risk-unknown"),
        (Breach("open", "controller", "likely", AWARE, stated=ALL), "authority-untold"),
        (Breach("open", "controller", "high", AWARE, AWARE, stated=ALL), "subjects-untold"),
        (Breach("open", "processor", "high", AWARE, AWARE, stated=ALL), "controller-untold"),
        (Breach("closed", "controller", "likely", AWARE, AWARE, stated=ALL), "breach-closed"),
        (Breach("open", "controller", "likely", AWARE, AWARE, stated=ALL), None),
        (Breach("open", "controller", "unlikely", AWARE, stated=ALL), None),
        (Breach("open", "controller", "high", AWARE, AWARE, None, AWARE, ALL), None),
        (
            Breach(
                "open", "controller", "high", AWARE, AWARE,
                stated=ALL | {"reasons_not_to_tell_subjects"},
            ),
            None,
        ),
        (Breach("open", "processor", "unknown", AWARE, None, AWARE, stated=ALL), None),
    ],
)  # fmt: skip
def test_what_a_closed_breach_must_have(breach: Breach, code: str | None) -> None:
    ruling = may_close_breach(breach, LAW)
    assert (ruling.code if isinstance(ruling, No) else None) == code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"hours = 72\nwarn_hours = 24", "warns before"),
        (b"", "no duty notify-authority"),
    ],
)
def test_a_law_that_says_nothing_of_a_duty_is_no_law(change: bytes, message: str) -> None:
    head = b'format = "fiduciary.registers/1"\nversion = "2026-01-01"\n'
    duty = b'[[duty]]\nid = "x"\narticle = "A"\nsays = "s"\n' + change.replace(b"24", b"99")
    with pytest.raises(MalformedInput, match=message):
        _ask(parse_law(head + duty))


def _ask(law: LawBook) -> None:
    breach_clock(Breach("open", "controller", "likely", AWARE), law, AWARE)


# --- the register ---------------------------------------------------------------------------------


@pytest.fixture
def breach(service: RunningService, officer: ComplianceClient) -> BreachView:
    return officer.breaches.add("2026-1", aware_at="2026-11-02T08:00:00Z", facts=SECRET)


def test_a_breach_from_awareness_to_its_end(
    service: RunningService, officer: ComplianceClient, breach: BreachView
) -> None:
    assert (breach.clock.status, breach.clock.due_at) == ("running", "2026-11-05T08:00:00.000Z")
    register = officer.breaches
    with pytest.raises(Refused, match=r"33\(5\) asks for what is not stated yet: effects"):
        register.close("2026-1")
    register.update("2026-1", risk="high", effects="none seen", remedial_action="keys replaced")
    with pytest.raises(Refused, match=r"33\(1\) is not met"):
        register.close("2026-1")
    service.clock.advance(hours=2)
    told = register.notify("2026-1", "authority", at="2026-11-02T10:30:00+00:00", reference="A7")
    assert (told.clock.status, told.authority_at) == ("in-time", "2026-11-02T10:30:00.000Z")
    with pytest.raises(Refused, match=r"34\(1\) is not met"):
        register.close("2026-1")
    register.notify("2026-1", "subjects", at="2026-11-02T10:40:00Z")
    closed = register.close("2026-1", reason="done")
    assert closed.state == "closed"
    assert service.as_("auditor").breaches.list("closed") == (closed,)
    assert register.list("open") == ()
    with pytest.raises(Conflict, match="closed, and nothing of it changes"):
        register.update("2026-1", facts="other")
    steps = [
        (action, payload.get("changed"), payload.get("to"))
        for _, action, name, payload in service.entries()
        if name == "breach:2026-1"
    ]
    assert steps == [
        ("breach.recorded", None, None),
        ("breach.updated", ["effects", "remedial_action", "risk"], None),
        ("breach.notified", None, "authority"),
        ("breach.notified", None, "subjects"),
        ("breach.closed", None, None),
    ]


def test_the_log_commits_to_what_was_written_and_neither_it_nor_the_table_shows_it(
    service: RunningService, officer: ComplianceClient, breach: BreachView, tmp_path: Path
) -> None:
    content = {"content": breach.content.model_dump(), "salt": breach.salt}
    assert breach.commitment == digest(canonical_bytes(content))
    (_, _, _, payload), position = service.last_entry(), len(service.entries()) - 1
    assert payload["commitment"] == breach.commitment
    assert breach.positions == (position,)
    assert "Mustermann" not in json.dumps(payload)
    assert not any("Mustermann" in str(row) for rows in service.tables().values() for row in rows)
    again = officer.breaches.update("2026-1", effects="x")
    assert again.salt != breach.salt, "two commitments to the same words must not be equal"
    service.registry.keyring.destroy("breach:2026-1")
    with pytest.raises(FiduciaryError):
        officer.breaches.show("2026-1")
    with pytest.raises(KeyDestroyed):
        service.registry.keyring.data_key("breach:2026-1")


def test_the_clock_cannot_be_turned_back_and_a_reason_is_needed_to_stop_it(
    officer: ComplianceClient, breach: BreachView
) -> None:
    with pytest.raises(Refused, match="clock is not turned back"):
        officer.breaches.update("2026-1", aware_at="2026-11-02T08:00:01Z")
    earlier = officer.breaches.update("2026-1", aware_at="2026-11-01T08:00:00+01:00")
    assert earlier.clock.due_at == "2026-11-04T07:00:00.000Z"
    with pytest.raises(Refused, match="stops the clock, so it needs a reason"):
        officer.breaches.update("2026-1", risk="unlikely")
    view = officer.breaches.update("2026-1", risk="unlikely", risk_reason="it was encrypted")
    assert view.clock.status == "not-required"


def test_notifications_that_cannot_be(officer: ComplianceClient, breach: BreachView) -> None:
    in_time = "2026-11-02T08:30:00Z"
    for to, at, more, message in (
        ("authority", "2026-11-02T09:00:01Z", {}, "lies in the future"),
        ("authority", "2026-11-02T07:59:59Z", {}, "before it was known"),
        ("authority", in_time, {"reasons_for_delay": "x"}, "no delay"),
        ("subjects", in_time, {"reference": "A7"}, "^only an authority gives"),
        ("press", in_time, {}, "to: "),
        ("authority", "yesterday", {}, "RFC 3339"),
    ):
        with pytest.raises(MalformedInput, match=message):
            officer.breaches.notify("2026-1", to, at=at, **more)  # type: ignore[arg-type]
    assert officer.breaches.show("2026-1") == breach


def test_what_is_not_there_or_there_already(officer: ComplianceClient, breach: BreachView) -> None:
    with pytest.raises(NotFound, match="no such breach"):
        officer.breaches.show("2026-2")
    with pytest.raises(Conflict, match="a breach 2026-1 already"):
        officer.breaches.add("2026-1", aware_at="2026-11-02T08:00:00Z", facts="another")
    for at, message in (("2026-11-02T09:00:01Z", "future"), ("1969-12-31T23:59:59Z", "after 1970")):
        with pytest.raises(MalformedInput, match=message):
            officer.breaches.add("2026-2", aware_at=at, facts="?")
    with pytest.raises(MalformedInput, match=r"^aware_at: expected a time after 1970"):
        officer.breaches.update("2026-1", aware_at="1969-12-31T23:59:59Z")
    with pytest.raises(Refused, match="controller does not notify itself"):
        officer.breaches.notify("2026-1", "controller", at="2026-11-02T08:30:00Z")


def test_every_write_is_all_or_nothing_and_repeatable(
    service: RunningService, officer: ComplianceClient
) -> None:
    register, aware = officer.breaches, "2026-11-02T08:00:00Z"
    steps: list[Callable[[], BreachView]] = [
        lambda: register.add("b", aware_at=aware, facts="f", effects="e", remedial_action="r"),
        lambda: register.update("b", risk="likely"),
        lambda: register.notify("b", "authority", at="2026-11-02T08:30:00Z", reference="A7"),
        lambda: register.close("b", reason="done"),
    ]
    for step in steps:
        before = service.tables()
        for fault in ("append", "commit"):
            setattr(service.faults, fault, True)
            with pytest.raises(Unreachable, match="audit entry"):
                step()
            setattr(service.faults, fault, False)
            assert service.tables() == before
        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            step()
        service.faults.after_commit = False
        entries = len(service.entries())
        assert step() == register.show("b")
        assert len(service.entries()) == entries, "a repeat is no second event"


def test_a_report_says_when_words_are_not_those_that_were_logged(
    service: RunningService, officer: ComplianceClient, breach: BreachView
) -> None:
    def as_logged() -> list[str]:
        register = officer.reports.document("gdpr-33").sections[0].tables[0]
        return [row.cells[register.heads.index("words as logged")] for row in register.rows]

    assert as_logged() == ["yes"]
    officer.breaches.update("2026-1", effects="none seen")
    assert as_logged() == ["yes"]
    other = Written.new(breach.content.model_copy(update={"facts": "nothing happened"}))
    with service.registry.database.writing() as session:
        find_breach(session, "2026-1").sealed = other.seal(service.registry.keyring, "2026-1")
    assert as_logged() == ["NO"]


# --- the alarm ------------------------------------------------------------------------------------


def test_a_clock_that_runs_out_is_one_entry_and_a_metric(
    service: RunningService, officer: ComplianceClient, breach: BreachView
) -> None:
    metrics = ServiceMetrics()
    metrics.watch(service.registry)

    def breaches(clock: str) -> float | None:
        return metrics.registry.get_sample_value("fiduciary_breaches", {"clock": clock})

    assert (breaches("running"), breaches("overdue")) == (1, 0)
    assert raise_alarms(service.registry) == 0
    service.clock.advance(hours=71)
    assert raise_alarms(service.registry) == 0
    assert breaches("due-soon") == 1
    service.clock.advance(minutes=1)
    entries = len(service.entries())
    assert [raise_alarms(service.registry) for _ in range(3)] == [1, 1, 1]
    assert len(service.entries()) == entries + 1
    assert service.last_entry() == (
        "compliance",
        "breach.overdue",
        "breach:2026-1",
        {
            "due_at": "2026-11-05T08:00:00.000Z",
            "article": "GDPR Art. 33(1)",
            "law_version": LAW.version,
        },
    )
    assert breaches("overdue") == 1
    assert officer.breaches.show("2026-1").overdue_at == format_time(service.clock())
    with pytest.raises(Refused, match="asks for the reasons"):
        officer.breaches.notify("2026-1", "authority", at="2026-11-05T08:00:30Z")
    late = officer.breaches.notify(
        "2026-1", "authority", at="2026-11-05T08:00:30Z", reasons_for_delay="archive locked"
    )
    assert late.clock.status == "late"
    assert (breaches("overdue"), breaches("late")) == (0, 1)
    assert raise_alarms(service.registry) == 0


def test_the_watch_tells_once_more_when_more_are_overdue_and_no_failure_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[int | Exception] = [
        0, 1, 1, FiduciaryError("disk full", fix="free some"), ZeroDivisionError(SECRET), 2, 0, 1,
    ]  # fmt: skip

    def look() -> int:
        result = looks.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    with caplog.at_level(logging.INFO, "compliance.service"):
        watching(look, lambda _: not looks).serve()
    told = [getattr(record, "fiduciary_event", "") for record in caplog.records]
    assert told == [
        "breach-overdue", "breach-watch-failed", "breach-watch-failed", "breach-overdue",
        "breach-overdue",
    ]  # fmt: skip
    assert SECRET not in caplog.text


# --- the command ----------------------------------------------------------------------------------


def test_an_officer_writes_the_register(
    service: RunningService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.trust.save(tmp_path / "trust.json")
    monkeypatch.setenv("FIDUCIARY_TRUST", str(tmp_path / "trust.json"))
    monkeypatch.setenv("FIDUCIARY_TOKEN_FILE", str(service.folder.token("officer")))
    facts = tmp_path / "facts.txt"
    facts.write_text(f"{SECRET}\n[red]not markup[/]", "utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", "breaches", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out, captured.err

    code, out, err = run(
        "add", "2026-1", "--aware-at", "2026-11-02T08:00:00Z", "--facts", f"@{facts}",
        "--subjects", "40",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert SECRET in out
    assert "[red]not markup[/]" in out
    assert "notify by 2026-11-05T08:00:00.000Z (GDPR Art. 33(1))" in out
    assert run("add", "x", "--aware-at", "2026-11-02T08:00:00Z", "--facts", "@no")[0] == (
        ExitCode.NOT_FOUND
    )
    assert run("update", "2026-1")[0] == ExitCode.MALFORMED_INPUT
    code, _, err = run("close", "2026-1")
    assert code == ExitCode.REFUSED
    assert "effects, remedial action" in err
    assert (
        run("update", "2026-1", "--effects", "e", "--remedial-action", "r", "--risk", "likely")[0]
        == 0
    )
    code, out, _ = run("list", "--state", "open")
    assert "2026-1" in out
    assert "notify by" in out
    assert run("notify", "2026-1", "--to", "authority", "--at", "2026-11-02T08:30:00Z")[0] == 0
    assert run("close", "2026-1", "--reason", "done")[0] == 0
    code, out, _ = run("show", "2026-1", "--json")
    shown = json.loads(out)
    assert (shown["state"], shown["content"]["closing_reason"]) == ("closed", "done")
    assert shown["content"]["subjects"] == 40
