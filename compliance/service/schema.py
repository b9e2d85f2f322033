"""A database of an earlier format is brought up to date when it is opened.

* In one transaction: the database is of the present format afterwards, or as it was.
* Tables that came later are made. `log_index` proves nothing, so one of another shape is dropped
  and made again from the leaves. The log's hashes move to where the present format has them
  (`audit.sql_log`). No other table is ever changed here.
* A database that still lacks something is refused: it belongs to another version.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.exc import SQLAlchemyError

from audit.errors import Conflict
from audit.sql_log import bring_up_to_date as move_log
from compliance.service.errors import ServiceUnavailable
from compliance.service.log_index import rebuild_index
from compliance.service.log_storage import SessionConnection, session_log
from compliance.service.registry import Registry
from compliance.service.tables import Base, LogIndexRow

_INDEX: Final = LogIndexRow.__tablename__


def bring_up_to_date(registry: Registry) -> bool:
    """Give the database the present format, if it has another.

    Returns:
        Whether anything was changed.

    Raises:
        Conflict: When the database is of a version that this one does not know.
        VerificationFailed: When an entry of the log is not what it should be.
        ServiceUnavailable: When the database cannot be changed; it is then as it was.
    """
    try:
        with registry.reading() as session:
            if not _differences(session.connection()):
                return False
        with registry.database.writing() as session:
            connection = session.connection()
            differing = _differences(connection)  # another process may have been faster
            if not _missing_tables(connection) and _INDEX not in differing:
                raise _other_version(differing)
            if _INDEX in differing:
                Base.metadata.tables[_INDEX].drop(connection, checkfirst=True)
            Base.metadata.create_all(connection)
            move_log(session_log(session), SessionConnection(session), ())
            remaining = _differences(connection)
            if remaining:
                raise _other_version(remaining)
            if _INDEX in differing:
                rebuild_index(session, registry.storage(session), registry.log)
            return True
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            "the database could not be brought up to date; it is as it was",
            fix="check its disk and permissions, then start again",
        ) from error


def _missing_tables(connection: Connection) -> list[str]:
    present = set(inspect(connection).get_table_names())
    return sorted(Base.metadata.tables.keys() - present)


def _differences(connection: Connection) -> dict[str, list[str]]:
    """Columns and indexes that tables lack, by table; the whole of a table that is not there."""
    missing = {name: ["all"] for name in _missing_tables(connection)}
    for name, table in Base.metadata.tables.items():
        if name not in missing and (lacking := _lacking(connection, table)):
            missing[name] = lacking
    return missing


def _lacking(connection: Connection, table: Table) -> list[str]:
    catalogue = inspect(connection)
    columns = {column["name"] for column in catalogue.get_columns(table.name)}
    indexes = {index["name"] for index in catalogue.get_indexes(table.name)}
    lacking = sorted(set(table.columns.keys()) - columns)
    if table.name == _INDEX:  # only its indexes can be made again without thought
        lacking += sorted({str(index.name) for index in table.indexes} - indexes)
    return lacking


def _other_version(differing: dict[str, list[str]]) -> Conflict:
    parts = "; ".join(f"{name}: {', '.join(lacking)}" for name, lacking in differing.items())
    return Conflict(
        f"the database is of another version, it lacks {parts}",
        fix="start it with the version of fiduciary that made it",
    )
