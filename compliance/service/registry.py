"""The office behind the counter: keys, database, log, and the one way to change anything.

* `writing()` is the only way to change state, and it refuses to commit a change that recorded no
  log entry. State and entry are in one transaction: both are durable, or neither happened.
* Only cosignatures of the log's heads come another way (`service.witnessing`), which can change
  nothing else.
* Whoever writes is looked up again inside the transaction: a token that was revoked while a request
  waited changes nothing.
* A clock, a log storage and a database are passed in, so that tests can fail each of them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from audit.errors import FiduciaryError
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog, Entry, LogStorage
from compliance import rules
from compliance.resources import Role
from compliance.service.content import ContentFolder
from compliance.service.database import Database
from compliance.service.errors import Denied, ServiceUnavailable, enforce
from compliance.service.log_index import Topics, index_fields
from compliance.service.log_storage import session_log
from compliance.service.tables import LogIndexRow, PrincipalRow, ReleaseRow
from compliance.service.throttle import Throttle
from compliance.statements import format_time
from compliance.trust import Trust

ANONYMOUS: Final = "anonymous"
"""The actor of what nobody in particular did."""

_TOKEN_BYTES: Final = 32

_RETRY: Final = "repeat the call: what was recorded already is not recorded twice"


@dataclass(frozen=True)
class Registry:
    """Everything that the operations need.

    Attributes:
        trust: The public facts about this service.
        database: Where state and log live.
        log: Appends, reads and proves.
        signer: Signs checkpoints and decisions.
        release_key: Opens the data keys of releases.
        keyring: Data keys of log entries, and named secrets.
        content: The releases' ciphertexts.
        clock: The present time, in UTC.
        folder: The compliance folder.
        storage: Makes the log's view of one transaction.
    """

    trust: Trust
    database: Database
    log: AuditLog
    signer: SigningKey
    release_key: X25519PrivateKey
    keyring: Keyring
    content: ContentFolder
    clock: Callable[[], datetime]
    folder: Path
    storage: Callable[[Session], LogStorage] = session_log
    throttle: Throttle = field(default_factory=Throttle)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only view of one moment.

        Raises:
            ServiceUnavailable: When the database cannot be read.
        """
        try:
            with self.database.reading() as session:
                yield session
        except SQLAlchemyError as error:
            raise ServiceUnavailable("the database cannot be read", fix="try again") from error

    @contextmanager
    def writing(self, actor: rules.Bearer | None) -> Iterator[Transaction]:
        """A change, made durable together with its log entries when the block ends normally.

        Args:
            actor: Who makes it; None for a caller without a name.

        Raises:
            ServiceUnavailable: When state or log cannot be stored; neither is, as far as known.
            Denied: When the actor's token has ended meanwhile.
        """
        try:
            with self.database.writing() as session:
                transaction = Transaction(self, session, actor)
                if actor is not None:
                    present = find_bearer(session, actor.name)
                    if present is None:
                        raise Denied(rules.UNKNOWN_TOKEN)
                    enforce(rules.may_use_token(present, transaction.now))
                yield transaction
                transaction.check_recorded()
        except SQLAlchemyError as error:
            raise ServiceUnavailable(
                "the change and its audit entry could not be stored", fix=_RETRY
            ) from error

    def identify(self, token: str | None) -> rules.Bearer:
        """The principal that a bearer token belongs to.

        Raises:
            Denied: When the token is missing, unknown, expired or revoked.
        """
        if not token:
            raise Denied(rules.NO_TOKEN)
        token_sha256 = hash_token(token)
        with self.reading() as session:
            row = session.scalar(
                select(PrincipalRow).where(PrincipalRow.token_sha256 == token_sha256)
            )
            if row is None or not hmac.compare_digest(row.token_sha256, token_sha256):
                raise Denied(rules.UNKNOWN_TOKEN)
            bearer = _bearer(row)
        enforce(rules.may_use_token(bearer, self.clock()))
        return bearer

    def close(self) -> None:
        """Give connections and keys back."""
        self.database.close()
        self.keyring.close()


