"""Which tables the database has, which it should have, and the way from one to the other.

* `compliance init` makes the tables through the revisions (`service.migrations`), and `compliance
  migrate` moves them, with their rows, up or down. It is in the audit log, in the same transaction:
  afterwards the database is of the revision that was asked for, or as it was.
* A service works on the newest revision that it knows and on no other. It never moves the tables by
  itself: that is the operator's decision, after a backup (docs/adr/0032-database.md).
* `log_index` proves nothing: where it is incomplete it is made again from the leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from sqlalchemy import Connection, MetaData, Table, func, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import compliance.service
from audit.errors import Conflict, NotFound
from compliance.service.database import Database, ServiceSession
from compliance.service.errors import ServiceUnavailable
from compliance.service.log_index import rebuild_index
from compliance.service.migrations import move, present_revision, revisions
from compliance.service.registry import Registry, Transaction
from compliance.service.tables import Base, LogIndexRow

UNVERSIONED: Final = "unversioned"
"""What is said of tables that are older than revisions."""

OPERATOR: Final = "compliance"
"""The actor of what was done on the machine itself."""

_INDEX: Final = LogIndexRow.__tablename__


@dataclass(frozen=True)
class Migration:
    """A way from one revision to another.

    Attributes:
        present: Where the tables are, or were before.
        target: Where they shall be, or are now.
        steps: The revisions that are made, or undone, in that order.
    """

    present: str
    target: str
    steps: tuple[str, ...]

    @property
    def undoes(self) -> bool:
        """Whether it goes to an earlier revision."""
        known = revisions()
        return self.present in known and known.index(self.target) < known.index(self.present)


def models() -> MetaData:
    """All tables that the service works with: `tables`, and each `*_tables` module beside it."""
    for module in iter_modules(compliance.service.__path__):
        if module.name.endswith("_tables"):
            import_module(f"{compliance.service.__name__}.{module.name}")
    return Base.metadata


def newest_revision() -> str:
    """The revision that this version works on."""
    return revisions()[-1]


def make_tables(database: Database) -> None:
    """Make the tables of an empty database.

    Raises:
        Conflict: When it is not empty.
    """
    with database.migrating() as connection:
        if inspect(connection).get_table_names():
            raise Conflict(
                "the database is not empty",
                fix="give the address of an empty one, or `compliance start` the folder it is of",
            )
        move(connection, newest_revision())


def plan_migration(registry: Registry, target: str | None = None) -> Migration:
    """What `migrate` would do.

    Args:
        registry: The service; none needs to run.
        target: A revision; None for the newest.

    Raises:
        NotFound: When there is no such revision.
        Conflict: When the database is empty, or of a version that this one does not know.
    """
    with _unchanged_on_failure(), registry.reading() as session:
        return _plan(session.connection(), target)


def migrate(registry: Registry, target: str | None = None) -> Migration:
    """Bring the tables to a revision, and record it. Where they are there already, nothing is done.

    No service may run meanwhile: it works on one revision, and would fail or write what is lost.

    Raises:
        NotFound: When there is no such revision.
        Conflict: When the database is of a version that this one does not know, or served.
        VerificationFailed: When an entry of the log is not what it should be.
        ServiceUnavailable: When the database cannot be changed; it is then as it was.
    """
    with _unchanged_on_failure():
        planned = plan_migration(registry, target)
        if not planned.steps:
            with registry.database.migrating() as connection:
                _complete(registry, connection)
            return planned
        with registry.database.alone(), registry.database.migrating() as connection:
            planned = _plan(connection, target)
            if not planned.steps:  # another command was faster
                return planned
            if planned.undoes:
                _record(registry, connection, planned)
            move(connection, planned.target)
            if planned.target == newest_revision():
                _complete(registry, connection)
            if not planned.undoes:
                _record(registry, connection, planned)
            return planned


def check_schema(registry: Registry) -> None:
    """Make sure that the service can work on its database.

    Raises:
        Conflict: When it is of another revision, or lacks something.
        VerificationFailed: When an entry of the log is not what it should be.
        ServiceUnavailable: When the database cannot be used.
    """
    with _unchanged_on_failure():
        with registry.reading() as session:
            planned = _plan(session.connection(), None)
            differing = _differences(session.connection())
        if planned.steps:
            raise Conflict(
                f"the database is at revision {planned.present}, and this version works on"
                f" {planned.target}",
                fix=f"make a backup (`compliance backup`), then: `compliance migrate"
                f" {registry.folder}`",
            )
        if differing:
            with registry.database.migrating() as connection:
                _complete(registry, connection)


@contextmanager
def _unchanged_on_failure() -> Iterator[None]:
    """Say of a database's failure what it means here."""
    try:
        yield
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            "the database could not be brought up to date; it is as it was",
            fix="check its disk and permissions, then try again",
        ) from error


