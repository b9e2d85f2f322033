"""Sources beside files of rows: folders of `datasets`, FHIR bundles, databases."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from audit.errors import ExitCode, FiduciaryError, MalformedInput, NotFound, Refused
from client.sources import Source, open_source
from client.sources.datasets_folder import DatasetsFolder
from client.sources.fhir_bundle import FhirBundle
from client.sources.source import SEVERAL
from client.sources.sql_query import DatabaseFailed, SqlQuery, read_password
from client.sources.table_file import TableFile
from client.tables import MalformedTable, MissingColumns
from tests.postgresql import MISSING, find_programs, running_server


def values(source: Source, *columns: str) -> list[tuple[str, ...]]:
    return [row.values for row in source.rows(columns)]


class TestOpening:
    def test_the_words_tell_the_source(self, tmp_path: Path) -> None:
        assert isinstance(open_source("notes.csv"), TableFile)
        assert isinstance(open_source(str(tmp_path)), DatasetsFolder)
        assert isinstance(open_source("fhir:notes.csv"), FhirBundle)
        assert isinstance(open_source("sqlite:///a.db", "SELECT 1"), SqlQuery)
        with pytest.raises(MalformedInput, match="belong to a database"):
            open_source("notes.csv", "SELECT 1")


FEATURES = {
    "who": {"dtype": "string", "_type": "Value"},
    "kind": {"names": ["billing", "callback"], "_type": "ClassLabel"},
}
METADATA = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}


def table(*rows: tuple[str, int]) -> arrow.Table:
    made = arrow.table({"who": [r[0] for r in rows], "kind": [r[1] for r in rows]})
    return made.replace_schema_metadata(METADATA)


def saved(folder: Path, *files: arrow.Table) -> Path:
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(files):05}.arrow" for n in range(len(files))]
    for name, content in zip(names, files, strict=True):
        with ipc.new_stream(folder / name, content.schema) as stream:
            stream.write_table(content)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


class TestDatasetsFolder:
    def test_what_the_library_itself_wrote(self) -> None:
        source = DatasetsFolder(Path(__file__).parent / "saved_by_datasets")
        assert values(source, "who", "text", "label") == [
            ("P-1", "one", "billing"), ("P-2", "two", "callback"), ("P-1", "three", "callback"),
            ("P-3", "four", "billing"),
        ]  # fmt: skip

    def test_shards_are_read_in_order_and_classes_by_name(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "d", table(("P-1", 1), ("P-2", 0)), table(("P-3", -1)))
        assert values(DatasetsFolder(folder), "kind", "who") == [
            ("callback", "P-1"), ("billing", "P-2"), ("", "P-3"),
        ]  # fmt: skip

    def test_all_splits_are_read(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            saved(tmp_path / "d" / split, table((split, 0)))
        (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        assert values(DatasetsFolder(tmp_path / "d"), "who") == [("train",), ("test",)]

    def test_parquet_files_are_read_where_there_is_no_state(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        parquet.write_table(table(("P-1", 1)), tmp_path / "data" / "train-0.parquet")
        assert values(DatasetsFolder(tmp_path), "who", "kind") == [("P-1", "callback")]

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ('{"_data_files": [{"filename": "../../etc/passwd"}]}', "a file outside of it"),
            ('{"_data_files": [{"filename": "gone.arrow"}]}', "no readable folder"),
            ('{"_data_files": [3]}', "lists no files"),
            ('{"_indices_data_files": [{"filename": "i"}]}', "a selection of rows"),
            ("[", "no JSON"),
            ("3", "no JSON object"),
        ],
    )
    def test_what_is_malformed_is_named(self, tmp_path: Path, state: str, message: str) -> None:
        folder = saved(tmp_path / "d", table(("P-1", 1)))
        (folder / "state.json").write_text(state)
        with pytest.raises(MalformedTable, match=message):
            values(DatasetsFolder(folder), "who")

    def test_missing_columns_cut_files_and_empty_folders(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "d", table(("P-1", 1)))
        with pytest.raises(MissingColumns, match="'text'"):
            values(DatasetsFolder(folder), "text")
        file = next(folder.glob("*.arrow"))
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(MalformedTable):
            values(DatasetsFolder(folder), "who")
        (tmp_path / "empty").mkdir()
        with pytest.raises(NotFound, match="neither state"):
            values(DatasetsFolder(tmp_path / "empty"), "who")


PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [
        {"system": "urn:ssn", "value": "999-12-3456"},
        {"type": {"coding": [{"code": "MR"}]}, "system": "urn:mr", "value": "MR-77"},
    ],
    "name": [{"given": ["Maria", "J."], "family": "Lopez"}, {"text": "Mia Lopez"}],
    "telecom": [
        {"system": "phone", "value": "07700 900123"},
        {"system": "email", "value": "m@x.y"},
    ],
    "birthDate": "1980-03-04",
    "address": [{"line": ["14 Larch Close"], "city": "Harrowby", "postalCode": "NG31"}],
}


def document(text: str | bytes, *, charset: str = "utf-8", **more: Any) -> dict[str, Any]:
    data = text if isinstance(text, bytes) else text.encode(charset)
    attachment = {
        "contentType": f"text/plain; charset={charset}",
        "data": base64.b64encode(data).decode(),
    }
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "type": {"coding": [{"code": "34117-2", "display": "History"}]},
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": attachment}],
    } | more


def bundle(path: Path, *resources: Any, urls: dict[int, str] | None = None) -> FhirBundle:
    entries = [{"resource": resource} for resource in resources]
    for at, url in (urls or {}).items():
        entries[at]["fullUrl"] = url
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "document", "entry": entries}))
    return FhirBundle(path)


WORDS = (
    "id", "identifier", "name", "given", "family", "telecom", "address", "line", "subject",
    "content", "attachment", "data", "contentType", "url", "reference", "note", "text",
    "valueString", "type", "coding", "code", "category", "contained", "status",
)  # fmt: skip


class TestFhirBundle:
    def test_a_document_comes_with_what_names_its_patient(self, tmp_path: Path) -> None:
        source = bundle(tmp_path / "b.json", PATIENT, document("Schön hier.", charset="latin-1"))
        columns = ("subject", "mrn", "text", "type", "name", "phone", "email", "address")
        assert values(source, *columns) == [
            ("p1", "MR-77", "Schön hier.", "History", f"Maria J. Lopez{SEVERAL}Mia Lopez",
             "07700 900123", "m@x.y", "14 Larch Close, Harrowby, NG31"),
        ]  # fmt: skip
        assert values(source, "identifier") == [(f"999-12-3456{SEVERAL}MR-77",)]

    def test_observations_with_words_are_notes(self, tmp_path: Path) -> None:
        def observation(**more: Any) -> dict[str, Any]:
            return {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "Smoking"},
                "subject": {"reference": "Patient/p1"},
            } | more

        source = bundle(
            tmp_path / "b.json",
            PATIENT,
            observation(valueString="never", note=[{"text": "so she says"}]),
            observation(valueQuantity={"value": 4}),
            observation(valueString="a slip", status="entered-in-error"),
        )
        assert values(source, "text", "resource", "type") == [
            ("never\n\nso she says", "Observation", "Smoking")
        ]

    @pytest.mark.parametrize(
        ("subject", "urls"),
        [
            ({"reference": "urn:uuid:5"}, {0: "urn:uuid:5"}),
            ({"reference": "https://e.org/fhir/Patient/p1/_history/2"},
             {0: "https://e.org/fhir/Patient/p1"}),
            ({"reference": "Patient/x9"},
             {0: "https://e.org/fhir/Patient/x9", 1: "https://e.org/fhir/DocumentReference/1"}),
            ({"reference": "#mine"}, {}),
            ({"identifier": {"system": "urn:mr", "value": "MR-77"}}, {}),
        ],
    )  # fmt: skip
    def test_references_are_resolved_within_the_bundle(
        self, tmp_path: Path, subject: dict[str, Any], urls: dict[int, str]
    ) -> None:
        contained = [PATIENT | {"id": "mine"}]
        note = document("text", subject=subject, contained=contained)
        found = values(bundle(tmp_path / "b.json", PATIENT, note, urls=urls), "mrn")
        assert found == [("MR-77",)]

    def test_who_is_not_in_the_bundle_is_no_subject(self, tmp_path: Path) -> None:
        for reference in ("Patient/else", "Binary/b", "https://e.org/fhir/Patient/p1", "#x", ""):
            note = document("text", subject={"reference": reference})
            binary = {"resourceType": "Binary", "id": "b"}
            source = bundle(tmp_path / "b.json", PATIENT, binary, note)
            assert values(source, "subject", "name") == [("", "")]

    def test_an_attachment_may_be_a_binary_of_the_bundle_and_is_never_fetched(
        self, tmp_path: Path
    ) -> None:
        binary = {
            "resourceType": "Binary",
            "id": "b",
            "contentType": "text/plain",
            "data": base64.b64encode(b"from afar").decode(),
        }
        for url, text in (("Binary/b", "from afar"), ("https://e.org/fhir/Binary/b", "")):
            note = document("", content=[{"attachment": {"url": url}}])
            assert values(bundle(tmp_path / "b.json", PATIENT, binary, note), "text") == [(text,)]

    def test_other_attachments_hold_no_text(self, tmp_path: Path) -> None:
        pdf = {"contentType": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}
        source = bundle(tmp_path / "b.json", PATIENT, document("", content=[{"attachment": pdf}]))
        assert values(source, "text") == [("",)]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[", "is no JSON"),
            ("[]", "is no FHIR bundle"),
            ('{"resourceType": "Patient"}', "is no FHIR bundle"),
            ('{"resourceType": "Bundle"}', "neither documents nor observations"),
            ('{"resourceType": "Bundle", "entry": [3, {"resource": []}]}', "neither documents"),
            ("[" * 100_000, "is no JSON"),
        ],
    )
    def test_what_is_malformed_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "b.json"
        path.write_text(content)
        with pytest.raises(MalformedTable, match=message):
            values(FhirBundle(path), "text")

    def test_bad_base64_bad_characters_and_two_of_one_address(self, tmp_path: Path) -> None:
        bad = document("", content=[{"attachment": {"contentType": "text/plain", "data": "%"}}])
        for resources, message in (
            ((PATIENT, bad), "entry 2: the attachment is no utf-8"),
            ((PATIENT, document(b"\xff")), "entry 2: the attachment is no utf-8"),
            ((PATIENT, document("x", charset="latin-1"), PATIENT | {"birthDate": ""}), "entry 3"),
        ):
            with pytest.raises(MalformedTable, match=message):
                values(bundle(tmp_path / "b.json", *resources), "text")
        with pytest.raises(MissingColumns, match="no column 'note'"):
            values(bundle(tmp_path / "b.json", PATIENT, document("x")), "note")

    @settings(max_examples=40, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
            ),
            max_leaves=25,
        ),
        st.sampled_from(["Patient", "DocumentReference", "Observation", "Binary"]),
        st.sampled_from(["http://[", "#", "urn:uuid:", "Patient/p1", "/_history/", "../.."]),
    )
    def test_any_resource_is_read_or_refused_in_words(
        self, tmp_path_factory: pytest.TempPathFactory, inner: Any, kind: str, reference: str
    ) -> None:
        resource = dict.fromkeys(WORDS, inner) | {"resourceType": kind}
        note = document("text", subject={"reference": reference})
        folder = tmp_path_factory.mktemp("fuzzed", numbered=True)
        source = bundle(
            folder / "b.json", resource, PATIENT, note, urls={2: "http://[x/DocumentReference/1"}
        )
        try:
            found = values(source, "subject", "text", "name", "address", "type")
        except MalformedTable:
            return
        assert all(isinstance(value, str) for row in found for value in row)

    def test_a_folder_is_read_bundle_by_bundle(self, tmp_path: Path) -> None:
        bundle(tmp_path / "1.json", PATIENT, document("one"))
        bundle(tmp_path / "2.json", PATIENT | {"id": "p2"}, document("two"))
        found = values(FhirBundle(tmp_path), "subject", "text")
        assert found == [("p1", "one"), ("", "two")], "one bundle's patient is not another's"
        with pytest.raises(NotFound):
            values(FhirBundle(tmp_path / "none"), "text")

    def test_its_columns_are_found_by_themselves(self, typed: Any, tmp_path: Path) -> None:
        note = document("Please call Maria J. Lopez on 07700 900123; lopez, mr-77, agrees.")
        bundle(tmp_path / "b.json", PATIENT, note)
        code, out, err = typed("add", f"fhir:{tmp_path}/b.json", "--label", "type")
        assert code == ExitCode.OK, err
        assert "1 record of 1 subject" in out


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "ehr.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (who TEXT, what TEXT, seen DATE, ok BOOLEAN)")
        connection.execute("INSERT INTO notes VALUES ('P-1', 'at 12:30 100%', '2024-05-01', 1)")
    return path


class TestSqlQuery:
    def test_rows_come_as_text(self, database: Path) -> None:
        query = "SELECT who, what, seen FROM notes WHERE what LIKE '%12:30%'"
        source = SqlQuery(f"sqlite:///{database}", query)
        assert values(source, "what", "who") == [("at 12:30 100%", "P-1")]
        (database.parent / "q.sql").write_text(query)
        named = SqlQuery(f"sqlite:///{database}", str(database.parent / "q.sql"))
        assert values(named, "seen") == [("2024-05-01",)]

    @pytest.mark.parametrize(
        "query",
        ["DELETE FROM notes", "INSERT INTO notes (who) VALUES ('X') RETURNING who",
         "DROP TABLE notes"],
    )  # fmt: skip
    def test_nothing_can_be_written(self, database: Path, query: str) -> None:
        with pytest.raises(DatabaseFailed):
            values(SqlQuery(f"sqlite:///{database}", query), "who")
        assert values(SqlQuery(f"sqlite:///{database}", "SELECT who FROM notes"), "who")

    def test_errors_repeat_neither_address_nor_values(self, database: Path) -> None:
        for url, query in (
            (f"sqlite:///{database}", "SELECT secretcolumn FROM notes"),
            ("postgresql+psycopg://reader@127.0.0.1:1/secretbase", "SELECT 1 AS secretcolumn"),
        ):
            with pytest.raises(DatabaseFailed) as caught:
                values(SqlQuery(url, query), "who")
            assert "secret" not in str(caught.value)
            assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        ("url", "kind", "message"),
        [
            ("postgresql://u:hunter2@h/d", MalformedInput, "holds a password"),
            ("postgresql://u@h/d?password=hunter2", MalformedInput, "holds a password"),
            ("mssql+pyodbc://u@h/d", Refused, "cannot be made read-only"),
            ("no url://", MalformedInput, "malformed database URL"),
        ],
    )
    def test_urls_are_checked(self, url: str, kind: type[FiduciaryError], message: str) -> None:
        with pytest.raises(kind, match=message) as caught:
            SqlQuery(url, "SELECT 1")
        assert "hunter2" not in str(caught.value)

    def test_a_driver_that_is_not_there_is_named(self) -> None:
        with pytest.raises(NotFound, match=r"driver of mysql\+mysqldb"):
            values(SqlQuery("mysql+mysqldb://reader@127.0.0.1/d", "SELECT 1 AS who"), "who")

    def test_no_file_no_rows_no_query(self, database: Path) -> None:
        with pytest.raises(NotFound, match="no such SQLite file"):
            values(SqlQuery(f"sqlite:///{database}.gone", "SELECT 1 AS who"), "who")
        with pytest.raises(MalformedTable, match="no rows"):
            values(SqlQuery(f"sqlite:///{database}", "SELECT who FROM notes WHERE 0"), "who")
        with pytest.raises(MissingColumns, match="'who'"):
            values(SqlQuery(f"sqlite:///{database}", "SELECT what FROM notes"), "who")
        with pytest.raises(MalformedInput, match="no query"):
            SqlQuery(f"sqlite:///{database}", " ")

    def test_the_password_is_in_a_file_or_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("from file\n")
        environment = {"FIDUCIARY_SQL_PASSWORD": "from environment"}
        assert read_password(tmp_path / "pw", environment) == "from file"
        assert read_password(None, environment) == "from environment"
        assert read_password(None, {}) == ""
        with pytest.raises(NotFound, match="password file"):
            read_password(tmp_path / "gone", environment)

    @pytest.mark.skipif(find_programs() is None, reason=MISSING)
    def test_postgresql_streams_and_cannot_write(self) -> None:
        with running_server() as server:
            address = server.new_database()
            with psycopg.connect(address.replace("postgresql+psycopg", "postgresql")) as connection:
                connection.execute(
                    "CREATE TABLE notes AS SELECT 'P-' || n AS who, n % 2 = 0 AS ok"
                    " FROM generate_series(1, 1200) AS n"
                )
                connection.execute("CREATE SEQUENCE numbers")
            url = address.replace("postgresql://", "postgresql+psycopg://")
            query = "SELECT who, ok, 'x'::text AS t FROM notes WHERE who LIKE 'P-%' ORDER BY who"
            found = values(SqlQuery(url, query), "who", "ok")
            assert len(set(found)) == 1200
            assert {ok for _, ok in found} == {"true", "false"}
            with pytest.raises(DatabaseFailed, match="SQLSTATE 25006"):
                values(SqlQuery(url, "SELECT nextval('numbers') AS who"), "who")
