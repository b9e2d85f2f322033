"""Answers that were given to calls with an idempotency key."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, LargeBinary, String

revision: Final = "0007"
down_revision: Final = "0006"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "given_answers",
        Column("call_sha256", String(64), primary_key=True),
        Column("request_sha256", String(64), nullable=False),
        Column("expires_at", String(30), nullable=False),
        Column("answer", LargeBinary),
    )
    op.create_index("ix_given_answers_expires_at", "given_answers", ["expires_at"])


def downgrade() -> None:
    """Drop it: calls that are repeated after that are made again."""
    op.drop_table("given_answers")
