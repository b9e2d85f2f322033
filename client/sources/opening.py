"""Which source the words of a command name.

| words | source |
|---|---|
| `notes.csv`, `.jsonl`, `.ndjson`, `.parquet` | `client.sources.table_file` |
| a folder | Hugging Face `datasets` (`client.sources.datasets_folder`) |
| `fhir:bundle.json`, `fhir:FOLDER` | `client.sources.fhir_bundle` |
| `dialect://…` with a query | `client.sources.sql_query` |
"""

from __future__ import annotations

import os
from pathlib import Path

from audit.errors import MalformedInput
from client.sources.datasets_folder import DatasetsFolder
from client.sources.fhir_bundle import FhirBundle
from client.sources.source import Source
from client.sources.sql_query import SqlQuery, read_password
from client.sources.table_file import TableFile

FHIR = "fhir:"


def open_source(given: str, query: str = "", password_file: Path | None = None) -> Source:
    """The source that a command names. Nothing is read yet.

    Args:
        given: A path, `fhir:` and a path, or a database's URL.
        query: For a database.
        password_file: For a database; without it the environment is asked.

    Raises:
        MalformedInput: When a query is given for something else than a database.
        FiduciaryError: See `client.sources.sql_query.SqlQuery`.
    """
    if "://" in given:
        return SqlQuery(given, query, read_password(password_file, os.environ))
    if query or password_file is not None:
        raise MalformedInput(
            "--query and --password-file belong to a database",
            fix="name it by its URL, such as postgresql+psycopg://reader@host/database",
        )
    if given.startswith(FHIR):
        return FhirBundle(Path(given.removeprefix(FHIR)))
    path = Path(given)
    return DatasetsFolder(path) if path.is_dir() else TableFile(path)
