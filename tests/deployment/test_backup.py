"""docs/deployment.md's backup of the compliance service, restored as the page says, elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.errors import ExitCode
from tests.deployment.engine import Engine
from tests.deployment.terminal import Terminal, typed
from tests.postgresql import MISSING, find_programs

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_programs() is None, reason=MISSING),
]

KEPT = ("trust.json", "keys/log.pem", "keys/release.pem", "tokens/officer.token")


@contextmanager
def machine(folder: Path, backups: Path) -> Iterator[Terminal]:
    """A machine with empty volumes and a database's password of its own."""
    (folder / "logs").mkdir(parents=True)
    settings = {
        "FIDUCIARY_SECRETS": str(folder / "secrets"),
        "FIDUCIARY_COMPLIANCE_HOST": "127.0.0.1",
    }
    terminal = Terminal(folder, settings, words={"/mnt/backups": str(backups)})
    try:
        yield terminal
    finally:
        terminal.close()


@dataclass
class Restored:
    """Both machines."""

    before: Engine
    after: Engine
    verified: str
    again: str
    backup: bytes


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("backup")
    backups = folder / "backups"
    backups.mkdir()
    with machine(folder / "old", backups) as old, machine(folder / "new", backups) as new:
        old.type("sh deploy/make-secrets.sh")
        old.type("docker compose up -d compliance-init")
        keygen, backup, *_ = typed("Backups")
        made = json.loads(old.type(f"{keygen} --json"))
        (backups / "backup-key.pem").write_bytes((old.folder / "backup-key.pem").read_bytes())
        old.words["PUBLIC_KEY"] = made["public_key"]
        old.type(backup)
        old.type("docker compose stop")
        trust = old.engine().volume("compliance") / "compliance/trust.json"
        new.words["LOG_KEY"] = json.loads(trust.read_text("utf-8"))["log_key"]
        *steps, restore, verify = typed("Restoring")
        for step in steps:
            new.type(step)
        new.type(restore)
        verified = new.type(verify)
        with pytest.raises(AssertionError) as refused:
            new.type(restore)
        yield Restored(
            old.engine(),
            new.engine(),
            verified,
            str(refused.value),
            (backups / "monday.backup").read_bytes(),
        )


def test_the_restored_service_is_itself(restored: Restored) -> None:
    before = restored.before.volume("compliance") / "compliance"
    after = restored.after.volume("compliance") / "compliance"
    for file in KEPT:
        assert (after / file).read_bytes() == (before / file).read_bytes(), file
        assert (after / file).stat().st_mode == (before / file).stat().st_mode, file


def test_the_restored_log_verifies_by_the_other_machines_password(restored: Restored) -> None:
    assert "verified" in restored.verified
    passwords = {
        (engine.folder / "secrets/database_password").read_text()
        for engine in (restored.before, restored.after)
    }
    assert len(passwords) == 2


def test_the_backup_shows_no_secret(restored: Restored) -> None:
    folder = restored.before.volume("compliance") / "compliance"
    for file in ("keys/log.pem", "tokens/officer.token"):
        lines = (folder / file).read_bytes().split(b"\n")
        assert not [line for line in lines if len(line) > 20 and line in restored.backup]


def test_nothing_that_exists_is_overwritten(restored: Restored) -> None:
    assert restored.again.startswith(f"returncode {int(ExitCode.CONFLICT)}: ")
