"""Fixed statements past SQLAlchemy: same answers and errors, no transaction lost in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from audit.log import Entry
from audit.storage import Append
from compliance.service.database import Database, ServiceSession
from compliance.service.driver import Driver, Fixed
from compliance.service.folder import NewService, create_folder, open_registry
from compliance.service.log_storage import session_log
from compliance.service.registry import Registry
from compliance.service.tables import Base, MissedRoundRow, SiteRow, StatementRow
from tests.compliance.running import Clock
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

TABLE = Base.metadata.tables[StatementRow.__tablename__]
KEEP = Fixed(insert(TABLE))
FIND = Fixed(select(TABLE.c.kind, TABLE.c.position).where(TABLE.c.digest == bindparam("digest")))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(MISSING)
    with running_server() as started:
        yield started


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """One service for all tests: each keeps statements of its own."""
    url = "sqlite:///compliance.sqlite"
    if request.param == "postgresql":
        started: PostgresServer = request.getfixturevalue("server")
        address = make_url(started.new_database()).set(drivername="postgresql+psycopg")
        url = address.render_as_string(hide_password=False)
    path = tmp_path_factory.mktemp("driver") / "compliance"
    clock = Clock()
    folder = create_folder(path, NewService("127.0.0.1", 1, "127.0.0.1", "x/log", url), clock)
    opened = open_registry(folder, clock)
    yield opened
    opened.close()


@pytest.fixture
def database(registry: Registry) -> Database:
    return registry.database


def row(digest: str, position: int) -> dict[str, object]:
    return {
        "digest": digest,
        "kind": "plan",
        "envelope": "{}",
        "filed_by": "anna",
        "filed_at": "2026-01-01T00:00:00.000Z",
        "position": position,
        "plan_id": None,
    }


def test_a_fixed_statement_sees_and_does_what_sqlalchemy_would(database: Database) -> None:
    with database.writing() as session:
        session.add(StatementRow(**row("sha256:a-1", 17)))  # not flushed by anybody else
        assert FIND.run(session, {"digest": "sha256:a-1"}).fetchone() == ("plan", 17)
        KEEP.run(session, row("sha256:b-1", 2**40))
        assert session.get_one(StatementRow, "sha256:b-1").position == 2**40
    with database.reading() as session, pytest.raises(IntegrityError):
        KEEP.run(session, row("sha256:b-1", 19))
    with database.asking() as connection:
        assert FIND.run(connection, {"digest": "sha256:b-1"}).fetchone() == ("plan", 2**40)
        assert FIND.run(connection, {"digest": "sha256:c-1"}).fetchone() is None


def test_parameters_are_in_no_error(database: Database) -> None:
    with database.writing() as session:
        KEEP.run(session, row("sha256:a-2", 27))
    with database.reading() as session, pytest.raises(IntegrityError) as failed:
        KEEP.run(session, row("sha256:a-2", 28))
    assert "anna" not in str(failed.value)


def test_a_change_whose_failed_statement_nobody_told_of_is_not_called_done(
    database: Database,
) -> None:
    def change() -> None:
        with database.writing() as session:
            KEEP.run(session, row("sha256:a-3", 37))
            with suppress(SQLAlchemyError):
                Driver(session.connection()).execute("SELECT * FROM nothing_of_this_name")
            if database.engine.dialect.name == "sqlite":  # which goes on after a failed statement
                Driver(session.connection()).execute("ROLLBACK")

    with pytest.raises(SQLAlchemyError):
        change()
    with database.reading() as session:
        assert session.get(StatementRow, "sha256:a-3") is None


def test_a_change_in_a_shared_transaction_is_undone_alone(database: Database) -> None:
    def change(connection: Connection, name: str, position: int, *, fails: bool = False) -> None:
        with ServiceSession(connection, join_transaction_mode="create_savepoint") as session:
            KEEP.run(session, row(name, position))
            if fails:
                raise ValueError(name)
            session.commit()

    with database.migrating() as connection:
        change(connection, "sha256:first-4", 41)
        with pytest.raises(ValueError, match="second"):
            change(connection, "sha256:second-4", 2, fails=True)
        change(connection, "sha256:third-4", 43)
    with database.reading() as session:
        query = select(StatementRow.digest).where(StatementRow.digest.endswith("-4"))
        found = session.scalars(query.order_by(StatementRow.position))
        assert found.all() == ["sha256:first-4", "sha256:third-4"]


def test_references_hold_for_fixed_statements(database: Database) -> None:
    missed = Fixed(insert(Base.metadata.tables[MissedRoundRow.__tablename__]))
    with pytest.raises(IntegrityError), database.writing() as session:
        missed.run(session, {"plan_id": "sha256:none", "round": 1})


def test_the_end_of_the_log_is_asked_for_once_a_transaction(registry: Registry) -> None:
    with registry.database.writing() as session:
        storage = session_log(session)
        before = storage.head()
        registry.log.append(storage, Entry("anna", "thing.done", "thing:1", None, {}))
        known = session_log(session).head()
        assert known == (known[0], before[1] + 1)
        asked: list[str] = []
        session.driver.allows = asked.append
        registry.log.append(storage, Entry("anna", "thing.done", "thing:2", None, {}))
        assert not any("SELECT note" in statement for statement in asked)
        session.driver.allows = None
        session.tail.head = None
        stored = session_log(session).head()
        assert stored == session.tail.head
        assert stored[1] == before[1] + 2
        registry.log.check(session_log(session))


def test_a_failed_append_is_not_taken_for_the_end_of_the_log(registry: Registry) -> None:
    taken = Append(0, [b"{}"], [], 1, "note", None)
    with registry.database.reading() as session:
        storage = session_log(session)
        size = storage.head()[1]
        with pytest.raises(IntegrityError):
            storage.write_append(taken)
        session.rollback()
        assert session_log(session).head()[1] == size


def test_names_of_sites_are_texts_on_both_databases(database: Database) -> None:
    sites = Base.metadata.tables[SiteRow.__tablename__].c
    find = Fixed(select(sites.state).where(sites.name == bindparam("name")))
    with database.asking() as connection:
        assert find.run(connection, {"name": "1' OR 1=1 --"}).fetchall() == []
