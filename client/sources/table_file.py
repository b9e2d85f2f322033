"""CSV, JSON Lines and Parquet files (`client.tables`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from client.tables import Row, read_rows


class TableFile:
    """One file.

    Args:
        path: Named `.csv`, `.jsonl`, `.ndjson` or `.parquet`.
    """

    usual_columns: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self._path.parent

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
        """Every row of the file; see `client.tables.read_rows`."""
        return read_rows(self._path, columns, lists)
