"""The index of the log: every entry is found by what it is about; it can be made again; a database
of the first format gets it when it is opened."""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select, text

from audit.errors import Conflict, VerificationFailed
from audit.verifier import verify_log
from compliance.service import schema
from compliance.service.backup import back_up
from compliance.service.backup_file import Recipient
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import Folder, load_registry, open_registry
from compliance.service.log_index import Topics, rebuild_index, topics_of_clear_fields
from compliance.service.migrations import revisions
from compliance.service.registry import Registry
from compliance.service.restore import record_restored
from compliance.service.tables import LogIndexRow
from compliance.statements import format_time
from tests.audit.logs import hashes_of_first_format
from tests.compliance.erasing import Ground
from tests.compliance.federation import Consumer, Coordinator
from tests.compliance.running import Clock, InjectedFault, RunningService, running
from tests.compliance.test_migrations import differences
from tests.compliance.test_one_transaction import every_write

SERVICE = Path(__file__).parent.parent.parent / "compliance" / "service"
FIRST_SCHEMA = Path(__file__).with_name("first_schema.sql")

SUBJECT = "ab" * 32

ABOUT: dict[str, set[str]] = {
    "service.created": set(),
    "principal.added": set(),
    "principal.revoked": set(),
    "coordinator.registered": set(),
    "site.invited": {"site"},
    "site.enrolled": {"site"},
    "site.admitted": {"site"},
    "site.revoked": {"site"},
    "plan.submitted": {"plan"},
    "plan.approved": {"plan"},
    "plan.rejected": {"plan"},
    "site.reported": {"plan", "site"},
    "round.reported": {"plan"},
    "refusal.reported": {"plan", "site"},
    "run.ended": {"plan"},
    "release.announced": {"plan", "release"},
    "release.uploaded": {"plan", "release"},
    "release.approved": {"plan", "release"},
    "release.rejected": {"plan", "release"},
    "release.granted": {"plan", "release"},
    "release.recalled": {"plan", "release"},
    "alias.moved": {"plan", "release"},
    "notice.issued": {"plan", "release"},
    "notice.acknowledged": {"plan", "release"},
    "grant.revoked": {"plan", "release"},
    "key.fetched": {"plan", "release"},
    "release.downloaded": {"plan", "release"},
    "subject-request.filed": set(),
    "subject.erased": {"site", "subject"},
    "erasure.opened": {"plan", "release", "site"},
    "erasure.joined": {"plan", "release", "site"},
    "erasure.decided": {"plan", "release"},
    "erasure.concluded": {"plan", "release"},
    "erasure.told": {"site", "subject"},
    "request.refused": set(),  # about what its path names: see below
    "attempts.limited": set(),
    "log.queried": set(),  # who looked is not what was looked at
    "log.exported": set(),
    "database.migrated": set(),
    "database.backed-up": set(),
    "database.restored": set(),
}
"""What the index must know of an entry of each action that the scene below records."""

ELSEWHERE = {
    *("principal.confirmed", "principal.rotated", "session.opened", "session.ended"),
    *("site.key-published", "site.renewal-requested", "site.renewed"),
    "erasure.models-removed",
    "subject-request.confirmed",
    *("subject-request.code-refused", "subject-request.contact-forgotten"),
    *("subject-request.notified", "subject-request.package-fetched", "subject-request.reminded"),
}
"""Recorded by tests of keys, certificates, logins, requests and kept models: not looked at here."""


