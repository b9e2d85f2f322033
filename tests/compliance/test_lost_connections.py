"""A database that goes away, is locked, or ends a transaction: a call is done once all the same.

| the connection is cut        | a call with a key   | a call without                             |
|------------------------------|---------------------|--------------------------------------------|
| before the change            | done once, answered | done once, answered                        |
| before the commit arrives    | done once, answered | 503, nothing done: nobody can know that    |
| after it, before its answer  | done once, answered | 503, done once                             |
"""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from compliance.service import database as databases
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import NewService, create_folder
from compliance.service.repeating import ATTEMPTS, is_passing, repeat
from compliance.session import IDEMPOTENCY_HEADER
from tests.compliance.running import Clock, RunningService, running
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

pytestmark = pytest.mark.timeout(60)

KEY = '"8e03978e-40d5-43e8-bc93-6894a57f9324"'


class CutLine:
    """A line to PostgreSQL that is cut when something is said on it: once, then it holds.

    Attributes:
        when: What is said.
        how: Cut before it arrives, or after it was answered, before the answer comes back.
        cuts: How often to cut it.
        closed: How often it was.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.when: bytes | None = None
        self.how: Literal["before", "after"] = "before"
        self.cuts = 0
        self.closed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, when: bytes, how: Literal["before", "after"], cuts: int = 1) -> None:
        self.closed, self.how, self.cuts, self.when = 0, how, cuts, when

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            swallow = threading.Event()
            for source, target, spoken in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._carry, args=(source, target, spoken, swallow), daemon=True
                ).start()

    def _carry(
        self, source: socket.socket, target: socket.socket, spoken: bool, swallow: threading.Event
    ) -> None:
        changed = False
        try:
            while data := source.recv(65_536):
                changed = changed or b"INSERT INTO" in data  # new connections commit their settings
                meant = self.when is not None and self.when in data
                if spoken and self.cuts and meant and (changed or self.when != b"COMMIT"):
                    self.cuts -= 1
                    self.closed += 1
                    if self.how == "before":
                        break
                    swallow.set()
                elif not spoken and swallow.is_set():
                    break  # it was answered, and so it happened
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes whoever reads it, which `close` does not
        source.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(MISSING)
    with running_server() as started:
        yield started


@pytest.fixture
def line(server: PostgresServer) -> Iterator[CutLine]:
    line = CutLine(server.port)
    yield line
    line.close()


@pytest.fixture
def remote(
    server: PostgresServer, line: CutLine, tmp_path: Path, clock: Clock
) -> Iterator[RunningService]:
    """A service whose database is behind the line."""
    address = make_url(server.new_database()).set(drivername="postgresql+psycopg", port=line.port)
    url = address.render_as_string(hide_password=False)
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log", url)
    with running(create_folder(tmp_path / "compliance", new, clock).path, clock) as started:
        yield started


def add(service: RunningService, name: str = "desk", key: str | None = KEY) -> httpx.Response:
    headers = {} if key is None else {IDEMPOTENCY_HEADER: key}
    body = {"name": name, "roles": ["consumer"]}
    http = service.http(service.token("officer"))
    return http.post("/v1/principals", json=body, headers=headers)


def added(service: RunningService) -> list[str]:
    """Whom the log says were added, once its tree was compared with its signed head."""
    with service.registry.reading() as session:
        service.registry.log.check(service.registry.storage(session))
    found = [name for _, action, name, _ in service.entries() if action == "principal.added"]
    return [name.removeprefix("principal:") for name in found[3:]]


def works(service: RunningService, answer: httpx.Response) -> bool:
    return answer.status_code == 201 and not service.client(answer.json()["token"]).releases()


@pytest.mark.parametrize(
    ("when", "how"),
    [
        (b"SELECT pg_advisory_xact_lock", "before"),
        (b"INSERT INTO log_entries", "before"),
        (b"INSERT INTO principals", "after"),
        (b"INSERT INTO given_answers", "before"),
        (b"COMMIT", "before"),
        (b"COMMIT", "after"),
    ],
)
def test_a_call_with_a_key_is_done_once_whenever_the_line_is_cut(
    remote: RunningService, line: CutLine, when: bytes, how: Literal["before", "after"]
) -> None:
    line.cut(when, how)
    answer = add(remote)
    assert line.closed == 1
    assert works(remote, answer), answer.text
    assert added(remote) == ["desk"]
    assert add(remote).content == answer.content
    assert added(remote) == ["desk"]


@pytest.mark.parametrize("how", ["before", "after"])
def test_without_a_key_a_commit_whose_end_is_unknown_is_not_repeated(
    remote: RunningService, line: CutLine, how: Literal["before", "after"]
) -> None:
    line.cut(b"COMMIT", how)
    assert add(remote, key=None).status_code == 503
    assert line.closed == 1
    assert added(remote) == (["desk"] if how == "after" else [])


def test_without_a_key_what_was_surely_undone_is_repeated(
    remote: RunningService, line: CutLine
) -> None:
    line.cut(b"INSERT INTO principals", "before")
    assert works(remote, add(remote, key=None))
    assert line.closed == 1
    assert added(remote) == ["desk"]


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_transaction_that_postgresql_ended_is_repeated(
    remote: RunningService, state: str
) -> None:
    ended = 0

    def end(_c: Any, cursor: Any, statement: str, _p: Any, _x: Any, _many: Any) -> None:
        nonlocal ended
        if statement.startswith("INSERT INTO principals") and not ended:
            ended += 1
            cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$")

    engine = remote.registry.database.engine
    event.listen(engine, "before_cursor_execute", end)
    try:
        assert works(remote, add(remote, key=None))
    finally:
        event.remove(engine, "before_cursor_execute", end)
    assert ended == 1
    assert added(remote) == ["desk"]


# --- SQLite ---------------------------------------------------------------------------------------


def test_a_locked_file_is_waited_for(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than SQLite itself waits."""
    monkeypatch.setattr(databases, "BUSY_TIMEOUT_MILLISECONDS", 20)
    with running(tmp_path / "compliance", clock) as service:
        path = service.folder.path / "compliance.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            released = threading.Timer(0.15, other.execute, ("ROLLBACK",))
            released.start()
            assert works(service, add(service, key=None))
            released.join()
        assert added(service) == ["desk"]


