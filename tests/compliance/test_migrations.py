"""The schema moves by revisions: what they make is what the models say, with data and both ways."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, inspect, select, text
from typer.testing import CliRunner

from audit.errors import Conflict, NotFound
from compliance.cli import app
from compliance.service import migrations
from compliance.service.database import Database
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import (
    Folder,
    NewService,
    create_folder,
    load_registry,
    open_registry,
)
from compliance.service.in_use import share_database
from compliance.service.registry import Registry
from compliance.service.release_tables import NoticeRow, RecallRow
from compliance.service.schema import (
    make_tables,
    migrate,
    models,
    newest_revision,
    plan_migration,
)
from compliance.service.subject_tables import CaseMailRow, CaseRow
from tests.compliance.federation import Consumer, Coordinator
from tests.compliance.running import Clock, running
from tests.compliance.subjects import ADDRESS, Desk, configure, filed_by_officer
from tests.compliance.test_one_transaction import every_write
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

VERSIONS = Path(migrations.__file__).parent / "versions"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(MISSING)
    with running_server() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return "sqlite:///compliance.sqlite"
    server: PostgresServer = request.getfixturevalue("server")
    return server.new_database().replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def folder(database_url: str, tmp_path: Path, clock: Clock) -> Folder:
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log", database_url)
    return create_folder(tmp_path / "compliance", new, clock)


@contextmanager
def loaded(folder: Folder, clock: Clock) -> Iterator[Registry]:
    registry = load_registry(folder, clock)
    try:
        yield registry
    finally:
        registry.close()


def differences(connection: Connection) -> list[Any]:
    """What Alembic would change to make the tables those of the models."""
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, models()))


def test_the_revisions_are_one_line_by_number() -> None:
    scripts = ScriptDirectory(VERSIONS.parent)
    assert len(scripts.get_heads()) == 1, "two revisions follow the same one: renumber yours"
    known = migrations.revisions()
    assert known == tuple(f"{number:04}" for number in range(1, len(known) + 1))
    files = sorted(path.name for path in VERSIONS.glob("[!_]*.py"))
    assert [name[:5] for name in files] == [f"{revision}_" for revision in known]
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", name) for name in files)


def test_the_revisions_make_what_the_models_say(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url, tmp_path)
    try:
        make_tables(database)
        with database.engine.connect() as connection:
            assert migrations.present_revision(connection) == newest_revision()
            assert differences(connection) == []
            connection.exec_driver_sql("ALTER TABLE principals ADD COLUMN shoe_size INTEGER")
            assert differences(connection) != []
        with pytest.raises(Conflict, match="not empty"):
            make_tables(database)
    finally:
        database.close()


# --- moving up and down, with rows ---------------------------------------------------------------

_NEXT = """
from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, String, text

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    op.create_table(
        "badges",
        Column("principal", String(70), ForeignKey("principals.name"), primary_key=True),
        Column("number", Integer, nullable=False),
    )
    with op.batch_alter_table("principals", recreate="{recreate}") as table:
        table.add_column(Column("floor", Integer, nullable=False, server_default=text("0")))
    op.get_bind().execute(text("INSERT INTO badges SELECT name, 7 FROM principals"))
    {end}


def downgrade() -> None:
    with op.batch_alter_table("principals", recreate="{recreate}") as table:
        table.drop_column("floor")
    op.drop_table("badges")
    {end}
"""
"""A revision that makes a table with rows, and on SQLite makes one again that others refer to."""


class NextRevision:
    """A revision after those that there are, until the test is over."""

    def __init__(self, folder: Path, recreate: str) -> None:
        self.before = newest_revision()
        self.revision = f"{int(self.before) + 1:04}"
        self._path = folder / "versions" / f"{self.revision}_next.py"
        self._recreate = recreate
        self.write("pass")

    def write(self, end: str) -> None:
        """Give it its steps, which end with a statement."""
        names = {"revision": self.revision, "before": self.before, "recreate": self._recreate}
        self._path.write_text(_NEXT.format(end=end, **names), encoding="utf-8")


@pytest.fixture
def following(
    folder: Folder, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NextRevision]:
    """The version of the service that comes after this one."""
    copy = tmp_path / "migrations 100%"
    shutil.copytree(Path(migrations.__file__).parent, copy)
    following = NextRevision(copy, "always" if database_url.startswith("sqlite") else "auto")
    monkeypatch.setattr(migrations, "_FOLDER", copy)
    migrations.revisions.cache_clear()
    yield following
    monkeypatch.undo()
    migrations.revisions.cache_clear()


def rows(registry: Registry) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the database, but the log and where it stands."""
    with registry.reading() as session:
        names = inspect(session.connection()).get_table_names()
        return {
            name: sorted(tuple(row) for row in session.execute(text(f'SELECT * FROM "{name}"')))  # noqa: S608
            for name in names
            if name != "alembic_version" and not name.startswith("log_")
        }


