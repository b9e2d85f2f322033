"""Requests of sites for their next certificate."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, ForeignKey, String, Text

revision: Final = "0011"
down_revision: Final = "0010"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "site_renewals",
        Column("site", String(70), ForeignKey("sites.name"), primary_key=True),
        Column("request", String(71), ForeignKey("statements.digest"), nullable=False),
        Column("answer", String(71), ForeignKey("statements.digest")),
        Column("former_certificate", Text),
    )


def downgrade() -> None:
    """Drop it. A site that has not changed over needs its new certificate by another way."""
    op.drop_table("site_renewals")
