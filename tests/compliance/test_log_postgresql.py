"""Questions to a log that is kept in PostgreSQL, where text has a language's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from audit.export_file import verify_export
from compliance.log_views import LogExport
from compliance.service.folder import NewService, create_folder, open_registry
from compliance.service.migrations import revisions
from compliance.service.schema import migrate
from tests.compliance.asking import ask, everything, with_history
from tests.compliance.running import Clock, RunningService, running
from tests.compliance.test_log_index import rows
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

pytestmark = pytest.mark.skipif(find_programs() is None, reason=MISSING)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as started:
        yield started


@pytest.fixture
def history(server: PostgresServer, tmp_path: Path, clock: Clock) -> Iterator[RunningService]:
    """A service over PostgreSQL in which nearly everything happened once."""
    with psycopg.connect(server.address("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS asked")
        connection.execute(
            "CREATE DATABASE asked TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        )
    address = server.address("asked").replace("postgresql:", "postgresql+psycopg:")
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log", address)
    folder = create_folder(tmp_path / "compliance", new, clock)
    with running(folder.path, clock) as service:
        yield with_history(service, tmp_path)


def test_each_condition_finds_exactly_what_meets_it(history: RunningService) -> None:
    with history.registry.writing(None) as transaction:
        for action in ("plan-like.done", "planned.done", "plans.done", "plan.z"):
            transaction.record(action, "thing:1", {})
    entries = everything(history)
    officer = history.as_("officer")
    plan = next(view.plan_id for view in officer.plans() if view.state == "completed")
    middle = entries[len(entries) // 2]["time"]
    questions: list[tuple[dict[str, Any], Any]] = [
        ({}, lambda row: True),
        ({"action": "plan."}, lambda row: row["action"].startswith("plan.")),
        ({"action": "plan.approved"}, lambda row: row["action"] == "plan.approved"),
        ({"plan": plan}, lambda row: row["plan"] == plan),
        ({"site": "north"}, lambda row: row["site"] == "north"),
        ({"since": middle}, lambda row: row["time"] >= middle),
        ({"until": middle}, lambda row: row["time"] < middle),
    ]
    for order in ("newest", "oldest"):
        for question, wanted in questions:
            pages = ask(officer, **question, order=order, limit=7)
            shown = [position for page in pages for position in page if position < len(entries)]
            expected = [row["position"] for row in entries if wanted(row)]
            assert shown == (expected if order == "oldest" else expected[::-1]), question


def test_an_export_verifies(history: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    count = history.as_("officer").export_log(LogExport(), path)
    verified = verify_export(path, history.trust.log_key)
    assert (verified.entries, verified.whole) == (count, True)


def test_an_older_index_is_made_again(history: RunningService, clock: Clock) -> None:
    with history.resting():
        migrate(history.registry, revisions()[0])
        written = rows(history.registry)
        with history.registry.database.writing() as session:
            for column in ("time", "subject", "site", "plan", "release"):
                session.execute(text(f"ALTER TABLE log_index DROP COLUMN {column} CASCADE"))
            session.execute(text("DROP TABLE log_cosignatures"))
            session.execute(text("DROP TABLE alembic_version"))
        migrate(history.registry)
    opened = open_registry(history.folder, clock)
    assert rows(opened)[:-1] == written
    opened.close()
