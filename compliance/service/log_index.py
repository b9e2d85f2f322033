"""The searchable index of the log: what each entry is about. It proves nothing.

* A row is written with its entry, in one transaction; `rebuild_index` makes all of them again from
  the leaves, and from their payloads where those are not forgotten.
* `site`, `plan`, `release` are each the one that an entry is about. Whoever records it says so; a
  site that acts, and a site, plan or release that is the entry's object, are known anyway.
* An entry that names several sites (a plan, a round, an erasure's plans) is found by what it is
  about, not by each name in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from audit.errors import MalformedInput
from audit.key_manager import KeyDestroyed
from audit.leaf import Leaf
from audit.log import AuditLog, Entry
from audit.search import stored_leaves
from audit.statement import SignedStatement
from audit.storage import LogStorage
from compliance.service.tables import LogIndexRow

_SITE: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

_BATCH: Final = 500
"""Rows in one insert; databases limit the number of parameters."""


@dataclass(frozen=True)
class Topics:
    """What an entry is about. What is no name of a site, or no digest, counts as unknown."""

    site: str | None = None
    plan: str | None = None
    release: str | None = None

    def __or__(self, other: Topics) -> Topics:
        """What is known here, else there."""
        return Topics(
            self.site or other.site, self.plan or other.plan, self.release or other.release
        )


def known_topics(site: object = None, plan: object = None, release: object = None) -> Topics:
    """Topics from values that somebody else chose: whatever cannot be one is left out."""
    return Topics(_match(_SITE, site), _match(_DIGEST, plan), _match(_DIGEST, release))


def topics_of_clear_fields(actor: str, object_name: str) -> Topics:
    """What actor and object say by themselves."""
    return _topics_of_object(object_name) | known_topics(site=_site_of(actor))


def topics_of_path(template: str, parameters: Mapping[str, object]) -> Topics:
    """What a call of an operation is about, by the path that it was made to."""
    return known_topics(
        site=parameters.get("name") if template.startswith("/v1/sites/") else None,
        plan=parameters.get("plan_id"),
        release=parameters.get("release_id"),
    )


def topics_of_payload(object_name: str, payload: Mapping[str, Any]) -> Topics:
    """What an entry's payload adds: a statement's own words, or a refusal's path."""
    statement = payload.get("statement")
    if statement is not None:
        body = SignedStatement.from_json(statement).body
        about = _topics_of_object(str(body.get("object", "")))
        return known_topics(site=body.get("site"), plan=body.get("plan_id")) | about
    if object_name.startswith("operation:"):
        template = object_name.partition(" ")[2]
        return topics_of_path(template, payload.get("about", {}))
    return known_topics(site=payload.get("site"))


def index_fields(entry: Entry | Leaf, position: int, time: str, topics: Topics) -> dict[str, Any]:
    """The columns of an entry's row."""
    known = topics | topics_of_clear_fields(entry.actor, entry.object)
    return {
        "position": position,
        "time": time,
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "subject": entry.subject,
        "site": known.site,
        "plan": known.plan,
        "release": known.release,
    }


def rebuild_index(session: Session, storage: LogStorage, log: AuditLog) -> int:
    """Make all rows again, in the caller's transaction, in flat memory.

    An entry whose payload is forgotten is found by its clear fields only.

    Returns:
        The number of entries.

    Raises:
        VerificationFailed: At an entry that is not what it should be.
    """
    session.execute(delete(LogIndexRow))
    plans: dict[str, str] = {}  # of each release: later entries name the release alone
    rows: list[dict[str, Any]] = []
    count = 0
    for leaf in stored_leaves(storage):
        row = index_fields(leaf, leaf.position, leaf.time, _payload_topics(leaf, log))
        if row["release"] is not None:
            if row["plan"] is None:
                row["plan"] = plans.get(row["release"])
            else:
                plans[row["release"]] = row["plan"]
        rows.append(row)
        count += 1
        if len(rows) == _BATCH:
            session.execute(insert(LogIndexRow), rows)
            rows = []
    if rows:
        session.execute(insert(LogIndexRow), rows)
    return count


def _payload_topics(leaf: Leaf, log: AuditLog) -> Topics:
    try:
        return topics_of_payload(leaf.object, log.open(leaf))
    except KeyDestroyed:
        return Topics()
    except MalformedInput:  # another writer's payload may hold what we cannot read
        return Topics()


def _topics_of_object(name: str) -> Topics:
    kind, _, identity = name.partition(":")
    match kind:
        case "site":
            return known_topics(site=identity)
        case "principal":
            return known_topics(site=_site_of(identity))
        case "plan":
            return known_topics(plan=identity)
        case "release":
            return known_topics(release=identity)
        case _:
            return Topics()


def _site_of(principal: str) -> str | None:
    return principal.removeprefix("site:") if principal.startswith("site:") else None


def _match(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None
