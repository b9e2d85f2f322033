"""The tables as they stood when revisions began.

A database that was made before that has no revision. It gets this one like an empty database does:
tables that came later are made, `log_index` of another shape is dropped (whoever migrates makes its
rows again from the leaves), and the log's hashes move to where the present format has them
(`audit.sql_log`). One that lacks a column of another table belongs to a version that nobody knows.
"""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    inspect,
)
from sqlalchemy.orm import Session

from audit.errors import Conflict
from audit.sql_log import bring_up_to_date as move_log
from compliance.service.log_storage import SessionConnection, session_log

revision: Final = "0001"
down_revision: Final = None

_SCHEMA: Final = MetaData()

_DIGEST: Final = String(71)
_NAME: Final = String(70)
_HASH: Final = String(64)
_TIME: Final = String(30)
_ACTION: Final = String(60).with_variant(String(60, collation="C"), "postgresql")
_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")

Table(
    "principals",
    _SCHEMA,
    Column("name", _NAME, primary_key=True),
    Column("roles", String(100), nullable=False),
    Column("token_sha256", _HASH, nullable=False, unique=True),
    Column("created_by", _NAME, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME),
    Column("revoked_at", _TIME),
)
Table(
    "coordinator",
    _SCHEMA,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False),
    Column("registered_by", _NAME, nullable=False),
    Column("registered_at", _TIME, nullable=False),
    Column("position", _POSITION, nullable=False),
)
Table(
    "invitations",
    _SCHEMA,
    Column("token_sha256", _HASH, primary_key=True),
    Column("kit_sha256", _HASH, nullable=False),
    Column("site", _NAME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("invited_by", _NAME, nullable=False),
    Column("invited_at", _TIME, nullable=False),
    Column("position", _POSITION, nullable=False),
    Column("spent_at", _TIME),
    Column("enrolment", _DIGEST),
)
Table(
    "statements",
    _SCHEMA,
    Column("digest", _DIGEST, primary_key=True),
    Column("kind", String(40), nullable=False),
    Column("envelope", Text, nullable=False),
    Column("filed_by", _NAME, nullable=False),
    Column("filed_at", _TIME, nullable=False),
    Column("position", _POSITION, nullable=False, unique=True),
    Column("plan_id", _DIGEST),
    Index("statements_by_plan", "plan_id", "kind", "position"),
)
Table(
    "sites",
    _SCHEMA,
    Column("name", _NAME, primary_key=True),
    Column("state", String(20), nullable=False),
    Column("federation", _NAME, nullable=False),
    Column("identity_key", Text, nullable=False),
    Column("node_key", Text, nullable=False),
    Column("certificate_request", Text, nullable=False),
    Column("certificate", Text),
    Column("enrolment", _DIGEST, ForeignKey("statements.digest"), nullable=False),
    Column("admission", _DIGEST, ForeignKey("statements.digest")),
)
Table(
    "plans",
    _SCHEMA,
    Column("plan_id", _DIGEST, ForeignKey("statements.digest"), primary_key=True),
    Column("state", String(20), nullable=False, index=True),
    Column("position", _POSITION, nullable=False, unique=True),
    Column("decision", _DIGEST, ForeignKey("statements.digest")),
    Column("outcome", _DIGEST, ForeignKey("statements.digest")),
    Column("rounds_reported", Integer, nullable=False),
)
Table(
    "missed_rounds",
    _SCHEMA,
    Column("plan_id", _DIGEST, ForeignKey("plans.plan_id"), primary_key=True),
    Column("round", Integer, primary_key=True),
)
Table(
    "plan_sites",
    _SCHEMA,
    Column("plan_id", _DIGEST, ForeignKey("plans.plan_id"), primary_key=True),
    Column("site", _NAME, primary_key=True),
    Index("plan_sites_by_site", "site"),
)
Table(
    "releases",
    _SCHEMA,
    Column("release_id", _DIGEST, ForeignKey("statements.digest"), primary_key=True),
    Column("plan_id", _DIGEST, ForeignKey("plans.plan_id"), nullable=False, index=True),
    Column("state", String(20), nullable=False),
    Column("position", _POSITION, nullable=False, unique=True),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("decision", _DIGEST, ForeignKey("statements.digest")),
)
Table(
    "grants",
    _SCHEMA,
    Column("release_id", _DIGEST, ForeignKey("releases.release_id"), primary_key=True),
    Column("principal", _NAME, ForeignKey("principals.name"), primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("purpose", _NAME, nullable=False),
    Column("granted_by", _NAME, nullable=False),
    Column("granted_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
    Column("downloads", Integer, nullable=False),
)
Table(
    "subject_requests",
    _SCHEMA,
    Column("request_id", String(32), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("site", _NAME, nullable=False, index=True),
    Column("state", String(20), nullable=False),
    Column("sealed", LargeBinary),
    Column("subject", _HASH),
    Column("filed_by", _NAME, nullable=False),
    Column("filed_at", _TIME, nullable=False),
    Column("position", _POSITION, nullable=False, unique=True),
    Column("done_at", _TIME),
    Column("erasure", _DIGEST, ForeignKey("statements.digest")),
)
Table(
    "log_entries",
    _SCHEMA,
    Column("position", _POSITION, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
)
Table(
    "log_nodes",
    _SCHEMA,
    Column("place", _POSITION, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)
Table(
    "log_checkpoints",
    _SCHEMA,
    Column("size", _POSITION, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)
Table(
    "log_cosignatures",
    _SCHEMA,
    Column("witness", String(200), primary_key=True),
    Column("size", _POSITION, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    sqlite_with_rowid=False,
)
Table(
    "log_meta",
    _SCHEMA,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
_INDEX: Final = Table(
    "log_index",
    _SCHEMA,
    Column(
        "position",
        _POSITION,
        ForeignKey("log_entries.position"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("time", _TIME, nullable=False),
    Column("actor", _NAME, nullable=False),
    Column("action", _ACTION, nullable=False),
    Column("object", String(200), nullable=False),
    Column("subject", String(200)),
    Column("site", _NAME),
    Column("plan", _DIGEST),
    Column("release", _DIGEST),
    *(
        Index(f"log_index_by_{name}", name, "position")
        for name in ("time", "actor", "action", "object", "subject", "site", "plan", "release")
    ),
)


def upgrade() -> None:
    """Make the tables, or complete those of a database that is older than revisions."""
    connection = op.get_bind()
    if inspect(connection).has_table(_INDEX.name) and _lacking_columns(connection, _INDEX):
        _INDEX.drop(connection)
    _SCHEMA.create_all(connection)
    with Session(connection) as session:
        move_log(session_log(session), SessionConnection(session), ())
    lacking = {
        table.name: columns
        for table in _SCHEMA.sorted_tables
        if (columns := _lacking_columns(connection, table))
    }
    if lacking:
        parts = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in lacking.items())
        raise Conflict(
            f"the database is of another version, it lacks {parts}",
            fix="start it with the version of fiduciary that made it",
        )


def downgrade() -> None:
    """Refused: it would delete the audit log."""
    raise Conflict(
        "nothing is older than revision 0001: it would delete the audit log",
        fix="to begin anew, make another folder: `compliance init DIR`",
    )


def _lacking_columns(connection: Connection, table: Table) -> list[str]:
    present = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return sorted(set(table.columns.keys()) - present)
