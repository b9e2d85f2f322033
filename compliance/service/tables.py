"""The service's tables, for SQLite and PostgreSQL alike.

* `statements` keeps every signed document as it came; the other tables say where things stand.
* The `log_*` tables are those of `audit.sqlite_log`, so `audit verify` reads the same file.
* `log_index` repeats what each leaf is about so that it can be searched. It proves nothing and can
  be rebuilt from the leaves.
* Tokens and one-time tokens are stored as SHA-256 only. Times are RFC 3339 text in UTC with
  milliseconds, whose order is the order of time.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_DIGEST: Final = String(71)
_NAME: Final = String(70)
_HASH: Final = String(64)
_TIME: Final = String(30)
# PostgreSQL compares text by the locale's rules, which skip dots; a prefix is a range of bytes.
_ACTION: Final = String(60).with_variant(String(60, collation="C"), "postgresql")
# SQLite assigns and compares 64-bit integers under the name INTEGER only.
_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """All tables of the service."""


class PrincipalRow(Base):
    """Somebody who may call. A name is never given twice: the log knows people by it."""

    __tablename__ = "principals"

    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    roles: Mapped[str] = mapped_column(String(100))
    token_sha256: Mapped[str] = mapped_column(_HASH, unique=True)
    created_by: Mapped[str] = mapped_column(_NAME)
    created_at: Mapped[str] = mapped_column(_TIME)
    expires_at: Mapped[str | None] = mapped_column(_TIME)
    revoked_at: Mapped[str | None] = mapped_column(_TIME)


class CoordinatorRow(Base):
    """The coordinator's key. One row, written once."""

    __tablename__ = "coordinator"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, default=1)
    key: Mapped[str] = mapped_column(Text)
    registered_by: Mapped[str] = mapped_column(_NAME)
    registered_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION)


class InvitationRow(Base):
    """A kit that the coordinator made; only hashes of it."""

    __tablename__ = "invitations"

    token_sha256: Mapped[str] = mapped_column(_HASH, primary_key=True)
    kit_sha256: Mapped[str] = mapped_column(_HASH)
    site: Mapped[str] = mapped_column(_NAME)
    expires_at: Mapped[str] = mapped_column(_TIME)
    invited_by: Mapped[str] = mapped_column(_NAME)
    invited_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION)
    spent_at: Mapped[str | None] = mapped_column(_TIME)
    enrolment: Mapped[str | None] = mapped_column(_DIGEST)


class StatementRow(Base):
    """A signed document, as it came, and the log position of its entry."""

    __tablename__ = "statements"

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    envelope: Mapped[str] = mapped_column(Text)
    filed_by: Mapped[str] = mapped_column(_NAME)
    filed_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    plan_id: Mapped[str | None] = mapped_column(_DIGEST)

    __table_args__ = (Index("statements_by_plan", "plan_id", "kind", "position"),)


class SiteRow(Base):
    """An enrolled site."""

    __tablename__ = "sites"

    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    federation: Mapped[str] = mapped_column(_NAME)
    identity_key: Mapped[str] = mapped_column(Text)
    node_key: Mapped[str] = mapped_column(Text)
    certificate_request: Mapped[str] = mapped_column(Text)
    certificate: Mapped[str | None] = mapped_column(Text)
    enrolment: Mapped[str] = mapped_column(ForeignKey("statements.digest"))
    admission: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))


class PlanRow(Base):
    """Where a plan stands."""

    __tablename__ = "plans"

    plan_id: Mapped[str] = mapped_column(ForeignKey("statements.digest"), primary_key=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    decision: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))
    outcome: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))
    rounds_reported: Mapped[int] = mapped_column(Integer, default=0)


class MissedRoundRow(Base):
    """A round of a plan whose last report says that it had no quorum."""

    __tablename__ = "missed_rounds"

    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), primary_key=True)
    round: Mapped[int] = mapped_column(Integer, primary_key=True)


