"""Subjects whose records are kept and not used: they objected, or asked for restriction.

* An excluded subject's records are in no batch, no evaluation and no count, in whatever dataset or
  version of one they are, until the exclusion is lifted (GDPR Art. 18 and 21).
* A subject who objected before the site had any record of them is excluded in advance: only the
  keyed pseudonym is kept, which names nobody without this site's secret.
* It is durable when a call returns. `journalled` says whether the journal has its entry, so that an
  exclusion that a crash interrupted gets one.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True)
class Exclusion:
    """One subject's.

    Attributes:
        subject: The subject's pseudonym.
        request: The request that it answers.
        excluded_at: RFC 3339 time.
        journalled: Whether the journal has its entry.
    """

    subject: str
    request: str
    excluded_at: str
    journalled: bool


def exclusions(connection: sqlite3.Connection) -> list[Exclusion]:
    """All of them, by pseudonym."""
    rows = connection.execute(
        "SELECT subject, request, excluded_at, journalled FROM excluded_subjects ORDER BY subject"
    )
    return [Exclusion(subject, request, at, bool(done)) for subject, request, at, done in rows]


def exclude(connection: sqlite3.Connection, subject: str, request: str, now: str) -> None:
    """Exclude a subject; one who is excluded already stays so, by the first request."""
    connection.execute(
        "INSERT OR IGNORE INTO excluded_subjects VALUES (?, ?, ?, 0)", (subject, request, now)
    )


def mark_journalled(connection: sqlite3.Connection, subject: str) -> None:
    """Note that the journal has the entry."""
    connection.execute("UPDATE excluded_subjects SET journalled = 1 WHERE subject = ?", (subject,))


def lift(connection: sqlite3.Connection, request: str) -> list[str]:
    """End what a request brought; gives the pseudonyms."""
    rows = connection.execute(
        "SELECT subject FROM excluded_subjects WHERE request = ? ORDER BY subject", (request,)
    ).fetchall()
    connection.execute("DELETE FROM excluded_subjects WHERE request = ?", (request,))
    return [subject for (subject,) in rows]
