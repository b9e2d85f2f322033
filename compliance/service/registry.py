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

import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from audit.errors import FiduciaryError
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog, Entry
from audit.storage import LogStorage
from compliance import rules
from compliance.service.content import ContentFolder
from compliance.service.database import Database, ServiceSession
from compliance.service.driver import Fixed
from compliance.service.errors import Denied, ServiceUnavailable, enforce
from compliance.service.idempotency import KEYED_CALL
from compliance.service.identities import (
    find_again,
    find_by_key,
    hash_token,
)
from compliance.service.last_use import LastUses
from compliance.service.log_index import Topics, index_fields
from compliance.service.log_positions import LogTimes
from compliance.service.log_storage import session_log
from compliance.service.login import LoginDesk
from compliance.service.repeating import is_passing, repeat
from compliance.service.sealed_columns import use_keys
from compliance.service.tables import Base, LogIndexRow, ReleaseRow
from compliance.service.throttle import PublicThrottle, Rates, Throttle
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
        throttle: Counts failures by address.
        rates: Counts calls and refusals.
        last_uses: When each principal last called.
        log_times: Where in the log a time lies.
        login: How people log in, if there is a login provider.
        require_site_certificates: An admitted site's token does not work alone.
        on_admitted: Told the certificate (PEM) of each site that is admitted.
        on_append: Told the seconds from the beginning of a change until it and its entries were
            durable.
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
    last_uses: LastUses = field(default_factory=LastUses)
    log_times: LogTimes = field(default_factory=LogTimes)
    rates: Rates = field(default_factory=Rates)
    public_throttle: PublicThrottle = field(default_factory=PublicThrottle)
    login: LoginDesk | None = None
    require_site_certificates: bool = True
    on_admitted: list[Callable[[str], object]] = field(default_factory=list)
    on_append: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        use_keys(self.database.engine, self.keyring)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only view of one moment.

        Raises:
            ServiceUnavailable: When the database cannot be read.
        """
        call = KEYED_CALL.get()
        if call is not None and call.transaction is not None:
            yield call.transaction.session  # which sees what it changed
            return
        try:
            with self.database.reading() as session:
                yield session
        except SQLAlchemyError as error:
            raise ServiceUnavailable(
                "the database cannot be read", fix="try again", passing=is_passing(error)
            ) from error

    @contextmanager
    def writing(self, actor: rules.Bearer | None) -> Iterator[Transaction]:
        """A change, made durable together with its log entries when the block ends normally.

        Args:
            actor: Who makes it; None for a caller without a name.

        Raises:
            ServiceUnavailable: When state or log cannot be stored; neither is, as far as known.
            Denied: When the actor's token has ended meanwhile.
        """
        call = KEYED_CALL.get()
        if call is None or not call.joins:
            with self._writing(actor) as transaction:
                yield transaction
            return
        transaction = call.join(self._writing(actor))
        try:
            yield transaction
        except BaseException as error:
            call.abort(error)
            raise

    @contextmanager
    def _writing(self, actor: rules.Bearer | None) -> Iterator[Transaction]:
        began = perf_counter()
        committing = False
        try:
            with self.database.writing() as session:
                transaction = Transaction(self, session, actor)
                if actor is not None:
                    check_present(session, actor, transaction.now)
                yield transaction
                transaction.check_recorded()
                if transaction.before_commit is not None:
                    transaction.before_commit()
                session.flush()
                committing = True
        except SQLAlchemyError as error:
            raise ServiceUnavailable(
                "the change and its audit entry could not be stored",
                fix=_RETRY,
                passing=is_passing(error),
                may_have_happened=committing,
            ) from error
        if self.on_append is not None:
            self.on_append(perf_counter() - began)

    def identify(
        self, token: str | None, certificate: bytes | None = None, *, token_alone: bool = False
    ) -> rules.Bearer:
        """The principal that a bearer token belongs to.

        Args:
            token: The token.
            certificate: The DER form of the certificate that the connection showed, if any.
            token_alone: A site need not have shown its certificate.

        Raises:
            Denied: When the token is missing, unknown, expired or revoked, or does not belong to
                the certificate.
        """
        if not token:
            raise Denied(rules.NO_TOKEN)
        bearer = repeat(lambda: self._find_by_key(hash_token(token)))
        if bearer is None:
            raise Denied(rules.UNKNOWN_TOKEN)
        now = self.clock()
        enforce(rules.may_use_token(bearer, now))
        required = self.require_site_certificates and not token_alone
        admitted = [ssl.PEM_cert_to_DER_cert(pem.strip()) for pem in bearer.certificates]
        enforce(rules.may_come_by(admitted, certificate, required=required))
        self.last_uses.note(bearer.name, now)
        return bearer

    def _find_by_key(self, token_sha256: str) -> rules.Bearer | None:
        try:
            with self.database.asking() as connection:
                return find_by_key(connection, token_sha256)
        except SQLAlchemyError as error:
            raise ServiceUnavailable(
                "the database cannot be read", fix="try again", passing=is_passing(error)
            ) from error

    def close(self) -> None:
        """Give connections and keys back."""
        self.last_uses.save(self.database)
        if self.login is not None:
            self.login.close()
        self.database.close()
        self.keyring.close()


class Transaction:
    """One change in the making.

    Attributes:
        session: The database session; writes are committed with the entries or not at all.
        now: The moment of the change.
        time: The same as text.
        actor: Who makes it.
        before_commit: What is stored beside the change, and is none by itself.
    """

    def __init__(
        self, registry: Registry, session: ServiceSession, actor: rules.Bearer | None
    ) -> None:
        self.registry = registry
        self.session = session
        self.now = registry.clock()
        self.time = format_time(self.now)
        self.actor = ANONYMOUS if actor is None else actor.name
        self.storage = registry.storage(session)
        self.before_commit: Callable[[], None] | None = None
        self._recorded = False

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
                "the audit entry could not be written, so nothing was done",
                fix=_RETRY,
                passing=isinstance(error, SQLAlchemyError) and is_passing(error),
            ) from error
        topics = Topics(site, plan_id, release_id)
        fields = index_fields(entry, appended.position, appended.time, topics)
        if fields["release"] is not None and fields["plan"] is None:
            release = self.session.get(ReleaseRow, fields["release"])
            fields["plan"] = None if release is None else release.plan_id
        _INDEX_ENTRY.run(self.session, fields)
        self._recorded = True
        return appended.position

    def check_recorded(self) -> None:
        """No audit entry, no action.

        Raises:
            ServiceUnavailable: When something changed and nothing was recorded.
        """
        self.session.flush()
        if self.session.changed and not self._recorded:
            raise ServiceUnavailable("a change without an audit entry was about to be made")


_INDEX_ENTRY: Final = Fixed(insert(Base.metadata.tables[LogIndexRow.__tablename__]))


def new_token() -> str:
    """A bearer token: 256 random bits behind a prefix that secret scanners can find."""
    return "fid_" + secrets.token_urlsafe(_TOKEN_BYTES)


def check_present(session: Session, actor: rules.Bearer, now: datetime) -> None:
    """Make sure that a caller may still do what the gate let them begin.

    Raises:
        Denied: When the token has ended, or the roles were changed, since the gate looked.
    """
    present = find_again(session, actor)
    if present is None:
        raise Denied(rules.UNKNOWN_TOKEN)
    enforce(rules.may_use_token(present, now))
    if (present.roles, present.limits, present.confirmed) != (
        actor.roles,
        actor.limits,
        actor.confirmed,
    ):
        raise Denied(rules.ROLES_CHANGED)
