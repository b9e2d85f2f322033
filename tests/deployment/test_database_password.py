"""The service and the verifier connect by the password in a file, and follow when it changes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from audit.errors import MalformedInput, NotFound
from audit.postgresql_log import PostgresStore
from audit.storage import LogUnavailable
from compliance.service.database import Database
from tests.deployment.postgresql_image import PostgresImage
from tests.postgresql import MISSING, find_programs
from tests.server.conftest import free_ports, until

pytestmark = pytest.mark.skipif(find_programs() is None, reason=MISSING)

FIRST, SECOND = "first p@ss/word", "second"


class Server:
    def __init__(self, port: int, file: Path) -> None:
        self.port = port
        self.file = file

    @property
    def address(self) -> str:
        return f"postgresql://anna@127.0.0.1:{self.port}/evidence?password_file={self.file}"

    def change_password(self, old: str, new: str) -> None:
        with self.connect(old) as connection:
            connection.execute(sql.SQL("ALTER ROLE anna PASSWORD {}").format(sql.Literal(new)))

    def connect(self, password: str) -> psycopg.Connection[tuple[object, ...]]:
        place = f"postgresql://anna@127.0.0.1:{self.port}/evidence"
        return psycopg.connect(place, password=password, autocommit=True)

    def answers(self) -> bool:
        try:
            self.connect(FIRST).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    file = tmp_path / "password"
    file.write_text(f"{FIRST}\n")
    (port,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory(prefix="fiduciary-postgresql-") as place,
        (tmp_path / "log").open("wb") as log,
    ):
        process = PostgresImage(Path(place)).start(
            {
                "PGDATA": f"{place}/data",
                "POSTGRES_USER": "anna",
                "POSTGRES_DB": "evidence",
                "POSTGRES_PASSWORD_FILE": str(file),
                "POSTGRES_INITDB_ARGS": "--auth-host=scram-sha-256 --auth-local=scram-sha-256",
            },
            port,
            log,
        )
        try:
            made = Server(port, file)
            until(made.answers, "PostgreSQL")
            yield made
        finally:
            process.terminate()
            process.wait(30)


def test_a_password_is_read_from_its_file_and_changed_without_a_restart(
    server: Server, tmp_path: Path
) -> None:
    service_address = server.address.replace("postgresql:", "postgresql+psycopg:")
    database = Database(service_address, tmp_path)
    try:
        assert database.answers()
        server.change_password(FIRST, SECOND)
        database.engine.dispose()
        assert not database.answers()  # new connections are refused: the file has the old one
        server.file.write_text(SECOND)
        assert database.answers()
        server.file.unlink()  # just being replaced
        database.engine.dispose()
        assert database.answers()
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT current_user")).scalar() == "anna"
    finally:
        database.close()


def test_a_wrong_password_is_not_told(server: Server, tmp_path: Path) -> None:
    server.file.write_text("wrong-and-private")
    database = Database(server.address.replace("postgresql:", "postgresql+psycopg:"), tmp_path)
    with pytest.raises(OperationalError) as refused, database.engine.connect():
        pass
    database.close()
    assert "wrong-and-private" not in str(refused.value)
    with pytest.raises(LogUnavailable) as unavailable:
        PostgresStore.open(server.address)
    assert "wrong-and-private" not in str(unavailable.value)


def test_what_no_database_can_be_opened_with(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no database password"):
        Database(f"postgresql+psycopg://anna@h/d?password_file={tmp_path}/none", tmp_path)
    with pytest.raises(MalformedInput, match="SQLite has no password"):
        Database(f"sqlite:///log.sqlite?password_file={tmp_path}/none", tmp_path)
