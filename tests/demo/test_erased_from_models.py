"""docs/erasure.md from end to end: three sites, one of them away, and two models to answer for.

Every party is a process, started and asked by the commands that people use; the subject alone calls
the public interface as the form at `/requests` does. The story is told once and judged below.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.errors import ExitCode, Unreachable
from audit.receipt import Receipt
from compliance.api import ComplianceClient
from compliance.statements import format_time
from compliance.subject_requests_api import seal_to_sites, sealing_key
from compliance.subject_requests_views import CaseView
from compliance.subject_sealing import Identifiers
from compliance.trust import Trust
from demo.federation import acting_as
from demo.processes import CommandFailed, command_path
from tests.chaos.hospitals import SITES, Hospitals, Supervised, may_make_hosts
from tests.warm import WarmProcesses

AWAY = "west"
DESK = "triage-desk"
SUBJECT_IDS = tuple(f"p{number}-7" for number in range(len(SITES)))
"""One person: the number that each site has for them."""

SUBJECTS = 100
ROUNDS = 2
DEADLINE_SECONDS = 60
RUN_SECONDS = 150
PATIENCE_SECONDS = 150
REASON = "a patient left the study"
SETTINGS = """\
format = "fiduciary.requests/1"
public = true
jurisdictions = ["gdpr"]
identity = ["site-verified"]
address = "https://requests.hospitals.example"
"""

REACH = "import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
REFUSE_SOCKETS = """\
import socket

def _refuse(*_, **__):
    raise OSError("this machine has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = _refuse
"""


class Laptop:
    """Another machine: a folder with what somebody was handed, and no network at all.

    It is a network namespace without any interface where this user may make one; elsewhere a Python
    that refuses every connection.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._prefix = ("unshare", "-n") if may_make_hosts() else ()
        self._environment = {"PATH": os.environ["PATH"]}
        if not self._prefix:
            (folder / "python").mkdir()
            (folder / "python/sitecustomize.py").write_text(REFUSE_SOCKETS)
            self._environment["PYTHONPATH"] = str(folder / "python")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._prefix, *command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )


@dataclass
class Told:
    """What happened.

    Attributes:
        while_away: The request's stage while a site was away, and each site's part of it.
        page: What the subject saw then.
        listed: What the officer saw then.
        cases_while_away: Releases with a case then.
        stage: The request's stage at last.
        people: How many people each site's dataset has at last.
        cases: Releases with a case at last, how each ended, and what took its place.
        refused: What the desk was told when it fetched each release again.
        reached: Exit codes of a connection to the service, from here and from the laptop.
        receipts: What the laptop verified.
        forged: The exit code for a receipt under another site's key.
        logs: Which logs verify.
    """

    kept: str = ""
    gone: str = ""
    replacement: str = ""
    while_away: tuple[str, dict[str, tuple[str, int]]] = ("", {})
    page: str = ""
    listed: str = ""
    cases_while_away: set[str] = field(default_factory=set)
    stage: str = ""
    people: dict[str, int] = field(default_factory=dict)
    cases: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    reached: tuple[int, int] = (0, 0)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    forged: int = 0
    logs: dict[str, bool] = field(default_factory=dict)


class Forked(WarmProcesses, Supervised):
    """Supervised, and started fast."""


