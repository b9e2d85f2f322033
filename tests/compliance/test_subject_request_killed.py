"""The service is killed at every step of a subject's request: nothing is lost, nothing done twice.

| killed                    | afterwards                                                           |
|---------------------------|----------------------------------------------------------------------|
| before a commit           | nothing of the step is there; the repeat does it                     |
| after a commit, no answer | all of the step is there; the repeat answers and adds nothing        |
| while time is looked at   | the next look goes on: one reminder, one end, one forgetting each;   |
|                           | a message that had left may leave again                              |
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.verifier import verify_log
from compliance import session
from compliance.service.folder import NewService, create_folder
from compliance.statements import format_time
from tests.compliance.federation import Coordinator
from tests.compliance.killable import KillableService, Moment, killable, now
from tests.compliance.running import RunningService
from tests.compliance.subjects import ADDRESS, Desk, code_in, configure, mails, sealed_for
from tests.compliance.test_release_killed import actions, survives

MOMENTS: tuple[Moment, ...] = ("before", "after")


class Story:
    """A service that is killed, two sites, and whoever asks.

    A request is named by its number, and sealed once: who repeats a call repeats just that.
    """

    def __init__(self, service: KillableService) -> None:
        self.service = service
        self.running = cast(RunningService, service)  # what the other parties use of it is there
        configure(self.running)
        coordinator = Coordinator(self.running)
        coordinator.register()
        self.north = Desk(self.running, coordinator.welcome("north"))
        self.south = Desk(self.running, coordinator.welcome("south"))
        self.subject = service.client().subject_requests
        self.officer = service.as_("officer").subject_requests
        self.sealed: dict[str, dict[str, bytes]] = {}
        self.codes: dict[str, str] = {}

    def step(self, write: Callable[[], object], *added: str) -> None:
        """One call, killed before and after its commit."""
        counted = Counter(name if "." in name else f"subject-request.{name}" for name in added)
        survives(self.service, write, dict(counted))

    def seal(self, *sites: str) -> str:
        """Write down who it is, for these sites; returns the number of a request to be."""
        number = secrets.token_hex(16)
        self.sealed[number] = sealed_for(self.running, *sites, request_id=number)
        return number

    def ask(self, number: str, **options: Any) -> None:
        filed = self.subject.ask(
            "erasure", "gdpr", self.sealed[number], request_id=number, **options
        )
        assert self.codes.setdefault(number, filed.receipt_code) == filed.receipt_code

    def file(self, number: str) -> None:
        self.officer.file("erasure", "gdpr", self.sealed[number], request_id=number)

    def stage(self, number: str) -> str:
        return self.officer.show(number).stage

    def chased(self, moment: Moment, commit: int, *added: str) -> None:
        """Time is looked at; the service dies at one of its commits, and looks again."""
        before = actions(self.service)
        self.service.die_at(moment, commit)
        self.service.chase()
        assert self.service.has_died()
        expected = before + Counter(f"subject-request.{name}" for name in added)
        assert actions(self.service) == expected, (moment, commit)

    def days_ago(self, days: int, change: str, *values: str) -> None:
        """Let something have happened some days ago; `?` in the change is when."""
        database = sqlite3.connect(self.service.folder.path / "compliance.sqlite", timeout=20)
        with database:
            database.execute(change, (format_time(now() - timedelta(days=days)), *values))
        database.close()


def two_sites_erase(story: Story) -> None:
    """From a form on the public page to the second site's answer, with a code by mail."""
    north, south = story.north, story.south
    north.key = X25519PrivateKey.generate()
    another = north.key_statement(generation=1)
    story.step(lambda: north.calls.publish_key("north", another), "site.key-published")
    asked = story.seal("north", "south")
    story.step(lambda: story.ask(asked, email=ADDRESS), "filed", "identity-asked")
    story.chased("before", 1, "notified")
    code = code_in(mails(story.service.folder.path)[-1][2])
    story.step(
        lambda: story.subject.prove(story.codes[asked], code), "verified", "sent"
    )  # fmt: skip
    story.step(lambda: north.calls.take(asked), "taken")
    receipt = north.site.erasure()
    story.step(
        lambda: north.site.client(story.running).report_erasure(receipt), "subject.erased"
    )  # fmt: skip
    done = north.statement(asked, outcome="done", records=3, erasures=[receipt.digest])
    story.step(lambda: north.calls.answer(asked, done), "answered")
    story.service.chase()  # what was written to the subject meanwhile
    for moment in MOMENTS:
        waiting = "UPDATE subject_case_parts SET sent_at = ?1, reminded_at = NULL"
        story.days_ago(4, f"{waiting} WHERE state = 'sent'")
        story.chased(moment, 1, "reminded")
    parts = {part.site: part.reminders for part in story.officer.show(asked).parts}
    assert parts == {"north": 0, "south": 2}
    answer = south.statement(asked)
    story.step(lambda: south.calls.answer(asked, answer), "answered", "completed")
    assert story.stage(asked) == "completed"
    story.chased("after", 1, "notified", "contact-forgotten")


