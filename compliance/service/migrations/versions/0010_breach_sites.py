"""Which sites a breach concerns."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, ForeignKey, String

revision: Final = "0010"
down_revision: Final = "0009"


def upgrade() -> None:
    """Make the table. Breaches of before concern the whole service."""
    op.create_table(
        "breach_sites",
        Column("breach", String(70), ForeignKey("breaches.name"), primary_key=True),
        Column("site", String(70), ForeignKey("sites.name"), primary_key=True),
    )
    op.create_index("ix_breach_sites_site", "breach_sites", ["site"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("breach_sites")
