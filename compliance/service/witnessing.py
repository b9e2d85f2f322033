"""The cosignatures of witnesses: the one thing that changes without an entry in the log.

`Registry.writing` refuses a change that recorded nothing. A cosignature cannot be an entry: it is
about the head that covers the last entry, so recording it would make a new head to be cosigned, and
witnesses would make the log grow for ever. It needs none either, because it is evidence by itself:
it says who signed what and when, and nobody but the witness can make it. So:

* `witnessing` is a transaction of its own, which refuses every statement that would change any
  other table. What else a service does still needs `writing`, unchanged.
* A refused cosignature is an entry, like every refusal.
* Of each witness the newest is kept, and the last of each `CHECKPOINT_BLOCK` sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from audit.checkpoint import read_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature, with_lines
from audit.keys import VerifyKey
from audit.log import CHECKPOINT_BLOCK
from audit.note import Note
from audit.storage import LogStorage
from compliance import rules
from compliance.log_views import WitnessView
from compliance.service.errors import ServiceUnavailable
from compliance.service.registry import Registry, check_present
from compliance.service.tables import LogCosignatureRow, SiteRow
from compliance.statements import format_time

_CHANGES: Final = re.compile(
    r"\s*(?:WITH|INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|TRUNCATE)\b", re.IGNORECASE
)
_COSIGNATURES_ONLY: Final = re.compile(
    rf"\s*(?:INSERT INTO|UPDATE|DELETE FROM) {LogCosignatureRow.__tablename__}\b", re.IGNORECASE
)


@contextmanager
def witnessing(registry: Registry, actor: rules.Bearer) -> Iterator[Session]:
    """A transaction that may change `log_cosignatures` and nothing else, without a log entry.

    Args:
        registry: The office.
        actor: The site that cosigned; looked up again, as in `Registry.writing`.

    Raises:
        ServiceUnavailable: When it cannot be stored, or when another table would be changed.
        Denied: When the actor's token has ended meanwhile.
    """
    try:
        with registry.database.writing() as session:
            connection = session.connection()  # others may use it next
            session.driver.allows = _refuse_other_changes
            event.listen(connection, "before_cursor_execute", _refuse_statement)
            try:
                check_present(session, actor, registry.clock())
                yield session
                session.flush()
            finally:
                event.remove(connection, "before_cursor_execute", _refuse_statement)
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            "the cosignature could not be stored", fix="repeat the call; a witness may"
        ) from error


def _refuse_statement(
    _connection: object,
    _cursor: object,
    statement: str,
    _parameters: Any,
    _context: object,
    _executemany: bool,
) -> None:
    _refuse_other_changes(statement)


def _refuse_other_changes(statement: str) -> None:
    if _CHANGES.match(statement) and not _COSIGNATURES_ONLY.match(statement):
        raise ServiceUnavailable("a change without an audit entry was about to be made")


def keep_cosignature(session: Session, storage: LogStorage, key: WitnessKey, note: str) -> None:
    """Store a checked cosignature, unless the witness has vouched for more already.

    Args:
        session: The transaction, by `witnessing`.
        storage: The log's view of it.
        key: The witness.
        note: The head with the log's line and the witness's, both verified.
    """
    head, unix_seconds = verify_cosignature(note, key)
    newest = newest_cosignature(session, key.name)
    if newest is not None:
        if newest.size > head.size:
            return
        if newest.size == head.size and verify_cosignature(newest.note, key)[1] >= unix_seconds:
            return
        same_block = newest.size // CHECKPOINT_BLOCK == head.size // CHECKPOINT_BLOCK
        if same_block and newest.size != head.size:
            storage.delete_cosignature(key.name, newest.size)
    storage.write_cosignature(key.name, head.size, note)


def newest_cosignature(session: Session, witness: str) -> LogCosignatureRow | None:
    """The row of the largest head that a witness cosigned."""
    return session.scalar(
        select(LogCosignatureRow)
        .where(LogCosignatureRow.witness == witness)
        .order_by(LogCosignatureRow.size.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


def cosigned(session: Session, note: str) -> str:
    """A checkpoint of the log with the lines of all witnesses that cosigned exactly this head."""
    head = read_checkpoint(note)
    rows = session.scalars(
        select(LogCosignatureRow.note)
        .where(LogCosignatureRow.size == head.size)
        .order_by(LogCosignatureRow.witness)
    )
    # Lines of another head of the same size would make a note that nobody can verify, and so hide
    # from the witnesses that the log has two.
    text = Note.parse(note).text
    words = [word for word in map(Note.parse, rows) if word.text == text]
    return with_lines(note, [line for word in words for line in word.signatures])


def witness_key(site: SiteRow) -> WitnessKey:
    """The key that verifies a site's cosignatures: its identity key."""
    return WitnessKey.of(VerifyKey.parse(site.identity_key))


def witness_views(session: Session, sites: Sequence[SiteRow]) -> list[WitnessView]:
    """Each site that ever cosigned, with its newest cosignature."""
    views = []
    for site in sites:
        key = witness_key(site)
        newest = newest_cosignature(session, key.name)
        if newest is None:
            continue
        _, unix_seconds = verify_cosignature(newest.note, key)
        views.append(
            WitnessView(
                witness=key.name,
                vkey=key.encoded(),
                size=newest.size,
                cosigned_at=format_time(datetime.fromtimestamp(unix_seconds, UTC)),
                note=newest.note,
            )
        )
    return views
