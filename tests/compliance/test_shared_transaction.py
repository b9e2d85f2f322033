"""Changes that share a commit: each whole or not at all, none acknowledged before it is durable."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from compliance.service.database import Database

SECONDS = 30


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database("sqlite:///shared.sqlite", tmp_path)
    with made.writing() as session:
        session.execute(text("CREATE TABLE changes (name TEXT PRIMARY KEY)"))
    yield made
    made.close()


class Commits:
    """Counts real commits, holds them up, and makes them fail."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        self.fail: Exception | None = None
        self.lost_answer: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        dialect = database.engine.dialect
        self._commit = dialect.do_commit
        dialect.do_commit = self._do_commit  # type: ignore[assignment, method-assign]

    def _do_commit(self, connection: object) -> None:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        if self.fail is not None:
            raise self.fail
        self._commit(connection)  # type: ignore[arg-type]
        self.count += 1
        if self.lost_answer is not None:
            raise self.lost_answer


def stored(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(text("SELECT name FROM changes ORDER BY name")))


def change(database: Database, name: str, then: Callable[[], None] | None = None) -> None:
    with database.writing() as session:
        session.execute(text("INSERT INTO changes VALUES (:name)"), {"name": name})
        if then is not None:
            then()


class Callers:
    """Threads that each make a change, and what came of it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, BaseException | None] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, call: Callable[[], None]) -> None:
        def run() -> None:
            try:
                call()
                self.outcomes[name] = None
            except BaseException as error:  # noqa: BLE001  judged by the test
                self.outcomes[name] = error

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_for_queue(database: Database, length: int) -> None:
    """Until so many callers wait for the baton."""
    shared = database._shared
    for _ in range(10_000):
        if len(shared._waiting) >= length:
            return
        threading.Event().wait(0.001)
    pytest.fail(f"{len(shared._waiting)} of {length} callers wait")


def fail(error: Exception) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def behind_a_slow_commit(
    database: Database, commits: Commits, calls: dict[str, Callable[[], None]]
) -> Callers:
    """Start one change, hold its commit up, queue the others behind it in order, and let go."""
    callers = Callers()
    commits.gate.clear()
    callers.start("first", lambda: change(database, "first"))
    assert commits.begun.wait(SECONDS)
    for waiting, (name, call) in enumerate(calls.items(), start=1):
        callers.start(name, call)
        wait_for_queue(database, waiting)
    assert callers.outcomes == {}  # nobody is told before the disk has it
    commits.gate.set()
    callers.join()
    return callers


def simple(database: Database, *names: str) -> dict[str, Callable[[], None]]:
    return {name: (lambda name=name: change(database, name)) for name in names}  # type: ignore[misc]


def test_waiting_changes_share_one_commit(database: Database) -> None:
    commits = Commits(database)
    callers = behind_a_slow_commit(database, commits, simple(database, *"abcdefgh"))
    assert set(callers.outcomes.values()) == {None}
    assert commits.count == 2
    assert stored(database) == sorted([*"abcdefgh", "first"])


def test_a_lone_change_is_a_transaction_of_its_own(database: Database) -> None:
    commits = Commits(database)
    for name in "abc":
        change(database, name)
        assert stored(database)[-1] == name
    assert commits.count == 3


def test_one_transaction_has_a_limit(database: Database) -> None:
    commits = Commits(database)
    names = [f"{number:02}" for number in range(20)]
    behind_a_slow_commit(database, commits, simple(database, *names))
    assert commits.count == 3  # the first, sixteen, and four
    assert len(stored(database)) == 21


def test_a_change_that_fails_hurts_nobody_else(database: Database) -> None:
    commits = Commits(database)
    calls = simple(database, "a", "b")
    calls["bad"] = lambda: change(database, "bad", fail(ValueError("no")))
    calls |= simple(database, "c")
    callers = behind_a_slow_commit(database, commits, calls)
    assert isinstance(callers.outcomes.pop("bad"), ValueError)
    assert set(callers.outcomes.values()) == {None}
    assert stored(database) == ["a", "b", "c", "first"]
    assert commits.count == 3


def test_a_change_that_the_database_refuses_hurts_nobody_else(database: Database) -> None:
    commits = Commits(database)
    calls = simple(database, "a")
    calls["again"] = lambda: change(database, "a")
    calls |= simple(database, "b")
    callers = behind_a_slow_commit(database, commits, calls)
    assert isinstance(callers.outcomes.pop("again"), SQLAlchemyError)
    assert set(callers.outcomes.values()) == {None}
    assert stored(database) == ["a", "b", "first"]


def test_when_a_commit_fails_all_its_changes_fail(database: Database) -> None:
    commits = Commits(database)
    calls = simple(database, "a", "b")

    def last() -> None:
        change(
            database, "c", lambda: setattr(commits, "fail", OperationalError("x", None, OSError()))
        )

    calls["c"] = last
    callers = behind_a_slow_commit(database, commits, calls)
    assert callers.outcomes.pop("first") is None
    assert {type(error) for error in callers.outcomes.values()} == {OperationalError}
    commits.fail = None
    assert stored(database) == ["first"]
    change(database, "after")
    assert stored(database) == ["after", "first"]


def test_when_the_answer_to_a_commit_is_lost_all_are_told_so(database: Database) -> None:
    commits = Commits(database)
    commits.lost_answer = OperationalError("x", None, OSError())
    callers = behind_a_slow_commit(database, commits, simple(database, "a", "b"))
    assert {type(error) for error in callers.outcomes.values()} == {OperationalError}
    commits.lost_answer = None
    assert stored(database) == ["a", "b", "first"]
    with pytest.raises(SQLAlchemyError):
        change(database, "a")  # whoever repeats it is told that it is there
    change(database, "after")
    assert len(stored(database)) == 4


def test_a_disk_that_fills_up_loses_nothing_that_was_acknowledged(database: Database) -> None:
    """SQLite may end the whole transaction by itself: then nobody in it is told that it is done."""
    commits = Commits(database)

    def fill() -> None:
        with database.writing() as session:
            session.execute(text("INSERT INTO changes VALUES ('b')"))
            driver = session.connection().connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            pages = driver.execute("PRAGMA page_count").fetchone()[0]
            driver.execute(f"PRAGMA max_page_count = {pages}")
            try:
                session.execute(text("INSERT INTO changes VALUES (hex(zeroblob(1000000)))"))
            finally:
                driver.execute("PRAGMA max_page_count = 1000000")

    calls = simple(database, "a")
    calls["full"] = fill
    calls |= simple(database, "c")
    callers = behind_a_slow_commit(database, commits, calls)
    assert isinstance(callers.outcomes.pop("full"), SQLAlchemyError)
    acknowledged = {name for name, error in callers.outcomes.items() if error is None}
    assert {"first", "c"} <= acknowledged
    assert set(stored(database)) == acknowledged


def test_the_transaction_that_the_database_ended_is_not_called_done(database: Database) -> None:
    def end() -> None:
        with database.writing() as session:
            session.execute(text("INSERT INTO changes VALUES ('a')"))
            driver = session.connection().connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.execute("ROLLBACK")

    with pytest.raises(SQLAlchemyError):
        end()
    assert stored(database) == []
    change(database, "after")
    assert stored(database) == ["after"]


def test_when_no_transaction_can_begin_everybody_is_told(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "shared.sqlite").unlink()
    (tmp_path / "shared.sqlite").mkdir()
    database.engine.dispose()
    callers = Callers()
    for name in "abc":
        callers.start(name, lambda: change(database, "x"))
    callers.join()
    assert all(isinstance(error, SQLAlchemyError) for error in callers.outcomes.values())
    assert not database._shared._held


def test_many_threads(database: Database) -> None:
    callers = Callers()
    commits = Commits(database)
    for number in range(8):

        def work(number: int = number) -> None:
            for turn in range(25):
                try:
                    change(
                        database,
                        f"{number}-{turn}",
                        fail(ValueError("no")) if turn % 5 == 0 else None,
                    )
                except ValueError:
                    assert turn % 5 == 0

        callers.start(str(number), work)
    callers.join()
    assert set(callers.outcomes.values()) == {None}
    assert len(stored(database)) == 8 * 20
    assert commits.count <= 8 * 20
