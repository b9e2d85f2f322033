"""MySQL and MariaDB as sources: rows of every type, nothing written, an answer that breaks off."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from audit.errors import FiduciaryError, Refused
from client.ingest import Recorder, ingest
from client.intake import Columns, Intake
from client.site import Site
from client.source_file import read_source
from client.sources.sql_query import DatabaseFailed, SqlQuery, _own_words
from client.tables import MalformedTable
from client.vault import Vault
from tests.client.data.records import WordForWord
from tests.mariadb import MISSING, PASSWORD, MariaServer, is_installed, running_mariadb

ROWS = 12_000
COLUMNS = Columns(subject="who", text="what", label="topic")
INTAKE = Intake(dataset="notes", purposes=("triage",), legal_basis="consent")


@pytest.mark.parametrize(
    ("query", "reads"),
    [
        ("select who from notes", True),
        ("-- why\n /* of\nwhom */ # and\n (SELECT who FROM a) UNION (SELECT who FROM b)", True),
        ("WITH t AS (SELECT 1 AS who) SELECT who FROM t", True),
        ("SET GLOBAL max_connections = 1", False),
        ("/*! SET GLOBAL max_connections = 1 */ SELECT 1", False),
        ("CALL erase_all()", False),
        ("-- SELECT\nDELETE FROM notes", False),
        ("SELECT who FROM notes INTO\n OUTFILE '/tmp/notes'", False),
    ],
)
def test_what_read_only_sessions_of_mysql_let_through_is_refused(query: str, reads: bool) -> None:
    for url in ("mysql+pymysql://reader@h/d", "mariadb+pymysql://reader@h/d"):
        if reads:
            SqlQuery(url, query)
        else:
            with pytest.raises(Refused, match="does not begin as one, or writes into a file"):
                SqlQuery(url, query)


def test_an_errors_number_is_told_and_its_words_are_not() -> None:
    from sqlalchemy.exc import OperationalError

    driver = Exception(1045, "Access denied for user 'reader' (password hunter2)")
    with pytest.raises(DatabaseFailed) as said, _own_words():
        raise OperationalError("SELECT", {}, driver)
    assert str(said.value).endswith("(Exception, error 1045)")


@pytest.fixture(scope="module")
def server() -> Iterator[MariaServer]:
    with running_mariadb() as running:
        running.run(
            "USE ehr",
            "CREATE TABLE kinds (id INT, t TEXT, d DATE, s DATETIME(6), z TIME, p DECIMAL(10, 2),"
            " f DOUBLE, b BIT(3), x BLOB, e ENUM('a', 'b'))",
            "INSERT INTO kinds VALUES (1, 'at 12:30 100% 👩🏽‍⚕️ Zoë', '2024-05-01',"
            " '2024-05-01 12:30:01.5', '12:30:00', 12.50, 0.1, b'101', x'ff00', 'a'),"
            " (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
            "CREATE TABLE notes AS SELECT seq AS id, CONCAT('P-', seq MOD 300) AS who,"
            " CONCAT('note ', seq, REPEAT(' went home', 50)) AS what,"
            " IF(seq MOD 2, 'a', 'b') AS topic FROM seq_1_to_12000",
        )
        yield running


def source(server: MariaServer, query: str, password: str = PASSWORD) -> SqlQuery:
    return SqlQuery(server.url, query, password)


class BreaksOff(SqlQuery):
    """A query whose connection an administrator ends at one row of one reading."""

    def __init__(self, server: MariaServer, query: str, reading: int, row: int) -> None:
        super().__init__(server.url, query, PASSWORD)
        self._server, self._reading, self._row, self._readings = server, reading, row, 0

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Any]:
        """As the query, until then."""
        self._readings += 1
        for number, row in enumerate(super().rows(columns, lists)):
            if (self._readings, number) == (self._reading, self._row):
                ids = "SELECT id FROM information_schema.processlist WHERE user = 'reader'"
                for (connection,) in self._server.run(ids):
                    self._server.run(f"KILL {connection}")
            yield row


@pytest.mark.skipif(not is_installed(), reason=MISSING)
class TestServer:
    def test_rows_come_as_text(self, server: MariaServer) -> None:
        names = ["t", "d", "s", "z", "p", "f", "e"]
        query = "SELECT * FROM kinds WHERE t IS NULL OR t LIKE '%12:30 100\\%%' ORDER BY id"
        rows = [row.values for row in source(server, query).rows(names)]
        assert rows == [
            ("at 12:30 100% 👩🏽‍⚕️ Zoë", "2024-05-01", "2024-05-01T12:30:01.500000", "12:30:00",
             "12.50", "0.1", "a"),
            ("",) * 7,
        ]  # fmt: skip
        for name in ("b", "x"):
            with pytest.raises(MalformedTable, match=f"row 1: column '{name}' holds neither text"):
                list(source(server, "SELECT * FROM kinds ORDER BY id").rows([name]))

    def test_nothing_is_written_or_told(self, server: MariaServer) -> None:
        for query in ("WITH t AS (SELECT 1) DELETE FROM kinds", "SELECT * FROM kinds FOR UPDATE"):
            with pytest.raises(DatabaseFailed):
                list(source(server, query).rows(["id"]))
        with pytest.raises(DatabaseFailed, match="error 1045") as said:
            list(source(server, "SELECT 1 AS who", "another-secret").rows(["who"]))
        assert "secret" not in str(said.value) + said.value.fix
        assert server.run("SELECT COUNT(*) FROM ehr.kinds") == [(2,)]

    def test_an_answer_that_breaks_off_is_gone_on_with(
        self, server: MariaServer, site: Site, vault: Vault, tmp_path: Path
    ) -> None:
        query = "SELECT * FROM notes ORDER BY id"
        recorder = Recorder(site.journal, site.principal)
        with pytest.raises(FiduciaryError, match=r"OperationalError.*error 2013"):
            read_source(BreaksOff(server, query, 1, ROWS // 2), COLUMNS, INTAKE)
        breaks = read_source(BreaksOff(server, query, 3, ROWS // 2), COLUMNS, INTAKE)
        part = (breaks.characters + breaks.rows * 1000) // 4
        with pytest.raises(DatabaseFailed, match="error 2013"):
            ingest(breaks, INTAKE, vault, WordForWord(), recorder, part_characters=part)
        assert vault.datasets() == ()
        whole = read_source(source(server, query), COLUMNS, INTAKE)
        again = WordForWord()
        done = ingest(whole, INTAKE, vault, again, recorder, part_characters=part)
        assert done.resumed
        assert 0 < sum(again.batches) < ROWS, "the first part was done"
        texts = [record.text.split(" ")[1] for record in vault.examples("notes")]
        assert sorted(map(int, texts)) == list(range(1, ROWS + 1))
        stored = b"".join(p.read_bytes() for p in site.paths.root.rglob("*") if p.is_file())
        assert PASSWORD.encode() not in stored
