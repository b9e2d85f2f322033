"""`compliance start` as a process: it starts clean, ends clean, and loses nothing when killed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.samples import Sample

from audit.errors import ExitCode, FiduciaryError
from audit.verifier import verify_log
from compliance.api import ComplianceClient
from compliance.service.folder import Folder, NewService, create_folder
from compliance.service.settings import read_settings
from compliance.trust import Trust
from tests.compliance.running import wait_for
from tests.scraping import assert_nothing_personal, free_port, scrape, value

COMMAND = (sys.executable, "-c", "from compliance.cli import main; main()")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder, on a port that was free a moment ago."""
    new = NewService("127.0.0.1", free_port(), "127.0.0.1", "fiduciary.test/log")
    return create_folder(tmp_path / "compliance", new, lambda: datetime.now(UTC))


class Process:
    """One `compliance start`."""

    def __init__(self, folder: Folder, *options: str) -> None:
        self.folder = folder
        self.trust = Trust.load(folder.trust)
        self.popen = subprocess.Popen(
            [*COMMAND, "start", str(folder.path), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(self.answers, 90)  # a busy machine takes long to load everything

    def answers(self) -> bool:
        assert self.popen.poll() is None, self.popen.communicate()
        with ComplianceClient(self.trust) as client:
            try:
                return client.health() == {"status": "ok"}
            except FiduciaryError:
                return False

    def client(self, name: str) -> ComplianceClient:
        return ComplianceClient(self.trust, self.folder.token(name).read_text("ascii").strip())

    def end(self, number: int) -> tuple[int, str, str]:
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


@contextmanager
def started(folder: Folder, *options: str) -> Iterator[Process]:
    process = Process(folder, *options)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.OK)]
)
def test_a_signal_ends_it_cleanly_and_it_says_nothing_private(
    folder: Folder, number: int, code: ExitCode
) -> None:
    secret = "jane-doe-1970"
    with started(folder) as process, process.client("officer") as officer:
        assert officer.plans() == ()  # this connection stays open and idle
        with httpx.Client(
            base_url=process.trust.url, verify=process.trust.ssl_context(), trust_env=False
        ) as http:
            http.get(f"/v1/plans/{secret}", headers={"authorization": f"Bearer {secret}"})
            http.post("/v1/enrolments", json={"token": secret})
            returncode, out, err = process.end(number)
    assert returncode == code
    assert out == ""
    assert "compliance service at https://127.0.0.1:" in err
    assert err.rstrip().endswith("compliance service ended")
    assert "ERROR" not in err  # an idle connection is dropped, not waited for in vain
    assert "Traceback" not in err
    assert secret not in err


def test_metrics_and_events_tell_of_requests_and_of_nobody(folder: Folder) -> None:
    secret = "jane-doe-1970"
    port = free_port()
    options = ("--metrics-port", str(port), "--log-format", "json")
    with started(folder, *options) as process, process.client("officer") as officer:
        before = scrape(port)
        officer.add_principal("reader", ["consumer"])
        with httpx.Client(
            base_url=process.trust.url, verify=process.trust.ssl_context(), trust_env=False
        ) as http:
            http.get(f"/v1/plans/{secret}", headers={"authorization": f"Bearer {secret}"})
            http.get(f"/{secret}")
            http.request("PROPFIND", "/health")
        samples = scrape(port)
        returncode, out, err = process.end(signal.SIGTERM)
    assert_nothing_personal(samples)
    assert secret not in str(samples).lower()
    added = {"method": "POST", "route": "/v1/principals", "status": "201"}
    assert value(samples, "fiduciary_http_requests_total", **added) == 1
    denied = {"method": "GET", "route": "/v1/plans/{plan_id}", "status": "401"}
    assert value(samples, "fiduciary_http_requests_total", **denied) == 1
    nowhere = {"method": "GET", "route": "(none)", "status": "404"}
    assert value(samples, "fiduciary_http_requests_total", **nowhere) == 1
    methods = {
        each.labels["method"] for each in samples if each.name == "fiduciary_http_requests_total"
    }
    assert methods == {"GET", "POST", "other"}
    # The principal and the refusal.
    assert _of(samples, "fiduciary_log_entries") == _of(before, "fiduciary_log_entries") + 2
    assert value(samples, "fiduciary_log_append_seconds_count") == 2
    assert value(samples, "fiduciary_waiting_decisions", kind="plan") == 0
    assert value(samples, "fiduciary_sites", state="approved") == 0

    assert (returncode, out) == (0, "")
    events = [json.loads(line) for line in err.splitlines()]
    # A web server that had to cut a call short on a busy machine says so, too.
    assert [event["event"] for event in events if event["event"] != "library-message"] == [
        "metrics-served",
        "service-started",
        "service-ended",
    ]
    assert {event["process"] for event in events} == {"compliance"}
    assert secret not in err


def _of(samples: list[Sample], name: str) -> float:
    found = value(samples, name)
    assert found is not None
    return found


def test_a_port_in_use_is_said_clearly(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", read_settings(folder.settings).port)):
        second = subprocess.run(
            [*COMMAND, "start", str(folder.path)], capture_output=True, text=True, timeout=60
        )
    assert second.returncode == ExitCode.CONFLICT
    assert "is in use" in second.stderr
    assert "fix:" in second.stderr
    assert "Traceback" not in second.stderr


def test_killed_between_and_during_requests_it_loses_nothing(folder: Folder) -> None:
    acknowledged: list[str] = []

    def write(process: Process, writer: int) -> None:
        with process.client("officer") as officer:
            for index in range(10_000):
                name = f"w{writer}-{index}-{len(acknowledged)}"
                try:
                    officer.add_principal(name, ["consumer"])
                except FiduciaryError:
                    return
                acknowledged.append(name)

    for target in (8, 16):
        with started(folder) as process:
            writers = [
                threading.Thread(target=write, args=(process, number)) for number in range(3)
            ]
            for writer in writers:
                writer.start()
            wait_for(lambda target=target: len(acknowledged) >= target)
            assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
            for writer in writers:
                writer.join()

    with started(folder) as process, process.client("officer") as officer:
        known = {principal.name for principal in officer.principals()}
        assert set(acknowledged) <= known
        entries = officer.log_entries(action="principal.added", limit=1000)
        logged = [entry.object.removeprefix("principal:") for entry in entries]
        assert sorted(logged) == sorted(known)  # state and log agree, to the last row
        assert len(known) <= 3 + len(acknowledged) + 2 * 3  # a writer has one call in flight
        assert process.end(signal.SIGTERM)[0] == ExitCode.OK
    report = verify_log(folder.path / "compliance.sqlite", process.trust.log_key)
    assert report.ok, report
