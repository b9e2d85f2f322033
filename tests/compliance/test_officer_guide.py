"""`docs/officer-guide.md`, followed from its first command to its last against a real service."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.canonical import digest
from tests.compliance.federation import Coordinator, Site
from tests.compliance.reporting import fresh_service
from tests.compliance.running import Clock, RunningService
from tests.following import first_missing, run_command, steps_of

PAGE = Path(__file__).parents[2] / "docs" / "officer-guide.md"
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


class Day:
    """What others do while the officer follows the page."""

    def __init__(self, service: RunningService, folder: Path) -> None:
        self.coordinator = Coordinator(service)
        self.coordinator.register()
        self.north: Site = self.coordinator.welcome("north")
        self.folder = folder
        plan = self.coordinator.plan(name="triage-2026")
        self.plan_id = self.coordinator.api.submit_plan(plan).plan_id

    def train(self) -> None:
        """The run ends, and its release is announced."""
        self.coordinator.run(self.plan_id, self.north)
        release = self.coordinator.release(self.plan_id)
        self.coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        self.coordinator.api.upload_release(release.release_id, release.file(self.folder))


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Day]:
    """The day on which the page begins, in the current folder."""
    with fresh_service(Clock(NOW)) as service:
        service.trust.save(tmp_path / "trust.json")
        (tmp_path / "officer.token").write_text(service.token("officer"), "ascii")
        (tmp_path / "log.vkey").write_text(service.trust.log_key.encoded(), "ascii")
        for name in ("facts", "effects", "done"):
            (tmp_path / f"{name}.txt").write_text(f"What the file {name} says.", "utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE"):  # restored after the page's `export`
            monkeypatch.setenv(f"FIDUCIARY_{name}", "nowhere")
        yield Day(service, tmp_path)


def test_the_page_is_true(day: Day, capsys: pytest.CaptureFixture[str]) -> None:
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    words = {"PUBLIC_KEY": base64.b64encode(public).decode("ascii")}
    meanwhile: dict[str, Callable[[], None]] = {"compliance approve plan": day.train}
    outputs: dict[str, str] = {}
    for step in steps_of(PAGE):
        command = step.command
        for word, value in words.items():
            command = command.replace(word, value)
        answer = run_command(command, capsys)
        assert answer.code == 0, (command, answer.output)
        assert first_missing(step.shown, answer.output) is None, (command, answer.output)
        outputs[step.command] = answer.output
        for begun, others in meanwhile.items():
            if command.startswith(begun):
                others()
    # The file that was handed over is the one that its proof is about.
    proven = outputs["audit verify-proof breaches.html.tlog-proof --key log.vkey"]
    assert digest(Path("breaches.html").read_bytes()) in proven
    assert "What the file facts says." in Path("breaches.html").read_text("utf-8")
    assert "What the file facts says." not in Path("entries.jsonl").read_text("utf-8")


def test_the_page_uses_every_kind_of_command_that_it_explains() -> None:
    page = PAGE.read_text("utf-8")
    used = {" ".join(step.command.split()[:2]) for step in steps_of(PAGE)}
    for heading, commands in {
        "Plans": ("plans", "approve"), "Releases": ("releases",), "Grants and recalls": (
            "grant", "revoke", "recall", "notices"), "Breaches": ("breaches",),
        "Requests of data subjects": ("requests", "erasures"), "Reports": ("report",),
        "The log": ("log",), "Retention and legal holds": ("retention",),
    }.items():  # fmt: skip
        assert re.search(f"^## {heading}$", page, re.MULTILINE)
        assert {f"compliance {command}" for command in commands} <= used
