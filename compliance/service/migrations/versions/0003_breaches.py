"""The register of personal data breaches."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, LargeBinary, String

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "breaches",
        Column("name", String(70), primary_key=True),
        Column("state", String(20), nullable=False),
        Column("role", String(20), nullable=False),
        Column("risk", String(20), nullable=False),
        Column("aware_at", String(30), nullable=False),
        Column("authority_at", String(30)),
        Column("controller_at", String(30)),
        Column("subjects_at", String(30)),
        Column("overdue_at", String(30)),
        Column("closed_at", String(30)),
        Column("filed_by", String(70), nullable=False),
        Column("filed_at", String(30), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_index("ix_breaches_state", "breaches", ["state"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("breaches")
