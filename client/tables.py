"""Reads records out of CSV, JSON Lines and Parquet files, strictly.

* A file is read as a whole or refused with the first thing that is wrong and where it is. Nothing
  is repaired, guessed or skipped: a half-understood file of people's records is worse than none.
* Text is UTF-8 (a byte-order mark is fine). Values are text; numbers are taken as written.
* An error names line and column, never a value: errors end up in logs.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import MalformedInput, NotFound
from audit.words import count_of

MAX_FIELD_CHARACTERS = 1_000_000
"""Longer than any note; a missing quote makes fields that swallow the rest of a file."""

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class MalformedTable(MalformedInput):
    """A data file that cannot be read as what its name says."""

    code = "malformed-table"


class MissingColumns(MalformedInput):
    """The file lacks columns that were named."""

    code = "missing-columns"


@dataclass(frozen=True)
class Row:
    """One row: where it is in the file, and its values of the wanted columns.

    Attributes:
        place: `line 17` of a text file, `row 16` of a Parquet file.
        values: One for each wanted column, in that order; "" where the file has none. A list in a
            column that may hold lists is its JSON.
    """

    place: str
    values: tuple[str, ...]


def read_rows(path: Path, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
    """The wanted columns of every row, in the order of the file.

    Args:
        path: A file named `.csv`, `.jsonl`, `.ndjson` or `.parquet`.
        columns: Names of the wanted columns.
        lists: Those of them that may hold a list.

    Raises:
        NotFound: When there is no such file.
        MalformedTable: When the file is not what its name says.
        MissingColumns: When it lacks a column.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise MalformedTable(
            f"cannot tell the format of {path.name} from its name",
            fix=f"name it {', '.join(FORMATS)}",
        )
    if not path.is_file():
        raise NotFound(f"there is no file {path}", fix="check the path")
    readers = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}
    try:
        yield from readers[kind](path, columns, lists)
    except UnicodeDecodeError as error:
        raise MalformedTable(
            f"{path.name}, line {_line_of_bad_byte(path)}: not UTF-8",
            fix="convert the file to UTF-8, for example with iconv -f WINDOWS-1252 -t UTF-8",
        ) from error
    except OSError as error:
        raise MalformedTable(
            f"{path.name} cannot be read: {error.strerror or 'it is no such file'}",
            fix="check the file and its permissions",
        ) from error


def _csv_rows(path: Path, columns: Sequence[str], _lists: Collection[str]) -> Iterator[Row]:
    previous_limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header:
                raise MalformedTable(f"{path.name} is empty", fix="it needs a header line")
            at = positions_of(path.name, header, columns)
            line = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise MalformedTable(
                        f"{path.name}, line {line}: expected {count_of(len(header), 'field')}, got"
                        f" {len(fields)}",
                        fix="quote fields that hold commas, quotes or line breaks",
                    )
                if fields:
                    yield Row(f"line {line}", tuple(fields[position] for position in at))
                line = reader.line_num + 1
    except csv.Error as error:
        raise MalformedTable(
            f"{path.name}, near line {reader.line_num}: {error}",
            fix=f"fields hold at most {MAX_FIELD_CHARACTERS:,} characters, quotes are doubled",
        ) from error
    finally:
        csv.field_size_limit(previous_limit)


def _json_rows(path: Path, columns: Sequence[str], lists: Collection[str]) -> Iterator[Row]:
    seen = False
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                record = json.loads(line, object_pairs_hook=_unique_keys, parse_float=str)
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise MalformedTable(
                    f"{path.name}, {place}: not JSON: {reason}", fix="write one object on each line"
                ) from error
            except RecursionError as error:
                raise MalformedTable(
                    f"{path.name}, {place}: nested too deeply", fix="write flat objects"
                ) from error
            if not isinstance(record, dict):
                raise MalformedTable(
                    f"{path.name}, {place}: not a JSON object", fix="write one object on each line"
                )
            missing = [name for name in columns if name not in record]
            if missing:
                raise missing_columns(path.name, missing, list(record), place)
            seen = True
            yield row_of(path.name, place, record, columns, lists)
    if not seen:
        raise MalformedTable(f"{path.name} is empty", fix="write one object on each line")


def _parquet_rows(path: Path, columns: Sequence[str], lists: Collection[str]) -> Iterator[Row]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            positions_of(path.name, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
                for record in batch.to_pylist():
                    number += 1
                    yield row_of(path.name, f"row {number}", record, columns, lists)
    except arrow.ArrowException as error:
        raise MalformedTable(
            f"{path.name} is not a readable Parquet file", fix="write it again, or use CSV"
        ) from error
    if number == 0:
        raise MalformedTable(f"{path.name} has no rows", fix="add rows")


def row_of(
    source: str,
    place: str,
    record: Mapping[str, Any],
    columns: Sequence[str],
    lists: Collection[str],
) -> Row:
    """The wanted values of a record whose columns are all there.

    Raises:
        MalformedTable: When one is neither text nor a number.
    """
    values = []
    for name in columns:
        value = record[name]
        if name in lists and isinstance(value, list):
            value = json.dumps(value, ensure_ascii=False, default=str)
        values.append(as_text(source, place, name, value))
    return Row(place, tuple(values))


def positions_of(source: str, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the wanted columns stand.

    Raises:
        MissingColumns: When one is not there.
        MalformedTable: When one is there twice.
    """
    missing = [name for name in columns if name not in header]
    if missing:
        raise missing_columns(source, missing, header, "the header")
    twice = [name for name, count in Counter(header).items() if count > 1 and name in columns]
    if twice:
        raise MalformedTable(
            f"{source} has the column {twice[0]!r} more than once", fix="rename one of them"
        )
    return [list(header).index(name) for name in columns]


def missing_columns(
    source: str, missing: Sequence[str], header: Sequence[str], place: str
) -> MissingColumns:
    """The error for columns that are not there."""
    names = ", ".join(repr(name) for name in missing)
    shown = ", ".join(name[:40] for name in header[:12])
    return MissingColumns(
        f"{source}, {place}: no column {names}",
        fix=f"name columns with --subject, --text, --label and the like; what there is: {shown}",
    )


def as_text(source: str, place: str, column: str, value: Any) -> str:
    """A value as text; empty for none.

    Raises:
        MalformedTable: When it is neither text nor a number.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if len(value) > MAX_FIELD_CHARACTERS:
            raise MalformedTable(
                f"{source}, {place}: column {column!r} holds more than"
                f" {MAX_FIELD_CHARACTERS:,} characters",
                fix="split or remove the record",
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise MalformedTable(
                f"{source}, {place}: column {column!r} holds half a character",
                fix="write the file again as UTF-8",
            ) from error
        return value
    if isinstance(value, bool | dict | list | bytes):
        raise MalformedTable(
            f"{source}, {place}: column {column!r} holds neither text nor a number",
            fix="write the column as text",
        )
    return str(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _line_of_bad_byte(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError:
                return number
    return 0
