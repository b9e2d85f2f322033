"""Files of records are read strictly: what is wrong is named with its place, never repaired."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from audit.errors import ExitCode, NotFound
from client.tables import MAX_FIELD_CHARACTERS, MalformedTable, MissingColumns, read_rows


def rows(path: Path, *columns: str) -> list[tuple[str, ...]]:
    return [row.values for row in read_rows(path, columns or ("who", "what"))]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestCsv:
    def test_columns_are_taken_by_name_in_any_order(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", "what,other,who\nhello,x,P-1\n")
        assert rows(path) == [("P-1", "hello")]

    def test_quotes_line_breaks_and_blank_lines(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", 'who,what\r\n\r\nP,"a ""b"",\nc"\r\n\r\n')
        assert rows(path) == [("P", 'a "b",\nc')]

    def test_a_byte_order_mark_is_fine(self, tmp_path: Path) -> None:
        assert rows(written(tmp_path / "a.CSV", b"\xef\xbb\xbfwho,what\nP,t\n")) == [("P", "t")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"who,what\nP,a\nP,b,c\n", "line 3: expected 2 fields, got 3"),
            (b'who,what\n"P\nQ",a\nshort\n', "line 4: expected 2 fields, got 1"),
            (b"who,what\nP,caf\xe9\n", "line 2: not UTF-8"),
            ("who,what\nP,t\n".encode("utf-16"), "line 1: not UTF-8"),
            (b'who,what\nP,"never closed\n', "unexpected end of data"),
            (b'who,what\nP,"a"b\n', "',' expected after"),
            (b"who,what,who\nP,t,Q\n", "the column 'who' more than once"),
            (b"who,what\nP," + b"x" * (MAX_FIELD_CHARACTERS + 1), "field larger than field limit"),
        ],
    )
    def test_what_is_malformed_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(MalformedTable, match=message) as caught:
            rows(written(tmp_path / "a.csv", content))
        assert caught.value.exit_code == ExitCode.MALFORMED_INPUT
        assert caught.value.fix

    def test_missing_columns_are_named_with_those_that_are_there(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", "subject,note\nP,t\n")
        with pytest.raises(MissingColumns, match="no column 'who', 'what'") as caught:
            rows(path)
        assert "subject, note" in caught.value.fix

    def test_an_error_does_not_change_the_limit_for_others(self, tmp_path: Path) -> None:
        import csv

        before = csv.field_size_limit()
        with pytest.raises(MalformedTable):
            rows(written(tmp_path / "a.csv", b""))
        assert csv.field_size_limit() == before


class TestJsonLines:
    def test_text_numbers_and_null(self, tmp_path: Path) -> None:
        lines = '{"who": 17, "what": "t", "x": []}\n\n{"who": 1.50, "what": null}\n'
        assert rows(written(tmp_path / "a.jsonl", lines)) == [("17", "t"), ("1.50", "")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\n\n", "is empty"),
            (b'{"who": "P", "what": "t"}\n{"who": "P"', "line 2: not JSON"),
            (b'{"who": "P", "what": "t"}\n["P"]\n', "line 2: not a JSON object"),
            (b'{"who": "P", "who": "Q", "what": "t"}\n', "a key occurs twice"),
            (b'{"who": "P", "what": ["t"]}\n', "'what' holds neither text nor a number"),
            (b'{"who": true, "what": "t"}\n', "'who' holds neither"),
            (b'{"who": "P", "what": "\\ud800"}\n', "half a character"),
            (b'{"who": "P", "what": "\xff"}\n', "line 1: not UTF-8"),
            (b'{"who": "P"}\n', "line 1: no column 'what'"),
            (b"[" * 100_000, "nested too deeply"),
        ],
    )
    def test_what_is_malformed_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises((MalformedTable, MissingColumns), match=message):
            rows(written(tmp_path / "a.jsonl", content))

    def test_a_list_is_its_json_where_lists_may_be(self, tmp_path: Path) -> None:
        spans = [{"start": 0, "end": 1, "label": "é"}]
        path = written(tmp_path / "a.jsonl", json.dumps({"who": "P", "what": spans}))
        (row,) = read_rows(path, ("who", "what"), lists=("what",))
        assert json.loads(row.values[1]) == spans
        parquet.write_table(arrow.table({"who": ["P"], "what": [spans]}), tmp_path / "a.parquet")
        (row,) = read_rows(tmp_path / "a.parquet", ("who", "what"), lists=("what",))
        assert json.loads(row.values[1]) == spans
        path = written(tmp_path / "b.jsonl", '{"who": ["P"], "what": []}')
        with pytest.raises(MalformedTable, match="'who' holds neither"):
            list(read_rows(path, ("who", "what"), lists=("what",)))


class TestParquet:
    def test_text_numbers_and_null(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        table = arrow.table({"what": ["t", None], "who": [1, 2], "x": [0.5, 1.5]})
        parquet.write_table(table, path)
        assert rows(path) == [("1", "t"), ("2", "")]

    def test_a_column_may_be_used_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        parquet.write_table(arrow.table({"who": ["P"]}), path)
        assert rows(path, "who", "who") == [("P", "P")]

    def test_what_is_malformed_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(MalformedTable, match="not a readable Parquet file"):
            rows(written(tmp_path / "a.parquet", b"PAR1 and then nothing PAR1"))
        path = tmp_path / "b.parquet"
        parquet.write_table(arrow.table({"who": ["P"], "what": [[1]]}), path)
        with pytest.raises(MalformedTable, match="neither text nor a number"):
            rows(path)
        parquet.write_table(arrow.table({"who": arrow.array([], arrow.string())}), path)
        with pytest.raises(MalformedTable, match="no rows"):
            rows(path, "who")
        with pytest.raises(MissingColumns, match="'what'"):
            rows(path)


class TestFiles:
    def test_the_name_decides_the_format(self, tmp_path: Path) -> None:
        with pytest.raises(MalformedTable, match=r"format of notes\.xlsx"):
            rows(tmp_path / "notes.xlsx")

    def test_no_file_and_a_folder_are_not_found(self, tmp_path: Path) -> None:
        (tmp_path / "folder.csv").mkdir()
        for name in ("absent.csv", "folder.csv"):
            with pytest.raises(NotFound):
                rows(tmp_path / name)

    def test_no_value_of_the_file_is_in_an_error(self, tmp_path: Path) -> None:
        bad = (
            b"who,what\nSecretName,a,b\n",
            b'who,what\nSecretName,"a"b\n',
            b"who,what\nSecretName\xff,b\n",
        )
        for content in bad:
            with pytest.raises(MalformedTable) as caught:
                rows(written(tmp_path / "a.csv", content))
            assert "Secret" not in f"{caught.value} {caught.value.fix}"

    @given(
        table=st.lists(
            st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"))] * 2),
            min_size=1,
            max_size=5,
        )
    )
    def test_what_json_writes_is_read_back(self, table: list[tuple[str, str]]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            lines = "\n".join(json.dumps({"who": a, "what": b}) for a, b in table)
            assert rows(written(Path(folder) / "a.jsonl", lines)) == table