def moves(registry: Registry) -> list[tuple[str, dict[str, Any]]]:
    """What the log says of moves, once its tree was compared with what it signed."""
    with registry.reading() as session:
        storage = registry.storage(session)
        registry.log.check(storage)
        read = [registry.log.read(storage, position) for position in range(storage.size())]
    return [(leaf.object, body) for leaf, body in read if leaf.action == "database.migrated"]


@contextmanager
def present_version() -> Iterator[None]:
    """For the length of a block, the revisions are those that there are."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(migrations, "_FOLDER", VERSIONS.parent)
        migrations.revisions.cache_clear()
        yield
    migrations.revisions.cache_clear()


def fill(folder: Folder, clock: Clock, tmp_path: Path) -> None:
    """Let nearly everything happen once."""
    with running(folder.path, clock) as service:
        for _, write in every_write(service, tmp_path):
            write()


def test_rows_survive_the_way_up_and_down(
    folder: Folder, clock: Clock, tmp_path: Path, following: NextRevision
) -> None:
    old, new = following.before, following.revision
    with present_version():
        fill(folder, clock, tmp_path)
    with loaded(folder, clock) as registry:
        before = rows(registry)
        assert before["grants"]
        done = migrate(registry)
        assert (done.present, done.target, done.steps, done.undoes) == (old, new, (new,), False)
        above = rows(registry)
        assert len(above["badges"]) == len(before["principals"])
        assert [row[:-1] for row in above["principals"]] == before["principals"]
        assert {name: above[name] for name in before if name != "principals"} == {
            name: before[name] for name in before if name != "principals"
        }
        migrate(registry)  # again: nothing to do
        done = migrate(registry, old)
        assert (done.steps, done.undoes) == ((new,), True)
        assert rows(registry) == before
        assert moves(registry) == [
            (f"revision:{new}", {"from": old, "to": new, "steps": [new]}),
            (f"revision:{old}", {"from": new, "to": old, "steps": [new]}),
        ]


def test_texts_are_sealed_on_the_way_up_and_clear_on_the_way_down(
    folder: Folder, clock: Clock, tmp_path: Path
) -> None:
    reason, request, forgotten = "records that had to be erased", "a" * 32, "b" * 32
    with running(folder.path, clock) as service:
        configure(service)
        coordinator = Coordinator(service)
        coordinator.register()
        north = coordinator.welcome("north")
        Desk(service, north)
        plan_id = coordinator.approved_plan()
        coordinator.run(plan_id, north)
        release = coordinator.release(plan_id)
        coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        coordinator.api.upload_release(release.release_id, release.file(tmp_path))
        officer, desk = service.as_("officer"), Consumer(service)
        officer.approve_release(release.release_id)
        officer.grant(
            release.release_id,
            desk.name,
            public_key=desk.public_key,
            purpose="triage",
            expires_at="2026-11-03T09:00:00Z",
        )
        officer.recalls.recall(release.release_id, reason=reason)
        for one in (request, forgotten):
            filed_by_officer(service, "north", request_id=one, email=ADDRESS)

    def raw(registry: Registry) -> list[Any]:
        queries = (
            "SELECT reason FROM recalls",
            "SELECT reason FROM notices",
            "SELECT contact FROM subject_cases ORDER BY request_id",
            "SELECT sealed FROM subject_case_mail ORDER BY request_id",
        )
        with registry.reading() as session:
            return [cell for query in queries for cell in session.scalars(text(query))]

    def told(registry: Registry) -> list[str | None]:
        with registry.reading() as session:
            recall = session.scalars(select(RecallRow)).one()
            notice = session.scalars(select(NoticeRow)).one()
            case = session.get_one(CaseRow, request)
            mail = session.scalars(select(CaseMailRow).where(CaseMailRow.request_id == request))
            return [recall.reason, notice.reason, case.contact, mail.one().sealed]

    with loaded(folder, clock) as registry:
        assert told(registry) == [reason, reason, ADDRESS, "received"]
        cells = [bytes(cell) for cell in raw(registry)]
        assert all(reason.encode() not in cell and ADDRESS.encode() not in cell for cell in cells)

        migrate(registry, "0011")
        clear = raw(registry)
        assert clear[:2] == [reason, reason]
        key = registry.keyring.data_key(f"subject-request:{request}")
        opened = [
            AESGCM(key).decrypt(cell[:12], cell[12:], request.encode()).decode()
            for cell in map(bytes, (clear[2], clear[4]))
        ]
        assert opened == [ADDRESS, "received"]
        assert len(clear) == 6

        registry.keyring.destroy(f"subject-request:{forgotten}")
        migrate(registry)
        assert told(registry) == [reason, reason, ADDRESS, "received"]
        assert raw(registry)[3] is None  # an address that was forgotten stays so
        assert len(raw(registry)) == 5  # and its message is gone
        with registry.database.engine.connect() as connection:
            assert differences(connection) == []


def test_a_note_that_its_site_can_still_answer_stops_the_step_that_forgets_notes(
    folder: Folder, clock: Clock
) -> None:
    note, other = "a" * 32, "b" * 32
    with running(folder.path, clock) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        for name in ("north", "south"):
            coordinator.welcome(name)
        service.as_("officer").revoke_site("south")
    with loaded(folder, clock) as registry:
        migrate(registry, "0014")
        with registry.database.migrating() as connection:
            for position, (request_id, site) in enumerate(((note, "north"), (other, "south"))):
                connection.execute(
                    text(
                        "INSERT INTO subject_requests (request_id, kind, site, state, filed_by,"
                        " filed_at, position) VALUES (:id, 'erasure', :site, 'open', 'officer',"
                        " '2026-11-02T09:00:00.000Z', :position)"
                    ),
                    {"id": request_id, "site": site, "position": 1000 + position},
                )
        before = rows(registry)
        with pytest.raises(Conflict, match=f"no more: {note} at north$") as caught:
            migrate(registry)
        assert "client erase SUBJECT --request ID" in caught.value.fix
        assert rows(registry) == before
        with registry.database.migrating() as connection:
            done = text("UPDATE subject_requests SET state = 'done' WHERE request_id = :id")
            connection.execute(done, {"id": note})
        migrate(registry)
        assert len(rows(registry)["subject_requests"]) == 2


def test_a_step_that_fails_leaves_the_database_as_it_was(
    folder: Folder, clock: Clock, following: NextRevision
) -> None:
    broken = 'raise OSError(28, "No space left on device")'
    with loaded(folder, clock) as registry:
        before = rows(registry)
        following.write(broken)
        with pytest.raises(OSError, match="No space"):
            migrate(registry)
        following.write("op.execute('SELECT no_such_column FROM principals')")
        with pytest.raises(ServiceUnavailable, match="as it was") as caught:
            migrate(registry)
        assert caught.value.fix
        following.write("op.execute(\"UPDATE badges SET principal = 'nobody'\")")
        with pytest.raises((Conflict, ServiceUnavailable), match=r"is not there|as it was"):
            migrate(registry)  # a badge is nobody's
        assert (rows(registry), moves(registry)) == (before, [])

        following.write("pass")
        migrate(registry)
        above = rows(registry)
        following.write(broken)
        with pytest.raises(OSError, match="No space"):
            migrate(registry, following.before)
        assert rows(registry) == above
        assert len(moves(registry)) == 1


def test_start_moves_nothing_and_says_what_to_do(
    folder: Folder, clock: Clock, following: NextRevision
) -> None:
    with loaded(folder, clock) as registry:
        before = rows(registry)
        with pytest.raises(Conflict, match=f"revision {following.before}") as caught:
            open_registry(folder, clock)
        assert f"compliance migrate {folder.path}" in caught.value.fix
        assert rows(registry) == before
        migrate(registry)
    open_registry(folder, clock).close()


def test_nothing_moves_under_a_service_and_no_service_starts_on_what_moves(
    folder: Folder, clock: Clock, following: NextRevision
) -> None:
    with present_version():
        serving = open_registry(folder, clock)
    elsewhere = Folder(folder.path.with_name("elsewhere"))
    shutil.copytree(folder.path, elsewhere.path)
    with loaded(folder, clock) as registry:
        before = rows(registry)
        result = CliRunner().invoke(app, ["migrate", str(folder.path)])
        assert isinstance(result.exception, Conflict)
        assert "the service is running" in str(result.exception)
        assert "stop it" in result.exception.fix
        assert (rows(registry), moves(registry)) == (before, [])
        assert plan_migration(registry).steps == (following.revision,)
        assert migrate(registry, following.before).steps == ()  # nothing is to be done
        if not folder.settings.read_text("utf-8").count("sqlite"):
            with loaded(elsewhere, clock) as other, pytest.raises(Conflict, match="is running"):
                migrate(other)  # of another machine, on the same server
        serving.close()
        with registry.database.alone(), pytest.raises(Conflict, match="being moved"):
            open_registry(folder, clock)
        assert migrate(registry).steps == (following.revision,)
    open_registry(folder, clock).close()


def test_a_service_that_has_just_stopped_is_waited_for(
    folder: Folder, database_url: str, clock: Clock, following: NextRevision
) -> None:
    if database_url.startswith("sqlite"):
        return
    with loaded(folder, clock) as registry, registry.database.engine.connect() as session:
        share_database(session.connection.driver_connection, None)
        ending = threading.Timer(0.5, session.invalidate)  # as the server ends it, a moment late
        ending.start()
        try:
            assert migrate(registry).steps == (following.revision,)
        finally:
            ending.join()


def test_a_service_whose_connections_all_died_is_still_noticed(
    folder: Folder, database_url: str, clock: Clock, following: NextRevision
) -> None:
    if database_url.startswith("sqlite"):
        return
    with present_version():
        serving = open_registry(folder, clock)
    elsewhere = Folder(folder.path.with_name("elsewhere"))
    shutil.copytree(folder.path, elsewhere.path)
    with loaded(elsewhere, clock) as other:
        with other.database.engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert serving.database.answers() or serving.database.answers()
        with pytest.raises(Conflict, match="is running"):
            migrate(other)
    serving.close()


def test_a_database_of_a_later_version_is_refused(folder: Folder, clock: Clock) -> None:
    with loaded(folder, clock) as registry:
        with registry.database.migrating() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for attempt in (lambda: open_registry(folder, clock), lambda: migrate(registry)):
            with pytest.raises(Conflict, match="revision 9999, which this version does not know"):
                attempt()


def test_a_database_without_tables_is_refused(folder: Folder, clock: Clock) -> None:
    with loaded(folder, clock) as registry:
        with registry.database.migrating() as connection:
            models().drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
        for attempt in (lambda: open_registry(folder, clock), lambda: migrate(registry)):
            with pytest.raises(Conflict, match="holds no tables") as caught:
                attempt()
            assert "compliance restore" in caught.value.fix


def test_nothing_is_older_than_the_first_revision(folder: Folder, clock: Clock) -> None:
    with loaded(folder, clock) as registry:
        for target in ("base", "0000", "head", "-1", ""):
            with pytest.raises(NotFound, match="there is no revision"):
                plan_migration(registry, target)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_tells_and_does(folder: Folder, clock: Clock, following: NextRevision) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["migrate", str(folder.path), *arguments, "--json"])
        assert result.exit_code == 0, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    old, new = following.before, following.revision
    up = {"present": old, "target": new, "steps": [new], "undoes": False, "works_on": new}
    assert run("--dry-run") == {**up, "done": False}
    assert run() == {**up, "done": True}
    assert run() == {**up, "present": new, "steps": [], "done": False}
    down = {"present": new, "target": old, "steps": [new], "undoes": True, "works_on": new}
    assert run("--to", old, "--dry-run") == {**down, "done": False}
    assert run("--to", old) == {**down, "done": True}

    shown = CliRunner().invoke(app, ["migrate", str(folder.path), "--dry-run"])
    assert f"{new} would be made" in shown.stdout
    shown = CliRunner().invoke(app, ["migrate", str(folder.path), "--to", old])
    assert "nothing to do" in shown.stdout
    refused = CliRunner().invoke(app, ["migrate", str(folder.path), "--to", "7"])
    assert isinstance(refused.exception, NotFound)
