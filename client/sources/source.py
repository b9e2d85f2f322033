"""What an ingest needs of a source, whatever kind it is.

* A source can be read again from its beginning, any number of times, and gives the same rows each
  time; `client.source_file` refuses one that does not. So nothing of it is copied to disk.
* Rows come one by one: a source is never held in memory as a whole.
* What is wrong is named with its place, never with a value: errors end up in logs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from client.tables import Row

SEVERAL = "\x1f"
"""Between several values of one cell, such as a person's two telephone numbers: the ASCII unit
separator, which no text holds."""


class Source(Protocol):
    """Rows of people's records."""

    @property
    def name(self) -> str:
        """What messages call it; no path and no address."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where pictures that its rows name are; None where there can be none."""
        ...

    @property
    def usual_columns(self) -> Mapping[str, tuple[str, ...]]:
        """Columns of a source whose form is fixed, by `subject`, `text` and `known`; else empty."""
        ...

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
        """The wanted columns of every row, from the beginning.

        Args:
            columns: Names of the wanted columns.
            lists: Those of them that may hold a list.

        Raises:
            MalformedTable: When the source is not what it says it is.
            MissingColumns: When it lacks a column.
        """
        ...
