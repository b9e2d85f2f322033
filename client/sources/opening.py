"""Which source the words of a command name."""

from __future__ import annotations

from pathlib import Path

from client.sources.source import Source
from client.sources.table_file import TableFile


def open_source(given: str) -> Source:
    """The source that a command names."""
    return TableFile(Path(given))