class PlanSiteRow(Base):
    """A site that a plan names."""

    __tablename__ = "plan_sites"

    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), primary_key=True)
    site: Mapped[str] = mapped_column(_NAME, primary_key=True)

    __table_args__ = (Index("plan_sites_by_site", "site"),)


class ReleaseRow(Base):
    """Where a release stands. `sealed_key` is its data key, sealed to the service."""

    __tablename__ = "releases"

    release_id: Mapped[str] = mapped_column(ForeignKey("statements.digest"), primary_key=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), index=True)
    state: Mapped[str] = mapped_column(String(20))
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)
    decision: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))


class GrantRow(Base):
    """Permission for one principal to download one release."""

    __tablename__ = "grants"

    release_id: Mapped[str] = mapped_column(ForeignKey("releases.release_id"), primary_key=True)
    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)
    purpose: Mapped[str] = mapped_column(_NAME)
    granted_by: Mapped[str] = mapped_column(_NAME)
    granted_at: Mapped[str] = mapped_column(_TIME)
    expires_at: Mapped[str] = mapped_column(_TIME)
    revoked_at: Mapped[str | None] = mapped_column(_TIME)
    downloads: Mapped[int] = mapped_column(Integer, default=0)


class SubjectRequestRow(Base):
    """A note of a request at one site, of before `subject_cases`. Retention alone reads it."""

    __tablename__ = "subject_requests"

    request_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    site: Mapped[str] = mapped_column(_NAME, index=True)
    state: Mapped[str] = mapped_column(String(20))
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    subject: Mapped[str | None] = mapped_column(_HASH)
    filed_by: Mapped[str] = mapped_column(_NAME)
    filed_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    done_at: Mapped[str | None] = mapped_column(_TIME)
    erasure: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))


# --- the audit log -------------------------------------------------------------------------------


class LogEntryRow(Base):
    """A leaf, byte for byte."""

    __tablename__ = "log_entries"

    position: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)


class LogNodeRow(Base):
    """A hash of the Merkle tree, by its place in `audit.node_order`."""

    __tablename__ = "log_nodes"

    place: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class LogCheckpointRow(Base):
    """A signed checkpoint."""

    __tablename__ = "log_checkpoints"

    size: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text)


class LogCosignatureRow(Base):
    """A witness's signature of a tree head, on the note that it signed."""

    __tablename__ = "log_cosignatures"

    witness: Mapped[str] = mapped_column(String(200), primary_key=True)
    size: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text)

    __table_args__ = ({"sqlite_with_rowid": False},)


class LogMetaRow(Base):
    """Origin, verifier key and format of the log."""

    __tablename__ = "log_meta"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class LogIndexRow(Base):
    """What can be searched of a leaf (`compliance.service.log_index`).

    `site`, `plan` and `release` are what the entry is about; the leaf may say so in its sealed
    payload only.
    """

    __tablename__ = "log_index"

    position: Mapped[int] = mapped_column(
        ForeignKey("log_entries.position"), primary_key=True, autoincrement=False
    )
    time: Mapped[str] = mapped_column(_TIME)
    actor: Mapped[str] = mapped_column(_NAME)
    action: Mapped[str] = mapped_column(_ACTION)
    object: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str | None] = mapped_column(String(200))
    site: Mapped[str | None] = mapped_column(_NAME)
    plan: Mapped[str | None] = mapped_column(_DIGEST)
    release: Mapped[str | None] = mapped_column(_DIGEST)

    __table_args__ = (
        Index("log_index_by_actor", "actor", "position"),
        Index("log_index_by_actor_and_action", "actor", "action", "position"),
        Index("log_index_by_action", "action", "position"),
        Index("log_index_by_object", "object", "position"),
        Index("log_index_by_subject", "subject", "position"),
        Index("log_index_by_site", "site", "position"),
        Index("log_index_by_site_and_action", "site", "action", "position"),
        Index("log_index_by_plan", "plan", "position"),
        Index("log_index_by_release", "release", "position"),
    )
