"""Sealed columns: what is in the database's files, and what becomes of a cell that was moved."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import String, insert, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from audit.errors import VerificationFailed
from audit.keyring import Keyring
from compliance.service.database import Database
from compliance.service.schema import models
from compliance.service.sealed_columns import SealedColumns, SealedText, use_keys
from compliance.service.tables import Base as ServiceBase
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

NAME, OTHER = "Ada Lovelace-Byron", "Grace Brewster Hopper"


class Base(DeclarativeBase):
    """Tables of these tests alone."""


class PersonRow(SealedColumns, Base):
    __tablename__ = "people"

    case: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(SealedText("people.name"))
    address: Mapped[str | None] = mapped_column(SealedText("people.address"), deferred=True)

    def sealing_key(self, place: str) -> str:
        return f"case:{self.case}"


class LetterRow(SealedColumns, Base):
    __tablename__ = "letters"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(SealedText("letters.text"))


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    with Keyring.create(tmp_path / "keyring") as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(MISSING)
    with running_server() as started:
        yield started


@pytest.fixture
def database(tmp_path: Path, keyring: Keyring) -> Iterator[Database]:
    yield from _made("sqlite:///people.sqlite", tmp_path, keyring)


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path, keyring: Keyring) -> Iterator[Database]:
    url = "sqlite:///people.sqlite"
    if request.param == "postgresql":
        address: str = request.getfixturevalue("server").new_database()
        url = address.replace("postgresql:", "postgresql+psycopg:")
    yield from _made(url, tmp_path, keyring)


def _made(url: str, folder: Path, keyring: Keyring) -> Iterator[Database]:
    database = Database(url, folder)
    use_keys(database.engine, keyring)
    with database.migrating() as connection:
        Base.metadata.create_all(connection)
    yield database
    database.close()


def fill(database: Database) -> None:
    with database.writing() as session:
        session.add(PersonRow(case="a", number=1, name=NAME, address="Ockham Park"))
        session.add(PersonRow(case="a", number=2, name=OTHER))
        session.add(PersonRow(case="b", number=1, name=""))
        session.add(LetterRow(number=1, text=NAME))


@contextmanager
def raw(database: Database) -> Iterator[sqlite3.Connection]:
    """The file as somebody has it who has no keys."""
    with closing(sqlite3.connect(str(database.engine.url.database))) as connection:
        yield connection
        connection.commit()


def test_values_come_back_and_may_be_changed(either: Database) -> None:
    fill(either)
    with either.writing() as session:
        person = session.get_one(PersonRow, ("a", 1))
        assert (person.name, person.address) == (NAME, "Ockham Park")
        person.name = OTHER
        session.get_one(PersonRow, ("a", 2)).name = None
    with either.reading() as session:
        rows = session.scalars(select(PersonRow).order_by(PersonRow.case, PersonRow.number)).all()
        assert [row.name for row in rows] == [OTHER, None, ""]
        assert [row.address for row in rows] == ["Ockham Park", None, None]
        # Values alone come too; only rows can say whose they are.
        assert session.scalar(select(LetterRow.text)) == NAME


def test_a_change_beside_a_sealed_value_leaves_it(database: Database) -> None:
    fill(database)
    with raw(database) as connection:
        before = connection.execute("SELECT text FROM letters").fetchall()
    with database.writing() as session:
        session.get_one(LetterRow, 1).number = 2  # another row: sealed anew
    with raw(database) as connection:
        assert connection.execute("SELECT text FROM letters").fetchall() != before
    with database.reading() as session:
        assert session.get_one(LetterRow, 2).text == NAME


def test_no_file_of_the_database_holds_a_value(database: Database, tmp_path: Path) -> None:
    fill(database)
    database.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "people.sqlite" in files
    for text in (NAME, OTHER, "Ockham"):
        for encoding in ("utf-8", "utf-16-le"):
            assert not [path for path in files if text.encode(encoding) in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("UPDATE people SET name = (SELECT name FROM people WHERE number = 2)", "another row"),
        ("UPDATE people SET name = (SELECT text FROM letters)", "another column"),
        ("UPDATE people SET name = address WHERE number = 1", "another column"),
        ("UPDATE people SET number = 7 WHERE number = 1", "another row"),
        ("UPDATE people SET name = zeroblob(length(name))", "was changed"),
        ("UPDATE people SET name = substr(name, 1, length(name) - 1)", "was changed"),
        ("UPDATE people SET name = substr(name, 1, 5)", "was changed"),
        ("UPDATE people SET name = x''", "was changed"),
        ("UPDATE people SET name = x'01'", "was changed"),
        ("UPDATE people SET name = x'01056e6f6e6f6e0000000000000000000000000000'", "no data key"),
    ],
)
def test_a_cell_that_was_changed_or_moved_is_not_accepted(
    database: Database, change: str, seen: str
) -> None:
    fill(database)
    with raw(database) as connection:
        connection.execute(change)
    with database.reading() as session, pytest.raises(Exception, match=seen):
        session.scalars(select(PersonRow).order_by(PersonRow.case, PersonRow.number)).all()


def test_a_deferred_cell_of_another_row_is_not_accepted(database: Database) -> None:
    fill(database)
    with raw(database) as connection:
        connection.execute("UPDATE people SET address = (SELECT address FROM people LIMIT 1)")
    with database.reading() as session:
        person = session.get_one(PersonRow, ("a", 2))
        for _ in range(2):
            with pytest.raises(VerificationFailed, match=r"people\.address"):
                _ = person.address


def test_destroying_the_key_forgets_the_value(database: Database, keyring: Keyring) -> None:
    fill(database)
    keyring.destroy("case:a")
    with database.reading() as session:
        rows = session.scalars(select(PersonRow).order_by(PersonRow.case, PersonRow.number)).all()
        assert [row.name for row in rows] == [None, None, ""]
        assert session.get_one(LetterRow, 1).text == NAME


REFUSED: dict[str, Callable[[Session], object]] = {
    "a statement": lambda s: s.execute(insert(LetterRow), [{"number": 9, "text": NAME}]),
    "a condition": lambda s: s.scalars(select(LetterRow).where(LetterRow.text == NAME)).all(),
    "an update": lambda s: s.connection().execute(
        LetterRow.__table__.update().values(text=NAME)  # type: ignore[attr-defined]
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_nothing_is_stored_or_compared_in_clear(database: Database, how: str) -> None:
    fill(database)
    with pytest.raises(StatementError, match="is sealed") as caught, database.writing() as session:
        REFUSED[how](session)
    assert NAME not in str(caught.value)


def test_every_sealed_column_of_the_service_knows_its_place() -> None:
    models()
    for mapper in ServiceBase.registry.mappers:
        for column in mapper.local_table.columns:
            if isinstance(column.type, SealedText):
                assert column.type.place == str(column)
                assert issubclass(mapper.class_, SealedColumns), f"{mapper}: nothing seals {column}"
