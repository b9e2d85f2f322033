"""People of the login provider, their sessions, and the logins that opened one."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, ForeignKey, String

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "people",
        Column("tag", String(64), primary_key=True),
        Column("principal", String(70), ForeignKey("principals.name"), nullable=False, unique=True),
    )
    op.create_table(
        "sessions",
        Column("token_sha256", String(64), primary_key=True),
        Column("principal", String(70), ForeignKey("principals.name"), nullable=False),
        Column("opened_at", String(30), nullable=False),
        Column("expires_at", String(30), nullable=False),
        Column("ended_at", String(30)),
    )
    op.create_index("ix_sessions_principal", "sessions", ["principal"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "spent_logins",
        Column("login_id", String(40), primary_key=True),
        Column("expires_at", String(30), nullable=False),
    )
    op.create_index("ix_spent_logins_expires_at", "spent_logins", ["expires_at"])


def downgrade() -> None:
    """Drop them: everybody is logged out, and their names stay given."""
    for table in ("spent_logins", "sessions", "people"):
        op.drop_table(table)