def a_site_checks_and_gives_a_copy(story: Story) -> None:
    north = story.north
    asked = story.seal("north")

    def ask() -> None:
        filed = story.subject.ask("access", "gdpr", story.sealed[asked], request_id=asked)
        story.codes[asked] = filed.receipt_code

    story.step(ask, "filed", "identity-asked")
    identity = north.identity(asked)
    story.step(lambda: north.calls.state_identity(asked, identity), "verified", "sent")
    story.step(lambda: north.hand_over(asked, b"sealed copy"), "answered", "completed")
    assert story.subject.package(story.codes[asked], "north").sealed == b"sealed copy"


def an_officer_decides(story: Story) -> None:
    officer, north = story.officer, story.north
    closed, refused = story.seal("north"), story.seal("north")
    story.step(lambda: story.file(closed), "filed")
    story.step(lambda: officer.confirm(closed), "confirmed")
    story.step(lambda: officer.extend(closed, reason="many"), "extended")
    story.step(lambda: officer.verify(closed, method="letter"), "verified", "sent")
    no = north.statement(closed, outcome="refused", ground="research")
    story.step(lambda: north.calls.answer(closed, no), "answered")
    story.step(lambda: officer.close(closed, reason="told"), "completed")
    story.file(refused)
    story.step(lambda: officer.refuse(refused, ground="excessive"), "refused")
    assert (story.stage(closed), story.stage(refused)) == ("completed", "refused")


def nobody_shows_who_asks(story: Story) -> None:
    """It ends, its subject is told, its address is forgotten: three commits to die at."""
    for commit in (1, 2, 3):
        for moment in MOMENTS:
            asked = story.seal("north")
            story.ask(asked, email=ADDRESS)
            story.service.chase()
            story.days_ago(
                29, "UPDATE subject_cases SET received_at = ? WHERE request_id = ?", asked
            )
            letters = len(mails(story.service.folder.path))
            story.chased(moment, commit, "expired", "notified", "contact-forgotten")
            assert story.stage(asked) == "expired"
            sent = len(mails(story.service.folder.path)) - letters
            assert sent == (2 if (moment, commit) == ("before", 2) else 1)


def test_a_request_survives_a_kill_at_every_step(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client would repeat by itself; a caller that is killed, too, starts anew with another key.
    monkeypatch.setattr(session, "ANSWER_ATTEMPTS", 1)
    folder = create_folder(
        memory / "compliance", NewService("127.0.0.1", 1, "127.0.0.1", "x/log"), now
    )
    with killable(folder) as service:
        story = Story(service)
        two_sites_erase(story)
        a_site_checks_and_gives_a_copy(story)
        an_officer_decides(story)
        nobody_shows_who_asks(story)
        key = service.trust.log_key
    report = verify_log(folder.path / "compliance.sqlite", key)
    assert report.ok, report
