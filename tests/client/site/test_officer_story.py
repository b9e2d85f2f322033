"""`docs/officer-story.md`, followed from its first command to its last in a real federation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import worker
from client.enrolment import Waiting
from client.site import Site
from client.subject_story import tell_story
from client.subject_trail import INGESTED, Use
from client.vault import Vault
from tests.client.site.counterparts import Coordinator
from tests.client.site.officer_story import SUBJECT, LiveStage, Past, make_past, read_steps
from tests.following import Answer, Step, first_missing, run_command


@pytest.fixture
def past(
    tmp_path: Path,
    coordinator: Coordinator,
    at_once: Waiting,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Past]:
    """What happened before the page begins, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)
    for name in ("SITE", "TRUST", "TOKEN_FILE"):  # restored after the page's `export`
        monkeypatch.setenv(f"FIDUCIARY_{name}", "nowhere")
    stage = LiveStage(tmp_path, coordinator)
    try:
        with stage.welcome(at_once) as site:
            made = make_past(stage, site, tiny_model, capsys)
        yield made
    finally:
        stage.stop()


def test_the_page_is_true(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[tuple[Step, Answer]] = []
    for step in read_steps():
        answer = run_command(past.fill_in(step.command), capsys)
        assert answer.code == 0, (step.command, answer.output)
        assert first_missing(step.shown, answer.output) is None, (step.command, answer.output)
        assert past.subject not in answer.output, "no command prints the identifier"
        answers.append((step, answer))

    def outputs(command: str) -> list[str]:
        return [answer.output for step, answer in answers if step.command.startswith(command)]

    # What the page shows twice is not the same twice: the story ends, in the backup as well.
    plan = past.plan_id.removeprefix("sha256:")
    told, forgotten = outputs(f"client subject {SUBJECT}")
    assert f"plan {plan[:12]}: notes (version 1)" in " ".join(told.split())
    assert "could train on them" in told
    assert "triage-2026" not in forgotten
    readable, unreadable = outputs("audit show journal-backup.sqlite")
    assert past.plan_id in readable
    assert "{" not in unreadable
    # The positions that the page writes are those that the log lists for the plan, all of them.
    (listed,) = outputs("compliance log --plan")
    (exported,) = outputs("audit export")
    found = re.search(r"verified: (\d+) entries", listed)
    assert found is not None
    assert f"{found[1]} chosen entries" in exported
    # Both receipts of the erasure verify, the site's own against its journal.
    own = f"audit verify-receipt site/receipts/{past.pseudonym[:16]}.site.json --key north.vkey"
    assert run_command(f"{own} --site-key north.vkey", capsys).code == 0


def test_whatever_a_copy_of_the_journal_holds_the_key_is_gone(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every reader that there is: the story, `audit show`, an export with the keyring."""
    with Site.open(Path("site")) as site, Vault.open(site.paths, site.keyring) as vault:
        story = tell_story(site, vault, past.subject)
        assert [event.action for event in story.events] == [INGESTED, Use.TRAINED]
    run_command('sqlite3 site/journal.sqlite ".backup backup.sqlite"', capsys)
    export = f"audit export backup.sqlite --subject {past.pseudonym} --keyring site/keyring --json"
    before = json.loads(run_command(f"{export} -o before.zip", capsys).output)
    assert (before["payloads"], before["forgotten"]) == (2, 0)
    assert run_command(f"client erase {past.subject} --yes --dir site", capsys).code == 0
    after = json.loads(run_command(f"{export} -o after.zip", capsys).output)
    assert (after["entries"], after["payloads"], after["forgotten"]) == (2, 0, 2)
    for path in ("backup.sqlite", "after.zip", "site/journal.sqlite"):
        assert run_command(f"audit verify {path} --key north.vkey", capsys).code == 0


def test_a_page_that_says_something_else_is_noticed() -> None:
    output = "verified x: 25 entries\nroot  abc\nsigned by north at 2026-11-26T09:44:13.687Z\n"
    for true in (
        ("verified x: 7 entries", "signed by north at 2020-01-01T00:00:00Z"),
        ("verified …", "root abc"),
        ("…", "…", "…"),
    ):
        assert first_missing(true, output) is None
    for false in (
        ("verified y: 25 entries",),
        ("verified x: 25",),
        ("root abc", "verified x: 25 entries"),
        ("signed by north at noon",),
        ("…", "…", "…", "…"),
    ):
        assert first_missing(false, output) is not None
