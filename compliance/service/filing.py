"""Signed statements: read, checked, recorded once.

* A statement is taken only with the signature of the key that the service expects for its kind.
* Recording one writes the log entry and the row in the caller's transaction.
* The very same statement again, from the same principal, is no second event: the caller gets the
  first result. From anybody else it is a conflict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeVar

from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes
from audit.errors import NotFound
from audit.keys import VerifyKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from compliance import rules
from compliance.service.driver import Fixed
from compliance.service.errors import Denied, enforce
from compliance.service.registry import Transaction
from compliance.service.tables import Base, CoordinatorRow, SiteRow, StatementRow
from compliance.statements import Decision, Statement
from compliance.wire import SiteState

_Statement = TypeVar("_Statement", bound=Statement)

_BATCH: Final = 500
"""Digests in one query; databases limit the number of parameters."""

_MAX_REMEMBERED_LENGTH: Final = 64 * 1024
"""Of an envelope: larger than most, and no memory to speak of for those that are remembered."""

_NO_COORDINATOR: Final = rules.Refused(
    "coordinator-unregistered",
    "no coordinator key is registered, so nothing that it signs can be checked",
    "run `server init` at the coordinator",
    "conflict",
)


_STATEMENTS: Final = Base.metadata.tables[StatementRow.__tablename__]
_KEEP: Final = Fixed(insert(_STATEMENTS))
_FILED: Final = Fixed(
    select(_STATEMENTS.c.filed_by, _STATEMENTS.c.position).where(
        _STATEMENTS.c.digest == bindparam("digest")
    )
)

_SITES: Final = Base.metadata.tables[SiteRow.__tablename__].c
_SITE: Final = Fixed(
    select(_SITES.state, _SITES.identity_key).where(_SITES.name == bindparam("name"))
)
_COORDINATORS: Final = Base.metadata.tables[CoordinatorRow.__tablename__].c
_COORDINATOR_KEY: Final = Fixed(select(_COORDINATORS.key).where(_COORDINATORS.id == 1))


class Filed(NamedTuple):
    """Who filed a statement, and the position of its log entry."""

    filed_by: str
    position: int


def read_statement(kind: type[_Statement], signed: SignedStatement, key: VerifyKey) -> _Statement:
    """The document in a statement that `key` signed.

    Raises:
        VerificationFailed: When another key signed it, or it was altered.
        MalformedInput: When it is not a document of that kind.
    """
    return kind.from_body(verify_statement(signed, key))


def file_statement(
    transaction: Transaction,
    signed: SignedStatement,
    action: str,
    *,
    plan_id: str | None = None,
    release_id: str | None = None,
    site: str | None = None,
    subject: str | None = None,
) -> int:
    """Record a checked statement and keep it.

    Args:
        transaction: The change that it belongs to.
        signed: The statement.
        action: What was done, `noun.participle`.
        plan_id: The plan that it is about.
        release_id: The release that it is about, if it is not that release's manifest.
        site: The site that it is about, if another than the one that acts.
        subject: The data subject's pseudonym, when it is about one.

    Returns:
        Position of its log entry.
    """
    position = transaction.record(
        action,
        signed.log_object,
        {"statement": signed.to_json()},
        subject=subject,
        site=site,
        plan_id=plan_id,
        release_id=release_id,
    )
    row = {
        "digest": signed.digest,
        "kind": signed.kind,
        "envelope": canonical_bytes(signed.to_json()).decode("utf-8"),
        "filed_by": transaction.actor,
        "filed_at": transaction.time,
        "position": position,
        "plan_id": plan_id,
    }
    _KEEP.run(transaction.session, row)
    return position


def find_filed(session: Session, signed: SignedStatement, caller: str) -> Filed | None:
    """What is known of this very statement when the same caller filed it before.

    Raises:
        Denied: When somebody else filed it.
    """
    found = _FILED.run(session, {"digest": signed.digest}).fetchone()
    row = None if found is None else Filed(*found)
    if row is not None and row.filed_by != caller:
        raise Denied(
            rules.Refused(
                "filed-by-another",
                "another principal has filed this very statement",
                status="conflict",
            )
        )
    return row


def sign_decision(
    transaction: Transaction,
    object: str,  # noqa: A002  the document's own word
    verdict: Literal["approved", "rejected"],
    reason: str,
    *,
    plan_id: str,
    release_id: str | None = None,
) -> tuple[SignedStatement, int]:
    """An officer's decision, signed by the service and recorded.

    Returns:
        The decision and the position of its log entry.
    """
    decision = Decision(
        object=object,
        verdict=verdict,
        decided_by=transaction.actor,
        decided_at=transaction.time,
        reason=reason,
    )
    signed = sign_statement(decision.body(), transaction.registry.signer)
    kind = object.partition(":")[0]
    position = file_statement(
        transaction, signed, f"{kind}.{verdict}", plan_id=plan_id, release_id=release_id
    )
    return signed, position


def is_repeated(
    rows: dict[str, StatementRow], decision: str | None, caller: rules.Bearer, verdict: str
) -> bool:
    """Whether the caller decided just this before: a repeated call is no second decision."""
    if decision is None:
        return False
    made = Decision.from_body(parse_envelope(rows[decision]).body)
    return (made.decided_by, made.verdict) == (caller.name, verdict)


def load_rows(session: Session, digests: Iterable[str | None]) -> dict[str, StatementRow]:
    """Rows of several statements, by digest."""
    wanted = sorted({digest for digest in digests if digest is not None})
    found: dict[str, StatementRow] = {}
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        rows = session.scalars(select(StatementRow).where(StatementRow.digest.in_(batch)))
        found.update((row.digest, row) for row in rows)
    return found


def parse_envelope(row: StatementRow) -> SignedStatement:
    """The statement of a row."""
    return parse_stored(row.envelope)


def parse_stored(envelope: str) -> SignedStatement:
    """A statement as it is stored. The few that are asked for all the time are remembered."""
    small = len(envelope) <= _MAX_REMEMBERED_LENGTH
    return _parse_again(envelope) if small else _parse(envelope)


def _parse(envelope: str) -> SignedStatement:
    return SignedStatement.from_json(json.loads(envelope))


_parse_again: Final = lru_cache(maxsize=128)(_parse)


def coordinator_key(session: Session) -> VerifyKey:
    """The registered coordinator's key.

    Raises:
        Denied: When none is registered.
    """
    found = _COORDINATOR_KEY.run(session, {}).fetchone()
    if found is None:
        raise Denied(_NO_COORDINATOR)
    return VerifyKey.parse(found[0])


def site_row(session: Session, name: str) -> SiteRow:
    """An enrolled site.

    Raises:
        NotFound: When there is none of that name.
    """
    row = session.get(SiteRow, name)
    if row is None:
        raise no_site()
    return row


def site_standing(session: Session, name: str) -> tuple[SiteState, str]:
    """The state of an enrolled site, and its identity key.

    Raises:
        NotFound: When there is none of that name.
    """
    found = _SITE.run(session, {"name": name}).fetchone()
    if found is None:
        raise no_site()
    return found[0], found[1]


def site_key(session: Session, caller: rules.Bearer) -> VerifyKey:
    """The identity key of the site that calls, when it takes part.

    Raises:
        Denied: When it is not approved, or is no site.
    """
    if caller.site is None:
        raise Denied(rules.Refused("not-a-site", "a site speaks for itself only"))
    state, identity_key = site_standing(session, caller.site)
    enforce(rules.may_act_as_site(state))
    return VerifyKey.parse(identity_key)


def no_site() -> NotFound:
    """What is said of a site that is none."""
    return NotFound("there is no such site", fix="list the sites: `compliance sites`")
