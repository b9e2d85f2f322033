"""The database's schema, revision by revision (Alembic).

* `versions/` holds one file a revision, in one line: each follows the one before it, by number.
* No settings file: everything that Alembic needs is said here, and the files are in the package.
* `move` changes the tables in its caller's transaction: all steps, or none.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_FOLDER: Final = Path(__file__).parent


@cache
def revisions() -> tuple[str, ...]:
    """All revisions that this version knows, oldest first."""
    newest_first = ScriptDirectory(_FOLDER).walk_revisions()
    return tuple(script.revision for script in newest_first)[::-1]


def present_revision(connection: Connection) -> str | None:
    """The revision that the tables are at; None where no revision has made them."""
    return MigrationContext.configure(connection).get_current_revision()


def move(connection: Connection, target: str) -> None:
    """Bring the tables up, or down, to a revision of `revisions()`.

    Raises:
        SQLAlchemyError: When a step fails; the caller rolls back.
    """
    present = present_revision(connection)
    known = revisions()
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    if present is None or known.index(present) < known.index(target):
        command.upgrade(config, target)
    else:
        command.downgrade(config, target)
