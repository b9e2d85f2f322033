"""Retention by the service's timer and by the command."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.errors import (
    ExitCode,
    FiduciaryError,
)
from compliance import cli
from compliance.retention import CHECK_SECONDS
from compliance.service.retention import (
    FIRST_CHECK_SECONDS,
    retention_timer,
    service_retention,
    sweeping,
)
from tests.compliance.retaining import (
    MONTH,
    SECURITY,
    check_order,
    configure,
    retention_events,
    write_entries,
)
from tests.compliance.running import RunningService

# --- the timer ------------------------------------------------------------------------------------


class Waits:
    """Stands for the passing of time: what it was asked to wait, until told to stop."""

    def __init__(self, rounds: int, between: Callable[[], object] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._rounds = rounds
        self._between = between

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        if len(self.seconds) > self._rounds:
            return True
        self._between()
        return False


def test_the_timer_shreds_soon_and_then_daily(service: RunningService) -> None:
    configure(service, "gdpr")
    write_entries(service, *SECURITY)
    waits = Waits(3, lambda: service.clock.advance(days=200))
    sweeping(service_retention(service.registry, None).run, waits).serve()
    assert waits.seconds == [FIRST_CHECK_SECONDS, CHECK_SECONDS, CHECK_SECONDS, CHECK_SECONDS]
    assert {actor for actor, _, _ in retention_events(service)} == {"compliance"}
    check_order(service, [f"action:{action}:{MONTH}" for action in SECURITY], complete=True)


@pytest.mark.parametrize(
    "failure", [FiduciaryError("disk full", fix="free some"), ZeroDivisionError("x")]
)
def test_a_failing_run_is_logged_and_the_next_one_comes(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise failure

    with caplog.at_level(logging.ERROR, "compliance.service"):
        sweeping(run, Waits(2)).serve()
    assert len(runs) == 2
    (record,) = caplog.records
    assert "retention did not run" in record.getMessage()
    expected = "disk full" if isinstance(failure, FiduciaryError) else "ZeroDivisionError"
    assert expected in record.getMessage()


def test_the_timer_ends_with_the_service(service: RunningService) -> None:
    with retention_timer(service.registry):
        pass
    assert retention_events(service) == []


# --- the command ----------------------------------------------------------------------------------


def test_the_command(
    service: RunningService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)
    service.trust.save(tmp_path / "trust.json")
    who = [
        *("--trust", str(tmp_path / "trust.json")),
        *("--token-file", str(service.folder.token("officer"))),
    ]

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", "retention", *arguments, *who])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out + captured.err

    write_entries(service, *SECURITY)
    code, out = run("show")
    assert code == 0
    assert "none named, so nothing is shredded" in out
    configure(service, "gdpr")
    code, out = run("show")
    assert "gdpr-security" in out
    assert "2027-12" in out
    code, out = run("hold", "case-17", "--reason", "inquiry", "--action", "request.", "--json")
    assert json.loads(out)["placed_by"] == "officer"
    service.clock.advance(days=400)
    code, out = run("run", "--dry-run")
    assert "would shred action:attempts.limited:2026-11" in out
    code, out = run("run", "--json")
    assert json.loads(out)["shredded"] == ["action:attempts.limited:2026-11"]
    code, out = run("show", "--json")
    held = [key["action"] for key in json.loads(out)["keys"] if key["hold"]]
    assert "request.refused" in held
    code, out = run("show")
    assert "case-17" in out
    assert "every action" not in out
    code, out = run("release", "case-17", "--reason", "closed")
    assert (code, "released case-17" in out) == (0, True)
    code, out = run("release", "case-17", "--reason", "closed")
    assert code == ExitCode.NOT_FOUND
    code, out = run("hold", "case-18", "--reason", "inquiry", "--from", "May")
    assert code == ExitCode.MALFORMED_INPUT
    code, out = run("run")
    assert "shredded action:request.refused:2026-11" in out
    code, out = run("run")
    assert "nothing is due" in out