def recorded_actions() -> Iterator[str]:
    """The actions that the service's source names, in calls that record."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in ("record", "file_statement", "_file_about"):
                continue
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from (word for word in words if isinstance(word, str) and "." in word)


def test_the_tables_above_name_every_action() -> None:
    decisions = {
        f"{kind}.{word}" for kind in ("plan", "release") for word in ("approved", "rejected")
    }
    refusals = {"request.refused", "attempts.limited"}
    assert set(recorded_actions()) | decisions | refusals == set(ABOUT) | ELSEWHERE


@pytest.fixture
def busy(service: RunningService, tmp_path: Path) -> RunningService:
    """A service that has recorded each of its actions."""
    coordinator = Coordinator(service)
    for name, write in every_write(service, tmp_path, coordinator):
        write()
        if name == "grant":
            second = _use_the_grant(service, tmp_path)
    _recall(service, second)
    _erase(Ground(service, coordinator, coordinator.welcome("west"), tmp_path))
    officer = service.http(service.token("officer"))
    for path in _refused_paths(service):
        assert officer.post(path, json={}).status_code in (403, 409, 422)
    officer.get("/v1/log/entries", params={"site": "north"}).raise_for_status()
    officer.get("/v1/log/export", params={"site": "north"}).raise_for_status()
    stranger = service.http("wrong")
    for _ in range(32):
        stranger.get("/v1/plans")
    with service.resting():
        migrate_from_before_revisions(service.registry)
    recipient = Recipient(X25519PrivateKey.generate().public_key().public_bytes_raw())
    made = back_up(service.folder, service.clock, tmp_path / "a.backup", recipient)
    with service.registry.database.migrating() as connection:
        record_restored(service.registry, connection, made)
    return service


def migrate_from_before_revisions(registry: Registry) -> None:
    """Take a database back to the day before there were revisions, and bring it up again."""
    schema.migrate(registry, revisions()[0])
    with registry.database.writing() as session:
        session.execute(text("DROP TABLE alembic_version"))
    assert schema.migrate(registry).present == schema.UNVERSIONED


def _erase(ground: Ground) -> None:
    """Two subjects leave; the model that they were in is retrained."""
    plan = ground.plan()
    release = ground.release(plan)
    ground.erase(plan, subject="ab" * 32)
    ground.erase(plan, subject="cd" * 32)
    case, again = ground.case(release).case_id, ground.plan()
    ground.officer.erasures.decide(case, "retrain", reason="left", retraining_plan=again)
    ground.officer.erasures.conclude(case, ground.release(again).release_id)


def _use_the_grant(service: RunningService, folder: Path) -> Consumer:
    officer = service.as_("officer")
    release_id = next(view.release_id for view in officer.releases() if view.state == "approved")
    second = Consumer(service, "second-desk")
    officer.grant(
        release_id,
        second.name,
        public_key=second.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=1)),
    )
    second.api.release_key(release_id)
    second.api.download_release(release_id, folder / "fetched")
    return second


def _recall(service: RunningService, holder: Consumer) -> None:
    officer = service.as_("officer")
    release_id = next(view.release_id for view in officer.releases() if view.state == "approved")
    token = officer.add_principal("second-officer", ["officer"]).token
    service.client(token).aliases.set("production", release_id)
    officer.recalls.recall(release_id, reason="a test")
    for notice in holder.api.recalls.notices():
        holder.api.recalls.acknowledge(notice.notice_id)


def _refused_paths(service: RunningService) -> list[str]:
    officer = service.as_("officer")
    plan, release = officer.plans()[0].plan_id, officer.releases()[0].release_id
    return [
        f"/v1/plans/{plan}/rejection",
        f"/v1/releases/{release}/rejection",
        "/v1/sites/north/approval",
        "/v1/plans/not-a-digest/rounds",
    ]


def rows(registry: Registry) -> list[dict[str, Any]]:
    with registry.reading() as session:
        found = session.scalars(select(LogIndexRow).order_by(LogIndexRow.position)).all()
        names = LogIndexRow.__table__.columns.keys()
        return [{name: getattr(row, name) for name in names} for row in found]


def test_every_entry_is_found_by_what_it_is_about(busy: RunningService) -> None:
    found = rows(busy.registry)
    assert {row["action"] for row in found} == set(ABOUT)
    assert [row["position"] for row in found] == list(range(len(busy.entries())))
    for row in found:
        if row["action"] == "request.refused":
            continue
        known = {name for name in ("site", "plan", "release", "subject") if row[name] is not None}
        assert known == ABOUT[row["action"]], row
    officer = busy.as_("officer")
    plan_id = next(view.plan_id for view in officer.plans() if view.state == "completed")
    names = {"plan": plan_id, "site": "north", "subject": SUBJECT}
    second = next(row["position"] for row in found if row["site"] == "west")
    for row in found[:second]:  # from then on there are two sites, and plans of both
        for name in ABOUT[row["action"]] & {"site", "subject"}:
            assert row[name] == names[name]
        if row["action"] in ("round.reported", "site.reported", "run.ended", "release.announced"):
            assert row["plan"] == plan_id
    releases = {view.release_id: view.plan_id for view in officer.releases()}
    assert {row["release"] for row in found if row["release"]} == set(releases)
    for row in found:
        assert row["release"] is None or row["plan"] == releases[row["release"]]


def test_a_refused_call_is_found_by_what_it_was_about(busy: RunningService) -> None:
    refused = [row for row in rows(busy.registry) if row["action"] == "request.refused"]
    by_operation = {row["object"].removeprefix("operation:"): row for row in refused}
    plan = by_operation["POST /v1/plans/{plan_id}/rejection"]
    assert (plan["plan"] is not None, plan["site"]) == (True, None)
    release = by_operation["POST /v1/releases/{release_id}/rejection"]
    assert release["release"] is not None
    assert release["plan"] is not None
    assert by_operation["POST /v1/sites/{name}/approval"]["site"] == "north"
    odd = by_operation["POST /v1/plans/{plan_id}/rounds"]
    assert (odd["plan"], odd["release"], odd["site"]) == (None, None, None)


def test_the_index_made_again_is_the_index_as_written(busy: RunningService) -> None:
    written = rows(busy.registry)
    with busy.registry.database.writing() as session:
        session.execute(text("UPDATE log_index SET actor = 'somebody else', plan = NULL"))
    assert rows(busy.registry) != written
    with busy.registry.database.writing() as session:
        count = rebuild_index(session, busy.registry.storage(session), busy.registry.log)
    assert count == len(written)
    assert rows(busy.registry) == written


def test_a_forgotten_entry_is_found_by_its_clear_fields(busy: RunningService) -> None:
    month = format_time(busy.clock())[:7]
    busy.registry.keyring.destroy(f"action:site.reported:{month}")
    with busy.registry.database.writing() as session:
        rebuild_index(session, busy.registry.storage(session), busy.registry.log)
    reported = [row for row in rows(busy.registry) if row["action"] == "site.reported"]
    assert {(row["site"], row["plan"]) for row in reported} == {("north", None), ("west", None)}


@pytest.mark.parametrize(
    ("actor", "name", "expected"),
    [
        ("site:north", "site-report:x", Topics(site="north")),
        ("officer", "site:north", Topics(site="north")),
        ("officer", "principal:site:north", Topics(site="north")),
        ("officer", "principal:desk", Topics()),
        ("officer", "plan:sha256:" + "0" * 64, Topics(plan="sha256:" + "0" * 64)),
        ("officer", "plan:sha256:0", Topics()),
        ("site:../../etc", "release:" + "x" * 300, Topics()),
    ],
)
def test_what_clear_fields_say(actor: str, name: str, expected: Topics) -> None:
    assert topics_of_clear_fields(actor, name) == expected


# --- a database of the first format ---------------------------------------------------------------


def make_old(folder: Folder) -> None:
    """Move a database's rows into tables as the first format made them."""
    path, old = folder.path / "compliance.sqlite", folder.path / "old.sqlite"
    connection = sqlite3.connect(old)
    connection.executescript(FIRST_SCHEMA.read_text(encoding="utf-8"))
    connection.execute("ATTACH ? AS new", (str(path),))
    names = [
        row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    stored = dict(connection.execute("SELECT place, hash FROM new.log_nodes").fetchall())
    size = connection.execute("SELECT count(*) FROM new.log_entries").fetchone()[0]
    connection.executemany(
        "INSERT INTO log_hashes VALUES (?, ?, ?)", hashes_of_first_format(stored, size)
    )
    for name in names:
        if name == "log_hashes":
            continue
        columns = ", ".join(
            f'"{row[1]}"' for row in connection.execute(f"PRAGMA table_info({name})")
        )
        connection.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM new.{name}")  # noqa: S608
    connection.execute("UPDATE log_meta SET value = 'fiduciary.log/1' WHERE name = 'format'")
    connection.commit()
    connection.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    old.replace(path)


def test_a_database_of_the_day_before_revisions_gets_the_first_one(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock
) -> None:
    folder, written = used
    registry = load_registry(folder, clock)
    migrate_from_before_revisions(registry)
    registry.close()
    registry = open_registry(folder, clock)
    assert [row for row in rows(registry) if row["action"] != "database.migrated"] == written
    registry.close()


@pytest.fixture
def used(tmp_path: Path, clock: Clock) -> tuple[Folder, list[dict[str, Any]]]:
    """A folder with a history, and its index as it was written."""
    with running(tmp_path / "compliance", clock) as service:
        for _, write in every_write(service, tmp_path):
            write()
        written = rows(service.registry)
        folder = service.folder
    return folder, written


def migrated(folder: Folder, clock: Clock) -> schema.Migration:
    """What `compliance migrate` does."""
    registry = load_registry(folder, clock)
    try:
        return schema.migrate(registry)
    finally:
        registry.close()


def test_a_database_of_the_first_format_is_brought_up_to_date(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock
) -> None:
    folder, written = used
    make_old(folder)
    with pytest.raises(Conflict, match="unversioned") as caught:
        open_registry(folder, clock)
    assert "compliance migrate" in caught.value.fix
    assert migrated(folder, clock).steps == revisions()
    assert migrated(folder, clock).steps == ()
    registry = open_registry(folder, clock)
    assert rows(registry)[:-1] == written
    assert rows(registry)[-1]["action"] == "database.migrated"
    with registry.database.engine.connect() as connection:
        assert differences(connection) == []
    registry.close()
    with running(folder.path, clock) as service:
        service.as_("officer").add_principal("later", ["auditor"])
        assert service.as_("auditor").plans()
    assert verify_log(folder.path / "compliance.sqlite").ok


def test_an_index_that_was_dropped_is_made_again(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock
) -> None:
    folder, written = used
    for change in ("DROP TABLE log_index", "DROP INDEX log_index_by_plan"):
        connection = sqlite3.connect(folder.path / "compliance.sqlite")
        connection.execute(change)
        connection.commit()
        connection.close()
        registry = open_registry(folder, clock)
        assert rows(registry) == written
        registry.close()


def test_an_interrupted_change_of_format_leaves_the_database_as_it_was(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written = used
    make_old(folder)
    path = folder.path / "compliance.sqlite"

    def dump() -> list[str]:
        connection = sqlite3.connect(path)
        lines = list(connection.iterdump())
        connection.close()
        return lines

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before = dump()
    monkeypatch.setattr(schema, "rebuild_index", fail)
    with pytest.raises(OSError, match="No space"):
        migrated(folder, clock)
    monkeypatch.undo()
    assert dump() == before
    migrated(folder, clock)
    registry = open_registry(folder, clock)
    assert rows(registry)[:-1] == written
    registry.close()


def test_a_damaged_log_is_not_indexed(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock
) -> None:
    folder, _ = used
    make_old(folder)
    connection = sqlite3.connect(folder.path / "compliance.sqlite")
    connection.execute("UPDATE log_entries SET leaf = x'00' WHERE position = 5")
    connection.commit()
    connection.close()
    with pytest.raises(VerificationFailed, match="entry 5"):
        migrated(folder, clock)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER TABLE principals DROP COLUMN expires_at", "principals: expires_at"),
        ("ALTER TABLE grants DROP COLUMN downloads", "grants: downloads"),
    ],
)
def test_a_database_of_an_unknown_version_is_refused(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock, change: str, message: str
) -> None:
    folder, _ = used
    connection = sqlite3.connect(folder.path / "compliance.sqlite")
    connection.execute(change)
    connection.commit()
    connection.close()
    for attempt in (open_registry, migrated):
        with pytest.raises(Conflict, match=message) as caught:
            attempt(folder, clock)
        assert caught.value.fix
    connection = sqlite3.connect(folder.path / "compliance.sqlite")
    connection.execute("DROP TABLE alembic_version")
    connection.commit()
    connection.close()
    with pytest.raises(Conflict, match=message):
        migrated(folder, clock)


def test_a_database_that_fails_on_the_way_is_said_to_be_as_it_was(
    used: tuple[Folder, list[dict[str, Any]]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = used
    make_old(folder)

    def fail(*_: object) -> int:
        raise InjectedFault

    monkeypatch.setattr(schema, "rebuild_index", fail)
    with pytest.raises(ServiceUnavailable, match="as it was"):
        migrated(folder, clock)