@pytest.mark.parametrize("persisted", [False, True])
def test_a_commit_that_failed_is_repeated_with_a_key_alone(
    service: RunningService, persisted: bool
) -> None:
    dialect = service.registry.database.engine.dialect
    commit = dialect.do_commit
    failures = 0

    def fail_once(connection: Any) -> None:
        nonlocal failures
        if persisted:
            commit(connection)
        if failures:
            failures -= 1
            raise locked()
        if not persisted:
            commit(connection)

    dialect.do_commit = fail_once  # type: ignore[assignment, method-assign]
    failures = 1
    assert works(service, add(service))
    failures = 1
    assert add(service, "desk-2", None).status_code == 503
    dialect.do_commit = commit  # type: ignore[method-assign]
    assert added(service) == (["desk", "desk-2"] if persisted else ["desk"])


def locked() -> OperationalError:
    """What SQLAlchemy makes of a locked file."""
    with (
        closing(sqlite3.connect("file::memory:?cache=shared", uri=True)) as one,
        closing(sqlite3.connect("file::memory:?cache=shared", uri=True, timeout=0)) as two,
    ):
        one.execute("CREATE TABLE IF NOT EXISTS t (x)")
        one.execute("BEGIN IMMEDIATE")
        try:
            two.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return OperationalError("COMMIT", None, error)
    raise AssertionError("it was not locked")


# --- what passes ----------------------------------------------------------------------------------


def of_state(state: str | None, kind: type[psycopg.Error] = psycopg.OperationalError) -> DBAPIError:
    error = kind("x")
    error.sqlstate = state
    return OperationalError("SELECT 1", None, error)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (of_state("40001"), True),
        (of_state("40P01"), True),
        (of_state("08006"), True),
        (of_state("57P01"), True),
        (of_state(None), True),
        (of_state(None, psycopg.InterfaceError), False),
        (of_state("23505", psycopg.IntegrityError), False),
        (of_state("53100"), False),  # the disk is full
        (of_state("42P01", psycopg.ProgrammingError), False),
        (locked(), True),
        (OperationalError("SELECT 1", None, sqlite3.OperationalError("disk I/O error")), False),
        (OperationalError("SELECT 1", None, OSError("x")), False),
    ],
)
def test_what_passes(error: DBAPIError, passes: bool) -> None:
    assert is_passing(error) is passes


@pytest.mark.parametrize(
    ("failure", "known", "attempts"),
    [
        ({"passing": True}, False, ATTEMPTS),
        ({"passing": True, "may_have_happened": True}, False, 1),
        ({"passing": True, "may_have_happened": True}, True, ATTEMPTS),
        ({"passing": False}, True, 1),
    ],
)
def test_what_is_repeated(
    failure: dict[str, Any], known: bool, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    made: list[int] = []

    def fail() -> None:
        made.append(1)
        raise ServiceUnavailable("x", **failure)

    operation: Callable[[], None] = fail
    with pytest.raises(ServiceUnavailable):
        repeat(operation, known=known)
    assert len(made) == attempts