class Transaction:
    """One change in the making.

    Attributes:
        session: The database session; writes are committed with the entries or not at all.
        now: The moment of the change.
        time: The same as text.
        actor: Who makes it.
    """

    def __init__(self, registry: Registry, session: Session, actor: rules.Bearer | None) -> None:
        self.registry = registry
        self.session = session
        self.now = registry.clock()
        self.time = format_time(self.now)
        self.actor = ANONYMOUS if actor is None else actor.name
        self.storage = registry.storage(session)
        self._changed = False
        self._recorded = False
        event.listen(session, "after_flush", self._note_change)

    def record(
        self,
        action: str,
        object: str,  # noqa: A002  the log's own word
        payload: Mapping[str, Any],
        *,
        subject: str | None = None,
        site: str | None = None,
        plan_id: str | None = None,
        release_id: str | None = None,
    ) -> int:
        """Append an entry to the log.

        Args:
            action: What was done, `noun.participle`.
            object: What it was done to, `<kind>:<id>`.
            payload: Details as canonical JSON can hold them; encrypted in the log.
            subject: The data subject's pseudonym, when the entry is about one.
            site: The site that it is about; that of actor or object need not be said.
            plan_id: The plan that it is about, if that is not the object; a release's is known.
            release_id: The release that it is about, if that is not the object.

        Returns:
            The entry's position.

        Raises:
            ServiceUnavailable: When it cannot be appended; the change must not be committed.
        """
        # No payload of the service says more of a subject than its pseudonym, and all of them are
        # evidence about a request or an erasure: they stay readable when a site forgets its keys.
        entry = Entry(
            actor=self.actor,
            action=action,
            object=object,
            subject=subject,
            payload=payload,
            outlives_subject=True,
        )
        try:
            appended = self.registry.log.append(self.storage, entry)
        except (SQLAlchemyError, FiduciaryError, OSError) as error:
            raise ServiceUnavailable(
                "the audit entry could not be written, so nothing was done", fix=_RETRY
            ) from error
        topics = Topics(site, plan_id, release_id)
        fields = index_fields(entry, appended.position, appended.time, topics)
        if fields["release"] is not None and fields["plan"] is None:
            release = self.session.get(ReleaseRow, fields["release"])
            fields["plan"] = None if release is None else release.plan_id
        self.session.add(LogIndexRow(**fields))
        self._recorded = True
        return appended.position

    def check_recorded(self) -> None:
        """No audit entry, no action.

        Raises:
            ServiceUnavailable: When something changed and nothing was recorded.
        """
        self.session.flush()
        if self._changed and not self._recorded:
            raise ServiceUnavailable("a change without an audit entry was about to be made")

    def _note_change(self, session: Session, _context: object) -> None:
        self._changed = self._changed or bool(session.new or session.dirty or session.deleted)


def new_token() -> str:
    """A bearer token: 256 random bits behind a prefix that secret scanners can find."""
    return "fid_" + secrets.token_urlsafe(_TOKEN_BYTES)


def hash_token(token: str) -> str:
    """What is stored of a token: hexadecimal SHA-256. Enough, because tokens have 256 bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def find_bearer(session: Session, name: str) -> rules.Bearer | None:
    """A principal by name."""
    row = session.get(PrincipalRow, name)
    return None if row is None else _bearer(row)


def parse_roles(text: str) -> tuple[Role, ...]:
    """Roles as the database stores them."""
    return cast(tuple[Role, ...], tuple(text.split(",")))


def _bearer(row: PrincipalRow) -> rules.Bearer:
    return rules.Bearer(
        name=row.name,
        roles=frozenset(parse_roles(row.roles)),
        expires_at=parse_time(row.expires_at),
        revoked_at=parse_time(row.revoked_at),
    )


def parse_time(text: str | None) -> datetime | None:
    """A stored time, or None."""
    return None if text is None else datetime.fromisoformat(text)