def _plan(connection: Connection, target: str | None) -> Migration:
    known = revisions()
    wanted = known[-1] if target is None else target
    if wanted not in known:
        raise NotFound(
            f"there is no revision {wanted}", fix=f"this version knows {known[0]} to {known[-1]}"
        )
    present = present_revision(connection)
    if present is None:
        tables = inspect(connection).get_table_names()
        if "log_entries" not in tables:
            raise Conflict(
                "the database holds no tables of the compliance service",
                fix="check database_url, or restore the backup: `compliance restore FILE DIR`",
            )
        return Migration(UNVERSIONED, wanted, known[: known.index(wanted) + 1])
    if present not in known:
        raise Conflict(
            f"the database is at revision {present}, which this version does not know",
            fix="start it with the version of fiduciary that made it",
        )
    at, to = known.index(present), known.index(wanted)
    steps = known[at + 1 : to + 1] if to >= at else known[to + 1 : at + 1][::-1]
    return Migration(present, wanted, steps)


def _record(registry: Registry, connection: Connection, migration: Migration) -> None:
    """Put the move into the log, whose tables every revision has."""
    with ServiceSession(connection, join_transaction_mode="create_savepoint") as session:
        transaction = Transaction(registry, session, None)
        registry.log.check(transaction.storage)
        transaction.actor = OPERATOR
        transaction.record(
            "database.migrated",
            f"revision:{migration.target}",
            {"from": migration.present, "to": migration.target, "steps": list(migration.steps)},
        )
        session.commit()


def _complete(registry: Registry, connection: Connection) -> None:
    """Make the index of the log again where it is incomplete; refuse any other difference."""
    differing = _differences(connection)
    others = {name: lacking for name, lacking in differing.items() if name != _INDEX}
    if others:
        parts = "; ".join(f"{name}: {', '.join(lacking)}" for name, lacking in others.items())
        raise Conflict(
            f"the database is of another version, it lacks {parts}",
            fix="start it with the version of fiduciary that made it",
        )
    table = models().tables[_INDEX]
    if _INDEX in differing:
        table.drop(connection, checkfirst=True)
        table.create(connection)
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        storage = registry.storage(session)
        if session.scalar(select(func.count()).select_from(table)) != storage.size():
            rebuild_index(session, storage, registry.log)
        session.commit()


def _differences(connection: Connection) -> dict[str, list[str]]:
    """Columns and indexes that tables lack, by table; the whole of a table that is not there."""
    catalogue = inspect(connection)
    present = set(catalogue.get_table_names())
    found: dict[str, list[str]] = {}
    for name, table in models().tables.items():
        lacking = _lacking(connection, table) if name in present else ["all"]
        if lacking:
            found[name] = lacking
    return found


def _lacking(connection: Connection, table: Table) -> list[str]:
    catalogue = inspect(connection)
    columns = {column["name"] for column in catalogue.get_columns(table.name)}
    indexes = {index["name"] for index in catalogue.get_indexes(table.name)}
    lacking = sorted(set(table.columns.keys()) - columns)
    if table.name == _INDEX:  # only its indexes can be made again without thought
        lacking += sorted({str(index.name) for index in table.indexes} - indexes)
    return lacking
