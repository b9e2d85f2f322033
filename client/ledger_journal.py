"""How the ledger's changes reach the site's journal, and how the journal vouches for the ledger.

* `note` queues an entry in the transaction of the change that it describes; `flush` moves queued
  entries to the journal, each in the order of its `sequence`.
* A crash between the journal's write and the removal from the queue repeats an entry with the same
  `sequence`; none is ever missing.
* No journal entry can have a `sequence` above the ledger's counter, unless the ledger was deleted
  or replaced by an earlier copy: that is how `refuse_rollback` notices a budget put back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from audit.errors import NotFound, VerificationFailed
from audit.journal import Leaves, newest_first
from audit.leaf import Leaf
from audit.log import Entry
from audit.words import count_of

ACTION_PREFIX = "budget-"
"""Every journal entry of the ledger has an action that starts with this."""


class JournalWriter(Protocol):
    """The part of the site's journal that the ledger writes to."""

    def record(self, entry: Entry) -> object:
        """Append an entry, durably."""


class JournalReader(Leaves, Protocol):
    """The part of the site's journal that vouches for the ledger."""

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload."""


def note(
    connection: sqlite3.Connection, action: str, plan_id: str, details: Mapping[str, Any]
) -> None:
    """Queue a journal entry inside the caller's transaction.

    Args:
        connection: The ledger, in a transaction.
        action: What happened, without `ACTION_PREFIX`.
        plan_id: The plan that it happened to.
        details: What canonical JSON can hold: text and integers.
    """
    note_about(connection, action, f"plan:{plan_id}", details)


def note_about(
    connection: sqlite3.Connection, action: str, thing: str, details: Mapping[str, Any]
) -> None:
    """Queue a journal entry about anything, as `note` does about a plan."""
    connection.execute(
        "INSERT INTO journal_outbox (action, object, payload) VALUES (?, ?, ?)",
        (ACTION_PREFIX + action, thing, json.dumps(details)),
    )


def is_flushed(connection: sqlite3.Connection) -> bool:
    """Whether every change is in the journal."""
    return connection.execute("SELECT 1 FROM journal_outbox LIMIT 1").fetchone() is None


def flush(connection: sqlite3.Connection, journal: JournalWriter, actor: str) -> None:
    """Journal what is queued, in order, inside the caller's transaction.

    Raises:
        FiduciaryError: When the journal cannot be written.
    """
    queued = connection.execute(
        "SELECT sequence, action, object, payload FROM journal_outbox ORDER BY sequence"
    ).fetchall()
    for sequence, action, name, payload in queued:
        journal.record(
            Entry(
                actor=actor,
                action=action,
                object=name,
                subject=None,
                payload={"sequence": sequence, **json.loads(payload)},
            )
        )
        connection.execute("DELETE FROM journal_outbox WHERE sequence = ?", (sequence,))


def last_sequence(connection: sqlite3.Connection) -> int:
    """How many changes were ever noted."""
    row = connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'journal_outbox'"
    ).fetchone()
    return 0 if row is None else int(row[0])


def journalled_sequence(journal: JournalReader) -> int:
    """The `sequence` of the newest change that the journal knows; 0 when it knows none."""
    for leaf in newest_first(journal):
        if leaf.action.startswith(ACTION_PREFIX):
            try:
                return int(journal.read(leaf.position)[1]["sequence"])
            except NotFound:
                continue  # its payload's retention ended; an older one may be readable
    return 0


def refuse_rollback(journal: JournalReader, ledger_sequence: Callable[[], int]) -> None:
    """Raise when the journal knows of changes that the ledger does not.

    Args:
        journal: The site's journal.
        ledger_sequence: Reads the ledger's counter. It is asked after the journal was read: another
            process may be between its two writes, and the ledger is always ahead.

    Raises:
        VerificationFailed: When the ledger is an earlier copy, or another one.
    """
    journalled = journalled_sequence(journal)
    counted = ledger_sequence()
    if journalled > counted:
        raise VerificationFailed(
            f"the journal knows {count_of(journalled, 'change')} of the privacy budget, the"
            f" ledger {counted}: the ledger was put back to an earlier copy",
            fix="restore the newest ledger.sqlite: this site does not train with an older one",
        )