class Story:
    """Tells it, in `folder`."""

    def __init__(self, folder: Path, processes: Supervised) -> None:
        self._folder = folder
        self._processes = processes
        self._hospitals = Hospitals(folder, processes, subjects=SUBJECTS)
        self._federation = self._hospitals.federation
        self.told = Told()

    def tell(self) -> Told:
        self._hospitals.start()
        (self._folder / "compliance/requests.toml").write_text(SETTINGS, encoding="utf-8")
        self._trust = Trust.load(self._folder / "compliance/trust.json")
        self._two_releases()
        self._processes.stop(AWAY)
        self._somebody_asks()
        self._one_site_is_away()
        self._it_comes_back()
        self._models_are_decided_about()
        self._the_desk_asks_again()
        self._receipts_on_a_laptop()
        self.told.logs = self._hospitals.verify_logs()
        return self.told

    # --- chapters --------------------------------------------------------------------------------

    def _two_releases(self) -> None:
        """Two plans use the subject's records; a desk gets both models."""
        plans = [self._propose(name) for name in ("kept", "gone")]
        self.told.kept, self.told.gone = map(self._released, plans)
        self._key = self._federation.add_consumer(DESK)
        for release in (self.told.kept, self.told.gone):
            self._granted(release)

    def _somebody_asks(self) -> None:
        """On the public interface; who it is, one of the sites sees in person."""
        number = secrets.token_hex(16)
        with ComplianceClient(self._trust) as anybody:
            offer = anybody.subject_requests.offer()
            keys = {view.site: sealing_key(view) for view in offer.sites}
            assert set(keys) == set(SITES)
            sealed = seal_to_sites(Identifiers(subject_ids=SUBJECT_IDS), keys, number)
            filed = anybody.subject_requests.ask("erasure", "gdpr", sealed, request_id=number)
        self._request, self._receipt_code = filed.request_id, filed.receipt_code
        self._processes.run(
            "client", "requests", "confirm", self._request, "--method", "identity-card",
            "--dir", SITES[0],
        )  # fmt: skip

    def _one_site_is_away(self) -> None:
        """The others act. Days pass, while the service is stopped here; then it reminds."""
        for site in SITES[:-1]:  # a site asks when it starts; else one of them every 30 seconds
            self._processes.stop(site)
            self._processes.serve(site)
        self._until(lambda: self._answered() == len(SITES) - 1)
        self._processes.stop("compliance")
        database = sqlite3.connect(self._folder / "compliance/compliance.sqlite")
        with database:
            sent = format_time(datetime.now(UTC) - timedelta(days=4))
            database.execute("UPDATE subject_case_parts SET sent_at = ?", (sent,))
        database.close()
        self._processes.serve("compliance")
        self._until(self._is_back)
        self._until(lambda: any(part.reminders for part in self._case().parts))
        case = self._case()
        parts: dict[str, tuple[str, int]] = {
            part.site: (part.outcome or part.state, part.reminders) for part in case.parts
        }
        self.told.while_away = (case.stage, parts)
        with httpx.Client(verify=self._trust.ssl_context(), trust_env=False) as browser:
            form = {"receipt_code": self._receipt_code}
            self.told.page = browser.post(f"{self._trust.url}/requests/status", data=form).text
        self.told.listed = self._officer("requests", "--open")
        self.told.cases_while_away = {case["release_id"] for case in self._cases()}

    def _it_comes_back(self) -> None:
        self._processes.serve(AWAY)
        self._until(lambda: self._case().stage != "at-sites")
        self.told.stage = self._case().stage
        for site in SITES:
            shown = self._processes.json("client", "data", "show", "hearts", "--dir", site)
            self.told.people[site] = shown["subjects"]

    def _models_are_decided_about(self) -> None:
        """One is taken back. One is made again without the subject, which ends the old one."""
        cases = {case["release_id"]: case["case_id"] for case in self._cases()}
        kept, gone = cases[self.told.kept], cases[self.told.gone]
        self._officer("erasures", "decide", gone, "withdraw", "--reason", REASON)
        again = self._propose("again")
        self._officer(
            "erasures", "decide", kept, "retrain", "--plan", again, "--reason", REASON
        )  # fmt: skip
        self.told.replacement = self._released(again)
        self._officer("erasures", "conclude", kept, "--release", self.told.replacement)
        self._granted(self.told.replacement)
        self.told.cases = {
            case["release_id"]: (case["choice"], case["replaced_by"]) for case in self._cases()
        }

    def _the_desk_asks_again(self) -> None:
        for release in (self.told.kept, self.told.gone):
            with pytest.raises(CommandFailed) as failed:
                self._fetch(release, "again")
            self.told.refused[release] = str(failed.value)
        assert not (self._folder / "again").exists()

    def _receipts_on_a_laptop(self) -> None:
        """Public keys and receipts are all that the subject is handed."""
        laptop = Laptop(self._folder / "laptop")
        port = int(self._trust.url.rpartition(":")[2])
        reach = (sys.executable, "-c", REACH.format(port=port))
        here = subprocess.run(reach, capture_output=True, check=False).returncode
        self.told.reached = (here, laptop.run(*reach).returncode)
        keys = {
            site: self._processes.json("client", "status", "--dir", site)["identity_key"]
            for site in SITES
        }
        erasures = {digest for case in self._cases() for digest in case["erasures"]}
        for digest in sorted(erasures):
            self._officer("erasures", "receipt", digest, "--out", "laptop/receipt.json")
            signed = Receipt.parse((laptop.folder / "receipt.json").read_bytes())
            site = str(signed.statement.body["site"])
            verify = (
                command_path("audit"), "verify-receipt", "receipt.json",
                "--key", self._trust.log_key.encoded(), "--json", "--site-key",
            )  # fmt: skip
            self.told.receipts.append(json.loads(laptop.run(*verify, keys[site]).stdout))
            other = keys[SITES[SITES.index(site) - 1]]
            self.told.forged = laptop.run(*verify, other).returncode

    # --- pieces ----------------------------------------------------------------------------------

    def _propose(self, name: str) -> str:
        return self._hospitals.propose(name, ROUNDS, DEADLINE_SECONDS, "")

    def _released(self, plan_id: str) -> str:
        """The approved release of a plan that runs to its end."""
        state = self._hospitals.await_end(plan_id, RUN_SECONDS)
        assert state["stage"] == "completed", state
        release = str(state["release_id"])
        self._federation.approve("release", release)
        return release

    def _granted(self, release: str) -> None:
        self._federation.grant(release, DESK, self._key, "hearts")
        self._fetch(release, f"model-{release[-8:]}")

    def _fetch(self, release: str, out: str) -> None:
        self._processes.run(*self._federation.fetch_command(release, DESK, out))

    def _officer(self, *command: str) -> str:
        return self._processes.run("compliance", *command, *acting_as("officer"))

    def _cases(self) -> list[dict[str, Any]]:
        return list(json.loads(self._officer("erasures", "list", "--json")))

    def _case(self) -> CaseView:
        token = (self._folder / "compliance/tokens/officer.token").read_text("ascii").strip()
        with ComplianceClient(self._trust, token) as officer:
            return officer.subject_requests.show(self._request)

    def _is_back(self) -> bool:
        with ComplianceClient(self._trust) as anybody:
            try:
                return anybody.health() == {"status": "ok"}
            except Unreachable:
                return False

    def _answered(self) -> int:
        return sum(part.state == "answered" for part in self._case().parts)

    def _until(self, ready: Callable[[], bool]) -> None:
        self._federation.until(ready, PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("erased")
    with Forked(folder) as processes:
        return Story(folder, processes).tell()


# --- what must hold ------------------------------------------------------------------------------


def test_the_sites_that_are_there_act_and_the_other_is_chased_and_seen(told: Told) -> None:
    done, missing = ("done", 0), ("sent", 1)
    assert told.while_away == ("at-sites", {"north": done, "south": done, AWAY: missing})
    assert "<h2>The sites have it</h2>" in told.page
    assert told.page.count("Did what you asked for.") == 2
    assert f'<th scope="row">{AWAY}</th><td>Has not fetched it yet.</td>' in told.page
    assert f"{AWAY} (sent, reminded 1 time)" in told.listed
    assert told.cases_while_away == {told.kept, told.gone}


def test_the_site_that_comes_back_acts_and_that_completes_the_request(told: Told) -> None:
    assert told.stage == "completed"
    assert told.people == dict.fromkeys(SITES, SUBJECTS - 1)


def test_one_model_was_made_again_and_the_other_taken_back(told: Told) -> None:
    assert told.cases == {
        told.kept: ("retrain", told.replacement),
        told.gone: ("withdraw", None),
    }


def test_whoever_has_a_grant_is_refused_with_the_reason(told: Told) -> None:
    for release, reason in ((told.gone, REASON), (told.kept, "a retrained model takes the place")):
        said = told.refused[release]
        assert f"exited {int(ExitCode.CONFLICT)}" in said
        assert "was recalled at" in said
        assert reason in said
        assert "Traceback" not in said


def test_the_subjects_receipts_verify_where_there_is_no_network(told: Told) -> None:
    here, laptop = told.reached
    assert here == 0
    assert laptop != 0, "the laptop reached the service: this shows nothing"
    assert {receipt["statement"]["site"] for receipt in told.receipts} == set(SITES)
    for receipt in told.receipts:
        assert receipt["verified"]
        assert receipt["statement_signature_checked"]
        followed = [
            (one["statement"]["stage"], release["release_id"], release["choice"], release["state"])
            for one in receipt["follow_ups"]
            for release in one["statement"]["releases"]
        ]
        assert sorted(followed[:2]) == sorted(
            ("found", release, None, "approved") for release in (told.kept, told.gone)
        )
        assert followed[2:] == [
            ("closed", told.gone, "withdraw", "recalled"),
            ("decided", told.kept, "retrain", "approved"),
            ("closed", told.kept, "retrain", "recalled"),
        ]
    assert told.forged == ExitCode.VERIFICATION_FAILED


def test_every_log_verifies_at_last(told: Told) -> None:
    assert told.logs == dict.fromkeys(("compliance", *SITES), True)
